from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError
from ..nn.model import Model
from ..types import DataInfo, Fraction, Joint, Outputs
from .adabn import check_some_train, tracking
from .finetune import Finetune


class StochNorm(Finetune):
    """Learns the labelled samples; each batch-norm channel is normalised by the batch or by moving averages, at random.

    Kou et al., Stochastic Normalization, NeurIPS 2020.
    https://proceedings.neurips.cc/paper/2020/hash/bc573864331a9e42e4511de6f678aa83-Abstract.html

    The moving averages are what pretraining knew, and a regulariser like dropout. They are those before the
    batch has moved them, as in the authors' code. Only training passes of this method are stochastic: the layers
    themselves stay what they are, in evaluation, in checkpoints and in later stages.

    Args:
        label_smoothing, class_weights, mixup, cutmix: as for `finetune`.
        moving: probability of the moving averages, per channel and step; the paper's p is 1 − this. 0 is batch-norm.

    Raises:
        UserError: if no batch-norm of the model trains.
    """

    def __init__(self, model: Model, info: DataInfo, moving: Fraction = 0.5, **options: Any) -> None:
        super().__init__(model, info, **options)
        self.moving = moving
        check_some_train("stochnorm", model)
        if model.compiled:
            raise UserError("method=stochnorm changes layers of the backbone: set model.compile=false")

    def outputs(self, x: Mapping[str, Tensor], model: Callable[[Tensor], Outputs] | None = None) -> Joint:
        with stochastic(tracking(self.model), self.moving):
            return super().outputs(x, model)


@contextmanager
def stochastic(norms: list[_BatchNorm], moving: float) -> Iterator[None]:
    """While it lasts, layers in training normalise each channel by moving averages, with that probability."""

    def mixed(norm: _BatchNorm) -> Callable[[Tensor], Tensor]:
        # The class's own pass, with whatever it does after normalising: some include an activation.
        forward = norm.forward

        def pass_(x: Tensor) -> Tensor:
            norm.training = False
            by_averages = forward(x)
            norm.training = True
            chosen = torch.rand(norm.num_features, device=x.device) < moving
            return torch.where(chosen.view(-1, *[1] * (x.ndim - 2)), by_averages, forward(x))

        return pass_

    changed = [norm for norm in norms if norm.training]
    for norm in changed:
        norm.forward = mixed(norm)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for norm in changed:
            del norm.forward
