"""How numbers and picks are told."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from . import statistics
from .formats import format_of
from .summary import picked_by

NONE, LOSES = "–", "▼"

Spread = Callable[[pd.Series], str]


def spread_of(metric: str = "accuracy", ci: bool = False) -> Spread:
    """How values are told: `88.6 ± 0.3`, mean and standard deviation; `88.6 [88.2, 88.9]` with `ci`."""

    def told(values: pd.Series) -> str:
        values = values.dropna()
        text = number(values.mean(), metric)
        if ci and (ends := statistics.interval(values)):
            return f"{text} [{number(ends[0], metric)}, {number(ends[1], metric)}]"
        return f"{text} ± {number(values.std(), metric)}" if len(values) > 1 and not ci else text

    return told


def number(value: float, metric: str) -> str:
    """A value, scaled as its metric is shown."""
    # Rounded twice: a mean that ends in 5 must not depend on the order in which it was summed.
    return NONE if pd.isna(value) else f"{round(value, 9):.{format_of(metric).digits}f}".replace("-", "−")


def gain(value: float, metric: str) -> str:
    """With its sign."""
    return NONE if pd.isna(value) else f"{value:+.{format_of(metric).digits}f}".replace("-", "−")


def p_value(value: float) -> str:
    """Three decimals, which is more than most tests are good for."""
    return NONE if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def picked(pick: str) -> str:
    """By whom, in words."""
    return "at the last epoch" if pick == "last" else f"at the epoch that {pick} picks ({picked_by(pick)})"
