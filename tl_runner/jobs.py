"""Jobs of a sweep: runs that any process may take up, and that none does twice.

What has become of a job is read from its folder, not told by the process that ran it: that may have been killed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.utils import env_override

from . import status
from .parts import expand
from .sweep import Outcome
from .terminal import logged

Config = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        config: composed, resolved, and `ready`.
        environment: variables that it runs with.
        modules: where Python looks for the user's own.
    """

    folder: Path
    config: Config
    environment: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        return status.digest(self.config)

    def settled(self) -> Outcome | None:
        """What has become of it if there is nothing left to do; None if it is to be run.

        A job of the same folder, but of another config, is to be run anew.
        """
        found = self.outcome()
        if found.state == "running":
            return found
        if status.told(self.folder).get("config") != self.digest:
            return None
        if found.state == "done":
            return Outcome(self.folder, "skipped", value=found.value)
        left = found.state == "failed" and not self.config["sweep"].get("retry_failed", True)
        return found if left or found.state == "pruned" else None

    def outcome(self) -> Outcome:
        """What has become of it so far."""
        try:
            state, why = status.read(self.folder) or ("waiting", "")
        except (OSError, ValueError) as error:
            return Outcome(self.folder, "unfinished", str(error))
        if state != "done":
            return Outcome(self.folder, state, why)
        try:
            results = json.loads((self.folder / "results.json").read_text())
            return Outcome(self.folder, "done", value=results["objective"]["value"])
        except (OSError, ValueError, KeyError, TypeError):
            return Outcome(self.folder, "unfinished", "results.json is missing or broken")

    def __call__(self) -> None:
        """Run it, from where it was left; nothing if another process is at it, or has done it by now."""
        self.find_modules()
        with env_override(dict(self.environment)), logged(self.folder):
            try:
                with status.locked(self.folder):
                    found = self.settled()
                    if found is None or found.state == "running":  # It was; now this process is.
                        self._run()
            except (status.Busy, status.Pruned):
                pass

    def find_modules(self) -> None:
        """Let Python look for the user's own where they are."""
        sys.path += [place for place in self.modules if place not in sys.path]

    def _run(self) -> None:
        same = status.told(self.folder).get("config") == self.digest
        with status.recorded(self.folder, self.digest):
            from .run import run

            run(
                self.config,
                self.folder,
                resume=same and (self.folder / "config.yaml").is_file(),
                watch=self._watch(),
            )

    def _watch(self) -> Callable[[int, float], None] | None:
        """Who may stop it early: the search that it is a trial of."""
        if self.config["sweep"].get("pruner", "none") == "none":
            return None
        from .trials import watcher

        return watcher(self.folder.parent, self.config["sweep"])

    def checkpoint(self) -> Any:
        """What a cluster is to run in its place when it needs the machine for another: the same job, which
        goes on from its last epoch. submitit asks for it."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Shared(Job):
    """A job that a cluster starts several times, on several machines: these train it together."""

    def __call__(self) -> None:
        from submitit.helpers import TorchDistributedEnvironment

        from .processes import attend

        self.find_modules()
        TorchDistributedEnvironment().export(overwrite=True)
        with env_override(dict(self.environment)), attend() as first:
            if first:
                super().__call__()


def ready(config: Config, multirun: bool) -> Config:
    """A composed, resolved config as a run takes it: names expanded, `auto` decided, paths from the root."""
    config = expand(config)
    report, trial = config["report"], config["trainer"].get("eval_rows") is not None
    if isinstance(report, dict) and report.get("write") == "auto":
        # A page for a single run that evaluates all its rows.
        config["report"] = {**report, "write": "never" if multirun or trial else "always"}
    if isinstance(config["init_from"], str):
        config["init_from"] = str(Path(config["init_from"]).expanduser().absolute())
    return {key: value for key, value in config.items() if key != "launcher"}


def alone(job: Job, threads: int | None = None) -> None:
    """Run a job as all that this process does: what is printed goes into the job's `run.log`.

    Args:
        threads: for arithmetic.
    """
    with (job.folder / "run.log").open("a") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        torch.set_num_threads(threads)
    from .environment import end_with_parent

    end_with_parent()  # The next sweep is to find the jobs of one that was killed at rest.
    job()
