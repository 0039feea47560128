"""Fine-tuning that looks inside the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import tokens
from ..errors import UserError
from ..nn.maps import tapped
from ..nn.model import Model
from ..types import DataInfo, Joint, Outputs
from .finetune import Finetune


class Inside(Finetune):
    """What modules of the model put out in its forward pass, besides features and logits.

    Attributes:
        taps: names of these modules, for a subclass to set.
        inside: what they put out in the last pass, by module and role.
    """

    def __init__(self, model: Model, info: DataInfo, taps: tuple[str, ...], /, **options: Any) -> None:
        super().__init__(model, info, **options)
        self.taps = taps
        self.inside: dict[str, dict[str, Tensor]] = {}
        if model.compiled and any(tap.startswith("backbone") for tap in taps):
            raise UserError(
                f"method {type(self).__name__} looks inside the backbone: set model.compile=false"
            )

    def outputs(self, x: Mapping[str, Tensor], model: Callable[[Tensor], Outputs] | None = None) -> Joint:
        with tapped(self.model, self.taps) as calls:
            out = super().outputs(x, model)
        sizes = [tokens.count(part) for part in x.values()]
        self.inside = {
            name: dict(zip(x, torch.split(torch.cat(parts), sizes), strict=True))
            for name, parts in calls.items()
        }
        return out
