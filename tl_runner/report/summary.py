"""The end of a run, at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_PICKED_BY = {
    "last": "last epoch",
    "source_val": "source data",
    "labeled_val": "given labels",
    "oracle": "target truth",
}


def show(results: Mapping[str, Any], console: Console) -> None:
    """Print each stage's picks."""
    for name, stage in results["stages"].items():
        took = f"stage {name}, {stage['timing']['seconds']:.0f} s"
        title = f"{stage['method']}: {results['data']}, on the target ({took})"
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("checkpoint")
        table.add_column("epoch", justify="right")
        metrics = list(stage["picks"]["last"]["target"])
        for metric in metrics:
            table.add_column(metric, justify="right")
        table.add_column("picked by")
        for pick, found in stage["picks"].items():
            values = [number(metric, found["target"][metric]) for metric in metrics]
            style = "dim" if pick == "oracle" else None
            table.add_row(pick, str(found["epoch"]), *values, picked_by(pick), style=style)
        console.print(table)
    kept = results["source_accuracy"]
    if len(kept) > 1:
        first, *_, last = kept.values()
        steps = ", ".join(f"{100 * accuracy:.1f} after {name}" for name, accuracy in kept.items())
        console.print(f"Accuracy on held-out source data: {steps} ({100 * (last - first):+.1f})")


def where(results: Mapping[str, Any], console: Console) -> None:
    """Print where everything lies."""
    if (page := Path(results["folder"]) / "report.html").is_file():
        console.print(f"Report: {page}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Results: {results['folder']}", markup=False, highlight=False, soft_wrap=True)


def picked_by(pick: str) -> str:
    """What a pick was made by, in a word or two."""
    return _PICKED_BY.get(pick, "label-free")


def number(metric: str, value: float) -> str:
    """A metric as it is read: fractions in percent."""
    return f"{value:.3f}" if metric == "ece" else f"{100 * value:.1f}"
