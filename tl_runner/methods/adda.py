from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from ..losses import domain_adversarial
from ..nn import mlp
from ..nn.model import Model
from ..schedules import ramp
from ..types import Batches, Count, DataInfo, Fraction, NonNegative, Step
from .base import Collect, Method


class ADDA(Method):
    """A target encoder of its own learns to pass for the trained and then fixed source encoder.

    Tzeng et al., Adversarial Discriminative Domain Adaptation, CVPR 2017.
    https://arxiv.org/abs/1702.05464

    The first part of the stage trains on the source. Then a fixed copy encodes the source, and the model, its head
    fixed, becomes the target encoder, which predicts. Each batch updates the discriminator, then the encoder: on
    inverted labels, as in the paper, or on the reversed gradient, as TLlib, where both update at once.

    Args:
        variant: what the encoder minimises, `grl` (the reversed gradient) or `alternating` (inverted labels).
        warm_up: share of the stage that trains on the source; 0 for a model of an earlier stage.
        weight: of the encoder's adversarial loss.
        hidden: width of the discriminator's two hidden layers.
        gamma: how fast the adversarial gradient reaches full strength after the warm-up.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        variant: Literal["grl", "alternating"] = "grl",
        warm_up: Fraction = 0.5,
        weight: NonNegative = 1.0,
        hidden: Count = 1024,
        gamma: NonNegative = 10.0,
    ) -> None:
        super().__init__(model, info)
        self.variant, self.warm_up, self.weight, self.gamma = variant, warm_up, weight, gamma
        self.source = copy.deepcopy(model).requires_grad_(False)
        self.discriminator = mlp(model.num_features, hidden, 1)
        self.register_buffer("fixed", torch.tensor(False))
        self.is_fixed = False

    def begin_epoch(self, collect: Collect) -> None:
        self.is_fixed = bool(self.fixed)  # Read here, since a step must not wait for the device.

    def train(self, mode: bool = True) -> ADDA:
        super().train(mode)
        for module in [m for m in self.source.modules() if isinstance(m, nn.Dropout)]:
            module.train(mode)  # Or the discriminator would look for dropout.
        return self

    def steps(self, batch: Batches, progress: float) -> Iterator[Step]:
        if progress < self.warm_up:
            source = self.model(batch["source"].x)
            yield Step({"source": F.cross_entropy(source.logits, batch["source"].y)})
            return
        if not self.is_fixed:
            self.source.load_state_dict(self.model.state_dict())
            self.is_fixed = bool(self.get_buffer("fixed").fill_(True))
        out = {"source": self.source(batch["source"].x), **self({"target": batch["target"]})}
        n, f_s, f_t = len(batch["source"]), out["source"].features, out["target"].features
        scores = self.discriminator(torch.cat([f_s, f_t.detach()]))
        yield Step({"domain": domain_adversarial(scores, n)}, [self.discriminator])
        # Both domains go through it: alone, the target would lose its mean in batch-norm.
        scores = self.discriminator(torch.cat([f_s, f_t]))[n:].float()
        lost = -0.5 * F.softplus(scores) if self.variant == "grl" else F.softplus(-scores)
        strength = self.weight * ramp((progress - self.warm_up) / (1 - self.warm_up), self.gamma)
        yield Step({"encoder": strength * lost.mean()}, [self.model.backbone, self.model.neck], out)
