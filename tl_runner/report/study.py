"""How well each criterion selects: over the epochs of a run, and over the runs of a transfer.

Target labels are used here, after the fact, to judge what selects without them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..errors import DataError
from .keys import PLACE, config_of, tell_apart, within
from .runs import Run

TRUTH, SHARE = "test/accuracy", "target/classes"
COLLAPSED = 0.5
"""Share of the classes over which a collapsed model's predictions spread, or less: `validators.class_share`."""
REFERENCES = ("any epoch", "last", "oracle")
"""No validators, but what they stand between: an epoch drawn at random, the last one, the best one."""
LEAST = 3
"""Epochs or runs below which a rank correlation means nothing."""


@dataclass(eq=False)
class Study:
    """What became of selecting.

    Attributes:
        picks: a line for each run and criterion: `run`, `method`, `transfer`, `criterion`, `epoch` it picks, its
            `score` there (None for what only ranks), `accuracy` and `regret` (the oracle's accuracy less it), in
            percent, `classes` and `collapsed` (None where the run did not write down the share of classes), and
            the rank correlations of score and accuracy over the epochs, `spearman` and `weighted`.
        choices: a line for each transfer and criterion: of the runs, each at its own pick, the correlations, and
            `accuracy` and `regret` (to the best epoch of all runs) of the run with the highest score.
        listed: runs that say nothing of selection, with the reason.
    """

    picks: pd.DataFrame
    choices: pd.DataFrame
    listed: list[tuple[Run, str]]

    @property
    def methods(self) -> list[str]:
        return sorted(self.picks["method"].unique())

    @property
    def runs(self) -> int:
        return int(self.picks["run"].nunique())


def study(runs: Iterable[Run]) -> Study:
    """Judge every criterion of the last stage of each run.

    Raises:
        DataError: if no run can be judged.
    """
    judged, listed = [], []
    for run in runs:
        if why := _unusable(run):
            listed.append((run, why))
            continue
        try:
            judged.append((run, _history(run)))
        except DataError as error:
            listed.append((run, str(error)))
    if not judged:
        told = [f"  {run.folder}: {why}" for run, why in listed[:20]]
        raise DataError("\n".join(["no run says anything of selection:", *told]))
    done = [run for run, _ in judged]
    data = [{k: v for k, v in config_of(run).items() if k.startswith("data.")} for run in done]
    free = (*PLACE, "data.seed")
    transfers = tell_apart(
        done,
        [run.transfer.replace(" -> ", " → ") for run in done],
        [{k: v for k, v in each.items() if not within(k, free)} for each in data],
    )
    picks = pd.DataFrame(
        [
            {"run": str(run.folder), "method": run.method, "transfer": transfer, **line}
            for (run, history), transfer in zip(judged, transfers, strict=True)
            for line in _of_run(run, history)
        ]
    )
    choices = pd.DataFrame(
        [
            {"transfer": transfer, **line}
            for transfer in dict.fromkeys(transfers)
            for line in _of_transfer(
                [each for each, name in zip(judged, transfers, strict=True) if name == transfer]
            )
        ]
    )
    return Study(picks, choices, listed)


def correlations(scores: Sequence[float], truth: Sequence[float]) -> dict[str, float]:
    """Spearman's ρ, and the weighted τ in which the highest ranks count most.

    Vigna, A Weighted Correlation Index for Rankings with Ties, WWW 2015, https://doi.org/10.1145/2736277.2741088

    Returns:
        `spearman` and `weighted` in [−1, 1]; NaN for fewer than three pairs, or where one side is constant.
    """
    x, y = np.asarray(scores, float), np.asarray(truth, float)
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < LEAST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return {"spearman": np.nan, "weighted": np.nan}
    return {
        "spearman": float(stats.spearmanr(x, y).statistic),
        "weighted": float(stats.weightedtau(x, y).statistic),
    }


def _unusable(run: Run) -> str:
    if run.results is None:
        return run.why or run.status
    if "accuracy" not in run.stage["picks"]["last"]["target"]:
        return "its target has no labels, or its accuracy was not measured"
    return ""


def _history(run: Run) -> pd.DataFrame:
    """Of the last stage, in percent.

    Raises:
        DataError: if it is not there, or does not fit the results.
    """
    assert run.results is not None
    name = list(run.results["stages"])[-1]
    history = run.history().get(name)
    if history is None or TRUTH not in history:
        raise DataError("metrics.csv lacks the accuracy of its epochs")
    if len(history) < 2:
        raise DataError("it has one epoch: nothing to select")
    if missing := {p["epoch"] for p in run.stage["picks"].values()} - set(history["epoch"]):
        raise DataError(f"metrics.csv lacks epoch {min(missing)}, which results.json picks")
    return history.set_index("epoch").assign(**{TRUTH: 100 * history.set_index("epoch")[TRUTH]})


