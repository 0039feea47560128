from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..types import Collected, Count, NonNegative


class MaNo:
    """The scaled norm of normalised logits, (1/(NK) Σ q⁴)^¼: how far the rows lie from the class boundaries.

    Xie et al., MANO, NeurIPS 2024, https://arxiv.org/abs/2405.18979. Confidence is measured by
    Φ = −1/(NK) Σ log softmax(z), which is ln K for even predictions. Above `threshold` q is the softmax;
    below, where the paper trusts exponentials less, v(z) / Σ v(z) with v(z) = 1 + z + z²/2 (equation 6; the
    authors' code subtracts each row's minimum of v first, which the paper does not). In (0, K^(−1/order)];
    the two branches have different scales, so that a crossing of the threshold shows as a jump.

    Args:
        order: of the norm. threshold: the paper's η.
    """

    def __init__(self, order: Count = 4, threshold: NonNegative = 5.0) -> None:
        self.order, self.threshold = order, threshold

    def __call__(self, collected: Mapping[str, Collected]) -> float:
        logits = collected["target"].logits
        chunks = torch.split(logits, 8192)
        size = logits.numel()
        confidence = -sum(float(F.log_softmax(chunk.double(), 1).sum()) for chunk in chunks) / size

        def normalized(z: Tensor) -> Tensor:
            if confidence > self.threshold:
                return F.softmax(z, 1)
            v = 1 + z + z * z / 2
            return v / v.sum(1, keepdim=True)

        total = sum(float(normalized(chunk.double()).pow(self.order).sum()) for chunk in chunks)
        return float((total / size) ** (1 / self.order))
