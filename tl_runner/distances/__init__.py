"""Distances between two domains' features, as plain functions of two arrays.

`mmd` and `coral` are the losses of those names; here are those that need no gradient.
"""

from .a_distance import a_distance, domain_errors, proxy_a_distance
from .gaussian import symmetric_kl
from .wasserstein import sliced_wasserstein

__all__ = ["a_distance", "domain_errors", "proxy_a_distance", "sliced_wasserstein", "symmetric_kl"]
