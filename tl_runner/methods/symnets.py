from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..losses import category_confusion, domain_confusion, merged_entropy, symmetric_domain
from ..nn.model import Model
from ..schedules import ramp
from ..types import Batches, DataInfo, Joint, Losses, NonNegative
from .base import Method


class SymNets(Method):
    """A classifier per domain: together they tell the domains apart, until the features confuse them class by class.

    Zhang et al., Domain-Symmetric Networks for Adversarial Domain Adaptation, CVPR 2019.
    https://arxiv.org/abs/1904.04663

    The model's head is the target's classifier, which predicts. As in the authors' code both sides of the game
    learn in one update: the classifiers from fixed features, the features through fixed classifiers. There and in
    the paper the three weights are 1, and `domain` does not grow: a random classifier that has to claim the target
    then claims it for one class, and the entropy keeps it there. The code reports the better of both classifiers
    by target labels.

    Args:
        weight: of the domain confusion, which the features minimise.
        domain: of the domain discrimination, which the classifiers minimise.
        entropy: of the target's entropy, which the features minimise.
        gamma: how fast these three reach full strength.
    """

    whole_labels = True

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        domain: NonNegative = 0.1,
        entropy: NonNegative = 0.1,
        gamma: NonNegative = 10.0,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.domain, self.entropy, self.gamma = weight, domain, entropy, gamma
        self.source_head = model.new_head()

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        heads: list[nn.Module] = [self.source_head, self.model.head]
        y, strength = batch["source"].y, ramp(progress, self.gamma)
        f_s, f_t = out["source"].features, out["target"].features
        s, t = (torch.cat([h(f.detach()) for h in heads], dim=1) for f in (f_s, f_t))
        by_source, by_target = s.chunk(2, dim=1)
        confused_s, confused_t = (torch.cat([through(h, f) for h in heads], dim=1) for f in (f_s, f_t))
        return {
            "source": F.cross_entropy(by_target, y),
            "source_head": F.cross_entropy(by_source, y),
            "domain": strength * self.domain * symmetric_domain(s, t),
            "category_confusion": category_confusion(confused_s, y),
            "domain_confusion": strength * self.weight * domain_confusion(confused_t),
            "entropy": strength * self.entropy * merged_entropy(confused_t),
        }


def through(head: nn.Module, features: Tensor) -> Tensor:
    """The head's logits, with a gradient to the features and none to the head."""
    fixed = {name: p.detach() for name, p in head.named_parameters()}
    logits: Tensor = functional_call(head, fixed, features)
    return logits
