"""Disagreement of two classifiers."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .precision import full_precision


@full_precision
def classifier_discrepancy(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference of two classifiers' probabilities, mean over rows and classes.

    Saito et al., Maximum Classifier Discrepancy, CVPR 2018, https://arxiv.org/abs/1712.02560, equation 9.

    Args:
        first, second: (N, K) logits.

    Returns:
        Scalar in [0, 2 / K].

    >>> import torch
    >>> classifier_discrepancy(torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]])).item()
    1.0
    """
    return (F.softmax(first, dim=1) - F.softmax(second, dim=1)).abs().mean()
