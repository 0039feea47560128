"""What a validator is, and what it may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..types import Collected


class Validator(Protocol):
    """Scores a model without target labels; higher is better, and NaN is no score.

    An attribute `needs` names what is looked at besides `target`: evaluation sets such as `source_val`, and
    probes. A validator whose needs the data cannot meet is left out.
    """

    def __call__(self, collected: Mapping[str, Collected]) -> float: ...


@dataclass(frozen=True)
class Probe:
    """Rows that are evaluated for validators alone; `collected[probe.name]` is what the model says of them.

    Attributes:
        of: training rows of the `source`, with their labels, or evaluation rows of the `target`.
        rows: at most so many, drawn once by the run's seed.
        mix: share of each row in a mixture with another: row i of the probe is
            mix · x_i + (1 − mix) · x_{i+1}, the last one mixed with the first. `Collected.row` tells x_i.
    """

    of: Literal["source", "target"]
    rows: int
    mix: float | None = None

    @property
    def name(self) -> str:
        return f"{self.of}:{self.rows}" + ("" if self.mix is None else f":{self.mix}")


def needs(validator: object) -> tuple[str | Probe, ...]:
    """What a validator looks at besides `target`."""
    return tuple(getattr(validator, "needs", ()))


def spread(count: int, rows: int) -> Tensor:
    """At most `rows` of the numbers below `count`, evenly spaced: (min(count, rows),) int64."""
    return torch.arange(count) if count <= rows else torch.arange(rows) * count // rows
