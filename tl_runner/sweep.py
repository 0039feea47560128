"""What a sweep is told of its jobs. Hydra tells its callbacks alone where they go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from hydra.experimental.callback import Callback

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


class SweepFolder(Callback):
    """Remembers the folder of this process's sweep, None without one; and what has become of its jobs."""

    folder: ClassVar[Path | None] = None
    outcomes: ClassVar[list[Outcome]] = []

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        SweepFolder.folder = Path(config.hydra.sweep.dir).absolute()
        SweepFolder.outcomes = []
