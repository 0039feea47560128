from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..types import Collected, Count, Positive
from .base import spread

_CELLS = 2**18
"""Similarities worked on at a time: as many as stay in a core's cache, which halves the time."""


class SoftNeighborhoodDensity:
    """Mean entropy of each target sample's similarity to all others: dense neighbourhoods score high.

    Saito et al., Tune it the Right Way, ICCV 2021, https://arxiv.org/abs/2108.10860: cosine similarity of
    the softmax outputs, divided by the temperature, softmax without the sample itself. In [0, ln(N − 1)];
    0 for a single row.

    Args:
        temperature: of the similarities.
        rows: samples whose neighbourhoods are averaged, evenly spaced; each is compared with all N. Exact
            for N ≤ rows.
    """

    def __init__(self, temperature: Positive = 0.05, rows: Count = 4096) -> None:
        self.temperature, self.rows = temperature, rows

    def __call__(self, collected: Mapping[str, Collected]) -> float:
        return float(self.density(collected["target"].logits))

    def density(self, logits: Tensor) -> Tensor:
        z = logits if logits.dtype == torch.float64 else logits.float()
        p = F.normalize(F.softmax(z, dim=1), dim=1)
        total = p.new_zeros(())
        if len(p) < 2:
            return total
        anchors = spread(len(p), self.rows).to(p.device)
        for rows in torch.split(anchors, max(64, _CELLS // len(p))):
            itself = torch.arange(len(rows), device=p.device), rows
            similarity = p[rows] @ p.T
            similarity /= self.temperature
            similarity[itself] = -torch.inf
            similarity -= similarity.amax(1, keepdim=True)
            weight = similarity.exp()
            similarity[itself] = 0  # times a weight of 0
            mass = weight.sum(1)
            # H(q) = log Σ e^s − Σ e^s s / Σ e^s, without the memory of log q and its mask.
            total += (mass.log() - torch.einsum("ij,ij->i", weight, similarity) / mass).sum()
        return total / len(anchors)
