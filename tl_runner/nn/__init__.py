"""Models and layers."""

from .layers import RandomizedMap, mlp, reverse_gradient
from .model import Model

__all__ = ["Model", "RandomizedMap", "mlp", "reverse_gradient"]
