from __future__ import annotations

from torch.nn import functional as F

from ..losses import joint_mmd
from ..losses.alignment import Estimator
from ..nn.model import Model
from ..types import Bandwidths, Batches, DataInfo, Joint, Losses, NonNegative, Positive
from .base import Method


class JAN(Method):
    """Features and predictions whose joint distributions kernels cannot tell apart.

    Long et al., Deep Transfer Learning with Joint Adaptation Networks, ICML 2017.
    https://arxiv.org/abs/1605.06636

    As published for ResNet, the layers are the bottleneck and the softmax outputs. The paper runs the
    linear-time estimator, the reimplementation whose numbers are quoted the unbiased one; the adversarial
    variant JAN-A is left out.

    Args:
        weight: of the discrepancy.
        alphas: bandwidths of the features' kernels as factors of the mean squared distance.
        sigma: bandwidth of the predictions' kernel.
        estimator: `unbiased` or `biased` over all pairs, or `linear` over neighbouring pairs.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        alphas: Bandwidths = (0.125, 0.25, 0.5, 1.0, 2.0),
        sigma: Positive = 0.92,
        estimator: Estimator = "unbiased",
    ) -> None:
        super().__init__(model, info)
        self.weight, self.alphas, self.sigma, self.estimator = weight, tuple(alphas), sigma, estimator

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        s, t = out["source"], out["target"]
        distance = joint_mmd(
            s.features, t.features, s.logits, t.logits, self.alphas, self.sigma, self.estimator
        )
        return {"source": F.cross_entropy(s.logits, batch["source"].y), "joint_mmd": self.weight * distance}
