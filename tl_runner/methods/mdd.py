from __future__ import annotations

import torch
from torch.nn import functional as F

from ..losses import margin_disparity
from ..nn import mlp, reverse_gradient
from ..nn.model import Model
from ..schedules import ramp
from ..types import Batches, DataInfo, Joint, Losses, Natural, NonNegative, Positive
from .base import Method


class MDD(Method):
    """A second classifier agrees with the first on the source and differs on the target; features leave it no room.

    Zhang et al., Bridging Theory and Algorithm for Domain Adaptation, ICML 2019.
    https://arxiv.org/abs/1904.05801

    The published code gives both classifiers a hidden layer of 1024 units; here the adversary is another head
    like the model's, as the theory wants both from one space, or has hidden layers of its own.

    Args:
        weight: of the discrepancy.
        margin: weight of the source's share of it, gamma in the paper.
        strength: largest factor of the reversed gradient, as in the authors' code.
        gamma: how fast the reversed gradient reaches that strength.
        hidden: width of the adversary's two hidden layers; 0: a head like the model's.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        margin: Positive = 4.0,
        strength: NonNegative = 0.1,
        gamma: NonNegative = 10.0,
        hidden: Natural = 0,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.margin, self.strength, self.gamma = weight, margin, strength, gamma
        self.adversary = mlp(model.num_features, hidden, info.num_classes) if hidden else model.new_head()

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        source, target = out["source"], out["target"]
        features = torch.cat([source.features, target.features])
        logits = self.adversary(reverse_gradient(features, self.strength * ramp(progress, self.gamma)))
        adv_s, adv_t = logits.split([len(source.logits), len(target.logits)])
        disparity = margin_disparity(adv_s, source.logits, adv_t, target.logits, self.margin)
        return {
            "source": F.cross_entropy(source.logits, batch["source"].y),
            "disparity": self.weight * disparity,
        }
