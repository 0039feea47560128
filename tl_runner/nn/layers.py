"""Layers that methods and models share."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grad, None


def reverse_gradient(x: Tensor, strength: float = 1.0) -> Tensor:
    """The identity, whose gradient is multiplied by −strength.

    Ganin & Lempitsky, ICML 2015, https://arxiv.org/abs/1409.7495
    """
    return _Reverse.apply(x, strength)  # type: ignore[no-any-return]


def mlp(inputs: int, hidden: int, outputs: int, batch_norm: bool = True) -> nn.Sequential:
    """Two hidden layers (Linear-BN-ReLU twice, then Linear): the usual domain discriminator."""

    def layer(i: int, o: int) -> list[nn.Module]:
        return [nn.Linear(i, o), *([nn.BatchNorm1d(o)] if batch_norm else []), nn.ReLU()]

    return nn.Sequential(*layer(inputs, hidden), *layer(hidden, hidden), nn.Linear(hidden, outputs))


class RandomizedMap(nn.Module):
    """Random projection of the outer product f ⊗ p: ((f R_f) ⊙ (p R_p)) / √d.

    Long et al., NeurIPS 2018, section 3.3, https://arxiv.org/abs/1705.10667. The matrices are drawn once
    and never trained.
    """

    R_f: Tensor
    R_p: Tensor

    def __init__(self, features: int, classes: int, outputs: int = 1024) -> None:
        super().__init__()
        self.register_buffer("R_f", torch.randn(features, outputs))
        self.register_buffer("R_p", torch.randn(classes, outputs))

    def forward(self, f: Tensor, p: Tensor) -> Tensor:
        joint: Tensor = (f @ self.R_f) * (p @ self.R_p) / self.R_f.shape[1] ** 0.5
        return joint


NeckName = Literal["none", "bottleneck", "relu", "shot"]


def build_neck(name: NeckName, inputs: int, outputs: int, dropout: float) -> tuple[nn.Module, int]:
    """The layers between backbone and head, and their number of features.

    `none` passes features on; `bottleneck` is Linear-BN-ReLU-Dropout; `relu` is Linear-ReLU, as in
    DeepDA; `shot` is Linear-BN, as in https://arxiv.org/abs/2002.08546.
    """
    if name == "none":
        return nn.Identity(), inputs
    linear = nn.Linear(inputs, outputs)
    if name == "shot":
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        return nn.Sequential(linear, nn.BatchNorm1d(outputs)), outputs
    nn.init.normal_(linear.weight, std=0.005)
    nn.init.constant_(linear.bias, 0.1)
    if name == "relu":
        return nn.Sequential(linear, nn.ReLU()), outputs
    return nn.Sequential(linear, nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(dropout)), outputs


HeadName = Literal["linear", "weight_norm", "cosine", "mlp"]


class CosineHead(nn.Linear):
    """Scaled cosine similarity to one vector per class. Chen et al., ICLR 2019, arXiv:1904.04232."""

    def __init__(self, features: int, classes: int, scale: float = 20.0) -> None:
        super().__init__(features, classes, bias=False)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


def build_head(name: HeadName, features: int, classes: int) -> nn.Module:
    """A classifier (N, features) -> (N, classes); `mlp` has two hidden layers as wide as the features."""
    if name == "mlp":
        return mlp(features, features, classes)
    if name == "cosine":
        return CosineHead(features, classes)
    linear = nn.Linear(features, classes)
    nn.init.xavier_normal_(linear.weight)
    nn.init.zeros_(linear.bias)
    return weight_norm(linear) if name == "weight_norm" else linear
