from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..losses import starting_point
from ..nn.copies import flat, views
from ..nn.model import Model
from ..types import Batches, DataInfo, Joint, Losses, NonNegative
from .finetune import Finetune


class L2SP(Finetune):
    """Learns the labelled samples with weights near those it started from: α/2 ‖w − w₀‖² + β/2 ‖w_new‖².

    Li et al., Explicit Inductive Bias for Transfer Learning with Convolutional Networks, ICML 2018.
    https://arxiv.org/abs/1802.01483

    w is the backbone, and the neck where an earlier stage or run has trained it; w_new the rest, the head always.
    Set `optim.weight_decay=0`, which would pull to zero as well.

    Args:
        label_smoothing, class_weights, mixup, cutmix: as for `finetune`.
        alpha: α, of the distance to the starting point.
        beta: β, of the weights that start anew.
    """

    start: Tensor

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        alpha: NonNegative = 0.1,
        beta: NonNegative = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(model, info, **options)
        self.alpha, self.beta = alpha, beta
        # A run that goes on begins from the same model.
        self.register_buffer("start", flat(pretrained(model)), persistent=False)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        weights = pretrained(self.model)
        pairs = [
            (w, w0) for w, w0 in zip(weights, views(self.start, weights), strict=True) if w.requires_grad
        ]
        return {
            **super().losses(out, batch, progress),
            "start": self.alpha * starting_point([w for w, _ in pairs], [w0 for _, w0 in pairs]),
            "decay": self.beta * starting_point([w for w in new(self.model) if w.requires_grad]),
        }


def pretrained(model: Model) -> list[nn.Parameter]:
    """The weights that shall stay near their start: of the backbone, and of a neck that earlier training left."""
    parts = [model.backbone, *([model.neck] if "neck" in model.trained else [])]
    return [p for part in parts for p in part.parameters()]


def new(model: Model) -> list[nn.Parameter]:
    """The other weights: of the head, and of a neck that starts anew."""
    parts = [*([] if "neck" in model.trained else [model.neck]), model.head]
    return [p for part in parts for p in part.parameters()]
