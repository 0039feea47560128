"""Confusion between classes on unlabelled data."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .entropy import entropy
from .precision import full_precision


@full_precision
def mcc(logits: Tensor, temperature: float = 2.5) -> Tensor:
    """Minimum class confusion: how much probability a batch of predictions puts on pairs of classes.

    P = softmax(z / T); w_i ∝ 1 + e^−H(p_i) with Σ w = N (no gradient through w);
    C = Pᵀ diag(w) P, each row divided by its sum; loss = (Σ C − tr C) / K.

    Jin et al., Minimum Class Confusion, ECCV 2020, https://arxiv.org/abs/1912.03699

    Args:
        logits: (N, K) of unlabelled rows. temperature: > 0.

    Returns:
        Scalar in [0, 1 − 1/K]; 0 for confident rows.

    >>> round(mcc(100 * torch.eye(3)).item(), 4), round(mcc(torch.zeros(3, 3)).item(), 4)
    (0.0, 0.6667)
    """
    k = logits.shape[1]
    p = F.softmax(logits / temperature, dim=1)
    w = 1 + torch.exp(-entropy(logits.detach() / temperature, reduction="none"))
    w = w * len(w) / w.sum()
    c = (p * w[:, None]).T @ p
    # A class that no row gives any probability to has an empty row: it confuses nothing.
    c = c / c.sum(1, keepdim=True).clamp_min(torch.finfo(c.dtype).tiny)
    return (c.sum() - c.diagonal().sum()) / k
