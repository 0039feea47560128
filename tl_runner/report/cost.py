"""What runs cost."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from .comparison import Row
from .runs import Run


def costs(runs: Iterable[Run]) -> pd.DataFrame:
    """A line for each run: `seconds` of all stages, training and evaluation; `samples_per_second` of the last
    stage's training; `peak_memory_mb` of the device (on a CPU: of the process so far)."""
    return pd.DataFrame(
        [
            {
                "seconds": _timing(run, "seconds").sum(min_count=1),
                "samples_per_second": _timing(run, "samples_per_second").iloc[-1],
                "peak_memory_mb": _timing(run, "peak_memory_mb").max(),
            }
            for run in runs
        ]
    )


def _timing(run: Run, key: str) -> pd.Series:
    stages = run.results["stages"].values() if run.results else ()
    return pd.Series([stage["timing"].get(key) for stage in stages], dtype=float)


def machines(rows: Iterable[Row]) -> list[str]:
    """The GPUs that the runs used; `CPU` where they used none."""
    found = [run.results.get("environment", {}) for row in rows for run in row.runs.values() if run.results]
    return sorted({str(environment.get("gpu") or "CPU") for environment in found})
