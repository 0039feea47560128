from __future__ import annotations

from collections.abc import Mapping

from ..losses import information_maximization
from ..types import Collected


class InformationMaximization:
    """H(mean p) − mean H(p) over the target: confident and diverse predictions. In [0, ln K].

    Musgrave et al., Benchmarking Validation Methods for Unsupervised Domain Adaptation, 2022,
    https://arxiv.org/abs/2208.07360
    """

    def __call__(self, collected: Mapping[str, Collected]) -> float:
        return -float(information_maximization(collected["target"].logits))
