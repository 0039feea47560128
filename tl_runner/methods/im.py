from __future__ import annotations

from ..losses import information_maximization
from ..nn.model import Model
from ..types import Batches, DataInfo, Joint, Losses, NonNegative
from .base import Method


class IM(Method):
    """Target predictions that are confident one by one and diverse together.

    Liang et al., Do We Really Need to Access the Source Data? Source Hypothesis Transfer for Unsupervised
    Domain Adaptation, ICML 2020. https://arxiv.org/abs/2002.08546

    The loss of SHOT-IM, with the source data kept and everything trained. `method=shot method.weight=0` is
    the paper's.

    Args:
        weight: of the mean entropy less the entropy of the batch's mean prediction.
    """

    source_optional = True

    def __init__(self, model: Model, info: DataInfo, weight: NonNegative = 0.1) -> None:
        super().__init__(model, info)
        self.weight = weight

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        return {
            **self.source_loss(out, batch),
            "im": self.weight * information_maximization(out["target"].logits),
        }
