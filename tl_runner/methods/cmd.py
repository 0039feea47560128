from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses import cmd
from ..nn.model import Model
from ..types import Batches, Count, DataInfo, Joint, Losses, NonNegative
from .base import Method

Bound = Literal["tanh", "sigmoid"]


class CMD(Method):
    """Features whose means and higher central moments agree.

    Zellinger et al., Central Moment Discrepancy for Domain-Invariant Representation Learning, ICLR 2017.
    https://arxiv.org/abs/1702.08811

    The moments need bounded features. The paper's network ends in a bounded activation; here the features
    pass through one for this loss alone. As in the authors' code, |b - a| counts as 1.

    Args:
        weight: of the discrepancy.
        moments: highest order that is matched.
        bound: what bounds the features.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        moments: Count = 5,
        bound: Bound = "sigmoid",
    ) -> None:
        super().__init__(model, info)
        self.weight, self.moments, self.bound = weight, moments, bound

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        def bounded(features: Tensor) -> Tensor:
            return torch.tanh(features) if self.bound == "tanh" else torch.sigmoid(features)

        distance = cmd(bounded(out["source"].features), bounded(out["target"].features), self.moments)
        return {
            "source": F.cross_entropy(out["source"].logits, batch["source"].y),
            "cmd": self.weight * distance,
        }
