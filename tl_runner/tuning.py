"""Which parameters train. Works with any method: what is frozen also stays in eval mode."""

from __future__ import annotations

import logging

from torch import nn

from .nn.model import Model

log = logging.getLogger(__name__)

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


class Tuning:
    """Every parameter trains.

    Attributes:
        cache_features: the backbone's features may be computed once, from the unaugmented image.
    """

    cache_features = False

    def apply(self, model: Model) -> None:
        """Set `requires_grad` of the model's parameters."""
        model.requires_grad_(True)


class Frozen(Tuning):
    """The backbone is frozen; neck and head train.

    Args:
        cache_features: compute the backbone's features once, from the unaugmented image, and train on
            them: seconds instead of hours. False augments and runs the backbone at every step.
    """

    def __init__(self, cache_features: bool = True) -> None:
        self.cache_features = cache_features

    def apply(self, model: Model) -> None:
        model.requires_grad_(True)
        model.backbone.requires_grad_(False)


class LinearProbe(Frozen):
    """Only the head trains. Arguments as for `Frozen`."""

    def apply(self, model: Model) -> None:
        if any(p.requires_grad for p in model.neck.parameters()):
            log.warning("linear_probe freezes the neck as it is; model.neck=none probes the backbone itself")
        model.requires_grad_(False)
        model.head.requires_grad_(True)


class NormOnly(Tuning):
    """Only scale and shift of the normalisation layers train, and the head unless `head` is False."""

    def __init__(self, head: bool = True) -> None:
        self.head = head

    def apply(self, model: Model) -> None:
        model.requires_grad_(False)
        for module in model.modules():
            if isinstance(module, _NORMS):
                module.requires_grad_(True)
        model.head.requires_grad_(self.head)


def parameter_table(model: Model) -> list[tuple[str, int, int]]:
    """(part, trainable parameters, all parameters) for backbone, neck and head."""
    return [
        (
            name,
            sum(p.numel() for p in part.parameters() if p.requires_grad),
            sum(p.numel() for p in part.parameters()),
        )
        for name, part in model.named_children()
    ]
