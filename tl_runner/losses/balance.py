"""Evenness of predictions over the classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import full_precision


@full_precision
def balance_cross_entropy(logits: Tensor) -> Tensor:
    """Cross-entropy of an even distribution with a batch's mean prediction, −1/K Σ_k log(p̄_k + 10⁻⁶).

    In the code of MCD, Saito et al., CVPR 2018, https://github.com/mil-tokyo/MCD_DA, for its larger data sets.

    Args:
        logits: (N, K), p̄ being the mean of softmax(z) over rows.

    Returns:
        Scalar in [ln K, ln 10⁶], up to the constant; least if all classes are predicted equally often.

    >>> round(balance_cross_entropy(100 * torch.eye(4)).item(), 4)  # ln 4
    1.3863
    """
    return -torch.log(F.softmax(logits, dim=1).mean(0) + 1e-6).mean()
