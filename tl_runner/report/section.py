"""What a section of a run's report consists of: figures, tables, samples."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from .figures import Confusion, Floats, Ints
from .formats import format_of
from .outputs import StageOutputs
from .summary import number, picked_by


@dataclass
class Shown:
    """A figure, or the reason why there is none."""

    key: str
    title: str
    text: str
    png: bytes = b""
    alt: str = ""
    size: tuple[int, int] = (0, 0)

    @property
    def source(self) -> str:
        return _inline(self.png, "png")


@dataclass
class Sample:
    """A sample looked at by itself: what it is taken for, and what it is."""

    name: str
    predicted: str
    probability: float
    true: str | None = None
    true_probability: float = math.nan
    source: str = ""
    passage: tuple[str, str, str] | None = None


@dataclass
class Section:
    """One stage."""

    name: str
    method: str
    metrics: list[str]
    picks: list[list[str]]
    curves: list[Shown] = field(default_factory=list)
    about: list[str] = field(default_factory=list)
    figures: list[Shown] = field(default_factory=list)
    confusions: list[Confusion] = field(default_factory=list)
    classes: list[list[str]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    labelled: bool = True
    cost: list[tuple[str, str]] = field(default_factory=list)

    @property
    def fractions(self) -> list[str]:
        """The metrics that are not in percent."""
        return [name for name in self.metrics if not format_of(name).percent]


def samples(outputs: StageOutputs) -> list[Sample]:
    """Those that are looked at one by one."""
    about, pictures = outputs.about, outputs.thumbnails
    found = []
    for i, row in enumerate(outputs.shown):
        k, p = int(outputs.predicted[row]), outputs.probabilities[i]
        true = None if outputs.y is None else int(outputs.y[row])
        found.append(
            Sample(
                _place(about.names[row], about.domains, int(outputs.domain[row])),
                about.classes[k],
                float(p[k]),
                None if true is None else about.classes[true],
                math.nan if true is None else float(p[true]),
                "" if pictures is None else _picture(pictures[i]),
                None if about.passages is None else about.passages[i],
            )
        )
    return found


def _place(name: str, domains: list[str], domain: int) -> str:
    """A sample's name, with its domain where that is not clear."""
    return name if len(domains) == 1 or name.startswith(domains[domain]) else f"{domains[domain]}: {name}"


def _picture(pixels: Any) -> str:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    return _inline(stream.getvalue(), "jpeg")


def _inline(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def accuracies(table: Ints) -> Floats:
    """(K,) accuracies; NaN for a class without rows."""
    rows = table.sum(1)
    return np.where(rows > 0, np.diag(table) / np.maximum(rows, 1), np.nan)


def pick_table(picks: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The names of the metrics, and for each pick its name, epoch, metrics, and what picked it."""
    metrics = list(picks["last"]["target"])
    lines = []
    for pick, found in picks.items():
        values = [_metric(name, found["target"].get(name)) for name in metrics]
        lines.append([pick, str(found["epoch"]), *values, picked_by(pick)])
    return metrics, lines


def class_table(table: Ints, classes: list[str], before: Floats | None) -> list[list[str]]:
    """Class, rows, accuracy before (recall), accuracy after, precision, F1."""
    right, rows, taken = np.diag(table), table.sum(1), table.sum(0)
    lines = []
    for k, name in enumerate(classes):
        recall = right[k] / rows[k] if rows[k] else math.nan
        precision = right[k] / taken[k] if taken[k] else math.nan
        f1 = 2 * right[k] / (rows[k] + taken[k]) if rows[k] + taken[k] else math.nan
        shares = [recall, precision, f1] if before is None else [before[k], recall, precision, f1]
        lines.append([name, str(rows[k]), *(_percent(share) for share in shares)])
    return lines


def cost(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Epochs, time, memory and parameters of a stage: what it is, and how much."""
    timing = results["timing"]
    found = [("epochs", str(results["epochs"]))]
    for key, what, unit in (
        ("seconds", "time", "s"),
        ("train_seconds", "of it training", "s"),
        ("samples_per_second", "samples per second", ""),
        ("peak_memory_mb", "peak memory", "MB"),
    ):
        if key in timing:
            found.append((what, f"{timing[key]:,.1f} {unit}".strip()))
    for part, (train, total) in results.get("parameters", {}).items():
        found.append((f"parameters of the {part}", f"{total:,}, of which {train:,} train"))
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if math.isfinite(share) else "–"


def _metric(name: str, value: Any) -> str:
    return "–" if value is None or not math.isfinite(value) else number(name, value)
