"""What runs of several stages keep of the source."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from .runs import Run


def source_accuracies(runs: Iterable[Run]) -> pd.DataFrame:
    """A line for each run that knows it at two points at least: accuracy on held-out source data in percent.

    Columns: `init_from` where a run started from another, each stage in the order of training, and `forgotten`:
    the best of all points before the last, less the last (Chaudhry et al., Riemannian Walk for Incremental
    Learning, ECCV 2018, https://arxiv.org/abs/1801.10112). It is negative if the last stage made it better.
    """
    found = [run.results.get("source_accuracy", {}) for run in runs if run.results]
    several = [pd.Series(known) * 100 for known in found if len(known) > 1]
    lines = pd.DataFrame([{**known, "forgotten": known[:-1].max() - known.iloc[-1]} for known in several])
    order = sorted(lines, key=lambda point: {"init_from": 0, "forgotten": 2}.get(str(point), 1))
    return lines[order]
