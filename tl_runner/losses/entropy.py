"""Entropies of predictions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import full_precision


@full_precision
def entropy(logits: Tensor, reduction: str = "mean") -> Tensor:
    """Shannon entropy of softmax(logits), −Σ_k p_k log p_k, in nats.

    Grandvalet & Bengio, NeurIPS 2004, https://papers.nips.cc/paper/2740

    Args:
        logits: (N, K). reduction: `mean` over rows, or `none`.

    Returns:
        Scalar or (N,), in [0, ln K].

    >>> round(entropy(torch.zeros(1, 4)).item(), 4)  # ln 4
    1.3863
    """
    log_p = F.log_softmax(logits, dim=1)
    each = -(log_p.exp() * log_p).sum(1)
    return each if reduction == "none" else each.mean()


@full_precision
def information_maximization(logits: Tensor) -> Tensor:
    """Confident rows, diverse batch: mean H(p) − H(mean p), to be minimised.

    The loss of SHOT-IM, Liang et al., ICML 2020, https://arxiv.org/abs/2002.08546

    Args:
        logits: (N, K).

    Returns:
        Scalar in [−ln K, 0]; 0 if all rows are equal.

    >>> round(information_maximization(torch.tensor([[99.0, 0.0], [0.0, 99.0]])).item(), 4)  # −ln 2
    -0.6931
    """
    loss: Tensor = entropy(logits) - diversity(logits)
    return loss


@full_precision
def diversity(logits: Tensor) -> Tensor:
    """Entropy of the mean prediction, H(mean p), in nats.

    Args:
        logits: (N, K).

    Returns:
        Scalar in [0, ln K]; ln K if all classes are predicted alike.

    >>> round(diversity(torch.tensor([[99.0, 0.0], [0.0, 99.0]])).item(), 4)  # ln 2
    0.6931
    """
    mean = F.softmax(logits, dim=1).mean(0)
    spread: Tensor = -torch.special.xlogy(mean, mean.clamp_min(torch.finfo(mean.dtype).tiny)).sum()
    return spread
