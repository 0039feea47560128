"""Labelled samples blended with each other, batch by batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..types import Batch, Mixing


def mixed(batch: Batch, mixing: Mixing, rng: np.random.Generator) -> Batch:
    """The batch with each sample blended with the one before it, in every view alike; shuffled, that is any.

    Mixup: share · x + (1 − share) · x', share from Beta(α, α). Zhang et al., ICLR 2018,
    https://arxiv.org/abs/1710.09412. CutMix: a rectangle of x' whose sides are √(1 − share) of the image's,
    anywhere, cut at its edges; the share becomes what is left of x. Yun et al., ICCV 2019,
    https://arxiv.org/abs/1905.04899. Images stay bytes.

    Args:
        batch: of labelled samples: images (N, C, H, W), for cutmix, or anything.
        mixing: with both, a fair coin decides which.

    Returns:
        y as (N, K) shares of the classes.
    """
    cut = bool(mixing.cutmix) and (not mixing.mixup or bool(rng.integers(2)))
    alpha = mixing.cutmix if cut else mixing.mixup
    share = float(rng.beta(alpha, alpha))
    if cut:
        height, width = batch.x.shape[-2:]
        side = (1 - share) ** 0.5
        top, bottom = _edges(rng.uniform(0, height), side * height, height)
        left, right = _edges(rng.uniform(0, width), side * width, width)
        share = 1 - (bottom - top) * (right - left) / (height * width)
        views = tuple(_pasted(x, slice(top, bottom), slice(left, right)) for x in batch.views)
    else:
        views = tuple(_blended(x, share) for x in batch.views)
    y = F.one_hot(batch.y, mixing.classes).float()
    return replace(batch, views=views, y=share * y + (1 - share) * y.roll(1, 0))


def _edges(centre: float, length: float, size: int) -> tuple[int, int]:
    return max(0, round(centre - length / 2)), min(size, round(centre + length / 2))


def _pasted(x: Tensor, rows: slice, columns: slice) -> Tensor:
    x, other = x.clone(), x.roll(1, 0)
    x[..., rows, columns] = other[..., rows, columns]
    return x


def _blended(x: Tensor, share: float) -> Tensor:
    blend = share * x.float() + (1 - share) * x.float().roll(1, 0)
    return blend.round().to(torch.uint8) if x.dtype == torch.uint8 else blend
