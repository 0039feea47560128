from __future__ import annotations

from typing import Any

from ..losses import spectral_shrinkage
from ..nn.model import Model
from ..types import Batches, Count, DataInfo, Joint, Losses, NonNegative
from .finetune import Finetune


class BSS(Finetune):
    """Learns the labelled samples, and shrinks the directions in which their features hardly vary.

    Chen et al., Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe Transfer
    Learning, NeurIPS 2019.
    https://proceedings.neurips.cc/paper/2019/hash/c6bff625bdb0393992c9d4db0c6bbe45-Abstract.html

    The small singular values belong to what does not transfer, and shall not be fitted. Features are those
    after the neck.

    Args:
        label_smoothing, class_weights, mixup, cutmix: as for `finetune`.
        weight: η, of the k smallest squared singular values of a batch's features.
        k: how many are shrunk.
    """

    def __init__(
        self, model: Model, info: DataInfo, weight: NonNegative = 0.001, k: Count = 1, **options: Any
    ) -> None:
        super().__init__(model, info, **options)
        self.weight, self.k = weight, k

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        shrinkage = spectral_shrinkage(out["labeled"].features, self.k)
        return {**super().losses(out, batch, progress), "shrinkage": self.weight * shrinkage}
