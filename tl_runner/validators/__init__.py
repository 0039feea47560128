"""Label-free estimates of target accuracy: one file each, higher is better.

A validator is called with what the model says of each evaluation set. `source_val` has labels; those of
`target` are `HIDDEN`. What else it looks at, it declares in `needs`.
"""

from .base import Probe, Validator, needs
from .collapse import class_share
from .rank_ensemble import RankEnsemble

__all__ = ["Probe", "RankEnsemble", "Validator", "class_share", "needs"]
