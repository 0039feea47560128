"""Feature maps that shall stay what they were."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import full_precision


@full_precision
def feature_map_distance(maps: Tensor, reference: Tensor, attention: Tensor | None = None) -> Tensor:
    """Behavioural distance of one layer: mean over rows of ½ Σ_j C a_j ‖FM_j − FM⁰_j‖² / P.

    FM_j is a row's map of channel j, of P pixels; no gradient flows through FM⁰. Li et al., DELTA, ICLR 2019,
    https://openreview.net/forum?id=rkgbwsAcYm. C / P is the authors' code's; there the rows
    of a batch are summed, so that its factor is the batch's size times this one's.

    Args:
        maps, reference: (N, C, ...). attention: a, (C,), usually of sum 1; None: 1 / C.

    Returns:
        Scalar ≥ 0; 0 for equal maps.

    >>> feature_map_distance(torch.ones(4, 2, 3, 3), torch.zeros(4, 2, 3, 3)).item()  # ½ Σ_j 2 · ½ · 9 / 9
    1.0
    """
    n, channels = maps.shape[:2]
    squares = (maps - reference.detach()).square().reshape(n, channels, -1).mean(2)
    weights = squares.new_full((channels,), 1 / channels) if attention is None else attention
    return 0.5 * channels * (squares @ weights.to(squares.dtype)).mean()


@full_precision
def channel_attention(increases: Tensor, standardize: bool = True) -> Tensor:
    """How much a layer's channels matter, by how much the loss grows when each is removed.

    softmax of the increases, Li et al., DELTA, ICLR 2019; with `standardize`, as in the authors'
    code, of (Δ − mean Δ) / (5 sd Δ), which does not depend on the scale of the loss.

    Args:
        increases: Δ, (C,).

    Returns:
        (C,), of sum 1.

    >>> channel_attention(torch.tensor([0.0, 2.0]))  # standardised: −1 and 1
    tensor([0.4013, 0.5987])
    """
    if standardize:
        spread = increases.std(correction=0).clamp_min(torch.finfo(increases.dtype).tiny)
        increases = (increases - increases.mean()) / (5 * spread)
    return F.softmax(increases, dim=0)
