from __future__ import annotations

from ..losses import mcc
from ..nn.model import Model
from ..types import Batches, DataInfo, Joint, Losses, NonNegative, Positive
from .base import Method


class MCC(Method):
    """Target predictions that do not mix classes up.

    Jin et al., Minimum Class Confusion for Versatile Domain Adaptation, ECCV 2020.
    https://arxiv.org/abs/1912.03699

    Args:
        weight: of the confusion.
        temperature: divides the logits before the softmax.
    """

    source_optional = True

    def __init__(
        self, model: Model, info: DataInfo, weight: NonNegative = 1.0, temperature: Positive = 2.5
    ) -> None:
        super().__init__(model, info)
        self.weight, self.temperature = weight, temperature

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        return {
            **self.source_loss(out, batch),
            "confusion": self.weight * mcc(out["target"].logits, self.temperature),
        }
