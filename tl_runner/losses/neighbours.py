"""Predictions that should be like the neighbours', and unlike everybody else's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import full_precision


@full_precision
def neighbour_agreement(logits: Tensor, neighbours: Tensor, weights: Tensor | None = None) -> Tensor:
    """How little each prediction has in common with those of its neighbours: −mean_n Σ_k w_nk p_n · q_nk.

    Yang et al., Exploiting the Intrinsic Neighborhood Structure for Source-free Domain Adaptation, NeurIPS
    2021, equations 4 and 6, https://arxiv.org/abs/2110.04202; without gradient through q.

    Args:
        logits: (N, C); p is their softmax. neighbours: (N, M, C) predictions q. weights: (N, M); None: 1.

    Returns:
        Scalar in [−Σw, 0].

    >>> neighbour_agreement(torch.tensor([[99.0, 0.0]]), torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])).item()
    -1.5
    """
    p, q = F.softmax(logits, dim=1), neighbours.detach().to(logits.dtype)
    alike = torch.einsum("nc,nmc->nm", p, q)
    if weights is not None:
        alike = alike * weights.to(alike.dtype)
    return -alike.sum(1).mean()


@full_precision
def dispersion(logits: Tensor) -> Tensor:
    """What the predictions of a batch have in common: mean_n Σ_{m ≠ n} p_n · p_m, with gradient through both.

    Yang et al., Attracting and Dispersing, NeurIPS 2022, equation 5, https://arxiv.org/abs/2205.04183

    Args:
        logits: (N, C); p is their softmax.

    Returns:
        Scalar in [0, N − 1].

    >>> round(3 * dispersion(torch.tensor([[99.0, 0.0], [99.0, 0.0], [0.0, 99.0]])).item(), 4)
    2.0
    """
    p = F.softmax(logits, dim=1)
    alike = p @ p.T
    return (alike.sum() - alike.diagonal().sum()) / len(p)
