from __future__ import annotations

from .. import losses
from ..nn.model import Model
from ..types import Batches, DataInfo, Joint, Losses, NonNegative
from .base import Method


class Entropy(Method):
    """Confident target predictions: class boundaries move to where the target has few samples.

    Grandvalet & Bengio, Semi-supervised Learning by Entropy Minimization, NeurIPS 2004.
    https://papers.nips.cc/paper/2740

    Alone, a larger weight makes wrong predictions certain: diversity (`im`) or an alignment of the domains
    (`method=dann +method.extra.entropy.weight=0.1`) keeps them from it.

    Args:
        weight: of the mean entropy of the target's predictions.
    """

    source_optional = True

    def __init__(self, model: Model, info: DataInfo, weight: NonNegative = 0.01) -> None:
        super().__init__(model, info)
        self.weight = weight

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        return {
            **self.source_loss(out, batch),
            "entropy": self.weight * losses.entropy(out["target"].logits),
        }
