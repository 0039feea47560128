from __future__ import annotations

from torch.nn import functional as F

from ..losses import mmd
from ..losses.alignment import Estimator
from ..nn.model import Model
from ..types import Bandwidths, Batches, DataInfo, Joint, Losses, NonNegative
from .base import Method


class MMD(Method):
    """Features whose distributions a set of kernels cannot tell apart (DAN).

    Long et al., Learning Transferable Features with Deep Adaptation Networks, ICML 2015.
    https://arxiv.org/abs/1502.02791

    The paper optimises the kernel weights and adapts several layers; its published reimplementations sum
    the kernels and adapt the bottleneck, and so does this. They run the linear-time estimator.

    Args:
        weight: of the discrepancy.
        alphas: kernel bandwidths as factors of the mean squared distance.
        estimator: `unbiased` or `biased` over all pairs, or `linear` over neighbouring pairs.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        alphas: Bandwidths = (0.125, 0.25, 0.5, 1.0, 2.0),
        estimator: Estimator = "unbiased",
    ) -> None:
        super().__init__(model, info)
        self.weight, self.alphas, self.estimator = weight, tuple(alphas), estimator

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        distance = mmd(out["source"].features, out["target"].features, self.alphas, self.estimator)
        return {
            "source": F.cross_entropy(out["source"].logits, batch["source"].y),
            "mmd": self.weight * distance,
        }
