from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..losses import channel_attention, feature_map_distance, starting_point
from ..nn.copies import Still
from ..nn.maps import channels, channels_first, found, loss_increases, stages
from ..nn.model import Model
from ..types import Batches, Count, DataInfo, Joint, Losses, NonNegative
from .base import Collect
from .inside import Inside
from .l2_sp import new


class DELTA(Inside):
    """Learns the labelled samples with feature maps near those of the network it started from.

    Li et al., DELTA: Deep Learning Transfer Using Feature Map with Attention for Convolutional Networks, ICLR 2019.
    https://openreview.net/forum?id=rkgbwsAcYm

    A channel counts by how much the loss of a linear classifier on the starting network's features grows when
    it is removed. Their code compares the last convolution of each ResNet stage before its batch-norm, and removes
    by zero weights; here it is the stage's output, of any network, that is compared, and set to zero. Their
    classifier is trained by SGD, here it is scikit-learn's logistic regression.

    Args:
        label_smoothing, class_weights, mixup, cutmix: as for `finetune`.
        alpha: of the distance; theirs is 0.01 on the sum over 48 rows, not their mean.
        beta: of half the squared weights that start anew, as for `l2_sp`.
        layers: names of the backbone's modules to compare, channels second; null: the ends of its stages.
        attention: weigh channels; false: all alike.
        standardize: weights that do not depend on the loss's scale, as in the authors' code; false: as in the paper.
        samples: labelled samples that the weights are computed from; each costs a forward pass for every channel.

    Raises:
        UserError: if the backbone does not train, or has no such layer.
    """

    shares: Tensor
    known: Tensor

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        alpha: NonNegative = 0.5,
        beta: NonNegative = 0.01,
        layers: tuple[str, ...] | None = None,
        attention: bool = True,
        standardize: bool = True,
        samples: Count = 320,
        **options: Any,
    ) -> None:
        if not any(p.requires_grad for p in model.backbone.parameters()):
            raise UserError(
                "method delta compares the feature maps of a backbone that trains, and this one is frozen: "
                "set tuning=full, or use method=l2_sp"
            )
        if len(info.shape) == 2:
            raise UserError(
                "method delta compares feature maps of images, and these are texts: use method=l2_sp"
            )
        before = Still.copy(model.backbone)
        sample = torch.zeros(1, *info.shape)
        layers = found(before.network, layers) if layers else tuple(stages(before.network, sample))
        super().__init__(model, info, tuple(f"backbone.{name}" for name in layers), **options)
        self.alpha, self.beta, self.standardize, self.samples = alpha, beta, standardize, samples
        self.before = before
        self.widths = {name: o.shape[1] for name, o in channels(before.network, sample, layers).items()}
        self.register_buffer("shares", torch.cat([torch.full((n,), 1 / n) for n in self.widths.values()]))
        self.register_buffer("known", torch.tensor(not attention))

    def begin_epoch(self, collect: Collect) -> None:
        if self.known:
            return
        batches = [*collect.some("labeled", self.samples)]
        x, y = [batch.x for batch in batches], torch.cat([batch.y for batch in batches])
        increases = loss_increases(self.before.on(y.device), self.widths, x, y)
        self.shares.copy_(torch.cat([channel_attention(i, self.standardize) for i in increases]))
        self.known.fill_(True)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        x = batch["labeled"].x
        old = channels(self.before.on(x.device), x, self.widths)
        shares = torch.split(self.shares, [*self.widths.values()])
        distances = [
            feature_map_distance(channels_first(self.inside[f"backbone.{name}"]["labeled"]), old[name], share)
            for name, share in zip(self.widths, shares, strict=True)
        ]
        return {
            **super().losses(out, batch, progress),
            "maps": self.alpha * torch.stack(distances).sum(),
            "decay": self.beta * starting_point([w for w in new(self.model) if w.requires_grad]),
        }
