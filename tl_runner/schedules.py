"""How factors change with training: pure functions of where training stands."""

from __future__ import annotations

import math
from typing import Literal, Protocol

from .types import Fraction, NonNegative, Positive


class Schedule(Protocol):
    """`progress` in [0, 1) is the share of the stage done; `step` counts its batches from 0."""

    def __call__(self, progress: float, step: int) -> float: ...


class Constant:
    """Always 1."""

    def __call__(self, progress: float, step: int) -> float:
        return 1.0


class InverseDecay:
    """(1 + gamma * t)^-power, the schedule of DANN, DAN and most of their successors.

    Ganin et al. 2016 and SHOT count t as progress (gamma 10); the TLlib presets as steps (gamma 0.001).
    """

    def __init__(
        self,
        gamma: NonNegative = 10.0,
        power: NonNegative = 0.75,
        per: Literal["progress", "step"] = "progress",
    ) -> None:
        self.gamma, self.power, self.per = gamma, power, per

    def __call__(self, progress: float, step: int) -> float:
        return float((1 + self.gamma * (progress if self.per == "progress" else step)) ** -self.power)


class Cosine:
    """Half a cosine from 1 to `final`. Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983"""

    def __init__(self, final: Fraction = 0.0) -> None:
        self.final = final

    def __call__(self, progress: float, step: int) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class Drops:
    """Multiplied by `factor` at each milestone, given as shares of the training in (0, 1)."""

    def __init__(self, milestones: tuple[float, ...] = (0.5, 0.75), factor: Positive = 0.1) -> None:
        self.milestones, self.factor = tuple(milestones), factor

    def __call__(self, progress: float, step: int) -> float:
        return float(self.factor ** sum(progress >= m for m in self.milestones))


class WarmUp:
    """Linear from 1 % over the first `share` of the training, then what `after` says."""

    def __init__(self, after: Schedule, share: Fraction = 0.1) -> None:
        self.after, self.share = after, share

    def __call__(self, progress: float, step: int) -> float:
        # From 1 %, not 0: the first update should not be lost.
        warm = min(1.0, max(0.01, progress / self.share)) if self.share else 1.0
        return warm * self.after(progress, step)


def ramp(progress: float, gamma: float = 10.0) -> float:
    """2 / (1 + e^(-gamma * progress)) - 1: from 0 to almost 1.

    Ganin et al., JMLR 2016, section 5.2.2, https://arxiv.org/abs/1505.07818

    >>> ramp(0.0), round(ramp(1.0), 4)
    (0.0, 0.9999)
    """
    return 2.0 / (1.0 + math.exp(-gamma * progress)) - 1.0


RampName = Literal["constant", "linear", "ramp"]


def ramped(name: RampName, progress: float) -> float:
    """The factor of a loss that grows with training: 1, `progress`, or `ramp(progress)`."""
    return {"constant": 1.0, "linear": progress, "ramp": ramp(progress)}[name]
