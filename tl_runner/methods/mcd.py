from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses import balance_cross_entropy, classifier_discrepancy
from ..nn.model import Model
from ..types import Batches, Count, DataInfo, Joint, Losses, NonNegative, Outputs, Step
from .base import Method


class MCD(Method):
    """Two heads seek the target samples they disagree on; the features move to where they agree.

    Saito et al., Maximum Classifier Discrepancy for Unsupervised Domain Adaptation, CVPR 2018.
    https://arxiv.org/abs/1712.02560

    The generator is backbone and neck. At evaluation the mean of the two heads' logits decides, as the ensemble
    in the authors' code. As there each domain passes on its own, whatever `model.bn` says: the generator's
    updates see the target alone. The heads are the model's head, twice: `model.head=mlp` has hidden layers, as the
    published ones have.

    Args:
        weight: of the discrepancy; 1 in the authors' digits, 10 in the quoted Office-31 numbers.
        generator_steps: updates of the generator per batch.
        balance: of the classes' balance in both heads' target predictions, in the updates that train them:
            0.01 in the authors' code for photographs, 0.03 in the quoted digits.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        generator_steps: Count = 4,
        balance: NonNegative = 0.0,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.generator_steps, self.balance = weight, generator_steps, balance
        self.second = model.new_head()  # from other random weights

    def both(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.head(features), self.second(features)

    def outputs(self, x: Mapping[str, Tensor], model: Callable[[Tensor], Outputs] | None = None) -> Joint:
        return {name: (model or self.model)(part) for name, part in x.items()}

    def supervised(self, batch: Batches, out: Joint) -> Losses:
        first, second = self.both(out["source"].features)
        y = batch["source"].y
        losses = {"source": F.cross_entropy(first, y), "source_second": F.cross_entropy(second, y)}
        if self.balance:
            one, two = self.both(out["target"].features)
            losses["balance"] = self.balance * (balance_cross_entropy(one) + balance_cross_entropy(two))
        return losses

    def disagreement(self, features: Tensor) -> Tensor:
        return classifier_discrepancy(*self.both(features))

    def steps(self, batch: Batches, progress: float) -> Iterator[Step]:
        heads, generator = [self.model.head, self.second], [self.model.backbone, self.model.neck]
        out = self(batch)
        yield Step(self.supervised(batch, out), out=out)

        with torch.no_grad():  # The features stay as they are: only the heads learn.
            out = self(batch)
        parting = {"heads": -self.weight * self.disagreement(out["target"].features)}
        yield Step(self.supervised(batch, out) | parting, heads)

        for _ in range(self.generator_steps):
            features = self.model.features(batch["target"].x)
            yield Step({"discrepancy": self.weight * self.disagreement(features)}, generator)

    def predict(self, x: Tensor) -> Outputs:
        features = self.model.features(x)
        first, second = self.both(features)
        return Outputs(features, (first + second) / 2)
