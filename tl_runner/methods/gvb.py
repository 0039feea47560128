from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..losses import domain_adversarial, entropy
from ..nn import mlp, reverse_gradient
from ..nn.model import Model
from ..schedules import ramp
from ..types import Batches, Count, DataInfo, Joint, Losses, NonNegative, Outputs
from .base import Method


class GVB(Method):
    """Small bridges take what is domain-specific out of the predictions and of the discriminator (GVB-GD).

    Cui et al., Gradually Vanishing Bridge for Adversarial Domain Adaptation, CVPR 2020.
    https://arxiv.org/abs/2003.13183

    As in the authors' code the discriminator sees softmax outputs, rows weigh e^-H(p), the gradient through that
    weight is reversed too, and the bridges' mean absolute values are the losses that make them vanish. The
    discriminator is the field's, with batch-norm where theirs has dropout.

    Args:
        weight: of the domain loss.
        generator_bridge: of the size of the bridge on the logits, lambda in the authors' code.
        discriminator_bridge: of the size of the bridge on the domain scores, mu in the authors' code.
        hidden: width of the discriminator's two hidden layers.
        gamma: how fast the reversed gradient reaches full strength.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        generator_bridge: NonNegative = 1.0,
        discriminator_bridge: NonNegative = 1.0,
        hidden: Count = 1024,
        gamma: NonNegative = 10.0,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.gamma = weight, gamma
        self.generator_bridge, self.discriminator_bridge = generator_bridge, discriminator_bridge
        self.bridge = nn.Linear(model.num_features, info.num_classes)
        self.discriminator = mlp(info.num_classes, hidden, 2)  # A score, and its bridge.

    def bridged(self, out: Outputs) -> Outputs:
        return Outputs(out.features, out.logits - self.bridge(out.features))

    def outputs(self, x: Mapping[str, Tensor], model: Callable[[Tensor], Outputs] | None = None) -> Joint:
        return {name: self.bridged(out) for name, out in super().outputs(x, model).items()}

    def predict(self, x: Tensor) -> Outputs:
        return self.bridged(self.model(x))

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        logits = torch.cat([out["source"].logits, out["target"].logits])
        features = torch.cat([out["source"].features, out["target"].features])
        strength = ramp(progress, self.gamma)
        certain = torch.exp(-reverse_gradient(entropy(logits, reduction="none"), strength))
        scores, bridge = self.discriminator(reverse_gradient(F.softmax(logits, dim=1), strength)).unbind(1)
        domain = domain_adversarial(scores - bridge, len(batch["source"]), certain, through_weights=True)
        return {
            "source": F.cross_entropy(out["source"].logits, batch["source"].y),
            "domain": self.weight * domain,
            "generator_bridge": self.generator_bridge * self.bridge(features).float().abs().mean(),
            "discriminator_bridge": self.discriminator_bridge * bridge.float().abs().mean(),
        }
