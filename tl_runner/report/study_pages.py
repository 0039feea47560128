"""A study of selection as tables, figures and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..errors import DataError, reason
from ..files import replace_bytes
from .render import markdown
from .study import COLLAPSED, LEAST, REFERENCES, Study, over_runs, summary
from .style import COLOURS, FAINT, INK, MARKERS, figure, png, short, style
from .tables import Cell, Table
from .words import NONE

CAPTIONS = {
    "epochs": "Selecting an epoch. Dots: runs; bars: their means. ρ: how well the scores of a run's epochs rank its "
    "target accuracy. Regret: accuracy that the pick gives away.",
    "methods": "Mean regret of each criterion's pick, in points of target accuracy, by method.",
    "runs": "Selecting a run. Dots: runs at the criterion's own pick, colours: transfers. A criterion that selects "
    "well rises within each colour.",
}


def tables(study: Study) -> list[Table]:
    """All tables, in reading order."""
    made = [_epochs(study)]
    if len(study.choices):
        made.append(_runs(study))
    if len(study.methods) > 1:
        made.append(_by_method(study, "regret", "regret of the pick, in points", False))
        if _ranked(study):
            made.append(_by_method(study, "spearman", "Spearman's ρ over the epochs", True))
    if study.listed:
        table = Table("not studied", ["run", "status", "why"], words=True)
        table.lines = [[Cell(str(run.folder)), Cell(run.status), Cell(why)] for run, why in study.listed]
        made.append(table)
    return made


def _ranked(study: Study) -> bool:
    return bool(study.picks["spearman"].notna().any())


def _number(value: float, digits: int = 1) -> str:
    return NONE if pd.isna(value) else f"{value:.{digits}f}".replace("-", "−")


def _epochs(study: Study) -> Table:
    found = summary(study)
    given = "labeled_val" in found.index
    transfers = study.picks["transfer"].nunique()
    table = Table(
        f"selecting the epoch: {_count(study.runs, 'run')}, {_count(len(study.methods), 'method')}, "
        f"{_count(transfers, 'transfer')}",
        ["criterion", "ρ", "weighted τ", "accuracy", "regret", "worst", "collapsed"],
    )
    rivals = found.drop([name for name in REFERENCES if name in found.index])
    for name, line in found.iterrows():
        best = {
            c: name == _best(rivals[c], c != "regret") for c in ("spearman", "weighted", "accuracy", "regret")
        }
        some = "" if line["runs"] == study.runs else f" ({int(line['runs'])} runs)"
        table.lines.append(
            [
                Cell(f"{name}{some}"),
                Cell(_number(line["spearman"], 2), best["spearman"]),
                Cell(_number(line["weighted"], 2), best["weighted"]),
                Cell(_number(line["accuracy"]), best["accuracy"]),
                Cell(
                    _number(line["regret"]) + ("" if pd.isna(line["spread"]) else f" ± {line['spread']:.1f}"),
                    best["regret"],
                    brief=_number(line["regret"]),
                ),
                Cell(_number(line["worst"])),
                Cell(NONE if pd.isna(line["collapsed"]) else f"{100 * line['collapsed']:.0f} %"),
            ]
        )
    table.notes = [
        "ρ, τ: rank correlations of score and target accuracy over the epochs of a run, averaged over runs; τ gives "
        "high ranks more weight.",
        "accuracy: of the pick, on the target, in percent. regret: what the oracle's pick has more, mean ± standard "
        "deviation over runs, and the worst.",
        f"collapsed: picks whose predictions spread over {100 * COLLAPSED:.0f} % of the classes or less.",
        "oracle and last are no validators; 'any epoch' is the mean over epochs. source_val reads source labels, "
        "oracle target labels"
        + (", labeled_val those that runs were given of held-out target rows." if given else "."),
    ]
    if not _ranked(study):
        table.notes.append(f"No run has the {LEAST} epochs of different accuracy that ρ and τ take.")
    if (found["runs"] != study.runs).any():
        table.notes.append("Criteria that some runs lack are judged on the others: compare them with care.")
    return table


def _runs(study: Study) -> Table:
    found = over_runs(study)
    table = Table(
        f"selecting the run: one of each transfer's, {_count(study.choices['transfer'].nunique(), 'transfer')}",
        ["criterion", "ρ", "weighted τ", "accuracy", "regret", "worst"],
    )
    rivals = found.drop(["any run"])
    for name, line in found.iterrows():
        columns = (("spearman", 2), ("weighted", 2), ("accuracy", 1), ("regret", 1))
        cells = [Cell(_number(line[c], d), name == _best(rivals[c], c != "regret")) for c, d in columns]
        table.lines.append([Cell(str(name)), *cells, Cell(_number(line["worst"]))])
    table.notes = [
        "Each run stands at the criterion's own pick. ρ, τ: over the runs of a transfer, averaged over transfers.",
        "accuracy: of the run with the highest score. regret: to the best epoch of any run of the transfer.",
        "'any run' is the mean of the last epochs.",
    ]
    return table


def _by_method(study: Study, column: str, title: str, high: bool) -> Table:
    """Methods down, criteria across."""
    found = summary(study, ["method"])[column].unstack("criterion")
    order = [
        name for name in summary(study).index if name not in (*REFERENCES[1:], "any epoch" if high else "")
    ]
    table = Table(title, ["method", *order])
    for method, line in found.reindex(columns=order).iterrows():
        best = _best(line.drop("any epoch", errors="ignore"), high)
        table.lines.append([Cell(str(method)), *(Cell(_number(line[c], 1 + high), c == best) for c in order)])
    return table


def _best(values: pd.Series, high: bool) -> object:
    values = values.dropna()
    return None if not len(values) else values.idxmax() if high else values.idxmin()


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def plots(study: Study) -> dict[str, Figure]:
    """`epochs`; `methods`, if there are several; `runs`, if a transfer has enough. Within `style()`."""
    made = {"epochs": _plot_epochs(study)}
    if len(study.methods) > 1:
        made["methods"] = _plot_methods(study)
    if len(study.choices):
        made["runs"] = _plot_runs(study)
    return made


def _plot_epochs(study: Study) -> Figure:
    found = summary(study)
    order = [name for name in found.index if name != "oracle"]
    shown = study.picks[study.picks["criterion"].isin(order)]
    made = figure(0.8 + 0.27 * len(order))
    columns = [*(["spearman"] if _ranked(study) else []), "regret"]
    panels = made.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        sns.stripplot(
            data=shown,
            x=column,
            y="criterion",
            order=order,
            ax=axes,
            size=3,
            color=COLOURS[0],
            alpha=0.45,
            jitter=0.25,
        )
        axes.scatter(
            found.loc[order, column],
            range(len(order)),
            marker="|",
            s=160,
            linewidths=2.2,
            color=INK,
            zorder=5,
        )
        axes.set_ylabel("")
        axes.tick_params(axis="y", length=0)
    if len(panels) > 1:
        panels[0].axvline(0, color=FAINT, linewidth=0.8)
        panels[0].set_xlim(-1.05, 1.05)
        panels[0].set_xlabel("Spearman's ρ over the epochs")
    panels[-1].set_xlim(left=-0.02 * max(1.0, panels[-1].get_xlim()[1]))
    panels[-1].set_xlabel("regret of the pick, points of accuracy")
    return made


def _plot_methods(study: Study) -> Figure:
    order = [name for name in summary(study).index if name != "oracle"]
    table = summary(study, ["method"])["regret"].unstack("criterion").reindex(columns=order)
    made = figure(1.4 + 0.21 * len(table))
    axes = made.subplots()
    sns.heatmap(
        table,
        ax=axes,
        cmap="Blues",
        vmin=0,
        annot=True,
        fmt=".1f",
        annot_kws={"fontsize": 7.5},
        linewidths=0.5,
        cbar_kws={"label": "regret, points", "pad": 0.01},
    )
    axes.set_xlabel("")
    axes.set_ylabel("")
    axes.set_xticks(np.arange(len(order)) + 0.5, order, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(table)) + 0.5, [short(str(name)) for name in table.index], rotation=0)
    axes.tick_params(length=0)
    return made


def _plot_runs(study: Study) -> Figure:
    order = [name for name in over_runs(study).index if name != "any run"]
    shown = study.picks[study.picks["score"].notna()]
    order = [name for name in order if name in set(shown["criterion"])]
    across = min(4, len(order))
    down = -(-len(order) // across)
    transfers = list(dict.fromkeys(study.picks["transfer"]))
    looks = list(zip(COLOURS, MARKERS, strict=True))
    told = 1 < len(transfers) <= len(looks)  # Of more, no reader keeps the colours apart.
    made = figure(0.5 + 1.55 * down + 0.2 * told * -(-len(transfers) // 3))
    panels = made.subplots(down, across, sharey=True, squeeze=False)
    for axes, name in zip(panels.flat, order, strict=False):
        points = shown[shown["criterion"] == name]
        for i, transfer in enumerate(transfers):
            some = points[points["transfer"] == transfer]
            colour, marker = looks[i] if told else looks[0]
            axes.scatter(
                some["score"], some["accuracy"], 10, colour, marker, alpha=0.7, linewidths=0, label=transfer
            )
        axes.set_title(name)
        axes.locator_params(axis="x", nbins=3)
    for axes in panels.flat[len(order) :]:
        axes.remove()
    if told:
        handles, _ = panels[0, 0].get_legend_handles_labels()
        made.legend(handles, map(short, transfers), loc="outside upper center", ncols=3)
    made.supylabel("target accuracy, %", fontsize=9)
    made.supxlabel("score of the run's pick", fontsize=9)
    return made


def write(study: Study, made: Sequence[Table], folder: Path) -> list[Path]:
    """Write `study.md`, `epochs.csv` (a line for each run and criterion), `runs.csv` (each transfer and criterion),
    `methods.csv` (each method and criterion) and the figures.

    Raises:
        DataError: if the folder cannot be written.
    """
    with style():
        images = {name: png(made_) for name, made_ in plots(study).items()}
    shown = [f"![{CAPTIONS[name]}]({name}.png)\n" for name in images]
    files: dict[str, bytes] = {
        "study.md": "\n".join(["# How well criteria select", "", *map(markdown, made), *shown]).encode(),
        "epochs.csv": study.picks.to_csv(index=False).encode(),
        "runs.csv": study.choices.to_csv(index=False).encode(),
        "methods.csv": summary(study, ["method"]).reset_index().to_csv(index=False).encode(),
        **{f"{name}.png": image for name, image in images.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            replace_bytes(folder / name, content)
        for name in CAPTIONS.keys() - images.keys():
            (folder / f"{name}.png").unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write the study into {folder} ({reason(error)})") from error
    return [folder / name for name in files]
