"""Gradient checkpointing: a backbone's blocks are computed again in the backward pass instead of remembered.

Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, https://arxiv.org/abs/1604.06174
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .blocks import in_lists


def recomputed(net: nn.Module) -> int:
    """Change a network so that it keeps, for the backward pass, what goes into each of its blocks and nothing else.

    Outputs, gradients, dropout and batch-norm statistics stay what they are.

    Args:
        net: its blocks are what its outermost lists of modules hold (`nn.Sequential`, `nn.ModuleList`).

    Returns:
        How many blocks it has; with none, nothing is changed.
    """
    blocks = list(in_lists(net))
    for block in blocks:
        block.forward = partial(_forward, block, block.forward)
    return len(blocks)


def _forward(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(block)

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """The second pass over a batch moves no running statistics: the first has."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    before = [(m.momentum, m.num_batches_tracked) for m in norms]
    for m in norms:
        m.momentum, m.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for m, (momentum, tracked) in zip(norms, before, strict=True):
            m.momentum, m.num_batches_tracked = momentum, tracked
