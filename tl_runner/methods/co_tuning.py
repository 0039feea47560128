from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses import category_relationship
from ..nn.copies import Earlier
from ..nn.model import Model
from ..types import Batches, DataInfo, Joint, Losses, NonNegative, Positive
from .base import Collect
from .inside import Inside


class CoTuning(Inside):
    """Learns the labelled samples in two heads: in their classes, and in the earlier task's classes that they resemble.

    You et al., Co-Tuning for Transfer Learning, NeurIPS 2020.
    https://proceedings.neurips.cc/paper/2020/hash/c8067ad1937f728f51288b3eb986afaa-Abstract.html

    The earlier head is found as `lwf` finds it: the paper's is the one that the backbone was pretrained with; where an
    earlier stage or run has trained the model's head on these very classes, a copy of that head, beside which the
    model's own goes on. p(earlier class | class) is computed once, as the stage begins, from the labelled samples
    without augmentation. The earlier head learns at the new one's rate, the authors' at the backbone's.

    Args:
        label_smoothing, class_weights, mixup, cutmix: as for `finetune`.
        weight: of the earlier head's cross-entropy.
        relationship: how p(earlier class | class) is found: learned in `reverse` and inverted, or `direct`.
        temperature: that calibrates the earlier head's predictions; the authors' for ResNet-50 on ImageNet is 1.13.

    Raises:
        UserError: if the model has no earlier classifier.
    """

    relation: Tensor
    known: Tensor

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 2.3,
        relationship: Literal["reverse", "direct"] = "reverse",
        temperature: Positive = 1.0,
        **options: Any,
    ) -> None:
        earlier = Earlier(model, "co_tuning")
        super().__init__(model, info, (earlier.reads,), **options)
        self.weight, self.relationship, self.temperature = weight, relationship, temperature
        if earlier.own:
            earlier.head = copy.deepcopy(model.head)
        # The model in it is there already: only the head is new.
        self.earlier, self.reads, self.earlier_head = (earlier,), earlier.reads, earlier.head
        self.register_buffer("relation", torch.zeros(info.num_classes, earlier.classes))
        self.register_buffer("known", torch.tensor(False))

    @torch.no_grad()
    def begin_epoch(self, collect: Collect) -> None:
        if self.known:
            return
        found = [((self.earlier[0](batch.x)), batch.y) for batch in collect.batches("labeled")]
        logits, y = (torch.cat(part) for part in zip(*found, strict=True))
        relation = category_relationship(logits / self.temperature, y, len(self.relation), self.relationship)
        self.relation.copy_(relation)
        self.known.fill_(True)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        y = batch["labeled"].y
        resembled = y.to(self.relation.dtype) @ self.relation if y.ndim == 2 else self.relation[y]
        logits = self.earlier_head(self.inside[self.reads]["labeled"])
        earlier = F.cross_entropy(logits, resembled)
        return {**super().losses(out, batch, progress), "earlier": self.weight * earlier}
