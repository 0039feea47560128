"""What a method remembers of every target sample."""

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
