from __future__ import annotations

from ..losses import batch_nuclear_norm
from ..losses.spectral import Divisor
from ..nn.model import Model
from ..types import Batches, DataInfo, Joint, Losses, NonNegative
from .base import Method


class BNM(Method):
    """Confident and diverse target predictions, by the nuclear norm of each batch of them.

    Cui et al., Towards Discriminability and Diversity: Batch Nuclear-norm Maximization under Label Insufficient
    Situations, CVPR 2020. https://arxiv.org/abs/2003.12237

    Args:
        weight: of the nuclear norm.
        divisor: `rows` divides it by the number of rows, as the paper; `rank` by the number of singular
            values, as the authors' code. With fewer classes than rows the latter is a larger weight, which
            on ten classes proved too large.
    """

    source_optional = True

    def __init__(
        self, model: Model, info: DataInfo, weight: NonNegative = 1.0, divisor: Divisor = "rows"
    ) -> None:
        super().__init__(model, info)
        self.weight, self.divisor = weight, divisor

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        return {
            **self.source_loss(out, batch),
            "nuclear": self.weight * batch_nuclear_norm(out["target"].logits, self.divisor),
        }
