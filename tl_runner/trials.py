"""Searches by Optuna: a study in a sweep's folder, which any number of processes may share and each may die.

Akiba et al., Optuna: A Next-generation Hyperparameter Optimization Framework, KDD 2019.
https://doi.org/10.1145/3292500.3330701
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from .errors import UserError
from .status import Pruned
from .sweep import Outcome

Sampler = Literal["tpe", "cmaes", "nsga2"]
Pruner = Literal["none", "median", "hyperband"]
_NAME = "tlrun"

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Search:
    """The trials of one study, as one process takes part in it.

    Args:
        folder: of the sweep; the study is in its `optuna.journal`.
        space: what is searched, by key.
        about: what must not change while it goes on: the overrides as they were given.
        seed: of the sampler; each process that takes part draws others.
        worker: number of this process, see `taking_part`.

    Raises:
        UserError: if the folder holds another search.
    """

    def __init__(
        self,
        folder: Path,
        space: Mapping[str, BaseDistribution],
        about: Sequence[str],
        sampler: Sampler,
        pruner: Pruner,
        seed: int,
        worker: int,
    ) -> None:
        self.folder, self.space, self.worker = folder, dict(space), worker
        self.study = optuna.create_study(
            study_name=_NAME,
            storage=_storage(folder),
            sampler=_sampler(sampler, seed + 1009 * worker),
            pruner=_pruner(pruner),
            direction="maximize",
            load_if_exists=True,
        )
        before = self.study.user_attrs.setdefault("overrides", list(about))
        if before != list(about):
            raise UserError(
                f"{folder} holds another search ({' '.join(before)}): choose another hydra.sweep.dir"
            )
        self.study.set_user_attr("overrides", list(about))

    def release(self) -> None:
        """Tell the study of trials whose processes have died: they failed, and are to be tried again."""
        for trial in self.study.get_trials(states=[TrialState.RUNNING]):
            if not _alive(self.folder, trial.user_attrs.get("worker")):
                Trial(self.study, trial._trial_id).set_user_attr("killed", True)
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
                # The same parameters are the same folder: it goes on from its last checkpoint.
                self.study.enqueue_trial(trial.params)

    def left(self, trials: int) -> int:
        """How many of so many trials are still to be asked for."""
        begun = [t for t in self.study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]
        return trials - sum(not t.user_attrs.get("killed") for t in begun)

    def ask(self) -> Trial:
        trial = self.study.ask(self.space)
        trial.set_user_attr("worker", self.worker)
        return trial

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        states = {"pruned": TrialState.PRUNED, "done": TrialState.COMPLETE, "skipped": TrialState.COMPLETE}
        state = states.get(outcome.state, TrialState.FAIL)
        value = outcome.value if state == TrialState.COMPLETE else None
        if state == TrialState.COMPLETE and (value is None or not math.isfinite(value)):
            state, value = TrialState.FAIL, None
        self.study.tell(trial, value, state, skip_if_finished=True)

    def best(self) -> FrozenTrial | None:
        done = self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        return max(done, key=lambda trial: trial.value or -math.inf, default=None)


@contextmanager
def taking_part(folder: Path) -> Iterator[int]:
    """Be one of the processes that share a search: its number, from 0. A lock says that it lives."""
    (folder / ".optuna").mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        file = _lock(folder, number)
        try:
            file.open("x").close()
        except FileExistsError:
            continue
        with FileLock(file):
            yield number
        return


def watcher(folder: Path, sweep: Mapping[str, Any]) -> Callable[[int, float], None]:
    """Tells a search how its trial stands after each epoch, and ends it where the pruner says so.

    Args:
        sweep: of the job's config.
    """
    study = optuna.load_study(
        study_name=_NAME,
        storage=_storage(folder),
        sampler=optuna.samplers.RandomSampler(),  # It is not asked.
        pruner=_pruner(sweep["pruner"]),
    )
    trial = Trial(study, study.get_trials(deepcopy=False)[sweep["trial"]]._trial_id)

    def watch(epoch: int, score: float) -> None:
        if not math.isfinite(score):
            return
        trial.report(score, epoch)
        if trial.should_prune():
            raise Pruned(f"after epoch {epoch}, at {score:.4g}")

    return watch


def _storage(folder: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))


def _sampler(name: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    if name == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    return (
        optuna.samplers.NSGAIISampler(seed=seed) if name == "nsga2" else optuna.samplers.TPESampler(seed=seed)
    )


def _pruner(name: Pruner) -> optuna.pruners.BasePruner:
    if name == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner() if name == "median" else optuna.pruners.HyperbandPruner()


def _lock(folder: Path, number: int) -> Path:
    return folder / ".optuna" / f"{number}.lock"


def _alive(folder: Path, number: int | None) -> bool:
    """Whether the process of that number still takes part."""
    if number is None or not _lock(folder, number).exists():
        return False
    try:
        with FileLock(_lock(folder, number), blocking=False):
            return False
    except Timeout:
        return True
