"""Distances between the classes of two domains."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import full_precision, paired


@full_precision
def class_means(features: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Mean feature of each class: Σ_i 1[y_i = k] f_i / max(1, Σ_i 1[y_i = k]).

    Xie et al., ICML 2018, https://proceedings.mlr.press/v80/xie18c.html, algorithm 1.

    Args:
        features: (N, D). y: (N,) classes below `num_classes`.

    Returns:
        (K, D); 0 for classes that no row has.

    >>> class_means(torch.tensor([[1.0], [3.0]]), torch.tensor([1, 1]), 2).flatten().tolist()
    [0.0, 2.0]
    """
    rows = F.one_hot(y, num_classes).to(features.dtype)
    return rows.T @ features / rows.sum(0).clamp_min(1)[:, None]


@full_precision
def centroid_distance(
    source: Tensor, target: Tensor, present: Tensor | None = None, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Squared distance of each class's centroid in one domain to its centroid in the other.

        sum   Σ_k m_k ‖s_k − t_k‖²
        mean  that, divided by K · D

    Xie et al., Learning Semantic Representations for Unsupervised Domain Adaptation, ICML 2018,
    https://proceedings.mlr.press/v80/xie18c.html, sum over the classes; the authors' code takes the mean.

    Args:
        source: (K, D) centroids. target: (K, D) centroids.
        present: (K,) m, 0 or False for classes that do not count; None: all count.
        reduction: `mean` or `sum`.

    Returns:
        Scalar ≥ 0; 0 for equal centroids.

    Raises:
        ValueError: if the shapes do not fit.

    >>> centroid_distance(torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([True, False]), "sum").item()
    3.0
    """
    paired(source, target, least=1)
    if len(source) != len(target):
        raise ValueError(
            f"needs a centroid of each class in both domains, got {len(source)} and {len(target)}"
        )
    apart = source - target
    # Left out before the square, so that nothing of an absent class can reach a gradient.
    apart = apart if present is None else apart.where(present[:, None].bool(), torch.zeros_like(apart))
    total = apart.square().sum()
    return total / source.numel() if reduction == "mean" else total
