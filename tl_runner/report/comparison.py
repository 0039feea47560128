"""Runs side by side: which numbers belong together, what they are compared with, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from ..errors import DataError, nearest
from . import statistics
from .formats import format_of
from .keys import PLACE, Config, check_keys, config_of, differing, label, tell_apart, text_of, within
from .runs import Run

BY, OVER = ("method",), ("data.source", "data.target", "seed")
Pairs = Literal["runs", "transfers"]


@dataclass(eq=False)
class Row:
    """Runs that are alike but for `over`.

    Attributes:
        method: of all of them; empty if they have several.
        config: the keys they share, dotted.
        runs: by (transfer, seed).
    """

    name: str
    method: str
    config: Config
    runs: dict[tuple[str, str], Run] = field(default_factory=dict)

    @property
    def bound(self) -> bool:
        """Whether it trains on all of the target's labels: what adaptation can reach, no rival to it."""
        return self.method == "target_only"


@dataclass(eq=False)
class Comparison:
    """Rows of runs, best first.

    Attributes:
        pick: who picks the epoch in everything but the table of picks.
        scores: pick -> a table as in `statistics`, in the metric's own direction, in percent where it is a share.
        listed: runs that are not compared, with the reason.
        notes: what a reader has to know of how the rows were made.
        pairs: what is ranked and tested: `runs`, of the same transfer and seed, or `transfers`, averaged over
            seeds. Runs of one transfer have more in common than a test takes for granted: they tell whether a
            difference holds for these transfers, not for transfers in general.
    """

    metric: str
    pick: str
    pairs: Pairs
    by: Sequence[str]
    over: Sequence[str]
    rows: list[Row]
    scores: dict[str, pd.DataFrame]
    listed: list[tuple[Run, str]]
    notes: list[str]

    def better(self, pick: str | None = None) -> pd.DataFrame:
        """Scores of which higher is better."""
        scores = self.scores[pick or self.pick]
        return -scores if format_of(self.metric).falls else scores

    @cached_property
    def tested(self) -> pd.DataFrame:
        """The scores that are ranked and tested, higher is better; a transfer counts where no seed is missing."""
        scores = self.better()
        if self.pairs == "runs":
            return scores
        by_transfer = scores.groupby(level="transfer", sort=False)
        means = by_transfer.mean().where(by_transfer.count().eq(by_transfer.size(), axis=0))
        return pd.concat({"": means}, names=["seed"]).swaplevel()

    @property
    def transfers(self) -> list[str]:
        return list(self.scores[self.pick].index.unique("transfer"))

    @cached_property
    def averaged(self) -> bool:
        """Whether some row has all of several transfers."""
        return len(self.transfers) > 1 and bool(
            statistics.averages(self.scores[self.pick]).notna().any(axis=None)
        )

    @property
    def picks(self) -> list[str]:
        """`last` first, the label-free, `oracle` last."""
        return sorted(self.scores, key=lambda pick: {"last": 0, "source_val": 1, "oracle": 3}.get(pick, 2))

    @cached_property
    def rivals(self) -> list[Row]:
        """The rows that are ranked and compared with the best: those that have an average, and are no bound."""
        known = statistics.averages(self.better()).notna().any()
        return [row for row in self.rows if known[row.name] and not row.bound]

    def missing(self) -> list[str]:
        """For each row without some transfer or seed that others have: which."""
        lines = []
        for row in self.rows:
            column = self.scores[self.pick][row.name]
            parts = []
            for transfer in self.transfers:
                gaps = column.xs(transfer, level="transfer").isna()
                if gaps.any():
                    seeds = ", ".join(gaps.index[gaps])
                    parts.append(transfer if gaps.all() else f"seed {seeds} of {transfer}")
            if parts:
                lines.append(f"{row.name} lacks {'; '.join(parts)}")
        return lines


def compare(
    runs: Iterable[Run],
    by: Sequence[str] = BY,
    over: Sequence[str] = OVER,
    metric: str = "accuracy",
    pick: str = "last",
    pairs: Pairs = "runs",
    ignore: Sequence[str] = (),
) -> Comparison:
    """Put runs into rows and columns.

    Args:
        by: config keys that name the rows; `over`: those over which a row's runs may differ: `seed` repeats,
            the others make the columns. Runs that differ in anything else are in rows of their own.
        metric: of the target. pick: who picks the epoch. pairs: what is tested.
        ignore: more keys that may differ.

    Raises:
        DataError: for an unknown key, metric or pick, or if no run can be compared.
    """
    runs = list(runs)
    done, listed = _comparable(runs, metric, pick)
    configs = {run: config_of(run) for run in done}
    check_keys((*by, *over, *ignore), configs.values())
    judge = (f"validators.{pick}", f"metrics.{metric}")
    columns = tuple(key for key in over if key != "seed")

    def kept(config: Config, *free: str) -> Config:
        """Without what may differ; of those that only look at the training, the ones that are looked at here."""
        free = (*free, *ignore, *PLACE)
        return {
            key: value
            for key, value in config.items()
            if not within(key, free) and (within(key, judge) or not within(key, ("validators", "metrics")))
        }

    own_start = "init_from" not in by and _determined("init_from", [kept(configs[run]) for run in done])
    shared = [kept(configs[run], *over, *(["init_from"] if own_start else [])) for run in done]
    placed = [{k: v for k, v in configs[run].items() if within(k, columns)} for run in done]
    names = tell_apart(done, [label(run, by) for run in done], shared)
    transfers = tell_apart(done, [label(run, columns) for run in done], placed)

    rows: dict[str, Row] = {}
    # The newest first: of two runs of the same, it counts.
    order = sorted(range(len(done)), key=lambda i: -(done[i].folder / "results.json").stat().st_mtime)
    for i in order:
        run, name = done[i], names[i]
        row = rows.setdefault(name, Row(name, run.method, shared[i]))
        row.method = row.method if row.method == run.method else ""
        place = (transfers[i], str(run.value("seed")) if "seed" in over else "")
        if place in row.runs:
            listed.append((run, f"the same as {row.runs[place].folder}, which is newer"))
        else:
            row.runs[place] = run
    made = list(rows.values())
    scores = {p: _scores(made, metric, p) for p in dict.fromkeys(p for run in done for p in _picks(run))}
    comparison = Comparison(metric, pick, pairs, by, over, made, scores, listed, _notes(made, by, ignore))
    return _best_first(comparison)


