"""A backbone too large for one GPU: its weights, gradients and optimiser state divided among the processes.

Each process keeps its share of every tensor, and gathers a block's weights for as long as it computes with them
(torch's `fully_shard`). What is saved is whole: a run may go on with any number of processes.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from . import ranks
from .errors import UserError
from .nn.blocks import in_lists
from .nn.model import Model


@contextmanager
def sharded(model: Model, device: torch.device) -> Iterator[None]:
    """While it lasts, the backbone is divided; afterwards it is whole again, with the weights that it has got.

    Raises:
        UserError: if something computes with its weights directly.
    """
    whole = copy.deepcopy(model.backbone)
    model.backbone.to(device).to(memory_format=torch.contiguous_format)  # What torch can divide.
    mesh = init_device_mesh(device.type, (ranks.count(),))
    for block in in_lists(model.backbone):
        if not isinstance(block, nn.ModuleList):  # It is not called as a whole.
            fully_shard(block, mesh=mesh)
    # Weights that stay gathered would be stale after an update that no backward pass came before.
    fully_shard(model.backbone, mesh=mesh, reshard_after_forward=True)
    ranks.divided_weights = True
    try:
        yield
        whole.load_state_dict(gathered(model.backbone.state_dict()))
    except RuntimeError as error:
        if not re.search("and DTensor|of divided weights|not have been used in the graph", str(error)):
            raise
        raise UserError(
            "trainer.shard=true: this method computes with the backbone's weights themselves, and no process has "
            "them whole; set it to false"
        ) from error
    finally:
        ranks.divided_weights = False
        model.backbone = whole


def gathered(state: Any) -> Any:
    """A state dict, or what is in one, with whole tensors in place of divided ones. All processes call it."""
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    return [gathered(value) for value in state] if isinstance(state, list) else state


def divided(state: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """The other way round: with divided tensors where `like` has some."""
    return {key: _like(value, like.get(key)) for key, value in state.items()}


def _like(value: Any, other: Any) -> Any:
    if not isinstance(other, DTensor) or not isinstance(value, Tensor) or value.shape != other.shape:
        return value
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)


def divide_state(optimizer: Optimizer) -> None:
    """What an optimiser has read from a checkpoint, divided as its parameters are."""
    if not any(isinstance(p, DTensor) for group in optimizer.param_groups for p in group["params"]):
        return
    for group in optimizer.param_groups:
        group |= {key: False for key in ("fused", "foreach") if key in group}
        for p in group["params"]:
            state = optimizer.state.get(p, {})
            for key, value in state.items():
                if not isinstance(value, DTensor):
                    state[key] = _like(value, p)


@torch.no_grad()
def clip(parameters: Sequence[nn.Parameter], limit: float) -> None:
    """`torch.nn.utils.clip_grad_norm_`, where some gradients are divided."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    parts = [g.to_local() for g in gradients if isinstance(g, DTensor)]
    if not parts:
        torch.nn.utils.clip_grad_norm_(parameters, limit)
        return
    others = [g for g in gradients if not isinstance(g, DTensor)]
    square = torch.stack([part.square().sum() for part in parts]).sum()
    dist.all_reduce(square)
    square += sum(g.square().sum() for g in others)
    factor = (limit / (square.sqrt() + 1e-6)).clamp(max=1.0)
    for g in (*parts, *others):
        g.mul_(factor)
