from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..types import Collected, Count, Positive


class SoftNeighborhoodDensity:
    """Mean entropy of each target sample's similarity to all others: dense neighbourhoods score high.

    Saito et al., Tune it the Right Way, ICCV 2021, https://arxiv.org/abs/2108.10860: cosine similarity of
    the softmax outputs, divided by the temperature, softmax without the sample itself. In [0, ln(N − 1)].

    Args:
        temperature: of the similarities.
        chunk: rows compared at a time, which bounds the memory.
    """

    def __init__(self, temperature: Positive = 0.05, chunk: Count = 1024) -> None:
        self.temperature, self.chunk = temperature, chunk

    def __call__(self, collected: Mapping[str, Collected]) -> float:
        return float(self.density(collected["target"].logits))

    def density(self, logits: Tensor) -> Tensor:
        p = F.normalize(F.softmax(logits.float(), dim=1), dim=1)
        total = p.new_zeros(())
        for rows in torch.split(torch.arange(len(p), device=p.device), self.chunk):
            similarity = p[rows] @ p.T / self.temperature
            similarity[torch.arange(len(rows)), rows] = -torch.inf
            log_q = F.log_softmax(similarity, dim=1)
            q = log_q.exp()
            total += -(q * log_q.masked_fill(q == 0, 0)).sum()
        return total / len(p)
