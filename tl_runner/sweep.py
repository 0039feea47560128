"""What a sweep is told of its jobs. Hydra tells its callbacks alone where they go."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

from hydra.experimental.callback import Callback

from .errors import DataError, UserError
from .files import make_folder
from .status import State

BAD = ("failed", "unfinished", "waiting")


@dataclass(frozen=True)
class Outcome:
    """What has become of a job.

    Attributes:
        state: `skipped`: an earlier sweep had done it.
        why: it is not done.
        value: of the objective; None if there is none.
    """

    folder: Path
    state: State | Literal["skipped"]
    why: str = ""
    value: float | None = None

    @property
    def bad(self) -> bool:
        """Whether it should have been done and is not; what another sweep runs is not."""
        return self.state in BAD


def optional(package: str, what: str, extra: str) -> Any:
    """A package that only some sweeps need.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(f"{what} needs {package}: pip install 'tl-runner[{extra}]'") from error


class SweepFolder(Callback):
    """Remembers the folder of this process's sweep, None without one; what has become of its jobs, and what else
    is to be said at its end. Says so if the folder, of a run alike, cannot be made."""

    folder: ClassVar[Path | None] = None
    outcomes: ClassVar[list[Outcome]] = []
    note: ClassVar[str] = ""

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        _make(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        _make(Path(config.hydra.sweep.dir))
        SweepFolder.folder = Path(config.hydra.sweep.dir).absolute()
        SweepFolder.outcomes, SweepFolder.note = [], ""


def _make(folder: Path) -> None:
    """As Hydra will, which has no sentence for what goes wrong, and of a callback's errors lets only an exit pass."""
    try:
        make_folder(folder)
    except DataError as error:
        print(f"tlrun: {error}", file=sys.stderr)
        sys.exit(1)
