"""How the numbers of each metric are read."""

from __future__ import annotations

from typing import NamedTuple


class Format(NamedTuple):
    """How a metric is shown.

    Attributes:
        percent: of a share of 1.
        digits: after the point.
        falls: less is better.
    """

    percent: bool = True
    digits: int = 1
    falls: bool = False

    @property
    def factor(self) -> int:
        """What its values are multiplied by."""
        return 100 if self.percent else 1


_FORMATS = {"ece": Format(False, 3, falls=True), "auroc": Format(False, 3), "support": Format(False, 0)}


def format_of(metric: str) -> Format:
    """Of a metric by its name in the config; one not known here is taken for a share of which more is better."""
    return _FORMATS.get(metric, Format())
