"""One stage of a run: a method, trained on some roles for some epochs."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.utilities.exceptions import SIGTERMException
from rich.console import Console

from . import ranks, roles
from .callbacks import Display, History, Picks, Unfreeze, Watch, Watcher, last
from .checkpoints import LAST, WholeFiles, newest_whole, previous
from .data.augment import Augment
from .data.domains import Prepared
from .data.loader import EvalLoader, Groups, StageLoader, key, on_device
from .data.rows import Rows
from .environment import peak_memory
from .errors import UserError, nearest
from .fitted import Fitted, picks
from .frozen import cached_backbone
from .methods.base import Builder, Method
from .methods.builders import classes
from .metrics import MetricFactory
from .module import TransferModule
from .nn.model import Model
from .optim import Optim
from .scoring import Score
from .selection import criteria, probes, usable
from .sharding import sharded
from .trainer import TrainerSettings
from .tuning import Tuning, parameter_table, shown
from .types import VECTORS
from .validators import RankEnsemble, Validator

log = logging.getLogger(__name__)

FEW = 100
"""Updates in a stage that are hardly enough to train anything, batch-norm's moving averages above all."""


@dataclass
class Stage:
    """What one stage needs.

    Attributes:
        name: of the stage; part of file names and of every random seed.
        method: called with (model, info).
    """

    name: str
    method: Builder
    tuning: Tuning
    optim: Optim
    augment: Augment
    trainer: TrainerSettings
    validators: Mapping[str, Validator | RankEnsemble]
    metrics: Mapping[str, MetricFactory]
    seed: int
    workers: int
    cache: Path

    def cached(self, model: Model, data: Prepared, device: torch.device) -> AbstractContextManager[Prepared]:
        """`frozen.cached_backbone`."""
        folder = self.cache / "features" if self.tuning.cache_features else None
        return cached_backbone(model, data, self.method, self.augment, folder, device)


def check_stop(stage: Stage, known: Collection[str]) -> None:
    """Whether what is to stop a stage is known.

    Raises:
        UserError: if it is not.
    """
    if (stop := stage.trainer.early_stop) is not None and stop not in known:
        raise UserError(
            f"stage {stage.name}: trainer.early_stop: no validator '{stop}'{nearest(stop, known)}"
        )


def part(stage: Stage, data: Prepared) -> Prepared:
    """What a stage sees of the data: where a method must do without the source, all but that.

    Raises:
        UserError: if the data lacks a role that the stage reads.
    """
    kinds = classes(stage.method)
    if any(kind.source_free for kind in kinds):
        data = data.only(*({*data.roles, *data.evaluation} - {"source", "source_val"}))
    for kind in kinds:
        read = dict.fromkeys((*kind.roles, *kind.collects))
        if kind.source_optional:  # What is built says whether it does without.
            read.pop("source", None)
        roles.check(stage.name, kind, read, data)
    return data


def fit(
    stage: Stage,
    model: Model,
    data: Prepared,
    folder: Path,
    console: Console,
    resume: bool,
    watch: Watcher = lambda epoch, epochs, row: None,
) -> Fitted:
    """Train one stage; afterwards `model` holds its last weights.

    Args:
        folder: for checkpoints and event files.
        resume: go on from the stage's last checkpoint, if there is one.
        watch: is shown each epoch; what it raises ends the fit.

    Raises:
        UserError: if the data lacks a role, or a setting does not fit.
    """
    data = part(stage, data)
    device = stage.trainer.device()
    pl.seed_everything(key(stage.seed, stage.name, "method") % 2**32, verbose=False)
    stage.tuning.apply(model)
    backbone = model.backbone
    with stage.cached(model, data, device) as prepared, ExitStack() as parts:
        stage = replace(stage, validators=usable(stage.validators, prepared))
        method = stage.method(model, prepared.info)
        # Only now: methods freeze parts too.
        table = [(name, n * method.trains, total) for name, n, total in parameter_table(model, backbone)]
        log.info("%s", shown(table))
        roles.check(stage.name, type(method), (*method.roles, *method.collects), data)
        roles.warn_of_small(stage.trainer.sizes(method.roles), data)
        if stage.trainer.shard and ranks.count() > 1 and any(True for _ in model.backbone.parameters()):
            parts.enter_context(sharded(model, device))
        module, loader, evaluation = _assemble(stage, method, prepared, device)
        history, chosen, trainer = _trainer(stage, prepared, folder, console, device, watch)
        checkpoint = folder / "checkpoints" / stage.name / LAST
        before = newest_whole(checkpoint) if resume else None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        loader.epoch = lambda: trainer.current_epoch
        with warnings.catch_warnings(), stage.trainer.explaining_memory(stage.name, method.roles):
            # Lightning looks for worker processes that this project does without.
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            try:
                trainer.fit(
                    module,
                    Groups(loader, 1 if loader.workers else 10),
                    evaluation,
                    ckpt_path=None if before is None else str(before),
                )
            except SIGTERMException as stop:
                # Python drops what a signal's handler raises in a destructor. Lightning then ends with the next
                # step, with an exception whose exit code is that of success.
                raise SystemExit(128 + signal.SIGTERM) from stop
            except SystemExit as stop:
                if isinstance(stop.__context__, KeyboardInterrupt):
                    # Lightning makes of it a failure that it does not explain, and is deaf to the next.
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    raise KeyboardInterrupt from stop
                raise
        if trainer.interrupted:
            raise KeyboardInterrupt
        if ranks.own() == 0:
            previous(checkpoint).unlink(missing_ok=True)
        model.cpu()
    stage.tuning.finish(model)
    fitted = Fitted(
        history.rows,
        picks(history.rows, chosen.picked, data.info.classes),
        _timing(history, device),
        {name: [train, total] for name, train, total in table},
    )
    return fitted


