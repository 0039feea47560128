from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..losses import entropy, hard_norm, stepwise_norm
from ..nn.model import Model
from ..types import Batches, DataInfo, Joint, Losses, NonNegative, Positive
from .base import Method

Variant = Literal["stepwise", "hard"]


class AFN(Method):
    """Longer features, which transfer better.

    Xu et al., Larger Norm More Transferable: An Adaptive Feature Norm Approach for Unsupervised Domain
    Adaptation, ICCV 2019. https://arxiv.org/abs/1811.07456

    The lengths of all roles' features count. The stepwise loss has a constant value: its gradient is what
    matters, and how far it gets depends on learning rate · weight · step. The published presets have
    0.001 · 0.05 · 1 on Office-31, with an entropy of weight 0.1, and 0.01 · 0.05 · 0.3 on digits; the default
    suits a learning rate of 0.01, without entropy as in the paper's SAFN. The published network sends each
    domain through on its own, and with entropy so should `model.bn=per_domain`: with joint batch-norm it
    harms. It also scales its dropout so that it keeps lengths.

    Args:
        weight: of the norm loss.
        entropy: weight of the entropy of target predictions.
        variant: `stepwise` (SAFN) lengthens each row by `step`; `hard` (HAFN) draws the mean length to `radius`.
        step: of `stepwise`.
        radius: of `hard`.
    """

    source_optional = True

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 0.01,
        entropy: NonNegative = 0.0,
        variant: Variant = "stepwise",
        step: Positive = 1.0,
        radius: Positive = 25.0,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.entropy, self.variant = weight, entropy, variant
        self.step, self.radius = step, radius

    def norm(self, features: Tensor) -> Tensor:
        if self.variant == "stepwise":
            return stepwise_norm(features, self.step)
        return hard_norm(features, self.radius)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        norms = sum((self.norm(o.features) for o in out.values()), start=out["target"].features.new_zeros(()))
        losses = {
            **self.source_loss(out, batch),
            "norm": self.weight * norms,
        }
        if self.entropy:
            losses["entropy"] = self.entropy * entropy(out["target"].logits)
        return losses
