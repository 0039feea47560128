from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..types import Collected


class NuclearNorm:
    """‖P‖_* / N of the target's predictions P = softmax(z): confident and diverse. In (0, √(min(N, K) / N)].

    Cui et al., Towards Discriminability and Diversity, CVPR 2020, https://arxiv.org/abs/2003.12237; as a
    validator: Musgrave et al., 2022, https://arxiv.org/abs/2208.07360. The singular values are the roots of
    the eigenvalues of PᵀP, summed in float64: no decomposition of N rows.
    """

    def __call__(self, collected: Mapping[str, Collected]) -> float:
        logits = collected["target"].logits
        gram = logits.new_zeros((logits.shape[1],) * 2, dtype=torch.float64)
        for chunk in torch.split(logits, 8192):
            p = F.softmax(chunk.double(), dim=1)
            gram += p.T @ p
        values: Tensor = torch.linalg.eigvalsh(gram)
        return float(values.clamp_min(0).sqrt().sum()) / len(logits)
