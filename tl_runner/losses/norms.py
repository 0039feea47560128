"""Losses on the length of features."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import full_precision


@full_precision
def stepwise_norm(features: Tensor, step: float = 1.0) -> Tensor:
    """Stepwise adaptive feature norm: each row's length is to grow by `step`.

    1/N Σ_i (‖f_i‖ − (‖f_i‖ + Δ))², no gradient through the inner bracket: the value is always Δ², the
    gradient pulls each row outwards with strength 2 Δ / N.

    Xu et al., Larger Norm More Transferable, ICCV 2019, https://arxiv.org/abs/1811.07456, equation 7.

    Args:
        features: (N, D). A row of zeros has no direction and gets no gradient.
        step: Δ.

    Returns:
        Scalar, Δ².

    >>> round(stepwise_norm(torch.ones(2, 3), 0.5).item(), 4)
    0.25
    """
    lengths: Tensor = torch.linalg.vector_norm(features, dim=1)
    return (lengths - (lengths.detach() + step)).square().mean()


@full_precision
def hard_norm(features: Tensor, radius: float = 25.0) -> Tensor:
    """Hard adaptive feature norm: the mean length of a batch is to be R, (1/N Σ_i ‖f_i‖ − R)².

    Xu et al., Larger Norm More Transferable, ICCV 2019, https://arxiv.org/abs/1811.07456, equation 5.

    Args:
        features: (N, D) of one domain. radius: R.

    Returns:
        Scalar ≥ 0.

    >>> hard_norm(torch.tensor([[3.0, 4.0]]), 7.0).item()
    4.0
    """
    lengths: Tensor = torch.linalg.vector_norm(features, dim=1)
    return (lengths.mean() - radius).square()
