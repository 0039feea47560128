from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses import balanced_sharpening, neighbour_labels, weighted_cross_entropy
from ..nn.model import Model
from ..types import Batches, Count, DataInfo, Fraction, Joint, Losses, NonNegative
from .base import Collect, Method


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

    bank: Tensor
    labels: Tensor
    filled: Tensor

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
        size = info.sizes["target"]
        self.register_buffer("bank", torch.zeros(size, model.num_features))
        self.register_buffer("labels", torch.zeros(size, info.num_classes))
        self.register_buffer("filled", torch.tensor(False))

    def begin_epoch(self, collect: Collect) -> None:
        if not self.filled:
            out = collect("target")
            self.bank.copy_(F.normalize(out.features.float(), dim=1))
            self.labels.copy_(F.softmax(out.logits.float(), dim=1))
            self.filled.fill_(True)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        target, row = out["target"], batch["target"].row
        features = F.normalize(target.features.detach().float(), dim=1)
        confidence, y = neighbour_labels(features, row, self.bank, self.labels, self.neighbours).max(1)
        with torch.no_grad():
            new = balanced_sharpening(target.logits)
            self.bank[row] = torch.lerp(self.bank[row], features, self.momentum)
            self.labels[row] = torch.lerp(self.labels[row], new, self.momentum)
        loss = weighted_cross_entropy(target.logits, y, confidence)
        return {
            "source": F.cross_entropy(out["source"].logits, batch["source"].y),
            "neighbours": self.weight * progress * loss,
        }
