from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses import gradient_penalty
from ..nn import mlp
from ..nn.model import Model
from ..types import Batches, Count, DataInfo, NonNegative, Step
from .base import Method


class WDGRL(Method):
    """Features whose Wasserstein distance, as a critic of slope one estimates it, is small.

    Shen et al., Wasserstein Distance Guided Representation Learning for Domain Adaptation, AAAI 2018.
    https://arxiv.org/abs/1707.01217

    The critic has two hidden layers, the authors' one. Their code trains it with an Adam of its own, and weighs the
    distance between 0.01 and 1 depending on the data; here `rate` slows it.

    Args:
        weight: of the distance.
        penalty: of the critic's slopes.
        critic_steps: updates of the critic per batch.
        hidden: width of the critic's two hidden layers.
        rate: factor on the critic's losses, which under SGD is one on its learning rate.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 0.1,
        penalty: NonNegative = 10.0,
        critic_steps: Count = 5,
        hidden: Count = 128,
        rate: NonNegative = 0.1,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.penalty, self.critic_steps, self.rate = weight, penalty, critic_steps, rate
        self.critic = mlp(model.num_features, hidden, 1, batch_norm=False)

    def distance(self, source: Tensor, target: Tensor) -> Tensor:
        scores: Tensor = self.critic(torch.cat([source, target])).float()
        return scores[: len(source)].mean() - scores[len(source) :].mean()

    def steps(self, batch: Batches, progress: float) -> Iterator[Step]:
        out = self(batch)
        source, target = out["source"].features, out["target"].features
        fixed = source.detach(), target.detach()
        for _ in range(self.critic_steps):
            slopes = self.rate * self.penalty * gradient_penalty(self.critic, *fixed)
            yield Step({"critic": -self.rate * self.distance(*fixed), "slopes": slopes}, [self.critic])
        losses = {
            "source": F.cross_entropy(out["source"].logits, batch["source"].y),
            "wasserstein": self.weight * self.distance(source, target),
        }
        yield Step(losses, [self.model], out)
