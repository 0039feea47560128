"""A comparison as figures: scores, gains over the baseline, ranks."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import pandas as pd
import scikit_posthocs
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from . import statistics
from .baselines import Against, against
from .comparison import Comparison
from .formats import format_of
from .style import COLOURS, INK, WIDTH, figure, of_percent, short
from .words import gain, picked

GAIN, LOSS, BASE = COLOURS[0], COLOURS[6], INK
ACROSS = 7
"""Panels side by side."""
MOST = 14
"""Transfers that are drawn one by one; of more, the average alone, if there is one."""
RANKED = 16
"""Rows that a diagram of critical differences can join by bars and still be read; of more the tables tell."""


CAPTIONS = {
    "scores": "Dots: means; bars: standard deviations; ticks: seeds. The dashed line is source_only.",
    "gains": "What each row gains over source_only on the same transfers and seeds; orange: negative transfer.",
    "ranks": "Critical differences: average ranks, 1 is best; a bar joins rows that Wilcoxon's tests, Holm-adjusted, "
    "do not tell apart at 5 %.",
}


def plots(comparison: Comparison) -> dict[str, Callable[[], Figure]]:
    """What draws each figure: if there is a panel to draw, `scores` and, over a source_only, `gains`; `ranks`, of
    some rows that a test can tell apart.

    To be called, and the figures to be saved, within `style()`.
    """
    found = against(comparison, "source_only")
    made: dict[str, Callable[[], Figure]] = {}
    if _panel_names(comparison):
        made["scores"] = partial(_scores, comparison, found)
        made |= {"gains": partial(_gains, comparison, found)} if found else {}
    rivals = comparison.tested[[row.name for row in comparison.rivals]].dropna()
    tests = rivals.shape[1] * (rivals.shape[1] - 1) / 2
    if 2 < rivals.shape[1] <= RANKED and tests * statistics.smallest_p(len(rivals)) < statistics.ALPHA:
        made["ranks"] = partial(_ranks, rivals)
    return made


def _shortened(names: Iterable[str]) -> list[str]:
    """Names as short as lets them be told apart."""
    names = list(names)
    tries = ([short(name, length) for name in names] for length in (26, 40, 60, 90))
    return next((found for found in tries if len(set(found)) == len(names)), names)


def _panel_names(comparison: Comparison) -> list[str]:
    transfers = comparison.transfers if len(comparison.transfers) <= MOST else []
    return [*transfers, *(["average"] if comparison.averaged else [])]


def _across(comparison: Comparison) -> int:
    """Panels side by side, as many in each line."""
    n = len(_panel_names(comparison))
    return -(-n // -(-n // ACROSS))


def _names_width(comparison: Comparison) -> float:
    """About, in inches."""
    return min(4.0, max(1.0, 0.065 * max(map(len, _shortened(row.name for row in comparison.rows)))))


def _width(comparison: Comparison) -> float:
    return min(WIDTH, 0.6 + _names_width(comparison) + 1.9 * _across(comparison))


def _panel_width(comparison: Comparison) -> float:
    """About, in inches."""
    return (_width(comparison) - _names_width(comparison)) / _across(comparison) - 0.1


def _panels(
    comparison: Comparison, names: list[str], draw: Callable[[Axes, str], None], label: str
) -> Figure:
    """A panel for each transfer and one for the average; a line for each row, the best on top."""
    panels, across, width = _panel_names(comparison), _across(comparison), _width(comparison)
    down = -(-len(panels) // across)
    made = figure(0.25 + down * (0.75 + 0.17 * len(names)), width)
    grid = made.subplots(down, across, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, panel in zip(grid.flat, panels, strict=False):
        axes.locator_params(axis="x", nbins=3)
        draw(axes, panel)
        axes.set_title(panel.replace(" → ", " →\n"), fontsize=8.5, loc="center")
        axes.set_ylim(len(names) - 0.25, -0.75)
        axes.set_yticks(range(len(names)), _shortened(names))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    if len(comparison.transfers) > MOST:
        label += f"; average over {len(comparison.transfers)} transfers"
    made.supxlabel("\n".join(textwrap.wrap(label, int(15 * width))), fontsize=9)
    return made


def _scores(comparison: Comparison, found: list[Against]) -> Figure:
    """Mean, standard deviation and every seed; the dashed line is source_only."""
    names = [row.name for row in comparison.rows]
    scores, base = comparison.scores[comparison.pick], found[0].base.name if found else None
    average, shares = statistics.averages(scores), format_of(comparison.metric).percent

    def draw(axes: Axes, panel: str) -> None:
        values = average if panel == "average" else scores.xs(panel, level="transfer")
        for y, name in enumerate(names):
            column = values[name].dropna()
            axes.plot(column, [y] * len(column), "|", color=INK, markersize=5, markeredgewidth=0.6)
        means, colours = values.mean(), [BASE if name == base else GAIN for name in names]
        ends = np.array([means - values.std(), means + values.std()])
        low, high = ends.clip(0, 100) if shares else ends
        axes.hlines(range(len(names)), low, high, colours)
        axes.scatter(means, range(len(names)), s=18, c=colours, zorder=3)
        if base is not None:
            axes.axvline(
                float(values[base].mean()), color=BASE, linestyle=(0, (3, 2)), linewidth=0.8, zorder=1
            )
        if shares:
            axes.set_xlim(of_percent(axes.get_xlim()))

    unit = ", %" if shares else ""
    return _panels(comparison, names, draw, f"{comparison.metric} {picked(comparison.pick)}{unit}")


def _gains(comparison: Comparison, found: list[Against]) -> Figure:
    """Bars from zero: what each row gains over source_only, and where it loses."""
    names = [a.row.name for a in found]
    table = pd.DataFrame([{**a.transfers["difference"], "average": a.gained} for a in found], names)
    low, high = min(0.0, float(table.min().min())), max(0.0, float(table.max().max()))
    high = 1.0 if low == high else high

    # The numbers stand in a column of .45 inches to the right of the longest bar.
    share = min(0.6, 0.45 / _panel_width(comparison))
    ticks = 2 if share > 0.4 else 4
    reach = low, high + (high - low) * share / (1 - share)

    def draw(axes: Axes, panel: str) -> None:
        gains = table[panel]
        axes.barh(range(len(names)), gains, height=0.7, color=[LOSS if g < 0 else GAIN for g in gains])
        for y, value in enumerate(gains):
            if pd.notna(value):
                text = gain(value, comparison.metric)
                axes.text(
                    1, y, text, transform=axes.get_yaxis_transform(), va="center", ha="right", fontsize=8
                )
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(reach)
        axes.set_xticks([x for x in MaxNLocator(ticks).tick_values(low, high) if low <= x <= high])

    unit = ", points" if format_of(comparison.metric).percent else ""
    label = f"{comparison.metric} gained over source_only {picked(comparison.pick)}{unit}"
    return _panels(comparison, names, draw, label)


def _ranks(tested: pd.DataFrame) -> Figure:
    """Critical-difference diagram: a bar joins rows that the tests cannot tell apart.

    Demšar, JMLR 2006; with Wilcoxon's test and Holm's correction in place of Nemenyi's, as Benavoli et al., Should
    We Really Use Post-Hoc Tests Based on Mean-Ranks?, JMLR 2016, https://jmlr.org/papers/v17/benavoli16a.html
    """
    ranks, _ = statistics.ranks(tested)
    p = statistics.pairwise(tested)
    ranks.index = p.index = p.columns = pd.Index(_shortened(ranks.index))
    made = figure(0.9 + 0.14 * len(ranks), min(WIDTH, 2.8 + 0.5 * len(ranks)))
    axes = made.subplots()
    scikit_posthocs.critical_difference_diagram(
        *(ranks, p),
        ax=axes,
        label_fmt_left="{label} ({rank:.1f})",
        label_fmt_right="({rank:.1f}) {label}",
        label_props={"fontsize": 8.5},
        elbow_props={"linewidth": 0.8, "color": INK},
        marker_props={"s": 14},
        text_h_margin=0.01 * len(ranks),
    )
    axes.grid(visible=False)
    axes.set_xlim(0.8, len(ranks) + 0.2)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=2))
    axes.set_title("average rank", fontsize=9, loc="center")
    return made
