from __future__ import annotations

from torch.nn import functional as F

from ..losses import local_mmd
from ..nn.model import Model
from ..schedules import ramp
from ..types import Bandwidths, Batches, DataInfo, Joint, Losses, NonNegative
from .base import Method


class DSAN(Method):
    """Features aligned within each class, the target's classes being what the model predicts.

    Zhu et al., Deep Subdomain Adaptation Network for Image Classification, TNNLS 2020.
    https://arxiv.org/abs/2106.09388

    The weight grows along DANN's ramp, since the first predictions mean little.

    Args:
        weight: of the local discrepancy.
        alphas: kernel bandwidths as factors of the mean squared distance.
        gamma: how fast the weight reaches its full value.
        predicted_only: align the classes that a target row of the batch is predicted as, as the authors'
            code; false: all classes of the source batch, as the paper's formula.
    """

    whole_labels = True

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 0.5,
        alphas: Bandwidths = (0.125, 0.25, 0.5, 1.0, 2.0),
        gamma: NonNegative = 10.0,
        predicted_only: bool = True,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.alphas, self.gamma, self.predicted_only = (
            weight,
            tuple(alphas),
            gamma,
            predicted_only,
        )

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        s, t, y = out["source"], out["target"], batch["source"].y
        distance = local_mmd(s.features, t.features, y, t.logits, self.alphas, self.predicted_only)
        return {
            "source": F.cross_entropy(s.logits, y),
            "local_mmd": self.weight * ramp(progress, self.gamma) * distance,
        }
