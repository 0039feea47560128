"""Figures over epochs: losses, validators, accuracy, and what each criterion picked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import COLOURS, FAINT, INK, SEEING, SOURCE, TARGET, figure, of_percent, short, whole_epochs

Curve = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Picked:
    """An epoch that a criterion chose.

    Attributes:
        name: of the criterion; `last` and `oracle` among them.
        epoch: counted from 1.
        accuracy: on the target there, in [0, 1]; NaN if unknown.
    """

    name: str
    epoch: int
    accuracy: float = math.nan

    @property
    def seeing(self) -> bool:
        """Whether it saw the target's labels."""
        return self.name == "oracle"

    @property
    def look(self) -> tuple[str, str, int]:
        """Colour, marker and its size."""
        return (SEEING, "*", 10) if self.seeing else (INK, "o", 5)


def panels(
    epochs: Sequence[int], curves: Mapping[str, Curve], picks: Mapping[str, int] | None = None
) -> Figure:
    """One panel a curve, each with its own scale: losses, or validators with the epoch that each picks.

    Args:
        epochs: (E,). curves: (E,) each, NaN where there is no value.
        picks: the epoch that a curve of this name chose.
    """
    columns = min(len(curves), 3 if len(curves) in (5, 6, 9) else 4)
    rows = -(-len(curves) // columns)
    made = figure(1.55 * rows + 0.25)
    grid = made.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, (name, values) in zip(grid.flat, curves.items(), strict=False):
        _line(axes, epochs, values, COLOURS[0], "o")
        chosen = (picks or {}).get(name)
        if chosen is not None and chosen in epochs:
            value = values[list(epochs).index(chosen)]
            axes.axvline(chosen, color=INK, linewidth=0.9, linestyle=":")
            axes.plot(
                [chosen],
                [value],
                "o",
                markersize=9,
                markerfacecolor="none",
                markeredgecolor=INK,
                clip_on=False,
            )
        axes.set_title(short(name, 28 if columns < 4 else 20))
        axes.margins(y=0.15)
        if not np.isfinite(values).any():
            axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="center")
    for axes in grid.flat[len(curves) :]:
        axes.set_axis_off()
    for column in range(columns):  # The lowest panel of each column.
        lowest = max(i for i in range(len(curves)) if i % columns == column)
        grid.flat[lowest].tick_params(labelbottom=True)
        whole_epochs(grid.flat[lowest], max(epochs), ticks=20 // columns)
    return made


def selection(
    epochs: Sequence[int], target: Curve | None, source: Curve | None, picks: Sequence[Picked]
) -> Figure:
    """Accuracy over epochs, and below it which epoch each criterion chose.

    Args:
        epochs: (E,). target, source: (E,) accuracies in [0, 1] on the target and on held-out source rows.
        picks: in the order in which they are listed; those that saw the target's labels come last.
    """
    picks = sorted(picks, key=lambda p: p.seeing)
    strip = 0.23 * len(picks) + 0.55
    if target is None and source is None:
        made = figure(strip)
        below = made.subplots()
    else:
        made = figure(strip + 2.5)
        top, below = made.subplots(2, 1, sharex=True, height_ratios=[2.5, strip])
        _accuracies(top, epochs, target, source, picks)
    _strip(below, picks, max(epochs))
    below.set_title("picked epoch" if target is None else "picked epoch, and the target accuracy there (%)")
    whole_epochs(below, max(epochs))
    return made


def _accuracies(
    axes: Axes, epochs: Sequence[int], target: Curve | None, source: Curve | None, picks: Sequence[Picked]
) -> None:
    """Both curves, the picks ringed on the target's."""
    if source is not None:
        _line(axes, epochs, 100 * source, SOURCE, "s", "held-out source", "--")
    if target is not None:
        _line(axes, epochs, 100 * target, TARGET, "o", "target")
    for pick in picks:
        axes.axvline(pick.epoch, color=FAINT, linewidth=0.8, linestyle=":", zorder=0)
        if target is not None and pick.epoch in epochs:
            colour, marker, size = pick.look
            height = 100 * target[list(epochs).index(pick.epoch)]
            axes.plot(pick.epoch, height, marker, color=colour, markersize=size + 3, markerfacecolor="none")
    axes.set_ylabel("accuracy (%)")
    axes.margins(y=0.12)
    axes.set_ylim(of_percent(axes.get_ylim()))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.1)


def _strip(axes: Axes, picks: Sequence[Picked], last: int) -> None:
    """A line for each criterion, with a mark at its epoch."""
    for place, pick in enumerate(picks):
        colour, marker, size = pick.look
        axes.plot(pick.epoch, place, marker, color=colour, markersize=size)
        if math.isfinite(pick.accuracy):
            right = pick.epoch > (1 + last) / 2
            axes.annotate(
                f"{100 * pick.accuracy:.1f}",
                (pick.epoch, place),
                xytext=(-8 if right else 8, 0),
                textcoords="offset points",
                ha="right" if right else "left",
                va="center",
                fontsize=8.5,
            )
    names = [f"{short(p.name)} (sees labels)" if p.seeing else short(p.name) for p in picks]
    axes.set_yticks(range(len(picks)), names)
    axes.set_ylim(len(picks) - 0.4, -0.6)
    if any(p.seeing for p in picks):
        axes.axhline(sum(not p.seeing for p in picks) - 0.5, color=FAINT, linewidth=0.8)


def _line(
    axes: Axes,
    epochs: Sequence[int],
    values: Curve,
    colour: str,
    marker: str,
    label: str | None = None,
    dashes: str = "-",
) -> None:
    shown = marker if len(epochs) <= 40 else None
    axes.plot(epochs, values, color=colour, linestyle=dashes, marker=shown, markersize=4, label=label)