@torch.no_grad()
def source_accuracy(stage: Stage, model: Model, data: Prepared) -> float | None:
    """Of the model as it stands, on held-out source rows; None if there are none.

    For what the stage's own evaluation does not say: before the first stage, and after one without source.
    """
    if "source_val" not in data.evaluation:
        return None
    device = stage.trainer.device()
    with stage.cached(model, data.only("source_val"), device) as prepared:
        model.to(device).eval()
        held, settings = prepared.evaluation["source_val"], stage.trainer
        rows = EvalLoader(held, settings.eval_batch_size, stage.augment, device, settings.eval_rows)
        right = [model(batch.x).logits.argmax(1) == batch.y for batch in rows]
        model.cpu()
    return float(torch.cat(right).float().mean())


def _assemble(
    stage: Stage, method: Method, data: Prepared, device: torch.device
) -> tuple[TransferModule, StageLoader, list[EvalLoader]]:
    settings = stage.trainer
    sizes = settings.sizes(method.roles)
    resident = on_device({**data.roles, **{f"eval {k}": v for k, v in data.evaluation.items()}}, device)
    drawn: dict[str, Rows] = {role: resident[role] for role in method.roles}
    whole = {role: resident[role] for role in (*method.roles, *method.collects)}
    steps = settings.steps_per_epoch or max(-(-rows.units // sizes[role]) for role, rows in drawn.items())
    if settings.steps_per_epoch is None and method.trains and (updates := steps * settings.epochs) < FEW:
        log.warning(
            "stage %s: %d epochs of %d steps are %d updates in all; trainer.steps_per_epoch=100 makes more of few rows",
            *(stage.name, settings.epochs, steps, updates),
        )
    kind = len(next(iter(drawn.values())).stores[0].shape)
    loader = StageLoader(
        roles=drawn,
        batch_size=sizes,
        steps=steps,
        augment=roles.views(stage.name, method, stage.augment, kind),
        seed=stage.seed,
        stage=stage.name,
        epoch=lambda: 0,
        # Gathering vectors costs less than handing them to a thread.
        workers=stage.workers if kind > VECTORS else 0,
        device=device,
        mixing=method.mixing,
        balanced=settings.balanced,
    )
    batch = settings.eval_batch_size
    evaluation = {
        name: EvalLoader(resident[f"eval {name}"], batch, stage.augment, device, settings.eval_rows)
        for name in data.evaluation
    }
    evaluation |= probes(
        stage.validators, resident, evaluation.get("target"), batch, stage.augment, device, stage.seed
    )
    module = TransferModule(
        method,
        stage.optim.scaled(stage.tuning.lr_factors(method.model)),
        settings.epochs,
        steps,
        stage.seed,
        stage.name,
        {role: EvalLoader(rows, batch, stage.augment, device) for role, rows in whole.items()},
        Score(
            {name: v for name, v in stage.validators.items() if not isinstance(v, RankEnsemble)},
            stage.metrics,
            data.info.classes,
            data.truth,
            data.evaluation["target"].group if "target" in data.evaluation else None,
        ),
        tuple(evaluation),
        settings.log_every,
    )
    return module, loader, list(evaluation.values())


def _trainer(
    stage: Stage, data: Prepared, folder: Path, console: Console, device: torch.device, watch: Watcher
) -> tuple[History, Picks, pl.Trainer]:
    settings, judges = stage.trainer, criteria(stage.validators, data, stage.metrics)
    check_stop(stage, judges.keys() - {"oracle"})
    first, checkpoints = ranks.own() == 0, folder / "checkpoints" / stage.name
    history = History()
    chosen = Picks(checkpoints, judges, history, settings.early_stop, settings.patience)
    trainer = pl.Trainer(
        max_epochs=settings.epochs,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1 if device.index is None else [device.index],  # of this process; `ranks` knows the others
        precision=settings.lightning_precision(device),  # type: ignore[arg-type]
        logger=first and pl.loggers.TensorBoardLogger(str(folder), name="tensorboard", version=stage.name),
        callbacks=[
            history,
            Watch(history, watch),
            Unfreeze(stage.tuning),
            *([Display(stage.name, console)] if first else []),
            chosen,
            last(checkpoints),
        ],
        plugins=[WholeFiles(), LightningEnvironment()],  # to Lightning, one process
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every,
        use_distributed_sampler=False,
        deterministic=settings.deterministic,
        default_root_dir=str(folder),
        inference_mode=not settings.shard,  # in which torch divides nothing
    )
    return history, chosen, trainer


def _timing(history: History, device: torch.device) -> dict[str, float]:
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_memory()
    return {
        "seconds": round(history.seconds, 3),
        "train_seconds": round(history.train_seconds, 3),
        "samples_per_second": round(history.samples_per_second(), 1),
        "peak_memory_mb": round(memory / 2**20, 1),
    }
