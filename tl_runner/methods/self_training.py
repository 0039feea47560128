from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses import balanced_labels, class_thresholds
from ..nn.model import Model
from ..types import HIDDEN, Batches, DataInfo, Fraction, Joint, Losses, NonNegative
from .base import Collect, Method


class SelfTraining(Method):
    """Learns its own most confident target labels, the same share of every class, a growing one.

    Zou et al., Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced Self-Training,
    ECCV 2018. https://arxiv.org/abs/1810.07911

    An epoch is a round. The paper starts from a trained model and adds 5 % per round; here the source alone
    teaches until `warm_up`, and the portion grows with the training done. All rows of a batch divide the
    loss, labelled or not, as in the paper's sum; the paper's weight is 1, which pays where the first labels
    are good and harms where they are not.

    Args:
        weight: of the pseudo-labels' cross-entropy.
        portion: share of each class that gets labels in the first round and in the last.
        warm_up: share of the training before the first round.
    """

    source_optional = True
    pseudo: Tensor
    done: Tensor

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 0.2,
        portion: tuple[Fraction, Fraction] = (0.2, 0.5),
        warm_up: Fraction = 0.2,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.portion, self.warm_up = weight, tuple(portion), warm_up
        self.register_buffer("pseudo", torch.full((info.sizes["target"],), HIDDEN))
        self.register_buffer("done", torch.tensor(0.0))

    def begin_epoch(self, collect: Collect) -> None:
        # What the last step left, so that a resumed run knows it too.
        done = float(self.done)
        if done < self.warm_up or not done:
            return
        first, last = self.portion
        share = first + (last - first) * (done - self.warm_up) / max(1 - self.warm_up, 1e-6)
        logits = collect("target").logits
        self.pseudo.copy_(balanced_labels(logits, class_thresholds(logits, share)))

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        self.done.fill_(progress)
        logits, y = out["target"].logits, self.pseudo[batch["target"].row]
        each = F.cross_entropy(logits.float(), y, ignore_index=HIDDEN, reduction="none")
        return {
            **self.source_loss(out, batch),
            "pseudo": self.weight * each.mean(),
        }
