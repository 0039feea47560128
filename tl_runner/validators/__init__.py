"""Label-free estimates of target accuracy: one file each, higher is better.

A validator is called with what the model says of each evaluation set. `source_val` has labels; those of
`target` are `HIDDEN`.
"""

from .base import Validator

__all__ = ["Validator"]