def _of_run(run: Run, history: pd.DataFrame) -> list[dict[str, Any]]:
    truth = history[TRUTH]
    best = float(truth.max())
    lines = []
    for name, pick in _picks(run).items():
        epoch = pick["epoch"]
        scores = _scores(run, name, [row for _, row in history.iterrows()])
        share = float(history[SHARE][epoch]) if SHARE in history else None
        accuracy = float(truth[epoch])
        lines.append(
            {
                "criterion": name,
                "epoch": epoch,
                # Ranks of different runs' epochs have nothing in common.
                "score": float(history[f"val/{name}"][epoch]) if f"val/{name}" in history else None,
                "accuracy": accuracy,
                "regret": best - accuracy,
                "classes": share,
                "collapsed": None if share is None else share <= COLLAPSED,
                **correlations(scores or [np.nan] * len(truth), truth.to_list()),
            }
        )
    average = float(truth.mean())
    lines.append(
        {
            "criterion": "any epoch",
            "accuracy": average,
            "regret": best - average,
            "collapsed": float((history[SHARE] <= COLLAPSED).mean()) if SHARE in history else None,
            "spearman": np.nan,
            "weighted": np.nan,
        }
    )
    return lines


def _of_transfer(runs: Sequence[tuple[Run, pd.DataFrame]]) -> list[dict[str, Any]]:
    """Over runs: each stands at its own pick, as a sweep sees it."""
    best = max(float(history[TRUTH].max()) for _, history in runs)
    lines = []
    for name in dict.fromkeys(name for run, _ in runs for name in _picks(run)):
        if name in REFERENCES:
            continue
        having = [(run, history) for run, history in runs if name in _picks(run)]
        rows = [history.loc[_picks(run)[name]["epoch"]] for run, history in having]
        scores = _scores(having[0][0], name, rows)
        if scores is None or len(rows) < LEAST or not np.isfinite(scores).any():
            continue
        truth = [float(row[TRUTH]) for row in rows]
        chosen = int(np.nanargmax(scores))
        lines.append(
            {
                "criterion": name,
                "runs": len(rows),
                **correlations(scores, truth),
                "accuracy": truth[chosen],
                "regret": best - truth[chosen],
                "run": str(having[chosen][0].folder),
            }
        )
    if lines:
        average = float(np.mean([history[TRUTH].iloc[-1] for _, history in runs]))
        lines.append(
            {"criterion": "any run", "runs": len(runs), "accuracy": average, "regret": best - average}
        )
    return lines


def _picks(run: Run) -> Mapping[str, Any]:
    return run.stage["picks"]


def _scores(run: Run, name: str, rows: Sequence[pd.Series]) -> list[float] | None:
    """Of a criterion for some epochs, higher is better; None for what has no score."""
    if name == "last":
        return None
    if name == "oracle":
        return [float(row[TRUTH]) for row in rows]
    if all(f"val/{name}" in row for row in rows):
        return [float(row[f"val/{name}"]) for row in rows]
    node = run.value(f"validators.{name}")
    if isinstance(node, Mapping) and str(node.get("_target_", "")).endswith(".RankEnsemble"):
        from ..validators import RankEnsemble

        ensemble = RankEnsemble(node.get("members"), node.get("least", COLLAPSED))
        return ensemble([{str(k): float(v) for k, v in row.items()} for row in rows])
    return None


def summary(study: Study, by: Sequence[str] = ()) -> pd.DataFrame:
    """Means over runs, by criterion (and more columns of `picks`), the least regret first.

    Returns:
        Columns `runs`, `spearman`, `weighted`, `accuracy`, `regret`, `spread` (of the regret over runs), `worst`
        (regret), `collapsed` (share of picks).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # means of nothing
        table = (
            study.picks.astype({"collapsed": float})
            .groupby([*by, "criterion"], sort=False)
            .agg(
                runs=("run", "nunique"),
                spearman=("spearman", "mean"),
                weighted=("weighted", "mean"),
                accuracy=("accuracy", "mean"),
                regret=("regret", "mean"),
                spread=("regret", "std"),
                worst=("regret", "max"),
                collapsed=("collapsed", "mean"),
            )
        )
    # What nobody selects by stands below.
    reference = table.index.get_level_values("criterion").isin(REFERENCES)
    return (
        table.assign(reference=reference).sort_values([*by, "reference", "regret"]).drop(columns="reference")
    )


def over_runs(study: Study) -> pd.DataFrame:
    """Means over transfers of choosing one of the runs, by criterion, the least regret first."""
    if not len(study.choices):
        return pd.DataFrame()
    table = study.choices.groupby("criterion", sort=False).agg(
        transfers=("transfer", "nunique"),
        runs=("runs", "sum"),
        spearman=("spearman", "mean"),
        weighted=("weighted", "mean"),
        accuracy=("accuracy", "mean"),
        regret=("regret", "mean"),
        worst=("regret", "max"),
    )
    return table.sort_values("regret")
