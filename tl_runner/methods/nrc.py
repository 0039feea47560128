from __future__ import annotations

import torch
from torch.nn import functional as F

from ..losses import diversity, nearest_rows, neighbour_agreement
from ..nn.model import Model
from ..types import Batches, Count, DataInfo, Fraction, Joint, Losses, NonNegative
from .base import Collect, Method
from .memory import Memory


class NRC(Method):
    """Adapts a trained model without source data: agree with the neighbours, most of all with mutual ones.

    Yang et al., Exploiting the Intrinsic Neighborhood Structure for Source-free Domain Adaptation, NeurIPS
    2021. https://arxiv.org/abs/2110.04202

    Neighbours are remembered samples, by the cosine; neighbours' neighbours count too, all with the small
    weight. Samples enter the memory before the update, as in the authors' code. That code weights a mutual
    neighbour by 1 and has no self-regularisation; the paper's is `own`.

    Args:
        neighbours: of each sample.
        further: neighbours of each neighbour.
        weight: of neighbours that are not mutual, and of neighbours' neighbours.
        own: of a sample's agreement with what is remembered of itself.
        balance: of the entropy of the mean prediction.
    """

    roles = ("target",)
    source_free = True

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        neighbours: Count = 3,
        further: Count = 2,
        weight: Fraction = 0.1,
        own: NonNegative = 0.0,
        balance: NonNegative = 1.0,
    ) -> None:
        super().__init__(model, info)
        self.neighbours, self.further, self.weight = neighbours, further, weight
        self.own, self.balance = own, balance
        self.memory = Memory(model, info)

    def begin_epoch(self, collect: Collect) -> None:
        self.memory.fill(collect)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        target, row, memory = out["target"], batch["target"].row, self.memory
        features = F.normalize(target.features.detach().float(), dim=1)
        memory.update(row, features, F.softmax(target.logits.detach().float(), dim=1))
        near = nearest_rows(features, row, memory.features, self.neighbours)
        beyond = nearest_rows(memory.features[near], near, memory.features, self.further)
        mutual = (beyond == row[:, None, None]).any(2)
        weights = torch.where(mutual, 1.0, self.weight)
        q = memory.predictions
        losses = {
            "neighbours": neighbour_agreement(target.logits, q[near], weights),
            "beyond": self.weight * neighbour_agreement(target.logits, q[beyond.flatten(1)]),
            "balance": -self.balance * diversity(target.logits),
        }
        if self.own:
            losses["own"] = self.own * neighbour_agreement(target.logits, q[row][:, None])
        return losses
