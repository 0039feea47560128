from __future__ import annotations

import torch
from torch.nn import functional as F

from ..losses import domain_adversarial
from ..nn import mlp, reverse_gradient
from ..nn.model import Model
from ..schedules import ramp
from ..types import Batches, Count, DataInfo, Joint, Losses, NonNegative
from .base import Method


class DANN(Method):
    """Features a domain discriminator cannot tell apart.

    Ganin et al., Domain-Adversarial Training of Neural Networks, JMLR 2016.
    https://arxiv.org/abs/1505.07818

    The discriminator sees the features after the neck; the reversal grows with progress as in the paper.

    Args:
        weight: of the domain loss.
        hidden: width of the discriminator's two hidden layers.
        gamma: how fast the reversed gradient reaches full strength, 2 / (1 + e^(-gamma t)) - 1.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        hidden: Count = 1024,
        gamma: NonNegative = 10.0,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.gamma = weight, gamma
        self.discriminator = mlp(model.num_features, hidden, 1)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        features = torch.cat([out["source"].features, out["target"].features])
        scores = self.discriminator(reverse_gradient(features, ramp(progress, self.gamma)))
        return {
            "source": F.cross_entropy(out["source"].logits, batch["source"].y),
            "domain": self.weight * domain_adversarial(scores, len(batch["source"])),
        }
