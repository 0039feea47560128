from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..nn.model import Model
from ..types import HIDDEN, Batches, DataInfo, Joint, Losses, NonNegative
from .base import Collect
from .shot_im import SHOTIM


class SHOT(SHOTIM):
    """Adapts a trained source model without source data: SHOT-IM, and pseudo-labels of the nearest centroids.

    Liang et al., Do We Really Need to Access the Source Data? Source Hypothesis Transfer for Unsupervised
    Domain Adaptation, ICML 2020. https://arxiv.org/abs/2002.08546

    Pseudo-labels are renewed before every epoch from cosine centroids, in two rounds, as in the paper. The
    authors' code recomputes the centroids of the second round from hard labels, and so does this.

    Args:
        weight: of the cross-entropy with the pseudo-labels.
        least: classes that fewer target samples are predicted as get no pseudo-labels.
    """

    pseudo: Tensor

    def __init__(
        self, model: Model, info: DataInfo, weight: NonNegative = 0.3, least: NonNegative = 0
    ) -> None:
        super().__init__(model, info)
        self.weight, self.least = weight, least
        self.register_buffer("pseudo", torch.full((info.sizes["target"],), HIDDEN))

    def begin_epoch(self, collect: Collect) -> None:
        out = collect("target")
        self.pseudo = pseudo_labels(out.features, out.logits, self.least)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        y = self.pseudo[batch["target"].row]
        return {
            **super().losses(out, batch, progress),
            "pseudo": self.weight * F.cross_entropy(out["target"].logits, y),
        }


def pseudo_labels(features: Tensor, logits: Tensor, least: float = 0) -> Tensor:
    """(N,) labels of the nearest centroid in cosine distance, the centroids refined once.

    Args:
        features: (N, D). logits: (N, K). least: classes predicted no more often have no centroid.
    """
    p = F.softmax(logits.float(), dim=1)
    # The code of the paper appends a one to each feature, so that the centroids see a bias.
    f = F.normalize(torch.cat([features.float(), features.new_ones(len(features), 1).float()], 1), dim=1)
    present = torch.bincount(p.argmax(1), minlength=p.shape[1]) > least
    weights = p
    for _ in range(2):
        centroids = F.normalize(weights.T @ f / (weights.sum(0)[:, None] + 1e-8), dim=1)
        labels = (f @ centroids.T).masked_fill(~present, -2).argmax(1)
        weights = F.one_hot(labels, p.shape[1]).to(p.dtype)
    return labels
