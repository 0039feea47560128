from __future__ import annotations

from collections.abc import Mapping

from ..types import Collected, Count
from .base import Probe
from .density import density_ratio, features


class ImportanceWeighted:
    """Accuracy on held-out source rows, each weighted by how target-like it is: Σ w·[right] / Σ w, in [0, 1].

    Sugiyama et al., Covariate Shift Adaptation by Importance Weighted Cross Validation, JMLR 2007,
    https://www.jmlr.org/papers/v8/sugiyama07a.html. Divided by Σ w, where the paper divides by N: weights
    that are wrong by a factor would otherwise move the score, and out of [0, 1]. The weights are density
    ratios of features (`density_ratio`). Costs a pass over the source rows below at every evaluation.

    Args:
        rows: of the source's training rows, and of the target's, for the density ratio.
    """

    def __init__(self, rows: Count = 1000) -> None:
        self.rows = rows
        self.trained = Probe("source", rows)
        self.needs = ("source_val", self.trained)

    def __call__(self, collected: Mapping[str, Collected]) -> float:
        held = collected["source_val"]
        target = features(collected["target"].features, self.rows)
        weight = density_ratio(collected[self.trained.name].features, target, held.features)
        right = (held.logits.argmax(1) == held.y).cpu()
        return float((weight * right).sum() / weight.sum())
