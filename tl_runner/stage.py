"""One stage of a run: a method, trained on some roles for some epochs."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from rich.console import Console

from .callbacks import ORACLE, Display, History, WholeFiles, checkpoints
from .data.augment import Augment
from .data.domains import Prepared
from .data.features import cached_features
from .data.loader import EvalLoader, Rows, StageLoader, key, on_device
from .data.store import replace_text
from .errors import DataError, UserError, nearest
from .methods.base import Method
from .metrics import MetricFactory
from .module import Row, TransferModule
from .nn.backbones import Features
from .nn.model import Model
from .optim import Optim
from .tuning import Tuning, parameter_table
from .types import Count, DataInfo
from .validators import Validator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainerSettings:
    """How long and on what a stage trains.

    Attributes:
        epochs: evaluations and checkpoints happen once an epoch.
        steps_per_epoch: batches per epoch; None: once through the largest role.
        batch_size: rows per role and step, one number or one per role.
        eval_batch_size: rows per batch at evaluation.
        eval_rows: evaluate on so many rows at most; None: all. Only for trying things out.
        accelerator: `auto`, `cpu` or `cuda`.
        precision: `auto` is bf16 where the GPU has it, else float32. On most CPUs bf16 is slower.
        early_stop: a validator; training stops after `patience` epochs without a better score.
        patience: see `early_stop`.
        log_every: steps between rows of losses in TensorBoard.
        deterministic: refuse operations that are not reproducible on a GPU.
    """

    epochs: Count = 10
    steps_per_epoch: Count | None = None
    batch_size: Count | dict[str, Count] = 32
    eval_batch_size: Count = 256
    eval_rows: Count | None = None
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    early_stop: str | None = None
    patience: Count = 5
    log_every: Count = 50
    deterministic: bool = False

    def device(self) -> torch.device:
        cuda = torch.cuda.is_available() if self.accelerator == "auto" else self.accelerator == "cuda"
        if cuda and not torch.cuda.is_available():
            raise UserError("trainer.accelerator=cuda: no CUDA device is available; use auto or cpu")
        return torch.device("cuda" if cuda else "cpu")

    def lightning_precision(self, device: torch.device) -> str:
        if self.precision == "auto":
            return "bf16-mixed" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "32-true"
        return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[self.precision]

    def sizes(self, roles: tuple[str, ...]) -> dict[str, int]:
        """Batch size of each role."""
        if isinstance(self.batch_size, int):
            return dict.fromkeys(roles, self.batch_size)
        if missing := [role for role in roles if role not in self.batch_size]:
            raise UserError(f"trainer.batch_size: no size for role '{missing[0]}', got {dict(self.batch_size)}")
        return {role: self.batch_size[role] for role in roles}


@dataclass
class Stage:
    """What one stage needs.

    Attributes:
        name: of the stage; part of file names and of every random seed.
        method: called with (model, info).
    """

    name: str
    method: Callable[[Model, DataInfo], Method]
    tuning: Tuning
    optim: Optim
    augment: Augment
    trainer: TrainerSettings
    validators: Mapping[str, Validator]
    metrics: Mapping[str, MetricFactory]
    seed: int
    workers: int
    cache: Path


@dataclass
class Fitted:
    """What a stage leaves: a row per epoch, the pick of each criterion, and its cost."""

    history: list[Row]
    picks: dict[str, dict[str, Any]]
    timing: dict[str, float]
    parameters: dict[str, list[int]] = field(default_factory=dict)


def fit(stage: Stage, model: Model, data: Prepared, folder: Path, console: Console, resume: bool) -> Fitted:
    """Train one stage; afterwards `model` holds its last weights.

    Args:
        folder: for checkpoints and event files.
        resume: go on from the stage's last checkpoint, if there is one.

    Raises:
        UserError: if the data lacks a role, or a setting does not fit.
    """
    device = stage.trainer.device()
    pl.seed_everything(key(stage.seed, stage.name, "method") % 2**32, verbose=False)
    stage.tuning.apply(model)
    _check_roles(stage, data)
    with _cached_backbone(stage, model, data, device) as (prepared, augment):
        method = stage.method(model, prepared.info)
        module, loader, evaluation = _assemble(stage, method, prepared, augment, device)
        history, trainer = _trainer(stage, prepared, folder, console, device)
        last = folder / "checkpoints" / stage.name / "last.ckpt"
        table = parameter_table(model)
        for part, train, total in table:
            log.info("%s: %s of %s parameters train", part, f"{train:,}", f"{total:,}")
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        loader.epoch = lambda: trainer.current_epoch
        with warnings.catch_warnings():
            # Lightning looks for worker processes that this project does without.
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            trainer.fit(
                module, loader, evaluation, ckpt_path=str(last) if resume and last.exists() else None  # type: ignore[arg-type]
            )
        if trainer.interrupted:
            raise KeyboardInterrupt
        model.cpu()
    fitted = Fitted(
        history.rows,
        picks(history.rows, _criteria(stage, data)),
        _timing(history, device),
        {part: [train, total] for part, train, total in table},
    )
    return fitted


def finished(folder: Path, name: str) -> Path:
    """The file whose presence says that a stage is done."""
    return folder / "checkpoints" / name / "done.json"


def store(fitted: Fitted, folder: Path, name: str) -> None:
    """Mark a stage as done."""
    replace_text(finished(folder, name), json.dumps(fitted.__dict__))


def restore(folder: Path, name: str, model: Model) -> Fitted | None:
    """A stage that an earlier, killed run has finished: its results, and its weights into `model`."""
    if not finished(folder, name).exists():
        return None
    path = folder / "checkpoints" / name / "last.ckpt"
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "method.model."
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    # A frozen backbone whose features were cached is not in the checkpoint: it is as it was loaded.
    unknown = [k for k in model.load_state_dict(weights, strict=False).missing_keys if not k.startswith("backbone.")]
    if unknown:
        raise DataError(f"{path} lacks weights: {unknown[:8]}")
    return Fitted(**json.loads(finished(folder, name).read_text()))


def picks(history: list[Row], criteria: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """For `last` and each criterion: the epoch it picks, and the target's metrics there."""

    def at(row: Row) -> dict[str, Any]:
        return {
            "epoch": int(row["epoch"]),
            "target": {k.removeprefix("test/"): v for k, v in row.items() if k.startswith("test/")},
            "validators": {k.removeprefix("val/"): v for k, v in row.items() if k.startswith("val/")},
        }

    found = {"last": at(history[-1])}
    for name, score in criteria.items():
        rows = [row for row in history if math.isfinite(row.get(score, math.nan))]
        if rows:
            found[name] = at(max(rows, key=lambda row: row[score]))
    return found


