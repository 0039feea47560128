"""What a search by Optuna has found: its best trial, the history, and what mattered.

The figures are not Optuna's own, which change matplotlib's settings for all that is drawn later.
"""

from __future__ import annotations

import math
import shlex
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import TrialState

from ..files import replace_bytes, replace_text
from ..trials import Search
from .style import COLOURS, INK, figure, png, short, style


def write(search: Search, best: Sequence[str], folder: Path) -> str:
    """Write `search.md` and its figures.

    Args:
        best: the best trial's command line.

    Returns:
        The command line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["tlrun", *best])
    figures = {}
    for name, plot in (("history", _history), ("importance", _importance)):
        try:
            with style():
                figures[name] = png(plot(search.study))
        except (ValueError, RuntimeError, ZeroDivisionError):
            continue  # Too few trials, or all alike.
    for name, image in figures.items():
        replace_bytes(folder / f"search-{name}.png", image)
    replace_text(folder / "search.md", _page(search, command, figures))
    return command


def _history(study: optuna.Study) -> Figure:
    trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    numbers, values = [t.number for t in trials], np.array([t.value for t in trials], float)
    made = figure(2.8)
    axes = made.subplots()
    axes.plot(numbers, np.maximum.accumulate(values), drawstyle="steps-post", color=INK, label="best so far")
    axes.plot(numbers, values, "o", color=COLOURS[0], label="trial")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    axes.set_xlabel("trial")
    axes.set_ylabel("objective")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.1)
    return made


def _importance(study: optuna.Study) -> Figure:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = optuna.importance.get_param_importances(study)
    made = figure(0.8 + 0.25 * len(found))
    axes = made.subplots()
    bars = axes.barh([short(key, 40) for key in found], list(found.values()), color=COLOURS[0])
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8.5)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("share in the explained variance of the objective")
    return made


def _page(search: Search, command: str, figures: Iterable[str]) -> str:
    trials = search.study.get_trials(deepcopy=False)
    keys = list(search.space)
    lines = ["# Search", "", "The best trial:", "", "```sh", command, "```", ""]
    for name in figures:
        lines += [f"![{name}](search-{name}.png)", ""]
    lines += [f"| trial | {' | '.join(keys)} | objective | state |", "|---" * (len(keys) + 3) + "|"]
    for trial in sorted(trials, key=lambda t: -math.inf if t.value is None else t.value, reverse=True):
        values = (_shown(trial.params.get(key)) for key in keys)
        state = "killed" if trial.user_attrs.get("killed") else trial.state.name.lower()
        lines.append(f"| {trial.number} | {' | '.join(values)} | {_shown(trial.value)} | {state} |")
    return "\n".join([*lines, ""])


def _shown(value: Any) -> str:
    return (
        ""
        if value is None
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value).replace("|", "\\|")
    )
