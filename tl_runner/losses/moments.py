"""Differences between the moments of two domains' features."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import full_precision, paired


@full_precision
def cmd(source: Tensor, target: Tensor, moments: int = 5, span: float = 1.0) -> Tensor:
    """Central moment discrepancy: means, and central moments of each coordinate up to an order.

    ‖E s − E t‖₂ / |b − a| + Σ_k=2..K ‖c_k(s) − c_k(t)‖₂ / |b − a|^k, c_k(x) = E (x − E x)^k per coordinate.

    Zellinger et al., Central Moment Discrepancy, ICLR 2017, https://arxiv.org/abs/1702.08811

    Args:
        source: (N, D) features in [a, b]. target: (M, D) features in [a, b].
        moments: K, at least 1.
        span: |b − a| > 0.

    Returns:
        Scalar ≥ 0; 0 for equal moments. For features in [a, b] at most √D·(1 + Σ_k=2..K 2^(1 − k)).

    Raises:
        ValueError: if the shapes do not fit or `moments` is below 1.

    >>> x = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    >>> cmd(x, x.flip(0)).item(), round(cmd(x, 0.3 + x, moments=3).item(), 4)  # 0.3 √2
    (0.0, 0.4243)
    """
    paired(source, target, least=1)
    if moments < 1:
        raise ValueError(f"needs at least 1 moment, got {moments}")
    mean_s, mean_t = source.mean(0), target.mean(0)
    centred_s, centred_t = (source - mean_s) / span, (target - mean_t) / span
    # vector_norm, since its gradient at 0 is 0.
    total: Tensor = torch.linalg.vector_norm((mean_s - mean_t) / span)
    power_s, power_t = centred_s, centred_t
    for _ in range(moments - 1):
        power_s, power_t = power_s * centred_s, power_t * centred_t
        total = total + torch.linalg.vector_norm(power_s.mean(0) - power_t.mean(0))
    return total
