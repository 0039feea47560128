from __future__ import annotations

from collections.abc import Mapping

from ..losses import entropy
from ..types import Collected


class Entropy:
    """−mean H(p) over the target: confident predictions, right or wrong. In [−ln K, 0].

    Morerio et al., Minimal-Entropy Correlation Alignment, ICLR 2018, https://arxiv.org/abs/1711.10288
    """

    def __call__(self, collected: Mapping[str, Collected]) -> float:
        return -float(entropy(collected["target"].logits))
