"""Numbers with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..distances.a_distance import Errors
from ..probe import Labels

Statistic = Callable[[Labels, Labels], float]
"""A number computed from some rows of the source and some of the target, given by their indices."""


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, half: float, least: float = 0.0, most: float = math.inf) -> Estimate:
        """`value` ± `half`, within the range that the number can have."""
        return cls(value, max(least, value - half), min(most, value + half))


def half_width(statistic: Statistic, n: int, m: int, repeats: int, seed: int) -> float:
    """1.96 standard deviations of the statistic over bootstrap resamples of both domains.

    Half of the normal interval of Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    Percentiles would not do here: rows drawn twice make most distances larger than they are.

    Args:
        statistic: see `Statistic`. n, m: rows of source and target.
        repeats: resamples, at least 2. seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    draws = [statistic(rng.integers(n, size=n), rng.integers(m, size=m)) for _ in range(repeats)]
    return 1.96 * float(np.std(draws, ddof=1))


def of_errors(
    score: Callable[[Errors, Errors], float],
    source: Errors,
    target: Errors,
    repeats: int,
    seed: int,
    most: float,
) -> Estimate:
    """A score of two domains' held-out errors, 0 or 1 a row. The classifier is not trained anew.

    In the resamples one row that is right and one that is wrong join each domain: a classifier without an
    error on 20 rows is not certain never to make one (Agresti & Coull, The American Statistician 1998).
    """
    s, t = np.append(source, [0.0, 1.0]), np.append(target, [0.0, 1.0])
    half = half_width(lambda i, j: score(s[i], t[j]), len(s), len(t), repeats, seed)
    return Estimate.around(score(source, target), half, most=most)
