from __future__ import annotations

from torch.nn import functional as F

from ..losses import coral
from ..nn.model import Model
from ..types import Batches, DataInfo, Joint, Losses, NonNegative
from .base import Method


class CORAL(Method):
    """Features whose covariances agree.

    Sun & Saenko, Deep CORAL: Correlation Alignment for Deep Domain Adaptation, ECCV workshops 2016.
    https://arxiv.org/abs/1607.01719

    The paper aligns the logits and raises the weight until both losses are equal at the end of training;
    here, as in later reimplementations, the features after the neck and a fixed weight.

    Args:
        weight: of the covariance distance, which is small: it is divided by 4 D².
    """

    def __init__(self, model: Model, info: DataInfo, weight: NonNegative = 10.0) -> None:
        super().__init__(model, info)
        self.weight = weight

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        return {
            "source": F.cross_entropy(out["source"].logits, batch["source"].y),
            "coral": self.weight * coral(out["source"].features, out["target"].features),
        }
