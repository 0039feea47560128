"""The arithmetic of comparisons.

`scores` is a table with a column for each row of a comparison and an index of (transfer, seed): one run a cell,
NaN where there is none. Higher is better. A pair is two runs of the same transfer and seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

ALPHA = 0.05
FEWEST_SEEDS = 3
"""A paired t-test over fewer differences knows next to nothing of their spread."""

Floats = npt.NDArray[np.float64]


def averages(scores: pd.DataFrame) -> pd.DataFrame:
    """Over the transfers, for each seed that has them all: (seeds, columns), NaN where one is missing.

    >>> index = pd.MultiIndex.from_product([["a", "b"], [0, 1]], names=["transfer", "seed"])
    >>> averages(pd.DataFrame({"mmd": [1.0, 2.0, 3.0, None]}, index))["mmd"].tolist()
    [2.0, nan]
    """
    by_seed = scores.groupby(level="seed", sort=False)
    return by_seed.mean().where(by_seed.count() == scores.index.unique("transfer").size)


def interval(values: pd.Series, share: float = 0.95) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean, 2000 resamples, always the same ones; None below two values.

    Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. Too narrow for few values: of three,
    95 % nominal covers about 75 %.
    """
    numbers = values.dropna().to_numpy(float)
    if len(numbers) < 2:
        return None
    chosen = np.random.default_rng(0).integers(len(numbers), size=(2000, len(numbers)))
    low, high = np.quantile(numbers[chosen].mean(1), [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def ranks(scores: pd.DataFrame) -> tuple[pd.Series, int]:
    """Average rank of each column (1 is best, ties share) and over how many index entries: those all have."""
    whole = scores.dropna()
    return whole.rank(axis=1, ascending=False).mean(), len(whole)


@dataclass(frozen=True)
class Paired:
    """How one column does against another.

    Attributes:
        n: pairs.
        difference: mean of the first minus the second; NaN without pairs.
        wins, losses: pairs in which the first is better, worse.
        p: two-sided.
    """

    n: int
    difference: float
    wins: int
    losses: int
    p: float


def paired(first: pd.Series, second: pd.Series) -> Paired:
    """Wilcoxon's signed-rank test on the pairs that both have; equal pairs say nothing and are left out.

    Wilcoxon, Individual comparisons by ranking methods, 1945; Demšar, Statistical Comparisons of Classifiers over
    Multiple Data Sets, JMLR 2006, https://jmlr.org/papers/v7/demsar06a.html
    """
    # Rounding makes ties of what floating point has parted.
    differences = np.round((first - second).dropna().to_numpy(float), 4)
    n, wins, losses = len(differences), int((differences > 0).sum()), int((differences < 0).sum())
    mean = float(differences.mean()) if n else float("nan")
    return Paired(n, mean, wins, losses, _wilcoxon(differences[differences != 0]) if n else float("nan"))


def smallest_p(n: int) -> float:
    """What `n` unequal pairs can show at best: all of one sign.

    >>> smallest_p(5), smallest_p(6)
    (0.0625, 0.03125)
    """
    return min(1.0, 2.0 ** (1 - n))


def _wilcoxon(differences: Floats) -> float:
    """Two-sided p, exact with ties too: scipy's permutations of a dozen differences take over a second."""
    sizes = np.abs(differences)
    if len(sizes) > 100:
        return float(stats.wilcoxon(differences).pvalue)
    doubled = (2 * stats.rankdata(sizes)).astype(int)  # Ranks that ties share may end in a half.
    chances = np.ones(1)  # Of each sum of the positive ranks, if every sign is a toss.
    for rank in doubled:
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    positive = int(doubled[differences > 0].sum())
    return float(min(1.0, 2 * min(chances[: positive + 1].sum(), chances[positive:].sum())))


def holm(p: Sequence[float] | Floats) -> Floats:
    """Adjusted p-values of a family of tests; NaN are no tests.

    Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.

    >>> holm([0.01, float("nan"), 0.04, 0.03]).round(3).tolist()
    [0.03, nan, 0.06, 0.06]
    """
    values = np.asarray(p, float)
    order = [i for i in np.argsort(values) if not np.isnan(values[i])]
    adjusted = values.copy()
    steps = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def pairwise(scores: pd.DataFrame) -> pd.DataFrame:
    """p-values of each column against each other, Holm-adjusted for all of them; 1 on the diagonal."""
    names = list(scores)
    upper = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    adjusted = holm([paired(scores[names[i]], scores[names[j]]).p for i, j in upper])
    matrix = np.eye(len(names))
    for (i, j), p in zip(upper, adjusted, strict=True):
        matrix[i, j] = matrix[j, i] = p
    return pd.DataFrame(matrix, names, names)


def friedman(scores: pd.DataFrame) -> float | None:
    """p of the hypothesis that all columns are alike; None for fewer than three columns or two index entries.

    Friedman, The Use of Ranks to Avoid the Assumption of Normality, 1937.
    """
    whole = scores.dropna().to_numpy(float)
    if whole.shape[1] < 3 or len(whole) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # All alike: 0/0.
        p = float(stats.friedmanchisquare(*whole.T).pvalue)
    return 1.0 if np.isnan(p) else p


def transfers_against(scores: pd.Series, baseline: pd.Series) -> pd.DataFrame:
    """By transfer: `difference` (mean over the seeds that both have), `n`, and `p` of a loss.

    p is of a one-sided paired t-test over seeds (Wilcoxon's cannot fall below .05 for fewer than five),
    Holm-adjusted over the transfers; NaN for fewer than three seeds.
    """
    differences = (scores - baseline).dropna()
    rows = {
        transfer: {"difference": d.mean(), "n": len(d), "p": _loss(d.to_numpy(float))}
        for transfer, d in differences.groupby(level="transfer", sort=False)
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["difference", "n", "p"])
    table["p"] = holm(table["p"].to_numpy(float))
    return table.reindex(scores.index.unique("transfer"))


def _loss(differences: Floats) -> float:
    if len(differences) < FEWEST_SEEDS:
        return float("nan")
    if np.ptp(differences) == 0:  # No spread, no t.
        return 0.0 if differences[0] < 0 else 1.0
    return float(stats.ttest_1samp(differences, 0.0, alternative="less").pvalue)
