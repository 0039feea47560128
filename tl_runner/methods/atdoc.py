from __future__ import annotations

from torch.nn import functional as F

from ..losses import balanced_sharpening, neighbour_labels, weighted_cross_entropy
from ..nn.model import Model
from ..types import Batches, Count, DataInfo, Fraction, Joint, Losses, NonNegative
from .base import Collect, Method
from .memory import Memory


class ATDOC(Method):
    """Target samples learn the labels of their nearest target neighbours, kept in a memory.

    Liang et al., Domain Adaptation with Auxiliary Target Domain-Oriented Classifier, CVPR 2021.
    https://arxiv.org/abs/2007.04171

    ATDOC-NA, with the weight growing linearly. The memory starts from the model at hand, where the authors'
    code starts from random features, and gets what the training pass computed before the update, where the
    code runs the batch once more after it. Labels are weighted by their confidence, as in the code.

    Args:
        weight: of the cross-entropy with the neighbours' labels, at the end.
        neighbours: that a sample is compared with.
        momentum: share of the new in the memory's update; 1 replaces.
    """

    source_optional = True

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 0.2,
        neighbours: Count = 5,
        momentum: Fraction = 1.0,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.neighbours, self.momentum = weight, neighbours, momentum
        self.memory = Memory(model, info)

    def begin_epoch(self, collect: Collect) -> None:
        self.memory.fill(collect)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        target, row, memory = out["target"], batch["target"].row, self.memory
        features = F.normalize(target.features.detach().float(), dim=1)
        labels = neighbour_labels(features, row, memory.features, memory.predictions, self.neighbours)
        confidence, y = labels.max(1)
        memory.update(row, features, balanced_sharpening(target.logits.detach()), self.momentum)
        loss = weighted_cross_entropy(target.logits, y, confidence)
        return {
            **self.source_loss(out, batch),
            "neighbours": self.weight * progress * loss,
        }
