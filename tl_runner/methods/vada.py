from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError
from ..losses import adversarial_direction, divergence, domain_adversarial, entropy
from ..nn import mlp, reverse_gradient
from ..nn.model import Model
from ..tokens import is_text
from ..types import Batches, Count, DataInfo, Joint, Losses, NonNegative
from .adabn import still
from .base import Method


class VADA(Method):
    """Class boundaries that avoid samples: domain-adversarial, confident, and smooth around each sample.

    Shu et al., A DIRT-T Approach to Unsupervised Domain Adaptation, ICLR 2018.
    https://arxiv.org/abs/1802.08735

    One update, with the domain weight as the strength of the reversed gradient: the authors alternate with
    the discriminator, which learns at full strength either way. Their domain weight is 0.01 with Adam, where
    plain DANN's, the default here, adapts better with SGD; their target weight is 0.1 or 0.01 by task. They
    evaluate a moving average of the weights and normalise each image; here neither.

    Args:
        domain_weight: strength of the reversed gradient.
        source_weight: of the smoothness on the source.
        target_weight: of entropy and smoothness on the target.
        radius: of the perturbation, its root mean square in standard deviations of the input; 3.5 on 32 x 32
            colour images, as published, is 0.063.
        hidden: width of the discriminator's two hidden layers.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        domain_weight: NonNegative = 1.0,
        source_weight: NonNegative = 1.0,
        target_weight: NonNegative = 0.1,
        radius: NonNegative = 0.063,
        hidden: Count = 1024,
    ) -> None:
        super().__init__(model, info)
        self.domain_weight, self.source_weight, self.target_weight = (
            domain_weight,
            source_weight,
            target_weight,
        )
        self.radius = radius
        self.discriminator = mlp(model.num_features, hidden, 1)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        features = torch.cat([out["source"].features, out["target"].features])
        scores = self.discriminator(reverse_gradient(features, self.domain_weight))
        roles = ("source", "target") if self.source_weight else ("target",)
        rough = roughness(self, {role: batch[role].x for role in roles}, out, self.radius)
        losses = {
            "source": F.cross_entropy(out["source"].logits, batch["source"].y),
            "domain": domain_adversarial(scores, len(batch["source"])),
            "entropy": self.target_weight * entropy(out["target"].logits),
            "target_smoothness": self.target_weight * rough["target"],
        }
        if self.source_weight:
            losses["source_smoothness"] = self.source_weight * rough["source"]
        return losses


def roughness(method: Method, x: dict[str, Tensor], out: Joint, radius: float) -> Losses:
    """How much the worst small change of each input changes its prediction, by role.

    Bytes are normalised as the backbone does it, so that the change is one of floats.

    Args:
        radius: root mean square of the change, in standard deviations of the batch's inputs.
    """
    floats = {role: as_floats(method.model, part) for role, part in x.items()}
    sizes = [len(part) for part in floats.values()]
    joint, logits = torch.cat([*floats.values()]), torch.cat([out[role].logits for role in floats])

    def predict(inputs: Tensor) -> Tensor:
        parts = method.outputs(dict(zip(floats, torch.split(inputs, sizes), strict=True)))
        return torch.cat([parts[role].logits for role in floats])

    step = radius * joint.std()
    # Perturbed inputs shall not move the batch-norm statistics that evaluation uses.
    with still(method.model):
        direction = adversarial_direction(predict, joint, logits, 0.1 * step)
        each = divergence(predict(joint + step * direction), logits, reduction="none")
    return {role: part.mean() for role, part in zip(floats, torch.split(each, sizes), strict=True)}


def as_floats(model: Model, x: Tensor) -> Tensor:
    """Inputs as the backbone's network sees them: bytes normalised, anything else as it is."""
    if is_text(x):
        raise UserError(
            "this method changes its inputs by small amounts, which texts cannot be: freeze the encoder "
            "(tuning=frozen), and it changes features instead"
        )
    if x.dtype != torch.uint8:
        return x
    mean, std = model.backbone.get_buffer("mean"), model.backbone.get_buffer("std")
    return (x.float() - mean) / std
