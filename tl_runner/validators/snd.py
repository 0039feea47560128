from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses.precision import wide
from ..types import Collected, Count, Positive
from .base import spread

_CELLS = 2**18
"""Similarities worked on at a time: as many as stay in a core's cache, which halves the time."""
_SAFE = 80.0
"""exp(−80) is still a normal number in float32."""


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
        p = F.normalize(F.softmax(wide(logits), dim=1), dim=1)
        if len(p) < 2:
            return p.new_zeros(())
        if len(p) <= self.rows and 1 / self.temperature <= _SAFE:
            return self._of_all(p)
        total = p.new_zeros(())
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

    def _of_all(self, p: Tensor) -> Tensor:
        """The same for every row at once: of two blocks of rows, their similarities serve both.

        Similarities are at most 1, which takes the place of a row's own largest.
        """
        mass, moment = p.new_zeros(2, len(p))
        lowered, scaled = p.new_tensor(-1 / self.temperature), p / self.temperature
        size = max(1, math.isqrt(_CELLS // 4))
        for i in range(0, len(p), size):
            for j in range(i, len(p), size):
                rows, columns = slice(i, i + size), slice(j, j + size)
                s = torch.addmm(lowered, scaled[rows], p[columns].T)
                weight = s.exp()
                if i == j:
                    weight.fill_diagonal_(0)
                s *= weight
                mass[rows] += weight.sum(1)
                moment[rows] += s.sum(1)
                if i != j:
                    mass[columns] += weight.sum(0)
                    moment[columns] += s.sum(0)
        density: Tensor = (mass.log() - moment / mass).mean()
        return density
