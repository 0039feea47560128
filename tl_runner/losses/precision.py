"""Numerics shared by the losses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """In float32 at least: what a network gives in half precision is too coarse to sum."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run `loss` outside autocast, with half-precision tensor arguments raised to float32."""

    def raised(value: Any) -> Any:
        return wide(value) if isinstance(value, Tensor) and value.is_floating_point() else value

    @functools.wraps(loss)
    def wrapper(*args: Any, **kwargs: Any) -> Tensor:
        device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), "cpu")
        if not torch.is_autocast_enabled(device):
            return loss(*map(raised, args), **{k: raised(v) for k, v in kwargs.items()})
        with torch.autocast(device, enabled=False):
            return loss(*map(raised, args), **{k: raised(v) for k, v in kwargs.items()})

    return wrapper


def paired(source: Tensor, target: Tensor, least: int) -> None:
    """Check that two (N, D) feature batches fit together and have at least `least` rows each.

    Raises:
        ValueError: naming the shapes.
    """
    if source.ndim != 2 or target.ndim != 2 or source.shape[1] != target.shape[1]:
        raise ValueError(
            f"expected features (N, D) and (M, D), got {tuple(source.shape)} and {tuple(target.shape)}"
        )
    if min(len(source), len(target)) < least:
        raise ValueError(
            f"needs at least {least} rows of each domain in a batch, got {len(source)} and {len(target)}"
        )
