"""Losses as pure functions: tensors in, a scalar out. Usable without the runner.

Every function computes in float32 at least, also inside an autocast region: kernels, covariances and
log-probabilities lose their meaning in half precision.
"""

from .adversarial import domain_adversarial
from .alignment import coral, mmd
from .confusion import mcc
from .discrepancy import classifier_discrepancy
from .entropy import entropy, information_maximization

__all__ = [
    "classifier_discrepancy",
    "coral",
    "domain_adversarial",
    "entropy",
    "information_maximization",
    "mcc",
    "mmd",
]
