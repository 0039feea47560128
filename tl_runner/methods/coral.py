from __future__ import annotations

from typing import Literal

from torch.nn import functional as F

from ..losses import coral
from ..nn.model import Model
from ..types import Batches, DataInfo, Joint, Losses, NonNegative
from .base import Method


class CORAL(Method):
    """Features whose covariances agree.

    Sun & Saenko, Deep CORAL: Correlation Alignment for Deep Domain Adaptation, ECCV workshops 2016.
    https://arxiv.org/abs/1607.01719

    The paper aligns the logits and sets the weight so that both losses are equal at the end of training;
    later reimplementations align the features after the neck, with a fixed weight.

    Args:
        weight: of the covariance distance. It is divided by 4 D²: 256 features ask for a larger one than the logits
            (10 in the reimplementations).
        layer: what is aligned.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 0.3,
        layer: Literal["features", "logits"] = "logits",
    ) -> None:
        super().__init__(model, info)
        self.weight, self.layer = weight, layer

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        return {
            "source": F.cross_entropy(out["source"].logits, batch["source"].y),
            "coral": self.weight
            * coral(getattr(out["source"], self.layer), getattr(out["target"], self.layer)),
        }
