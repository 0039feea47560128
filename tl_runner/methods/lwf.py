from __future__ import annotations

from typing import Any

from ..losses import distillation
from ..nn.copies import Earlier, Still
from ..nn.model import Model
from ..types import Batches, DataInfo, Joint, Losses, NonNegative, Positive
from .inside import Inside


class LwF(Inside):
    """Learns the labelled samples, and goes on answering on them in the earlier classes what it answered before.

    Li & Hoiem, Learning without Forgetting, ECCV 2016. https://arxiv.org/abs/1606.09282

    The earlier classes are those of the stage or run before, in the model's own head, where source and
    target share them; those of the run in `init_from` that `init_parts=[backbone,neck]` leaves out; or those
    that the backbone was pretrained on. In the latter two cases the earlier head trains beside the new one, as in
    the paper. The answers before are taken on the same augmented view, from a copy in eval mode. The paper's
    cross-entropy with them is this divergence and a constant; Hinton's factor T² it has not.

    Args:
        label_smoothing: as for `finetune`.
        weight: of the old answers.
        temperature: that softens them.

    Raises:
        UserError: if the model has no earlier classifier.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        temperature: Positive = 2.0,
        **options: Any,
    ) -> None:
        earlier = Earlier(model, "lwf")
        super().__init__(model, info, () if earlier.own else (earlier.reads,), **options)
        self.weight, self.temperature, self.reads = weight, temperature, earlier.reads
        self.before = Still.copy(earlier)
        self.earlier_head = None if earlier.own else earlier.head

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        now, old = out["labeled"].logits, self.before(batch["labeled"].x)
        if self.earlier_head is not None:
            now = self.earlier_head(self.inside[self.reads]["labeled"])
        kept = distillation(now, old, self.temperature) / self.temperature**2
        return {**super().losses(out, batch, progress), "old": self.weight * kept}