def _determined(key: str, configs: Iterable[Config]) -> bool:
    """Whether configs that are alike but for a key are alike in it too: it says nothing that the others do not."""
    values: dict[str, set[str]] = {}
    for config in configs:
        rest = {k: v for k, v in config.items() if k != key}
        values.setdefault(text_of(rest), set()).add(text_of(config.get(key)))
    return all(len(found) == 1 for found in values.values())


def of_scores(scores: dict[str, pd.DataFrame]) -> Comparison:
    """A comparison of numbers alone: pick -> accuracies in percent, a column for each method, all of the same task."""
    rows = [Row(str(name), str(name), {}) for name in scores["last"]]
    return _best_first(Comparison("accuracy", "last", "runs", BY, OVER, rows, scores, [], []))


def _comparable(runs: list[Run], metric: str, pick: str) -> tuple[list[Run], list[tuple[Run, str]]]:
    """Runs with the number asked for, and the others with the reason.

    Raises:
        DataError: if none has it.
    """
    done, listed = [], []
    for run in runs:
        if run.results is None:
            listed.append((run, run.why))
        elif not _picks(run)["last"]["target"]:
            listed.append((run, "its target has no labels to be scored with"))
        elif metric not in _picks(run)["last"]["target"]:
            listed.append((run, f"it did not measure {metric}"))
        elif pick not in _picks(run):
            listed.append((run, f"it has no pick '{pick}'"))
        else:
            done.append(run)
    if done:
        return done, listed
    found = [_picks(run) for run in runs if run.results is not None]
    metrics = {m for picks in found for m in picks["last"]["target"]}
    if metrics and metric not in metrics:
        raise DataError(f"no run has the metric '{metric}'{nearest(metric, metrics)}")
    if metrics:
        raise DataError(f"no run has the pick '{pick}'{nearest(pick, {p for picks in found for p in picks})}")
    told = [f"  {run.folder}: {run.status}" + (f" ({why})" if why else "") for run, why in listed[:20]]
    more = [f"  and {len(listed) - 20} more"] if len(listed) > 20 else []
    raise DataError("\n".join(["no run can be compared:", *told, *more]))


def _picks(run: Run) -> Mapping[str, Any]:
    return run.stage["picks"]


def _scores(rows: Sequence[Row], metric: str, pick: str) -> pd.DataFrame:
    places = sorted({place for row in rows for place in row.runs}, key=lambda p: (p[0], len(p[1]), p[1]))
    scale = format_of(metric).factor

    def score(run: Run | None) -> float:
        found = _picks(run).get(pick, {}).get("target", {}).get(metric) if run else None
        return float("nan") if found is None else scale * float(found)

    index = pd.MultiIndex.from_tuples(places, names=["transfer", "seed"])
    return pd.DataFrame({r.name: [score(r.runs.get(place)) for place in places] for r in rows}, index)


def _best_first(comparison: Comparison) -> Comparison:
    """Complete rows by their average, then the others, then bounds."""
    average = statistics.averages(comparison.better()).mean()

    def order(row: Row) -> tuple[bool, bool, float, str]:
        value = float(average[row.name])
        return row.bound, pd.isna(value), 0.0 if pd.isna(value) else -value, row.name

    comparison.rows.sort(key=order)
    names = [row.name for row in comparison.rows]
    comparison.scores = {pick: scores[names] for pick, scores in comparison.scores.items()}
    return comparison


def _notes(rows: Sequence[Row], by: Sequence[str], ignore: Sequence[str]) -> list[str]:
    notes = []
    keys = [key for key in differing([row.config for row in rows]) if not within(key, by)]
    if keys and "experiment" not in by:  # Experiments may differ in anything.
        groups = dict.fromkeys(".".join(key.split(".")[:3]) for key in keys)
        text = ", ".join(list(groups)[:12]) + (f" and {len(groups) - 12} more" if len(groups) > 12 else "")
        notes.append(f"The rows differ not only in {', '.join(by)}, but also in {text}.")
    seeing = [
        str(run.folder.name)
        for row in rows
        for run in row.runs.values()
        if run.results and run.results.get("objective", {}).get("sees_target_labels") is True
    ]
    if seeing:
        notes.append(
            f"No honest result, for the objective of its sweep looked at target labels: {', '.join(seeing[:3])}"
            + (f" and {len(seeing) - 3} more." if len(seeing) > 3 else ".")
        )
    if any(len({run.value("init_from") for run in row.runs.values()}) > 1 for row in rows):
        notes.append(
            "Runs of one row started from different runs (init_from), one for each transfer and seed."
        )
    if ignore:
        notes.append(f"Runs of one row may differ in {', '.join(ignore)}.")
    return notes
