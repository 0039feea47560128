"""`sweep=optuna`: a search that learns from its trials, over whatever launcher there is.

Hydra imports this at every start: Optuna is not.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import OmegaConf

from hydra_plugins.tlrun_random import spelled

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

log = logging.getLogger(__name__)


class OptunaSweeper(BasicSweeper):
    """Trials that maximise the objective.

    Keys are given several values as for `RandomSweeper`; `interval` is searched within, evenly or in the logarithm,
    `1,2,3`, `choice(...)` and `range(...)` are chosen from. The same command on the same folder goes on with the
    search; run at the same time it is another worker of it.

    Args:
        trials: in all, those that earlier processes have run included.
        parallel: trials that are asked for at once, for a launcher that runs several.
        sampler: tree-structured Parzen estimator, CMA-ES (numbers only; others are drawn at random), NSGA-II.
        pruner: stops a trial after an epoch whose score is below the median of the others, or by Hyperband.
        seed: of the sampler.
    """

    def __init__(
        self,
        trials: Annotated[int, Ge(1)],
        parallel: Annotated[int, Ge(1)] = 1,
        sampler: Literal["tpe", "cmaes", "nsga2"] = "tpe",
        pruner: Literal["none", "median", "hyperband"] = "none",
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        super().__init__(max_batch_size=None)
        self.trials, self.parallel, self.seed = trials, parallel, seed
        self.sampler, self.pruner = sampler, pruner

    def sweep(self, arguments: list[str]) -> None:
        from tl_runner.sweep import SweepFolder, optional

        optional("optuna", "sweep=optuna", "optuna")
        if self.sampler == "cmaes":
            optional("cmaes", "sweep.sampler=cmaes", "optuna")
        from tl_runner.errors import UserError
        from tl_runner.report.search import write
        from tl_runner.trials import Search, taking_part

        assert self.config is not None
        assert self.launcher is not None
        given = {o.get_key_element(): o for o in OverridesParser.create().parse_overrides(arguments)}
        space = {key: distribution(o) for key, o in given.items() if o.is_sweep_override()}
        fixed = [f"{key}={o.get_value_element_as_str()}" for key, o in given.items() if key not in space]
        if not space:
            raise UserError(
                "sweep=optuna: give some key several values: optim.lr='tag(log,interval(1e-4,1e-1))'"
            )
        about = [a for a in arguments if not a.startswith(("sweep", "launcher"))]
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")

        def overrides(params: dict[str, Any]) -> list[str]:
            return [*fixed, *(f"{key}={spelled(params[key])}" for key in space)]

        with taking_part(folder) as worker:
            search = Search(folder, space, about, self.sampler, self.pruner, self.seed, worker)
            search.release()
            while (left := search.left(self.trials)) > 0:
                trials = [search.ask() for _ in range(min(left, self.parallel))]
                jobs = [[*overrides(t.params), f"sweep.trial={t.number}"] for t in trials]
                self.validate_batch_is_legal(jobs)
                returns = self.launcher.launch(jobs, initial_job_idx=trials[0].number)
                for trial, returned in zip(trials, returns, strict=True):
                    search.tell(trial, returned.return_value)
            if (best := search.best()) is not None:
                told = [o for o in overrides(best.params) if not o.startswith(("sweep", "launcher"))]
                command = write(search, told, folder / "report")
                SweepFolder.note = (
                    f"Best trial: {best.number}, {best.value:.4g}\n{command}\nSearch: {folder / 'report'}"
                )


def distribution(override: Override) -> BaseDistribution:
    """What a search draws the values of an override from."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if override.is_discrete_sweep():
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    interval: Any = override.value()
    assert isinstance(interval, IntervalSweep)
    start: Any = interval.start
    end: Any = interval.end
    kind = IntDistribution if isinstance(start, int) else FloatDistribution
    return kind(start, end, log="log" in interval.tags)
