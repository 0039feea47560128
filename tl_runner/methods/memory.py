"""What methods remember of samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn.model import Model
from ..types import DataInfo
from .base import Collect


class Memory(nn.Module):
    """Features of unit length (M, D) and predictions (M, K) of the M target samples."""

    features: Tensor
    predictions: Tensor
    filled: Tensor

    def __init__(self, model: Model, info: DataInfo) -> None:
        super().__init__()
        size = info.sizes["target"]
        self.register_buffer("features", torch.zeros(size, model.num_features))
        self.register_buffer("predictions", torch.zeros(size, info.num_classes))
        self.register_buffer("filled", torch.tensor(False))

    def fill(self, collect: Collect) -> None:
        """Once, from the model at hand."""
        if not self.filled:
            out = collect("target")
            self.features.copy_(F.normalize(out.features.float(), dim=1))
            self.predictions.copy_(F.softmax(out.logits.float(), dim=1))
            self.filled.fill_(True)

    @torch.no_grad()
    def update(self, row: Tensor, features: Tensor, predictions: Tensor, momentum: float = 1.0) -> None:
        """Rows become momentum · new + (1 − momentum) · old."""
        self.features[row] = torch.lerp(self.features[row], features.float(), momentum)
        self.predictions[row] = torch.lerp(self.predictions[row], predictions.float(), momentum)


class Queues(nn.Module):
    """The last vectors of each class, of unit length; at first random directions.

    Attributes:
        keys: (classes, size, width).
    """

    keys: Tensor
    filled: Tensor

    def __init__(self, classes: int, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(classes, size, width), dim=2))
        self.register_buffer("filled", torch.zeros(classes, dtype=torch.long))

    @torch.no_grad()
    def push(self, vectors: Tensor, y: Tensor) -> None:
        """Replace each class's oldest. vectors: (N, width) of unit length. y: their classes."""
        size, same = self.keys.shape[1], F.one_hot(y, len(self.filled))
        place = (self.filled[y] + (same.cumsum(0) * same).sum(1) - 1) % size
        if len(y) > size:  # Of more than fit, the last.
            kept = (same.flip(0).cumsum(0).flip(0) * same).sum(1) <= size
            vectors, y, place = vectors[kept], y[kept], place[kept]
        self.keys[y, place] = vectors.to(self.keys.dtype)
        self.filled = (self.filled + same.sum(0)) % size
