"""Where a sweep's jobs go. Hydra tells its callbacks alone, and when a job fails, not even them that it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback


class SweepFolder(Callback):
    """Remembers the folder of this process's sweep; None without one."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        SweepFolder.folder = Path(config.hydra.sweep.dir).absolute()
