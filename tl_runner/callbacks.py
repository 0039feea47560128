"""What watches a fit: its history, its picks, its progress on the terminal."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint, ModelCheckpoint
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import ranks
from .checkpoints import link
from .module import TransferModule
from .scoring import Row
from .selection import Criterion, better
from .tuning import Tuning

log = logging.getLogger(__name__)

Watcher = Callable[[int, int, Row], None]
"""Called after each epoch with its number (from 1), how many there are, and its row of the history."""


class _Quiet(Callback):
    """Hooks that nobody needs are None: Lightning prepares every other one at every step."""

    on_train_batch_start = on_before_backward = on_after_backward = None  # type: ignore[assignment]
    on_before_zero_grad = on_before_optimizer_step = None  # type: ignore[assignment]


class _Last(_Quiet, ModelCheckpoint):
    """The whole state after each epoch, which a killed run resumes from."""

    on_train_batch_end = None  # type: ignore[assignment]


class Unfreeze(_Quiet):
    """Lets the tuning say before each epoch what trains in it."""

    on_train_batch_end = None  # type: ignore[assignment]

    def __init__(self, tuning: Tuning) -> None:
        self.tuning = tuning

    # Lightning asks callbacks before the module, which then puts what is frozen into eval mode.
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TransferModule)
        self.tuning.begin_epoch(pl_module.method.model, trainer.current_epoch, pl_module.epochs)


class Picks(_Quiet, Checkpoint):
    """The best weights by each criterion, looked at once an epoch: one file, under the name of each.

    Args:
        folder: for the files. history: its rows are what criteria judge.
        stop: a criterion; training stops after `patience` epochs without a new pick of it.

    Attributes:
        picked: row of `history` by criterion; part of every checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        criteria: Mapping[str, Criterion],
        history: History,
        stop: str | None = None,
        patience: int = 0,
    ) -> None:
        self.folder, self.criteria, self.history = folder, criteria, history
        self.stop, self.patience = stop, patience
        self.picked: dict[str, int] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"picked": self.picked}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.picked = dict(state_dict["picked"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop(trainer)  # A resumed run that had stopped stays stopped.

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rows = self.history.rows
        names = [n for n, c in self.criteria.items() if better(c, rows, self.picked.get(n))]
        now = self.picked | dict.fromkeys(names, len(rows) - 1)
        self.picked = {n: now[n] for n in self.criteria if n in now}
        if names:
            first, *others = (self.folder / f"{name}.ckpt" for name in names)
            trainer.save_checkpoint(first, weights_only=True)
            for other in others if ranks.own() == 0 else ():
                link(first, other)
        self._stop(trainer)

    def _stop(self, trainer: pl.Trainer) -> None:
        if self.stop is not None:
            waited = len(self.history.rows) - 1 - self.picked.get(self.stop, -1)
            trainer.should_stop = waited >= self.patience


def last(folder: Path) -> Callback:
    """Writes `last.ckpt` after each epoch. Last in the list of callbacks: it stores the states of the others."""
    return _Last(
        folder,
        "last",
        monitor=None,
        save_top_k=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )


class History(_Quiet):
    """One row of losses and scores per epoch, and the time it took; part of every checkpoint."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.train_seconds = self.seconds = 0.0
        self.samples = 0
        self.started = 0.0
        self.training = False

    def samples_per_second(self) -> float:
        """Over all training so far, evaluations not counted."""
        running = time.perf_counter() - self.started if self.training else 0.0
        return self.samples / max(self.train_seconds + running, 1e-9)

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "train_seconds": self.train_seconds,
            "seconds": self.seconds,
            "samples": self.samples,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.__dict__.update(state_dict)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started, self.training = time.perf_counter(), True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.samples += sum(len(b) for step in batch for b in step.values())

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.train_seconds += time.perf_counter() - self.started
        self.training = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TransferModule)
        scores = {
            k: float(v)
            for k, v in trainer.callback_metrics.items()
            if k.startswith(("val/", "target/", "test/"))
        }
        losses = {f"loss/{k}": v for k, v in pl_module.mean_losses().items()}
        self.rows.append({"epoch": trainer.current_epoch + 1, **losses, **scores})
        self.seconds += time.perf_counter() - self.started


class Watch(_Quiet):
    """Shows somebody each epoch."""

    on_train_batch_end = None  # type: ignore[assignment]

    def __init__(self, history: History, watch: Watcher) -> None:
        self.history, self.watch = history, watch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TransferModule)
        self.watch(len(self.history.rows), pl_module.epochs, self.history.rows[-1])


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows as CSV; columns in order of first appearance."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(k for row in rows for k in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _validators(trainer: pl.Trainer) -> list[tuple[str, float]]:
    """The latest score of each validator."""
    return [(k[4:], float(v)) for k, v in trainer.callback_metrics.items() if k.startswith("val/")]


class Display(_Quiet):
    """A progress bar on a terminal, a line per epoch elsewhere."""

    def __init__(self, stage: str, console: Console) -> None:
        self.stage, self.console = stage, console
        self.bar: Progress | None = None
        self.task: Any = None
        self.shown = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TransferModule)
        if self.console.is_terminal:
            columns = (
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.start()
            total = pl_module.epochs * pl_module.steps
            done = trainer.current_epoch * pl_module.steps
            self.task = self.bar.add_task(self.stage, total=total, completed=done, state="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        # Ten times a second is enough to look at, and reading the losses makes a GPU wait.
        if self.bar is None or now - self.shown < 0.1:
            return
        self.shown = now
        losses = "  ".join(f"{k} {v:.3f}" for k, v in pl_module.mean_losses().items())
        self.bar.update(
            self.task,
            completed=trainer.current_epoch * pl_module.steps + pl_module.stepped,
            state=f"epoch {trainer.current_epoch + 1}/{pl_module.epochs}  {self._speed(trainer)}  {losses}"
            + "".join(f"  {k} {v:.3f}" for k, v in _validators(trainer)[:2]),
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TransferModule)
        losses = "  ".join(f"{k} {v:.3f}" for k, v in pl_module.mean_losses().items())
        scores = "  ".join(f"{k} {v:.3f}" for k, v in _validators(trainer))
        log.info(
            "%s  epoch %d/%d  %s  losses: %s  validators: %s",
            *(self.stage, trainer.current_epoch + 1, pl_module.epochs, self._speed(trainer), losses, scores),
        )

    def _speed(self, trainer: pl.Trainer) -> str:
        history = next(c for c in trainer.callbacks if isinstance(c, History))  # type: ignore[attr-defined]
        return f"{history.samples_per_second():.0f} samples/s"

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.stop()
