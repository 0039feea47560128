from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from annotated_types import Gt, Lt

from ..types import Collected, Count
from .base import Probe


class MixVal:
    """How often a mixture of two target inputs is predicted as the larger part of it is.

    Hu et al., Mixed Samples as Probes for Unsupervised Model Selection in Domain Adaptation, NeurIPS 2023,
    https://openreview.net/forum?id=ackajXqei2: x = λ x_a + (1 − λ) x_b is right if it gets x_a's predicted
    class, over pairs whose predicted classes differ (the paper's inter-cluster probe). Its other probe, pairs
    of one class, has to choose pairs by each checkpoint's predictions; here they are drawn once, so that all
    epochs answer the same questions. In [0, 1]; 0 if no two predictions differ. Costs a pass over the mixed
    rows at every evaluation.

    Args:
        weight: λ, of the larger part.
        rows: mixtures, at most.
    """

    def __init__(self, weight: Annotated[float, Gt(0.5), Lt(1)] = 0.55, rows: Count = 1024) -> None:
        self.mixed = Probe("target", rows, weight)
        self.needs = (self.mixed,)

    def __call__(self, collected: Mapping[str, Collected]) -> float:
        target, mixed = collected["target"], collected[self.mixed.name]
        predicted = target.row.new_zeros(int(target.row.max()) + 1)
        predicted[target.row] = target.logits.argmax(1)
        first, second = predicted[mixed.row], predicted[mixed.row.roll(-1)]
        differ = first != second
        right = (mixed.logits.argmax(1) == first) & differ
        return int(right.sum()) / max(1, int(differ.sum()))
