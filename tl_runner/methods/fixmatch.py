from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses import pseudo_label
from ..nn.model import Model
from ..types import Batches, DataInfo, Fraction, Joint, Losses, NonNegative
from .base import Method


class FixMatch(Method):
    """The confident label of a target sample's weak view is learnt on its strong view.

    Sohn et al., FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence, NeurIPS 2020.
    https://arxiv.org/abs/2001.07685

    The first view is the weak one (`augment=weak_strong`). All rows divide the loss, confident or not. The
    threshold is that of the published adaptation results; the paper's is 0.95. Distribution alignment, an
    extension that the paper discusses, keeps a domain shift from collapsing the labels into a few classes:
    each class's probability is divided by its moving average on the target and multiplied by that on the
    source, as in AdaMatch (Berthelot et al., ICLR 2022).

    Args:
        weight: of the pseudo-labels' cross-entropy.
        confidence: from which the weak view's label counts.
        align: align the distribution of the labels with the source's.
    """

    source_optional = True
    two_views = ("target",)
    means: Tensor

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        confidence: Fraction = 0.9,
        align: bool = True,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.confidence, self.align = weight, confidence, align
        self.source_optional = not align
        self.register_buffer("means", torch.full((2, info.num_classes), 1 / info.num_classes))

    @torch.no_grad()
    def aligned(self, source: Tensor, target: Tensor) -> Tensor:
        """The target's logits with the source's distribution of classes."""
        now = torch.stack([F.softmax(z.float(), dim=1).mean(0) for z in (source, target)])
        self.means.lerp_(now, 0.1)
        log_means = self.means.clamp_min(1e-6).log()
        return target + log_means[0] - log_means[1]

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        weak = out["target"].logits
        if self.align:
            weak = self.aligned(out["source"].logits, weak)
        loss = pseudo_label(out["target_2"].logits, weak, self.confidence)
        return {
            **self.source_loss(out, batch),
            "pseudo": self.weight * loss,
        }
