"""Models as they were."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..types import Outputs
from .model import Model


class Still:
    """A model that never changes: in eval mode, without gradients.

    It is no part of the module that holds it, so that checkpoints do not carry it: a run that goes on makes
    the same one again, from the model as it was when the stage began.
    """

    def __init__(self, model: Model) -> None:
        self.model = model.eval().requires_grad_(False)

    @classmethod
    def copy(cls, model: Model) -> Still:
        """A copy of a model as it is now."""
        return cls(copy.deepcopy(model))

    def on(self, device: torch.device) -> nn.Module:
        """The model, moved there if it is not there yet."""
        if next(self.model.parameters()).device != device:
            self.model.to(device)
        return self.model

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Outputs:
        return self.on(x.device)(x)  # type: ignore[no-any-return]
