"""The end of a run, at a glance."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..files import replace_text
from .formats import format_of

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
        table.add_column("picked by", ratio=1)
        table.add_column("epoch", justify="right")
        metrics = list(stage["picks"]["last"]["target"])
        for metric in metrics:
            table.add_column(metric, justify="right")
        rows: dict[tuple[int, str], list[str]] = {}
        for pick, found in stage["picks"].items():
            rows.setdefault((found["epoch"], picked_by(pick)), []).append(pick)
        for (epoch, _), picks in rows.items():
            found = stage["picks"][picks[0]]["target"]
            values = [number(metric, found[metric]) for metric in metrics]
            names = ", ".join(picks) + (" (sees target labels)" if "oracle" in picks else "")
            table.add_row(names, str(epoch), *values, style="dim" if "oracle" in picks else None)
        console.print(table)
    if (report := classification_report(results)) is not None:
        console.print(report)
    kept = results["source_accuracy"]
    if len(kept) > 1:
        first, *_, last = kept.values()
        steps = ", ".join(f"{100 * accuracy:.1f} after {name}" for name, accuracy in kept.items())
        console.print(f"Accuracy on held-out source data: {steps} ({100 * (last - first):+.1f})")


def write_classes(results: Mapping[str, Any], folder: Path) -> None:
    """Write the table of every class as `classification_report.txt`, where there is one."""
    if (report := classification_report(results)) is not None:
        console = Console(file=io.StringIO(), width=100, color_system=None)
        console.print(report)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        replace_text(folder / "classification_report.txt", text)


def where(results: Mapping[str, Any], console: Console) -> None:
    """Print where everything lies."""
    if (page := Path(results["folder"]) / "report.html").is_file():
        console.print(f"Report: {page}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Results: {results['folder']}", markup=False, highlight=False, soft_wrap=True)


def classification_report(results: Mapping[str, Any]) -> Table | None:
    """Every class, where the metrics tell them apart: of what given labels picked in the last stage, or its end."""
    *_, picks = (stage["picks"] for stage in results["stages"].values())
    pick = "labeled_val" if "labeled_val" in picks else "last"
    if not (classes := picks[pick].get("per_class")):
        return None
    title = f"each class at epoch {picks[pick]['epoch']} ({picked_by(pick)})"
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    metrics = list(next(iter(classes.values())))
    for metric in metrics:
        table.add_column(metric, justify="right")
    for name, values in classes.items():
        table.add_row(name, *(number(m, values[m]) for m in metrics), end_section=name == list(classes)[-1])
    for name, values in averages(classes).items():
        table.add_row(name, *(number(m, values[m]) if m in values else "" for m in metrics))
    return table


def averages(classes: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Micro, macro and weighted mean of what was measured of each class; nothing without its support.

    Over classes that there are. The micro mean of precision, recall and F1 alike is the accuracy, where each sample
    has one class and is given one.
    """
    present = [v for v in classes.values() if v.get("support")]
    total = sum(v["support"] for v in present)
    names = [m for m in ("precision", "recall", "f1") if present and all(m in v for v in present)]
    if not total or not names:
        return {}
    weighted = {m: sum(v["support"] * v[m] for v in present) / total for m in names}
    macro = {m: sum(v[m] for v in present) / len(present) for m in names}
    micro = {"micro": dict.fromkeys(names, weighted["recall"])} if "recall" in names else {}
    return {k: {**v, "support": total} for k, v in {**micro, "macro": macro, "weighted": weighted}.items()}


def picked_by(pick: str) -> str:
    """What a pick was made by, in a word or two."""
    return _PICKED_BY.get(pick, "label-free")


def number(metric: str, value: float) -> str:
    """A metric as it is read: shares of 1 in percent."""
    told = format_of(metric)
    return f"{told.factor * value:.{told.digits}f}"
