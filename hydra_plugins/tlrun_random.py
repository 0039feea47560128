"""`sweep=random`: random search, where Hydra's own sweeper runs every combination.

Hydra takes sweepers from the namespace package `hydra_plugins` alone, and imports them at every start: nothing
large is imported here.
"""

from __future__ import annotations

import math
import random
from typing import Annotated, Any

from annotated_types import Ge
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import IntervalSweep, Override


class RandomSweeper(BasicSweeper):
    """Independent draws of every key that is given several values.

    Bergstra & Bengio, Random Search for Hyper-Parameter Optimization, JMLR 2012.
    https://jmlr.org/papers/v13/bergstra12a.html

    `key=1,2,3`, `choice(...)` and `range(...)` are drawn from their values, `interval(a,b)` evenly between a and b,
    `tag(log,interval(a,b))` evenly in the logarithm, `int(interval(a,b))` as a whole number, both ends included.

    Args:
        trials: number of jobs.
        seed: of the draws; the first jobs of a longer search are those of a shorter one.
        params: keys and values that every sweep has, as of Hydra's own sweeper.
    """

    def __init__(
        self,
        trials: Annotated[int, Ge(1)],
        seed: Annotated[int, Ge(0)],
        params: dict[str, str] | None = None,
    ) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.trials, self.rng = trials, random.Random(seed)

    def split_arguments(  # type: ignore[override]  # Static there; here it needs the generator.
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        given = {o.get_key_element(): o for o in overrides}  # The last one of a key counts.
        return [[[f"{key}={self.draw(o)}" for key, o in given.items()] for _ in range(self.trials)]]

    def draw(self, override: Override) -> str:
        """One value of an override, as it would stand on the command line."""
        if not override.is_sweep_override():
            return override.get_value_element_as_str()
        if override.is_discrete_sweep():
            return self.rng.choice(list(override.sweep_string_iterator()))
        interval: Any = override.value()
        assert isinstance(interval, IntervalSweep)
        start: Any = interval.start
        end: Any = interval.end
        if "log" in interval.tags:
            value = math.exp(self.rng.uniform(math.log(start), math.log(end)))
        else:
            value = self.rng.uniform(start, end)
        if isinstance(start, int):
            return spelled(
                min(end, max(start, round(value))) if "log" in interval.tags else self.rng.randint(start, end)
            )
        return spelled(value)


def spelled(value: Any) -> str:
    """A value as it would stand on the command line: four digits of a number are enough to search by."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
