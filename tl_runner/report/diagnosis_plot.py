"""A diagnosis as one picture: distances with their intervals, and how the classes lie."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from ..diagnosis import Diagnosis
from ..diagnosis.verdict import APART, SAME
from .diagnosis import DISTANCES
from .style import COLOURS, FAINT, INK, figure, png, short, style

MOST_NAMES = 45
"""Classes whose names still fit beside the map."""


def draw(d: Diagnosis) -> bytes:
    """The picture as a PNG."""
    strips = 0.62 * len(DISTANCES) + 0.6
    side = 0.0 if d.class_map is None else min(6.3, 0.15 * min(len(d.classes), MOST_NAMES) + 2.4)
    with style():
        made = figure(strips + side)
        heights = [strips, side] if d.class_map is not None else [strips]
        parts = made.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        _distances(d, parts[0].subplots(len(DISTANCES), 1))
        parts[0].suptitle(_title(d), x=0.01, ha="left", fontsize=9.5)
        if d.class_map is not None:
            _map(d, parts[1].subplots())
        return png(made)


def _title(d: Diagnosis) -> str:
    what = f"{d.source} and {d.target}{f', {d.model}' if d.model else ''}"
    dots = "; small: each class" if d.class_distances else ""
    return f"{short(what, 50)}. Large: all rows, with 95 % interval{dots}"


def _distances(d: Diagnosis, axes: np.ndarray[tuple[int], np.dtype[np.object_]]) -> None:
    """A strip for each: they have no common unit."""
    rng = np.random.default_rng(0)
    for (key, name), ax in zip(DISTANCES.items(), axes, strict=True):
        whole, each = d.distances[key], [e[key].value for e in d.class_distances.values()]
        ax.scatter(
            each,
            rng.uniform(-0.75, -0.25, len(each)),
            s=14,
            facecolor="none",
            edgecolor=COLOURS[6],
            linewidth=0.9,
        )
        ends = [[max(0, whole.value - whole.low)], [max(0, whole.high - whole.value)]]
        ax.errorbar(whole.value, 0.4, xerr=ends, fmt="o", markersize=6, color=INK, capsize=4)
        if key == "a_distance":
            ax.set_xlim(-0.03, 2.03)
            for threshold in (SAME, APART):
                ax.axvline(threshold, color=FAINT, linestyle=":", linewidth=1, zorder=0)
        elif min([whole.low, *each]) >= 0:
            ax.set_xlim(left=0)
        ax.set_ylim(-1, 1)
        ax.set_yticks([])
        ax.grid(False)
        ax.spines["left"].set_visible(False)
        ax.set_ylabel(name, rotation=0, ha="right", va="center")


def _map(d: Diagnosis, ax: Axes) -> None:
    """Cosines of the centroids; a mark shows the source class nearest to each target class."""
    assert d.class_map is not None
    nearest = d.class_map.nearest
    # One lightness scale: read the same in grey.
    image = ax.imshow(d.class_map.similarity, cmap="cividis", aspect="equal")
    rows = np.flatnonzero(nearest >= 0)
    astray = nearest[rows] != rows
    size = min(30.0, 260 / len(d.classes))
    for mark, chosen, colour, label in (("o", ~astray, INK, "its own"), ("X", astray, "white", "another")):
        ax.scatter(
            nearest[rows[chosen]],
            rows[chosen],
            s=size * (2.5 if mark == "X" else 1),
            marker=mark,
            color=colour,
            edgecolor=INK,
            linewidth=0.6,
            label=label,
        )
    if len(d.classes) <= MOST_NAMES:
        names = [short(c, 18) for c in d.classes]
        small = 8 if len(d.classes) <= 20 else 6.5
        ax.set_xticks(np.arange(len(names)), names, rotation=90, fontsize=small)
        ax.set_yticks(np.arange(len(names)), names, fontsize=small)
    ax.grid(False)
    ax.set_xlabel(f"class of the source, {d.source}")
    ax.set_ylabel(f"class of the target, {d.target}")
    ax.figure.colorbar(image, ax=ax, label="cosine of the class centroids", shrink=0.7)
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        frameon=True,
        facecolor="#c9c9c9",
        title="nearest source class",
        title_fontsize=8,
        fontsize=8,
    )
