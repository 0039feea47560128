from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError
from ..nn.model import Model
from ..types import HIDDEN, Batches, DataInfo, Joint, Losses, NonNegative
from .base import Collect
from .shot_im import SHOTIM


class SHOT(SHOTIM):
    """Adapts a trained source model without source data: SHOT-IM, and pseudo-labels of the nearest centroids.

    Liang et al., Do We Really Need to Access the Source Data? Source Hypothesis Transfer for Unsupervised
    Domain Adaptation, ICML 2020. https://arxiv.org/abs/2002.08546

    Pseudo-labels are renewed before every epoch from cosine centroids, in two rounds, as in the paper: of the
    predictions, then of the labels that these give. As in the authors' code, features have a one appended.

    Args:
        weight: of the cross-entropy with the pseudo-labels.
        least: a class that no more target samples are predicted as gets no pseudo-label.
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
        features: (N, D). logits: (N, K). least: classes of no more rows have no centroid, in either round.

    Raises:
        UserError: if that leaves no class.
    """
    f = F.normalize(F.pad(features.float(), (0, 1), value=1.0), dim=1)
    weights = F.softmax(logits.float(), dim=1)
    labels = weights.argmax(1)
    for _ in range(2):
        present = torch.bincount(labels, minlength=logits.shape[1]) > least
        if not present.any():
            raise UserError(f"method.least={least}: no class has more target samples; lower it")
        centroids = F.normalize(weights.T @ f, dim=1)  # Sums: a cosine does not see by what they are divided.
        labels = (f @ centroids.T).masked_fill(~present, -2).argmax(1)
        weights = F.one_hot(labels, logits.shape[1]).float()
    return labels
