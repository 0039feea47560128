"""A comparison as tables: what is in each cell, whatever it is printed with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from . import statistics
from .baselines import BASELINES, Against, against
from .comparison import LOWER, Comparison
from .cost import costs, machines
from .statistics import ALPHA, FEWEST_SEEDS, averages

NONE, LOSES = "–", "▼"


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
    spread = plus_minus_of(comparison.metric, ci)
    baselines = [(name, against(comparison, name)) for name in BASELINES]
    made = [_scores(comparison, spread, ci), _by_pick(comparison, spread)]
    made += [_against(comparison, name, found) for name, found in baselines if found]
    made += [_to_best(comparison)] if len(comparison.rivals) > 1 else []
    made += [_cost(comparison)]
    return [*made, _listed(comparison)] if comparison.listed else made


Spread = Callable[[pd.Series], str]


def plus_minus_of(metric: str = "accuracy", ci: bool = False) -> Spread:
    """How values are told: `88.6 ± 0.3`, mean and standard deviation; `88.6 [88.2, 88.9]` with `ci`."""

    def told(values: pd.Series) -> str:
        values = values.dropna()
        text = _number(values.mean(), metric)
        if ci and (ends := statistics.interval(values)):
            return f"{text} [{_number(ends[0], metric)}, {_number(ends[1], metric)}]"
        return f"{text} ± {_number(values.std(), metric)}" if len(values) > 1 and not ci else text

    return told


def _digits(metric: str) -> int:
    return 3 if metric in LOWER else 1


def _number(value: float, metric: str) -> str:
    return NONE if pd.isna(value) else f"{value:.{_digits(metric)}f}"


def _gain(value: float, metric: str) -> str:
    return NONE if pd.isna(value) else f"{value:+.{_digits(metric)}f}".replace("-", "−")


def _p(value: float) -> str:
    return NONE if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _mark(transfers: pd.DataFrame, transfer: str) -> str:
    """Of the difference to a baseline; `*` where it is more than chance makes."""
    if not transfers["difference"][transfer] < 0:
        return ""
    return f" {LOSES}*" if transfers["p"][transfer] < ALPHA else f" {LOSES}"


def _of(found: float, most: float) -> str:
    return f" ({found:.0f} of {most:.0f})" if 0 < found < most else ""


def picked(pick: str) -> str:
    """By whom, in words."""
    if pick == "last":
        return "at the last epoch"
    who = {"oracle": "target labels", "source_val": "source data", "labeled_val": "given labels"}
    return f"at the epoch that {pick} picks ({who.get(pick, 'label-free')})"


def _head(comparison: Comparison, *more: str) -> list[str]:
    several = ["average"] if len(comparison.transfers) > 1 else []
    return [", ".join(comparison.by), *comparison.transfers, *several, *more]


def _scores(comparison: Comparison, spread: Spread, ci: bool) -> Table:
    scores, metric = comparison.scores[comparison.pick], comparison.metric
    average = averages(scores)
    ranks, n = statistics.ranks(comparison.tested[[row.name for row in comparison.rivals]])
    ranked = len(comparison.rivals) > 1 and n > 0
    best = _best(comparison, ranks)
    losses = {a.row: a.transfers for a in against(comparison, "source_only")}
    how = "95 % bootstrap interval of the mean" if ci else "mean ± standard deviation"
    unit = "" if metric in LOWER else ", in percent"
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
            brief = _number(values.mean(), metric)
            cells.append(Cell(text + mark, best.get(transfer) == row.name, bool(mark), brief + mark))
        if len(comparison.transfers) > 1:
            text = spread(average[row.name]) + _of(average[row.name].count(), average.count().max())
            cells.append(Cell(text, best.get("average") == row.name))
        if ranked:
            rank = ranks.get(row.name)
            cells.append(Cell(NONE if rank is None else f"{rank:.2f}", best.get("rank") == row.name))
        table.lines.append(cells)
    if any(cell.loses for line in table.lines for cell in line):
        table.notes.append(f"{LOSES} {_told_by(list(losses.values()))}")
    if not losses and len(comparison.rows) > 1:
        table.notes.append(
            "No row has a source_only of the same data and backbone: nothing shows negative transfer."
        )
    if ranked:
        what = "transfers" if comparison.pairs == "transfers" else "pairs of transfer and seed"
        p = statistics.friedman(comparison.tested[list(ranks.index)])
        test = (
            ""
            if p is None
            else f"; Friedman's test of all being alike: p {_p(p) if p < 0.001 else '= ' + _p(p)}"
        )
        table.notes.append(f"Rank: the average over the {n} {what} that all ranked rows have{test}.")
    if ci and len(average) < 5:
        table.notes.append("Bootstrap intervals from fewer than five seeds are too narrow.")
    if any(row.bound for row in comparison.rows):
        table.notes.append("(bound): trained on the target's labels; not ranked.")
    table.notes += [*comparison.notes, *(f"Missing: {line}." for line in comparison.missing())]
    return table


def _best(comparison: Comparison, ranks: pd.Series) -> dict[str, str]:
    """The best rival of each column, if there are rivals."""
    names = [row.name for row in comparison.rivals]
    if len(names) < 2:
        return {}
    scores = comparison.better()[names]
    found = {str(t): str(line.idxmax()) for t, line in scores.groupby(level="transfer").mean().iterrows()}
    average = averages(scores).mean().dropna()
    found |= {"average": str(average.idxmax())} if len(average) else {}
    return found | ({"rank": str(ranks.idxmin())} if ranks.notna().all() else {})


def _told_by(transfers: Sequence[pd.DataFrame]) -> str:
    """What the marks of lost transfers mean, and whether there were seeds enough to tell."""
    n = [int(n) for table in transfers for n in table.loc[table["difference"] < 0, "n"]]
    text = "loses to source_only on that transfer"
    if max(n) < FEWEST_SEEDS:
        return f"{text}; {max(n)} seed{'s' * (max(n) > 1)} cannot tell that from chance, {FEWEST_SEEDS} can."
    return (
        f"{text}; with * p < {ALPHA}, one-sided paired t-test over seeds, Holm-adjusted over the transfers."
    )


def _by_pick(comparison: Comparison, spread: Spread) -> Table:
    over = ", averaged over the transfers" if len(comparison.transfers) > 1 else ""
    table = Table(
        f"{comparison.metric} by who picks the epoch{over}", [", ".join(comparison.by), *comparison.picks]
    )
    names = [row.name for row in comparison.rivals]
    columns = {pick: averages(comparison.scores[pick]) for pick in comparison.picks}
    best = {
        pick: means.idxmax()
        for pick in comparison.picks
        if len(means := averages(comparison.better(pick)[names]).mean().dropna()) > 1
    }
    for row in comparison.rows:
        cells = [
            Cell(spread(column[row.name]), best.get(pick) == row.name) for pick, column in columns.items()
        ]
        table.lines.append([Cell(row.name), *cells])
    if "oracle" in columns:
        table.notes.append(
            "oracle looks at the target's labels: it is what most papers report and nobody has."
        )
    return table


def _against(comparison: Comparison, name: str, found: Sequence[Against]) -> Table:
    metric = comparison.metric
    title = f"{metric} gained over {name} ({BASELINES[name]}) {picked(comparison.pick)}"
    table = Table(title, _head(comparison, "transfers lost", "runs lost", "p"))
    for a in found:
        gains = [
            Cell(_gain(a.transfers["difference"][t], metric) + (m := _mark(a.transfers, t)), loses=bool(m))
            for t in comparison.transfers
        ]
        if len(comparison.transfers) > 1:
            gains.append(Cell(_gain(a.gained, metric), loses=a.gained < 0))
        known = int(a.transfers["difference"].count())
        share = f" ({100 * a.runs.losses / a.runs.n:.0f} %)" if a.runs.n else ""
        table.lines.append(
            [
                Cell(a.row.name),
                *gains,
                Cell(f"{len(a.lost)} of {known}", loses=bool(a.lost)),
                Cell(f"{a.runs.losses} of {a.runs.n}{share}"),
                Cell(_p(a.p)),
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
    table.notes.append(_of_p(comparison, len(found)))
    return table


def _of_p(comparison: Comparison, tests: int) -> str:
    """How p was come by, and whether it could have been small."""
    n = int(comparison.tested.count().max())
    what = "transfers" if comparison.pairs == "transfers" else "pairs of transfer and seed"
    text = f"p: Wilcoxon's signed-rank test over {n} {what}, two-sided, Holm-adjusted for {tests} tests."
    least = min(1.0, tests * statistics.smallest_p(n))
    return text if least < ALPHA else f"{text} So few cannot tell: p is {_p(least)} at least."


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
            [Cell(row.name), Cell(_gain(r.difference, comparison.metric)), *counts, Cell(_p(p))]
        )
    table.notes.append(_of_p(comparison, len(others)))
    return table


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
    for run, why in comparison.listed:
        table.lines.append([Cell(str(run.folder)), Cell(run.status), Cell(why)])
    return table
