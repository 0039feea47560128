from __future__ import annotations

from ..losses import information_maximization
from ..nn.model import Model
from ..types import Batches, DataInfo, Joint, Losses
from .base import Method


class SHOTIM(Method):
    """Adapts a trained source model without source data: fixed head, confident and diverse predictions.

    Liang et al., Do We Really Need to Access the Source Data? Source Hypothesis Transfer for Unsupervised
    Domain Adaptation, ICML 2020. https://arxiv.org/abs/2002.08546
    """

    roles = ("target",)
    source_free = True

    def __init__(self, model: Model, info: DataInfo) -> None:
        super().__init__(model, info)
        model.head.requires_grad_(False)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        return {"im": information_maximization(out["target"].logits)}