def _criteria(stage: Stage, data: Prepared) -> dict[str, str]:
    names = [name for name in ("source_val", "labeled_val") if name in data.evaluation]
    if "target" in data.evaluation:
        names += stage.validators
    oracle = {"oracle": ORACLE} if data.truth is not None and "accuracy" in stage.metrics else {}
    return {name: f"val/{name}" for name in names} | oracle


def _check_roles(stage: Stage, data: Prepared) -> None:
    wanted: Any = getattr(stage.method, "func", stage.method)
    fixes = {
        "source": "set data.source",
        "target": "set data.target (with data.labeled_per_class=all none is left unlabelled)",
        "labeled": "set data.labeled_per_class to a number or all",
    }
    for role in wanted.roles:
        if role not in data.roles:
            raise UserError(
                f"stage {stage.name}: method {wanted.__name__} reads role '{role}', which this data lacks: {fixes[role]}"
            )
    for role, size in stage.trainer.sizes(wanted.roles).items():
        if len(data.roles[role]) < size:
            log.warning(
                "role '%s' has %d rows, fewer than its batch of %d: rows repeat within a batch",
                *(role, len(data.roles[role]), size),
            )


class _cached_backbone:  # noqa: N801 (used like a function)
    """While it lasts, a frozen backbone is replaced by its cached features, data and all."""

    def __init__(self, stage: Stage, model: Model, data: Prepared, device: torch.device) -> None:
        self.stage, self.model, self.data, self.device = stage, model, data, device
        self.backbone = model.backbone

    def __enter__(self) -> tuple[Prepared, Augment]:
        stage, data = self.stage, self.data
        frozen = not any(p.requires_grad for p in self.backbone.parameters())
        images = len(next(iter(data.roles.values())).stores[0].shape) == 3
        if not (frozen and images and stage.tuning.cache_features):
            return data, stage.augment
        if not stage.augment.fixed:
            log.info(
                "the backbone is frozen: training on its cached features of the central view, without "
                "augmentation (tuning.cache_features=false augments)"
            )
        rows = cached_features(
            {**{f"role {k}": v for k, v in data.roles.items()}, **{f"eval {k}": v for k, v in data.evaluation.items()}},
            data.contents,
            self.backbone,
            stage.augment,
            stage.cache / "features",
            self.device,
        )
        features = Features(int(self.backbone.num_features))  # type: ignore[arg-type]
        self.model.backbone = features
        return (
            replace(
                data,
                roles={k: rows[f"role {k}"] for k in data.roles},
                evaluation={k: rows[f"eval {k}"] for k in data.evaluation},
                info=replace(data.info, shape=(features.num_features,)),
            ),
            stage.augment,
        )

    def __exit__(self, *error: object) -> None:
        self.model.backbone = self.backbone


