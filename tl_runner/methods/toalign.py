from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses import domain_adversarial, entropy
from ..nn import mlp, reverse_gradient
from ..nn.model import Model
from ..schedules import ramp
from ..types import Batches, Count, DataInfo, Joint, Losses, NonNegative
from .base import Method


class ToAlign(Method):
    """Aligns the target with what of the source's features its class needs, and not with the rest.

    Wei et al., ToAlign: Task-oriented Alignment for Unsupervised Domain Adaptation, NeurIPS 2021.
    https://arxiv.org/abs/2106.10812

    A source row's features are multiplied by the head's weights of its class, at unchanged norm, before a
    discriminator sees them. As in the authors' code it sees the softmax outputs of either, weighted by e^-H(p), or,
    as DANN's, the features; their heuristic classifiers (HDA) are left out. No gradient flows through the norms.

    Args:
        weight: of the domain loss.
        sees: what the discriminator sees, `predictions` or `features`.
        hidden: width of the discriminator's two hidden layers.
        gamma: how fast the reversed gradient reaches full strength.

    Raises:
        UserError: if the model's head has hidden layers.
    """

    whole_labels = True

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        sees: Literal["predictions", "features"] = "predictions",
        hidden: Count = 1024,
        gamma: NonNegative = 10.0,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.sees, self.gamma = weight, sees, gamma
        size = info.num_classes if sees == "predictions" else model.num_features
        self.discriminator = mlp(size, hidden, 1)
        model.check_linear("toalign")

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        y, strength = batch["source"].y, ramp(progress, self.gamma)
        weight: Tensor = self.model.head.weight  # type: ignore[assignment]
        positive = task_oriented(out["source"].features, weight[y])
        certain = None
        if self.sees == "predictions":
            logits = torch.cat([self.model.head(positive), out["target"].logits])
            certain = torch.exp(-reverse_gradient(entropy(logits, reduction="none"), strength))
            seen = F.softmax(logits, dim=1)
        else:
            seen = torch.cat([positive, out["target"].features])
        scores = self.discriminator(reverse_gradient(seen, strength))
        domain = domain_adversarial(scores, len(y), certain, through_weights=True)
        return {"source": F.cross_entropy(out["source"].logits, y), "domain": self.weight * domain}


def task_oriented(features: Tensor, weights: Tensor) -> Tensor:
    """f ⊙ w · ‖f‖ / ‖f ⊙ w‖, row by row: what the classifier uses of f, with the norm of f.

    Args:
        features: (N, D). weights: (N, D), the classifier's of each row's class.
    """
    weighted: Tensor = features * weights.detach()
    with torch.no_grad():
        norm = weighted.norm(dim=1, keepdim=True)
        scale: Tensor = features.norm(dim=1, keepdim=True) / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    return weighted * scale
