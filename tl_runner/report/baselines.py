"""Negative transfer: methods that do worse than what they should improve on."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from . import statistics
from .comparison import Comparison, Row
from .keys import Config, differing, within

BASELINES = {
    "source_only": "adaptation left out",
    "finetune": "the source left out",
    "target_only": "the source left out",
    "scratch": "the same without pretrained weights",
}
WEIGHTS = "model.backbone.weights"

# What of the data may differ between a method and its baseline: how images are shown, not which.
_VIEW = ("data.flip", "data.resize", "data.channels")


@dataclass(frozen=True, eq=False)
class Against:
    """A row against one of its baselines.

    Attributes:
        transfers: `difference`, `n` and `p` of a loss, by transfer; see `statistics.transfers_against`.
        runs: over all pairs of transfer and seed.
        gained: difference of the averages over the transfers; NaN if no seed has them all.
        test: of what the comparison tests. p: its p, Holm-adjusted over all rows with this baseline.
    """

    row: Row
    base: Row
    transfers: pd.DataFrame
    runs: statistics.Paired
    gained: float
    test: statistics.Paired
    p: float

    @property
    def lost(self) -> list[str]:
        """The transfers on which the row is worse on average."""
        return [str(t) for t in self.transfers.index[self.transfers["difference"] < 0]]


def baselines(comparison: Comparison, row: Row) -> dict[str, Row]:
    """What a row must beat to be worth its while, by the names in `BASELINES`: of the same data and backbone alone.

    Methods that have no labelled target rows are measured against source_only only.
    """
    found: dict[str, Row] = {}
    others = [other for other in comparison.rows if other is not row]
    labels = any(row.config.get(f"data.{key}") for key in ("labeled_per_class", "label_fraction"))
    names = ("source_only", *(("finetune", "target_only") if labels else ()))
    for name in () if row.method in names else names:
        same = [o for o in others if o.method == name and _task(o.config) == _task(row.config)]
        if same:
            found[name] = min(same, key=lambda o: len(differing([o.config, row.config])))
    for other in others:
        if other.config.get(WEIGHTS) == "none" and differing([other.config, row.config]) == [WEIGHTS]:
            found["scratch"] = other
    return found


def _task(config: Config) -> dict[str, object]:
    return {k: v for k, v in config.items() if within(k, ("data", "model.backbone")) and k not in _VIEW}


def against(comparison: Comparison, name: str) -> list[Against]:
    """Every row that has the baseline, against it; in the comparison's order."""
    pairs = [(row, base) for row in comparison.rows if (base := baselines(comparison, row).get(name))]
    scores, tested = comparison.better(), comparison.tested
    averages = statistics.averages(scores)
    tests = [statistics.paired(tested[row.name], tested[base.name]) for row, base in pairs]
    adjusted = statistics.holm([test.p for test in tests])
    return [
        Against(
            row,
            base,
            statistics.transfers_against(scores[row.name], scores[base.name]),
            statistics.paired(scores[row.name], scores[base.name]),
            float((averages[row.name] - averages[base.name]).mean()),
            test,
            float(p),
        )
        for (row, base), test, p in zip(pairs, tests, adjusted, strict=True)
    ]
