from __future__ import annotations

import torch
from torch.nn import functional as F

from ..losses import domain_adversarial, entropy
from ..nn import RandomizedMap, mlp, reverse_gradient
from ..nn.model import Model
from ..schedules import ramp
from ..types import Batches, Count, DataInfo, Joint, Losses, NonNegative
from .base import Method


class CDAN(Method):
    """A domain discriminator that sees features together with predictions, f ⊗ p.

    Long et al., Conditional Adversarial Domain Adaptation, NeurIPS 2018.
    https://arxiv.org/abs/1705.10667

    As in the authors' code, no gradient flows through p, and above `exact` dimensions the outer product
    becomes a random projection. None flows through the weights of CDAN+E either, as in TLlib, whose numbers are
    quoted; the authors' code lets it, reversed.

    Args:
        weight: of the domain loss.
        hidden: width of the discriminator's two hidden layers.
        gamma: how fast the reversed gradient reaches full strength.
        entropy: weight rows by 1 + e^-H(p), so that certain ones count more (CDAN+E).
        exact: largest size of f ⊗ p that is formed exactly.
        projection: size of the random projection above that.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        hidden: Count = 1024,
        gamma: NonNegative = 10.0,
        entropy: bool = False,
        exact: Count = 4096,
        projection: Count = 1024,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.gamma, self.entropy = weight, gamma, entropy
        size = model.num_features * info.num_classes
        self.map = RandomizedMap(model.num_features, info.num_classes, projection) if size > exact else None
        self.discriminator = mlp(projection if self.map else size, hidden, 1)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        f = reverse_gradient(
            torch.cat([out["source"].features, out["target"].features]), ramp(progress, self.gamma)
        )
        logits = torch.cat([out["source"].logits, out["target"].logits]).detach()
        p = F.softmax(logits, dim=1)
        joint = self.map(f, p) if self.map else (p[:, :, None] * f[:, None, :]).flatten(1)
        weights = 1 + torch.exp(-entropy(logits, reduction="none")) if self.entropy else None
        domain = domain_adversarial(self.discriminator(joint), len(batch["source"]), weights)
        return {
            "source": F.cross_entropy(out["source"].logits, batch["source"].y),
            "domain": self.weight * domain,
        }
