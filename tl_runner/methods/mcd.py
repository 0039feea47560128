from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..losses import classifier_discrepancy
from ..nn.model import Model
from ..types import Batches, Count, DataInfo, Losses, NonNegative, Outputs, Step
from .base import Method


class MCD(Method):
    """Two heads seek the target samples they disagree on; the features move to where they agree.

    Saito et al., Maximum Classifier Discrepancy for Unsupervised Domain Adaptation, CVPR 2018.
    https://arxiv.org/abs/1712.02560

    The generator is backbone and neck. The second head starts from other random weights. At evaluation
    the mean of the two heads' logits decides, as the ensemble in the authors' code.

    Args:
        weight: of the discrepancy, in the heads' and in the generator's update.
        generator_steps: updates of the generator per batch.
    """

    def __init__(
        self, model: Model, info: DataInfo, weight: NonNegative = 1.0, generator_steps: Count = 4
    ) -> None:
        super().__init__(model, info)
        self.weight, self.generator_steps = weight, generator_steps
        self.second = model.new_head()

    def both(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.head(features), self.second(features)

    def supervised(self, batch: Batches, features: Tensor) -> Losses:
        first, second = self.both(features)
        y = batch["source"].y
        return {"source": F.cross_entropy(first, y), "source_second": F.cross_entropy(second, y)}

    def disagreement(self, features: Tensor) -> Tensor:
        return classifier_discrepancy(*self.both(features))

    def steps(self, batch: Batches, progress: float) -> Iterator[Step]:
        heads: list[nn.Module] = [self.model.head, self.second]
        generator: list[nn.Module] = [self.model.backbone, self.model.neck]

        out = self(batch)
        yield Step(self.supervised(batch, out["source"].features), out=out)

        with torch.no_grad():  # The features stay as they are: only the heads learn.
            out = self(batch)
        losses = self.supervised(batch, out["source"].features)
        yield Step(losses | {"heads": -self.weight * self.disagreement(out["target"].features)}, heads)

        for _ in range(self.generator_steps):
            features = self.model.features(batch["target"].x)
            yield Step({"discrepancy": self.weight * self.disagreement(features)}, generator)

    def predict(self, x: Tensor) -> Outputs:
        features = self.model.features(x)
        first, second = self.both(features)
        return Outputs(features, (first + second) / 2)
