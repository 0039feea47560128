"""A comparison as tables: what is in each cell, whatever it is printed with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from . import statistics
from .baselines import BASELINES, Against, against
from .comparison import Comparison
from .cost import costs, machines
from .forgetting import source_accuracies
from .formats import format_of
from .statistics import ALPHA, FEWEST_SEEDS, averages
from .words import LOSES, NONE, Spread, gain, number, p_value, picked, spread_of


@dataclass(frozen=True)
class Cell:
    """Text; `best`: of its column; `loses`: to the baseline; `brief`: for where there is little room."""

    text: str
    best: bool = False
    loses: bool = False
    brief: str = ""


@dataclass
class Table:
    """Plain text throughout: whoever prints it escapes it. `words`: no column is of numbers."""

    title: str
    head: list[str]
    lines: list[list[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    words: bool = False


def tables(comparison: Comparison, ci: bool = False) -> list[Table]:
    """All tables of a comparison, in reading order.

    Args:
        ci: bootstrap intervals instead of standard deviations.
    """
    spread = spread_of(comparison.metric, ci)
    baselines = [(name, against(comparison, name)) for name in BASELINES]
    made = [_scores(comparison, spread, ci), *_by_pick(comparison, spread)]
    made += [_against(comparison, name, found) for name, found in baselines if found]
    made += [_to_best(comparison)] if len(comparison.rivals) > 1 else []
    made += _kept(comparison)
    made += [_cost(comparison)] if any(row.runs for row in comparison.rows) else []
    return [*made, _listed(comparison)] if comparison.listed else made


def _mark(transfers: pd.DataFrame, transfer: str) -> str:
    """Of the difference to a baseline; `*` where it is more than chance makes."""
    if not transfers["difference"][transfer] < 0:
        return ""
    return f" {LOSES}*" if transfers["p"][transfer] < ALPHA else f" {LOSES}"


def _of(found: float, most: float) -> str:
    return f" ({found:.0f} of {most:.0f})" if 0 < found < most else ""


def _head(comparison: Comparison, *more: str) -> list[str]:
    average = ["average"] if comparison.averaged else []
    return [", ".join(comparison.by), *comparison.transfers, *average, *more]


def _scores(comparison: Comparison, spread: Spread, ci: bool) -> Table:
    scores, metric = comparison.scores[comparison.pick], comparison.metric
    average = averages(scores)
    ranks, n = statistics.ranks(comparison.tested[[row.name for row in comparison.rivals]])
    ranked = len(comparison.rivals) > 1 and n > 0
    best = _best(comparison, ranks)
    losses = {a.row: a.transfers for a in against(comparison, "source_only")}
    how = "95 % bootstrap interval of the mean" if ci else "mean ± standard deviation"
    unit = ", in percent" if format_of(metric).percent else ""
    table = Table(
        f"{metric} on the target {picked(comparison.pick)}{unit}, {how} over seeds",
        _head(comparison, *(["rank"] if ranked else [])),
    )
    for row in comparison.rows:
        cells = [Cell(row.name + (" (bound)" if row.bound else ""))]
        for transfer in comparison.transfers:
            values = scores[row.name].xs(transfer, level="transfer")
            mark = _mark(losses[row], transfer) if row in losses else ""
            text = spread(values) + _of(values.count(), len(values))
            brief = number(values.mean(), metric) + mark.strip()
            cells.append(Cell(text + mark, row.name in best[transfer], bool(mark), brief))
        if comparison.averaged:
            text = spread(average[row.name]) + _of(average[row.name].count(), average.count().max())
            brief = number(average[row.name].mean(), metric)
            cells.append(Cell(text, row.name in best["average"], brief=brief))
        if ranked:
            rank = ranks.get(row.name)
            cells.append(Cell(NONE if rank is None else f"{rank:.2f}", row.name in best["rank"]))
        table.lines.append(cells)
    if any(cell.loses for line in table.lines for cell in line):
        table.notes.append(f"{LOSES} {_told_by(list(losses.values()))}")
    if not losses and len(comparison.rows) > 1:
        table.notes.append(
            "No row has a source_only of the same data and backbone: nothing shows negative transfer."
        )
    if ranked:
        p = statistics.friedman(comparison.tested[list(ranks.index)])
        told = (
            ""
            if p is None
            else f"; Friedman's test of all being alike: p {'' if p < 0.001 else '= '}{p_value(p)}"
        )
        table.notes.append(
            f"Rank: the average over {_blocks(comparison, n)} that all ranked rows have{told}."
        )
    if ci and len(average) < 5:
        table.notes.append("Bootstrap intervals from fewer than five seeds are too narrow.")
    if any(row.bound for row in comparison.rows):
        table.notes.append("(bound): trained on the target's labels; not ranked.")
    table.notes += [*comparison.notes, *(f"Missing: {line}." for line in comparison.missing())]
    return table


def _best(comparison: Comparison, ranks: pd.Series) -> dict[str, set[str]]:
    """The best rivals of each column, if there are rivals."""
    names = [row.name for row in comparison.rivals]
    scores = comparison.better()[names]
    by_transfer = scores.groupby(level="transfer").mean().T
    columns = {t: by_transfer[t] for t in comparison.transfers}
    return {
        k: _highest(v) for k, v in {**columns, "average": averages(scores).mean(), "rank": -ranks}.items()
    }


def _highest(means: pd.Series) -> set[str]:
    """The best of two or more, all of them if they are as good."""
    return set(means.index[means >= means.max() - 1e-9]) if len(means) > 1 else set()


def _told_by(transfers: Sequence[pd.DataFrame]) -> str:
    """What the marks of lost transfers mean, and whether there were seeds enough to tell."""
    n = [int(n) for table in transfers for n in table.loc[table["difference"] < 0, "n"]]
    text = "loses to source_only on that transfer"
    if max(n) < FEWEST_SEEDS:
        return f"{text}; {max(n)} seed{'s' * (max(n) > 1)} cannot tell that from chance, {FEWEST_SEEDS} can."
    return (
        f"{text}; with * p < {ALPHA}, one-sided paired t-test over seeds, Holm-adjusted over the transfers."
    )


def _by_pick(comparison: Comparison, spread: Spread) -> list[Table]:
    """Nothing where no row has an average."""
    over = ", averaged over the transfers" if len(comparison.transfers) > 1 else ""
    table = Table(
        f"{comparison.metric} by who picks the epoch{over}", [", ".join(comparison.by), *comparison.picks]
    )
    names = [row.name for row in comparison.rivals]
    columns = {pick: averages(comparison.scores[pick]) for pick in comparison.picks}
    best = {pick: _highest(averages(comparison.better(pick)[names]).mean()) for pick in comparison.picks}
    without = [r.name for r in comparison.rows if not any(c[r.name].notna().any() for c in columns.values())]
    for row in comparison.rows:
        if row.name in without:
            continue
        line = [Cell(row.name)]
        for pick, column in columns.items():
            values = column[row.name]
            brief = number(values.mean(), comparison.metric)
            line.append(Cell(spread(values), row.name in best[pick], brief=brief))
        table.lines.append(line)
    if without:
        table.notes.append(f"No average, for lack of transfers: {', '.join(without)}.")
    if "oracle" in columns:
        table.notes.append(
            "oracle looks at the target's labels: it is what most papers report and nobody has."
        )
    return [table] if table.lines else []


def _against(comparison: Comparison, name: str, found: Sequence[Against]) -> Table:
    metric = comparison.metric
    title = f"{metric} gained over {name} ({BASELINES[name]}) {picked(comparison.pick)}"
    table = Table(title, _head(comparison, "transfers lost", "runs lost", "p"))
    for a in found:
        gains = [
            Cell(gain(a.transfers["difference"][t], metric) + (m := _mark(a.transfers, t)), loses=bool(m))
            for t in comparison.transfers
        ]
        if comparison.averaged:
            gains.append(Cell(gain(a.gained, metric), loses=a.gained < 0))
        known = int(a.transfers["difference"].count())
        share = f" ({100 * a.runs.losses / a.runs.n:.0f} %)" if a.runs.n else ""
        table.lines.append(
            [
                Cell(a.row.name),
                *gains,
                Cell(f"{len(a.lost)} of {known}", loses=bool(a.lost)),
                Cell(f"{a.runs.losses} of {a.runs.n}{share}", brief=f"{a.runs.losses} of {a.runs.n}"),
                Cell(p_value(a.p)),
            ]
        )
    lost, known = sum(len(a.lost) for a in found), sum(int(a.transfers["difference"].count()) for a in found)
    runs, n = sum(a.runs.losses for a in found), sum(a.runs.n for a in found)
    if n:
        table.notes.append(
            f"Worse than {name}: {lost} of {known} cells ({100 * lost / known:.0f} %), "
            f"{runs} of {n} runs ({100 * runs / n:.0f} %)."
        )
    if lost and name == "source_only":
        table.notes.append(f"{LOSES} {_told_by([a.transfers for a in found])}")
    table.notes += _of_p(comparison, [a.test for a in found])
    return table


def _blocks(comparison: Comparison, n: int, most: str = "") -> str:
    unit = "transfer" if comparison.pairs == "transfers" else "pair"
    return f"{most}{n} {unit}{'s' * (n != 1)}" + (" of transfer and seed" if unit == "pair" else "")


def _of_p(comparison: Comparison, tests: Sequence[statistics.Paired]) -> list[str]:
    """How p was come by, and whether it could have been small."""
    counts = [test.n for test in tests]
    blocks = _blocks(comparison, max(counts), "up to " if min(counts) < max(counts) else "")
    adjusted = f", Holm-adjusted for {len(tests)} tests" if len(tests) > 1 else ""
    text = f"p: Wilcoxon's signed-rank test over {blocks}, two-sided{adjusted}."
    least = min(1.0, len(tests) * statistics.smallest_p(max(counts)))
    text += "" if least < ALPHA else f" So few cannot tell: p is {p_value(least)} at least."
    return [text, "Less is better: + is an improvement."] if format_of(comparison.metric).falls else [text]


def _to_best(comparison: Comparison) -> Table:
    """Each rival against the best."""
    best, *others = comparison.rivals
    tested = comparison.tested
    table = Table(
        f"Difference to the best, {best.name}, in {comparison.metric} {picked(comparison.pick)}",
        [", ".join(comparison.by), "difference", "wins", "ties", "losses", "p"],
    )
    results = [statistics.paired(tested[row.name], tested[best.name]) for row in others]
    for row, r, p in zip(others, results, statistics.holm([r.p for r in results]), strict=True):
        counts = [Cell(str(count)) for count in (r.wins, r.n - r.wins - r.losses, r.losses)]
        table.lines.append(
            [Cell(row.name), Cell(gain(r.difference, comparison.metric)), *counts, Cell(p_value(p))]
        )
    table.notes += _of_p(comparison, results)
    return table


def _kept(comparison: Comparison) -> list[Table]:
    """Of the source, from stage to stage; nothing where no run has two points to compare."""
    found = {row.name: source_accuracies(row.runs.values()) for row in comparison.rows}
    known = dict.fromkeys(str(point) for lines in found.values() for point in lines)
    if not known:
        return []
    points = [*(point for point in known if point != "forgotten"), "forgotten"]
    title = "accuracy on held-out source data after each stage, in percent"
    table = Table(title, [", ".join(comparison.by), *points])
    spread = spread_of()
    for name, lines in found.items():
        if len(lines):
            cells = [spread(lines[point]) if point in lines else NONE for point in points]
            table.lines.append([Cell(name), *map(Cell, cells)])
    table.notes.append("forgotten: the best of the points before the last, less the last.")
    return [table]


def _cost(comparison: Comparison) -> Table:
    table = Table("cost of a run", [", ".join(comparison.by), "seconds", "samples/s", "peak memory, MB"])
    for row in comparison.rows:
        means = costs(row.runs.values()).mean()
        cells = [NONE if pd.isna(mean) else f"{mean:.{int(i == 0)}f}" for i, mean in enumerate(means)]
        table.lines.append([Cell(row.name), *map(Cell, cells)])
    where = machines(comparison.rows)
    table.notes.append(
        f"Training and evaluation of all stages, without preparing the data, on {', '.join(where)}."
        + (" Different machines: not comparable." if len(where) > 1 else "")
    )
    if "CPU" in where:
        table.notes.append("On a CPU the memory is the process's: in a sweep, the most of all jobs so far.")
    return table


def _listed(comparison: Comparison) -> Table:
    table = Table("not compared", ["run", "status", "why"], words=True)
    compared = [run for row in comparison.rows for run in row.runs.values()]
    folders = [run.folder.absolute() for run in (*compared, *(run for run, _ in comparison.listed))]
    common = Path(os.path.commonpath(folders))
    for run, why in comparison.listed:
        place = str(run.folder.absolute().relative_to(common))
        table.lines.append([Cell(place), Cell(run.status), Cell(why)])
    table.notes.append(f"Folders below {common}.")
    return table
