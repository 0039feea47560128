from __future__ import annotations

from torch.nn import functional as F

from ..losses import dispersion, nearest_rows, neighbour_agreement
from ..nn.model import Model
from ..types import Batches, Count, DataInfo, Joint, Losses, NonNegative
from .base import Collect, Method
from .memory import Memory


class AaD(Method):
    """Adapts a trained model without source data: attract neighbours' predictions, disperse all others'.

    Yang et al., Attracting and Dispersing: A Simple Approach for Source-free Domain Adaptation, NeurIPS 2022.
    https://arxiv.org/abs/2205.04183

    Samples enter the memory before the update, as in the authors' code.

    Args:
        neighbours: of each sample, among all that are remembered, by the cosine.
        weight: of the dispersion within a batch, at the beginning; it falls as (1 + 10 progress)^−decay.
        decay: see `weight`; 0 keeps it. The authors take 1 on Office-31.
    """

    roles = ("target",)
    source_free = True

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        neighbours: Count = 3,
        weight: NonNegative = 1.0,
        decay: NonNegative = 1.0,
    ) -> None:
        super().__init__(model, info)
        self.neighbours, self.weight, self.decay = neighbours, weight, decay
        self.memory = Memory(model, info)

    def begin_epoch(self, collect: Collect) -> None:
        self.memory.fill(collect)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        target, row, memory = out["target"], batch["target"].row, self.memory
        features = F.normalize(target.features.detach().float(), dim=1)
        memory.update(row, features, F.softmax(target.logits.detach().float(), dim=1))
        near = nearest_rows(features, row, memory.features, self.neighbours)
        return {
            "neighbours": neighbour_agreement(target.logits, memory.predictions[near]),
            "dispersion": self.weight * (1 + 10 * progress) ** -self.decay * dispersion(target.logits),
        }
