from __future__ import annotations

from typing import Any

from ..losses import distillation
from ..nn.copies import Still
from ..nn.model import Model
from ..types import Batches, DataInfo, Joint, Losses, NonNegative, Positive
from .finetune import Finetune


class LwF(Finetune):
    """Learns the labelled samples, and goes on answering on them what it answered before.

    Li & Hoiem, Learning without Forgetting, ECCV 2016. https://arxiv.org/abs/1606.09282

    The paper gives the new task a head of its own and keeps the old one's answers; here both tasks have the
    same classes and one head. The answers are those of a copy of the model as the stage found it, on the same
    augmented view. Hinton's factor T² is divided out again: the paper has none.

    Args:
        label_smoothing, class_weights, mixup, cutmix: as for `finetune`.
        weight: of the old answers.
        temperature: that softens them.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        temperature: Positive = 2.0,
        **options: Any,
    ) -> None:
        super().__init__(model, info, **options)
        self.weight, self.temperature = weight, temperature
        self.before = Still.copy(model)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        old = self.before(batch["labeled"].x).logits
        kept = distillation(out["labeled"].logits, old, self.temperature) / self.temperature**2
        return {**super().losses(out, batch, progress), "old": self.weight * kept}
