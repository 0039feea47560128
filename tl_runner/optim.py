"""From parameters to an optimiser."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Optimizer

from .errors import UserError
from .schedules import Constant, Schedule
from .types import NonNegative, Positive


class Optim:
    """How the parameters that train are updated.

    Args:
        optimizer: a torch optimiser's class with its options bound; `lr` and the groups come from here.
        lr: learning rate of neck, head and whatever a method adds.
        backbone_lr: factor on `lr` for the backbone.
        weight_decay: L2 factor.
        decay_norm_bias: False leaves biases and normalisation layers (1-D parameters) undecayed.
        clip_norm: largest gradient norm over all parameters; None: unclipped.
        schedule: factor on the learning rate.
    """

    def __init__(
        self,
        optimizer: Callable[..., Optimizer],
        lr: Positive = 0.01,
        backbone_lr: NonNegative = 1.0,
        weight_decay: NonNegative = 0.0,
        decay_norm_bias: bool = True,
        clip_norm: Positive | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        self.optimizer, self.lr, self.backbone_lr = optimizer, lr, backbone_lr
        self.weight_decay, self.decay_norm_bias = weight_decay, decay_norm_bias
        self.clip_norm = clip_norm
        self.schedule: Schedule = schedule or Constant()
        self.factors: Mapping[nn.Parameter, float] = {}

    def scaled(self, factors: Mapping[nn.Parameter, float]) -> Optim:
        """The same with factors on the learning rates of single parameters, on top of `backbone_lr`."""
        other = copy.copy(self)
        other.factors = factors
        return other

    def build(self, module: nn.Module, backbone: Iterable[nn.Parameter]) -> Optimizer:
        """An optimiser over the parameters of `module` that require a gradient.

        Raises:
            UserError: if there are none.
        """
        slow = {id(p) for p in backbone}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for p in module.parameters():
            if p.requires_grad:
                decay = self.weight_decay if self.decay_norm_bias or p.ndim > 1 else 0.0
                factor = self.factors.get(p, 1.0) * (self.backbone_lr if id(p) in slow else 1.0)
                groups.setdefault((factor, decay), []).append(p)
        if not groups:
            raise UserError(
                "no parameter trains: the tuning and the method between them freeze all; choose another tuning"
            )
        options: dict[str, Any] = {}
        # What takes several tensors at once takes no divided ones among whole ones.
        parts = any(isinstance(p, DTensor) for p in module.parameters())
        wrapped = getattr(self.optimizer, "func", self.optimizer)
        # One kernel for all parameters; also the fastest on a CPU.
        if "fused" in inspect.signature(wrapped).parameters:
            options["fused"] = not parts
        if parts and "foreach" in inspect.signature(wrapped).parameters:
            options["foreach"] = False
        built = self.optimizer(
            [
                {
                    "params": params,
                    "lr": self.lr * scale,
                    "initial_lr": self.lr * scale,
                    "weight_decay": decay,
                }
                for (scale, decay), params in groups.items()
            ],
            **options,
        )
        if isinstance(built, SGD):
            # Fused SGD cannot start one parameter's momentum while others have theirs: what joins later, as
            # an extra with a start or a block of a gradual tuning does. From zero it is the same average.
            for group in built.param_groups:
                if group["momentum"] and not group["dampening"]:
                    for p in group["params"]:
                        built.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return built

    def schedule_lr(self, optimizer: Optimizer, progress: float, step: int) -> None:
        """Set each group's learning rate for this step."""
        factor = self.schedule(progress, step)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
