from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError, nearest
from ..nn.model import Model
from ..types import Batches, DataInfo, Fraction, Joint, Losses, Mixing, NonNegative
from .base import Method


class Finetune(Method):
    """Cross-entropy on the labelled target samples.

    Yosinski et al., How transferable are features in deep neural networks?, NeurIPS 2014.
    https://arxiv.org/abs/1411.1792

    With both `mixup` (Zhang et al., ICLR 2018, arXiv:1710.09412) and `cutmix` (Yun et al., ICCV 2019,
    arXiv:1905.04899) each batch draws one of the two. Every batch has one share, as in the papers' code.

    Args:
        label_smoothing: share of the target distribution spread over all classes.
        class_weights: `balanced` weighs each class by the inverse of its number of labels; or weights by class
            name, 1 for those not named. They are scaled to a mean of 1 over the labelled samples.
        mixup: blends each sample and its label with another's, by a share from Beta(mixup, mixup); 0: never.
        cutmix: pastes a rectangle of another image, its area from Beta(cutmix, cutmix); 0: never.

    Raises:
        UserError: if a weight's class does not exist.
    """

    roles: tuple[str, ...] = ("labeled",)
    taught: ClassVar[str] = "labeled"
    """The role whose labels teach."""
    weights: Tensor | None

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        label_smoothing: Fraction = 0.0,
        class_weights: Literal["balanced"] | dict[str, NonNegative] | None = None,
        mixup: NonNegative = 0.0,
        cutmix: NonNegative = 0.0,
    ) -> None:
        super().__init__(model, info)
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else self._weights(class_weights)
        self.register_buffer("weights", weights, persistent=False)
        if mixup or cutmix:
            self.mixing = {self.taught: Mixing(info.num_classes, mixup, cutmix)}

    def _weights(self, given: Literal["balanced"] | dict[str, float]) -> Tensor:
        counts = torch.tensor(self.info.counts[self.taught], dtype=torch.float32)
        if isinstance(given, dict):
            named = {str(name): weight for name, weight in given.items()}  # YAML reads class `3` as a number
            for name in named:
                if name not in self.info.classes:
                    raise UserError(
                        f"method.class_weights: no class '{name}'{nearest(name, self.info.classes)}"
                    )
            weights = torch.tensor([float(named.get(name, 1.0)) for name in self.info.classes])
        else:
            weights = torch.where(counts > 0, 1 / counts, 0.0)
        return weights * counts.sum() / (weights * counts).sum()

    def cross_entropy(self, out: Joint, batch: Batches) -> Tensor:
        """Of what is taught, as the arguments say."""
        logits, y = out[self.taught].logits, batch[self.taught].y
        return F.cross_entropy(logits, y, self.weights, label_smoothing=self.label_smoothing)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        return {self.taught: self.cross_entropy(out, batch)}
