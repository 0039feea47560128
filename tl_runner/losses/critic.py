"""What keeps a Wasserstein critic 1-Lipschitz."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .precision import full_precision, paired


@full_precision
def gradient_penalty(
    critic: Callable[[Tensor], Tensor], source: Tensor, target: Tensor, share: Tensor | None = None
) -> Tensor:
    """Mean of (‖∇_x critic(x)‖ − 1)² over both domains' features and points between them.

    The points are x_i = a_i s_i + (1 − a_i) t_i, i up to the smaller batch. A row's score may depend on that row
    alone: no batch-norm. No gradient flows to the features.

    Shen et al., Wasserstein Distance Guided Representation Learning, AAAI 2018,
    https://arxiv.org/abs/1707.01217; Gulrajani et al., NeurIPS 2017, https://arxiv.org/abs/1704.00028, take
    the points between alone.

    Args:
        critic: (B, D) -> (B, 1) or (B,).
        source: (N, D) features. target: (M, D) features.
        share: (min(N, M),) a in [0, 1]; None: drawn uniformly.

    Returns:
        Scalar ≥ 0; 0 for a critic of slope 1; differentiable in the critic's parameters.

    Raises:
        ValueError: if the shapes do not fit or a batch has no row.

    >>> x = torch.ones(3, 4)
    >>> gradient_penalty(lambda x: 3 * x[:, 0], x, x).item()  # (3 − 1)²
    4.0
    """
    paired(source, target, least=1)
    source, target = source.detach(), target.detach()
    n = min(len(source), len(target))
    a = torch.rand(n, device=source.device, dtype=source.dtype) if share is None else share
    between = a[:, None] * source[:n] + (1 - a)[:, None] * target[:n]
    x = torch.cat([source, target, between]).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        # The root has no derivative at 0, where a critic is flat.
        norm = slope.square().sum(1).clamp_min(torch.finfo(slope.dtype).tiny).sqrt()
        return (norm - 1).square().mean()
