"""A diagnosis as one picture: distances with their intervals, and how the classes lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..diagnosis import Diagnosis
from ..diagnosis.verdict import APART, SAME
from .diagnosis import DISTANCES

INK, FAINT, CLASS = "#1a1a1a", "#8a8a8a", "#d55e00"
MOST_NAMES = 45
"""Classes whose names still fit beside the map."""


def draw(d: Diagnosis, file: Path) -> None:
    """Write the picture as a PNG, whole or not at all."""
    settings: Any = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.parse_math": False,
    }
    k, strips = len(d.classes), 0.62 * len(DISTANCES) + 0.6
    side = 0.0 if d.class_map is None else min(6.3, 0.15 * min(k, MOST_NAMES) + 2.4)
    with mpl.rc_context(settings):
        figure = Figure(figsize=(7.2, strips + side), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        heights = [strips, side] if d.class_map is not None else [strips]
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        _distances(d, parts[0].subplots(len(DISTANCES), 1))
        parts[0].suptitle(_title(d), x=0.01, ha="left", fontsize=9.5)
        if d.class_map is not None:
            _map(d, parts[1].subplots())
        temporary = file.with_name(f".{file.name}.part")
        figure.savefig(temporary, format="png")
        temporary.replace(file)


def _title(d: Diagnosis) -> str:
    dots = "; small: each class" if d.class_distances else ""
    return f"{d.source} and {d.target}{f', {d.model}' if d.model else ''}. Large: all rows, with 95 % interval{dots}"


def _distances(d: Diagnosis, axes: np.ndarray[tuple[int], np.dtype[np.object_]]) -> None:
    """A strip for each: they have no common unit."""
    rng = np.random.default_rng(0)
    for (key, name), ax in zip(DISTANCES.items(), axes, strict=True):
        whole, each = d.distances[key], [e[key].value for e in d.class_distances.values()]
        ax.scatter(
            each, rng.uniform(-0.75, -0.25, len(each)), s=14, facecolor="none", edgecolor=CLASS, linewidth=0.9
        )
        ax.errorbar(
            whole.value,
            0.4,
            xerr=[[max(0, whole.value - whole.low)], [max(0, whole.high - whole.value)]],
            fmt="o",
            markersize=6,
            color=INK,
            capsize=4,
        )
        if key == "a_distance":
            ax.set_xlim(-0.03, 2.03)
            for threshold in (SAME, APART):
                ax.axvline(threshold, color=FAINT, linestyle=":", linewidth=1, zorder=0)
        else:
            ax.set_xlim(left=min(0, ax.get_xlim()[0]) if whole.low < 0 or min(each, default=0) < 0 else 0)
        ax.set_ylim(-1, 1)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.set_ylabel(name, rotation=0, ha="right", va="center")


def _map(d: Diagnosis, ax: Axes) -> None:
    """Cosines of the centroids; a dot marks the source class nearest to each target class."""
    assert d.class_map is not None
    similarity, nearest = d.class_map.similarity, d.class_map.nearest
    # One lightness scale: read the same in grey.
    image = ax.imshow(similarity, cmap="cividis", aspect="equal")
    rows = np.flatnonzero(nearest >= 0)
    astray = nearest[rows] != rows
    size = 260 / len(d.classes)
    for mark, chosen, label in (("o", ~astray, "its own"), ("X", astray, "another")):
        ax.scatter(
            nearest[rows[chosen]],
            rows[chosen],
            s=size * (2.2 if mark == "X" else 1),
            marker=mark,
            color="white" if mark == "X" else INK,
            edgecolor=INK,
            linewidth=0.6,
            label=label,
        )
    if len(d.classes) <= MOST_NAMES:
        ticks = np.arange(len(d.classes))
        small = 8 if len(d.classes) <= 20 else 6.5
        ax.set_xticks(ticks, [_short(c) for c in d.classes], rotation=90, fontsize=small)
        ax.set_yticks(ticks, [_short(c) for c in d.classes], fontsize=small)
    ax.set_xlabel(f"class of the source, {d.source}")
    ax.set_ylabel(f"class of the target, {d.target}")
    ax.figure.colorbar(image, ax=ax, label="cosine of the class centroids", shrink=0.7)
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        facecolor="#c9c9c9",
        fontsize=8,
        title="nearest source class",
    )


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:10]}…{name[-7:]}"
