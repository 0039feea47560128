from __future__ import annotations

from torch.nn import functional as F

from ..nn.model import Model
from ..types import Batches, DataInfo, Fraction, Joint, Losses
from .base import Method


class Finetune(Method):
    """Cross-entropy on the labelled target samples.

    Yosinski et al., How transferable are features in deep neural networks?, NeurIPS 2014.
    https://arxiv.org/abs/1411.1792

    Args:
        label_smoothing: share of the target distribution spread over all classes.
    """

    roles: tuple[str, ...] = ("labeled",)

    def __init__(self, model: Model, info: DataInfo, label_smoothing: Fraction = 0.0) -> None:
        super().__init__(model, info)
        self.label_smoothing = label_smoothing

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        logits = out["labeled"].logits
        return {"labeled": F.cross_entropy(logits, batch["labeled"].y, label_smoothing=self.label_smoothing)}
