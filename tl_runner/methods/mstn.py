from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses import centroid_distance, class_means, domain_adversarial
from ..nn import mlp, reverse_gradient
from ..nn.model import Model
from ..schedules import ramp
from ..types import Batches, Count, DataInfo, Fraction, Joint, Losses, NonNegative
from .base import Method


class MSTN(Method):
    """DANN, and each class's centroid in the target, by pseudo-labels, moves to the source's.

    Xie et al., Learning Semantic Representations for Unsupervised Domain Adaptation, ICML 2018.
    https://proceedings.mlr.press/v80/xie18c.html

    Centroids are moving averages over the batches. A class begins with the first batch that has it, counts once
    both domains have it, and stays where a batch lacks it; the authors' code starts at zero and decays towards
    it, and multiplies the adversarial loss by 0.1.

    Args:
        weight: of the domain loss.
        semantic: of the distance between centroids, which grows with progress.
        decay: share of the old centroid that a batch leaves.
        reduction: `mean` over classes and dimensions, as the authors' code, or `sum`, as the paper.
        hidden: width of the discriminator's two hidden layers.
        gamma: how fast reversed gradient and semantic loss reach full strength.
    """

    whole_labels = True
    centroids: Tensor
    seen: Tensor

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        semantic: NonNegative = 1.0,
        decay: Fraction = 0.7,
        reduction: Literal["mean", "sum"] = "mean",
        hidden: Count = 1024,
        gamma: NonNegative = 10.0,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.semantic, self.gamma = weight, semantic, gamma
        self.decay: float = decay
        self.reduction = reduction
        self.discriminator = mlp(model.num_features, hidden, 1)
        self.register_buffer("centroids", torch.zeros(2, info.num_classes, model.num_features))
        self.register_buffer("seen", torch.zeros(2, info.num_classes, dtype=torch.bool))

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        source, target, y = out["source"], out["target"], batch["source"].y
        strength = ramp(progress, self.gamma)
        features = torch.cat([source.features, target.features])
        scores = self.discriminator(reverse_gradient(features, strength))
        s, t = self.move(0, source.features, y), self.move(1, target.features, target.logits.argmax(1))
        distance = centroid_distance(s, t, self.seen.all(0), self.reduction)
        return {
            "source": F.cross_entropy(source.logits, y),
            "domain": self.weight * domain_adversarial(scores, len(y)),
            "semantic": strength * self.semantic * distance,
        }

    def move(self, domain: int, features: Tensor, y: Tensor) -> Tensor:
        """(K, D) centroids of a domain after this batch, with a gradient to its features."""
        k = self.info.num_classes
        old, seen, here = self.centroids[domain].clone(), self.seen[domain].clone(), F.one_hot(y, k).any(0)
        decay = self.decay * seen.to(old.dtype)[:, None]
        new = decay * old + (1 - decay) * class_means(features, y, k)
        new = torch.where(here[:, None], new, old)
        self.centroids[domain], self.seen[domain] = new.detach(), seen | here
        return new
