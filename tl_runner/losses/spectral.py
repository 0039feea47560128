"""Losses on the singular values of a batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import full_precision

Divisor = Literal["rows", "rank"]


@full_precision
def batch_nuclear_norm(logits: Tensor, divisor: Divisor = "rows") -> Tensor:
    """Minus the nuclear norm of a batch of predictions, −‖P‖_* / d, P = softmax(z): to be confident and diverse.

    Cui et al., Towards Discriminability and Diversity, CVPR 2020, https://arxiv.org/abs/2003.12237. The paper
    divides by the number of rows, d = N; the authors' code takes the mean singular value, d = min(N, K).

    Args:
        logits: (N, K) of unlabelled rows. divisor: `rows` is the paper's d, `rank` the code's.

    Returns:
        Scalar in [−√(N min(N, K)) / d, 0). Singular values that are rounding alone count as 0: their
        directions are arbitrary, and so would be their gradient.

    >>> round(batch_nuclear_norm(100 * torch.eye(3)).item(), 4), round(batch_nuclear_norm(torch.zeros(4, 4)).item(), 4)
    (-1.0, -0.25)
    """
    n, k = logits.shape
    values: Tensor = torch.linalg.svdvals(F.softmax(logits, dim=1))
    least = values.detach().amax() * max(n, k) * torch.finfo(values.dtype).eps
    return -(values * (values > least)).sum() / (n if divisor == "rows" else min(n, k))


@full_precision
def spectral_penalty(features: Tensor, k: int = 1) -> Tensor:
    """Batch spectral penalisation: the sum of the k largest squared singular values, Σ_i≤k σ_i².

    Chen et al., Transferability vs. Discriminability, ICML 2019, https://proceedings.mlr.press/v97/chen19i.html,
    equation 7, for one domain. σ² are the eigenvalues of the smaller of F Fᵀ and Fᵀ F.

    Args:
        features: (N, D) of one domain. k: values beyond min(N, D) are 0.

    Returns:
        Scalar in [0, ‖F‖²_F].

    Raises:
        ValueError: if `k` is below 1.

    >>> round(spectral_penalty(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2).item(), 4)
    13.0
    """
    return _squared_singular_values(features, k)[-k:].sum()


@full_precision
def spectral_shrinkage(features: Tensor, k: int = 1) -> Tensor:
    """Batch spectral shrinkage: the sum of the k smallest squared singular values, Σ_i≤k σ_−i².

    Chen et al., Catastrophic Forgetting Meets Negative Transfer, NeurIPS 2019,
    https://proceedings.neurips.cc/paper/2019/hash/c6bff625bdb0393992c9d4db0c6bbe45-Abstract.html.
    A batch has min(N, D) singular values; σ² are the eigenvalues of the smaller of F Fᵀ and Fᵀ F.

    Args:
        features: (N, D). k: more than min(N, D) is all of them.

    Returns:
        Scalar in [0, ‖F‖²_F], exact to rounding of the largest σ².

    Raises:
        ValueError: if `k` is below 1.

    >>> round(spectral_shrinkage(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2).item(), 4)
    5.0
    """
    return _squared_singular_values(features, k)[:k].sum()


def _squared_singular_values(features: Tensor, k: int) -> Tensor:
    """(min(N, D),), the smallest first."""
    if k < 1:
        raise ValueError(f"needs at least 1 singular value, got k = {k}")
    n, d = features.shape
    gram = features @ features.T if n <= d else features.T @ features
    values: Tensor = torch.linalg.eigvalsh(gram)
    return values.clamp_min(0)
