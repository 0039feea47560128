from __future__ import annotations

from torch import Tensor

from ..losses import sliced_wasserstein
from ..nn.model import Model
from ..types import Count, DataInfo, NonNegative
from .mcd import MCD


class SWD(MCD):
    """MCD whose two heads are compared by the sliced Wasserstein distance of their target predictions.

    Lee et al., Sliced Wasserstein Discrepancy for Unsupervised Domain Adaptation, CVPR 2019.
    https://arxiv.org/abs/1903.04064

    Updates and evaluation are those of MCD. The distance is quadratic in how far the heads part, so it needs a
    larger weight than MCD's; 10 is ours.

    Args:
        weight: of the discrepancy, in the heads' and in the generator's update.
        generator_steps: updates of the generator per batch.
        balance: of the heads' class balance on the target, as in MCD.
        projections: random directions of each distance.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 10.0,
        generator_steps: Count = 4,
        balance: NonNegative = 0.0,
        projections: Count = 128,
    ) -> None:
        super().__init__(model, info, weight, generator_steps, balance)
        self.projections = projections

    def disagreement(self, features: Tensor) -> Tensor:
        return sliced_wasserstein(*self.both(features), self.projections)
