from __future__ import annotations

from torch.nn import functional as F

from ..nn.model import Model
from ..types import Batches, DataInfo, Fraction, Joint, Losses
from .base import Method


class SourceOnly(Method):
    """Cross-entropy on the source alone: what every adaptation has to beat.

    Args:
        label_smoothing: share of the target distribution spread over all classes.
    """

    roles = ("source",)

    def __init__(self, model: Model, info: DataInfo, label_smoothing: Fraction = 0.0) -> None:
        super().__init__(model, info)
        self.label_smoothing = label_smoothing

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        logits = out["source"].logits
        return {"source": F.cross_entropy(logits, batch["source"].y, label_smoothing=self.label_smoothing)}