def _assemble(
    stage: Stage, method: Method, data: Prepared, augment: Augment, device: torch.device
) -> tuple[TransferModule, StageLoader, list[EvalLoader]]:
    settings = stage.trainer
    sizes = settings.sizes(method.roles)
    resident = on_device({**data.roles, **{f"eval {k}": v for k, v in data.evaluation.items()}}, device)
    roles: dict[str, Rows] = {role: resident[role] for role in method.roles}
    steps = settings.steps_per_epoch or max(-(-len(rows) // sizes[role]) for role, rows in roles.items())
    images = len(next(iter(roles.values())).stores[0].shape) == 3
    loader = StageLoader(
        roles=roles,
        batch_size=sizes,
        steps=steps,
        augment=augment,
        seed=stage.seed,
        stage=stage.name,
        epoch=lambda: 0,
        # Gathering vectors costs less than handing them to a thread.
        workers=stage.workers if images else 0,
        device=device,
    )
    batch = settings.eval_batch_size
    evaluation = {
        name: EvalLoader(resident[f"eval {name}"], batch, augment, device, settings.eval_rows)
        for name in data.evaluation
    }
    module = TransferModule(
        method,
        stage.optim,
        settings.epochs,
        steps,
        stage.seed,
        stage.name,
        {role: EvalLoader(rows, batch, augment, device) for role, rows in roles.items()},
        stage.validators,
        stage.metrics,
        data.truth,
        tuple(evaluation),
        settings.log_every,
    )
    return module, loader, list(evaluation.values())


def _trainer(
    stage: Stage, data: Prepared, folder: Path, console: Console, device: torch.device
) -> tuple[History, pl.Trainer]:
    settings, criteria = stage.trainer, _criteria(stage, data)
    history = History()
    early = []
    if settings.early_stop is not None:
        usable = {name: score for name, score in criteria.items() if name != "oracle"}
        if settings.early_stop not in usable:
            raise UserError(
                f"trainer.early_stop: no validator '{settings.early_stop}'{nearest(settings.early_stop, usable)}"
            )
        early.append(EarlyStopping(usable[settings.early_stop], patience=settings.patience, mode="max"))
    trainer = pl.Trainer(
        max_epochs=settings.epochs,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=settings.lightning_precision(device),  # type: ignore[arg-type]
        logger=pl.loggers.TensorBoardLogger(str(folder), name="tensorboard", version=stage.name),
        callbacks=[history, Display(stage.name, console), *early, *checkpoints(folder / "checkpoints" / stage.name, criteria)],
        plugins=[WholeFiles()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every,
        use_distributed_sampler=False,
        deterministic=settings.deterministic,
        default_root_dir=str(folder),
    )
    return history, trainer


def _timing(history: History, device: torch.device) -> dict[str, float]:
    import resource

    memory = (
        torch.cuda.max_memory_allocated() if device.type == "cuda" else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    return {
        "seconds": round(history.seconds, 3),
        "train_seconds": round(history.train_seconds, 3),
        "samples_per_second": round(history.samples / max(history.train_seconds, 1e-9), 1),
        "peak_memory_mb": round(memory / 2**20, 1),
    }
