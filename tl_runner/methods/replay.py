from __future__ import annotations

from typing import Any

from torch.nn import functional as F

from ..nn.model import Model
from ..types import Batches, DataInfo, Joint, Losses, NonNegative
from .finetune import Finetune


class Replay(Finetune):
    """Learns the labelled samples while some source samples are rehearsed in every step.

    Chaudhry et al., On Tiny Episodic Memories in Continual Learning, 2019. https://arxiv.org/abs/1902.10486

    The whole source is the memory. `trainer.batch_size={labeled: 24, source: 8}` makes it a quarter of a step.

    Args:
        label_smoothing, class_weights, mixup, cutmix: as for `finetune`.
        weight: of the source's cross-entropy.
    """

    roles = ("labeled", "source")

    def __init__(self, model: Model, info: DataInfo, weight: NonNegative = 1.0, **options: Any) -> None:
        super().__init__(model, info, **options)
        self.weight = weight

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        source = F.cross_entropy(out["source"].logits, batch["source"].y)
        return {**super().losses(out, batch, progress), "source": self.weight * source}
