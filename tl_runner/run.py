"""The story of one run, from a composed config to `results.json`."""

from __future__ import annotations

import ctypes
import json
import logging
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import rich
import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from . import trained
from .callbacks import as_csv
from .data.augment import Augment
from .data.domains import Prepared
from .data.loader import key
from .errors import DataError, UserError
from .evaluation import Finished
from .files import replace_text
from .fitted import Fitted, restore, store
from .methods.combined import Builder, Combined, Extra, classes
from .nn.model import Model
from .parts import named, of_extra
from .presentation import clear, finish
from .report.summary import show, where
from .reporting import Reporting
from .schema import check
from .selection import sees_target_labels, value_of
from .stage import Stage, fit, source_accuracy
from .types import DataInfo

log = logging.getLogger(__name__)
# What Lightning says of hardware and progress, the run says itself.
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

Config = dict[str, Any]


def run(config: Config, folder: Path, resume: bool = False) -> dict[str, Any]:
    """Run the experiment that a composed, resolved config describes.

    Args:
        config: plain mappings and lists, names of methods expanded (`parts.expand`); saved as `config.yaml`,
            which alone repeats the run.
        folder: where everything goes.
        resume: skip finished stages and go on from the last checkpoint.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: for anything the user can mend.
    """
    started = time.perf_counter()
    check(config)
    sees = sees_target_labels(config["objective"], config["metrics"])
    _keep_memory()
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder, config["recipe"]["stages"])
    if config["init_from"] is not None:  # Wherever the run may be resumed from.
        config = {**config, "init_from": str(Path(config["init_from"]).expanduser().absolute())}
    replace_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    stages = {name: _stage(name, config) for name in config["recipe"]["stages"]}
    _check_start(stages, config["init_from"])
    reporting: Reporting = build(config["report"])

    data = _prepare(config, stages)
    _describe(config, data)
    data = replace(data, info=replace(data.info, shape=sample_shape(data, build(config["augment"]))))
    _remember(data, folder, resume)
    model = build_model(config, data)

    fitted: dict[str, Fitted] = {}
    before = source_accuracy(next(iter(stages.values())), model, data) if "head" in model.trained else None
    for name, stage in stages.items():
        done = restore(folder, name, model) if resume else None
        if done is None:
            log.info("stage %s: %s", name, _method_name(config, name))
            done = fit(stage, model, data, folder, rich.get_console(), resume)
            done.source_accuracy = done.history[-1].get("val/source_val")
            if done.source_accuracy is None:  # The stage had no source to look at.
                done.source_accuracy = source_accuracy(stage, model, data)
            store(done, folder, name)
        fitted[name] = done
        model.past[name] = folder / "checkpoints" / name / "last.ckpt"
        model.trained = {"backbone", "neck", "head"}
        rows = [{"stage": stage_name, **row} for stage_name, f in fitted.items() for row in f.history]
        replace_text(folder / "metrics.csv", as_csv(rows))

    results = {
        "folder": str(folder),
        "data": _transfer(config),
        "stages": {name: {"method": _method_name(config, name), **_story(f)} for name, f in fitted.items()},
        "source_accuracy": {
            name: accuracy
            for name, accuracy in [
                ("init_from", before),
                *((n, f.source_accuracy) for n, f in fitted.items()),
            ]
            if accuracy is not None
        },
        "objective": {
            "name": config["objective"],
            "value": value_of(config["objective"], fitted[name].picks, sees),
            "sees_target_labels": sees,
        },
        "seconds": round(time.perf_counter() - started, 3),
        "environment": environment(data.fingerprint),
        "config": config,
    }
    replace_text(folder / "results.json", json.dumps(results, indent=2))
    show(results, rich.get_console())
    finish(
        Finished(folder, stages, data, partial(build_model, config, data)), reporting, config["predictions"]
    )
    where(results, rich.get_console())
    return results


def reopen(folder: Path, config: Config) -> Finished:
    """A run that is over, to look at what its checkpoints say of the data that the config describes.

    Args:
        config: the run's own, but for its data, which may be other samples of the same classes.

    Raises:
        UserError: if the data has other classes or another shape than the model.
    """
    check(config)
    stages = {name: _stage(name, config) for name in config["recipe"]["stages"]}
    data = build(config["data"]).prepare()
    data = replace(data, info=replace(data.info, shape=sample_shape(data, build(config["augment"]))))
    told = json.loads((folder / "data.json").read_text())
    for what, now in (("classes", list(data.info.classes)), ("shape", list(data.info.shape))):
        if told[what] != now:
            raise DataError(f"the run's model knows {what} {told[what]}, and this data has {now}")
    # A method may remember every sample that it was trained on.
    sizes = {role: told["rows"].get(role, size) for role, size in data.info.sizes.items()}
    data = replace(data, info=replace(data.info, sizes=sizes))
    return Finished(folder, stages, data, partial(build_model, config, data))


def _keep_memory() -> None:
    """Let the C library keep freed buffers.

    glibc returns every large one to the system and fetches zeroed pages for the next: on a CPU that took
    most of the time of an EfficientNet's forward pass (24 images/s against 96 with batches of 64).
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        mmap_max, trim_threshold, top_pad = -4, -1, -2
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 64 << 20)


def build(node: Any) -> Any:
    """The object that a config node describes.

    Raises:
        UserError: as the object's constructor raised it.
    """
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        raise cause or error from None


def _stage(name: str, config: Config) -> Stage:
    """A stage of the recipe; what it leaves null it takes from the run."""
    given = {k: v for k, v in (config["recipe"]["stages"][name] or {}).items() if v is not None}
    node: dict[str, Any] = {
        k: given.get(k, config[k]) for k in ("method", "tuning", "optim", "augment", "trainer")
    }
    if "epochs" in given:
        node["trainer"] = {**node["trainer"], "epochs": given["epochs"]}
    return Stage(
        name=name,
        method=method_builder(node["method"]),
        tuning=build(node["tuning"]),
        optim=build(node["optim"]),
        augment=build(node["augment"]),
        trainer=build(node["trainer"]),
        validators=build(config["validators"]),
        metrics=build(config["metrics"]),
        seed=config["seed"],
        workers=config["data"]["workers"],
        cache=Path(config["paths"]["cache"]).expanduser(),
    )


def method_builder(node: Config) -> Builder:
    """A method still to be given (model, info). A dataclass passed through instantiate() would become a config."""
    plain = {k: v for k, v in node.items() if k not in ("extra", "method")}
    if "method" in node:
        plain["method"] = method_builder(node["method"])
    built: Builder = instantiate(plain, _partial_=True, _convert_="all")
    if not node.get("extra"):
        return built
    extra = {}
    for name, added in node["extra"].items():
        share, method = of_extra(added)
        extra[name] = Extra(method_builder(method), **share)
    return partial(Combined, method=built, extra=extra)


def _check_start(stages: Mapping[str, Stage], init_from: str | None) -> None:
    first = next(iter(stages.values()))
    for method in classes(first.method):
        if method.source_free and init_from is None:
            raise UserError(
                f"method {method.__name__} adapts a trained model, and stage '{first.name}' has none to start "
                "from: add recipe=source_free, which trains one on the source first, or init_from=RUN_DIR"
            )


def _prepare(config: Config, stages: Mapping[str, Stage]) -> Prepared:
    """The data, but for a source that no stage may see; what to call its classes then says the model."""
    node, known = config["data"], None
    if config["init_from"] is not None:
        if node["source"] and all(any(m.source_free for m in classes(s.method)) for s in stages.values()):
            log.info("no stage reads the source: it is not opened")
            node = {**node, "source": None}
        if "head" in config["init_parts"]:
            known = trained.classes(config["init_from"])
    prepared: Prepared = build(node).prepare(known)
    return prepared


def build_model(config: Config, data: Prepared) -> Model:
    pl.seed_everything(key(config["seed"], "model") % 2**32, verbose=False)
    node = config["model"]
    if config["init_from"] is not None and "backbone" in config["init_parts"]:
        node = trained.unread(node, config["init_from"])
    model: Model = instantiate(node, _partial_=True, _convert_="all")(info=data.info)
    if config["init_from"] is not None:
        model.past["init_from"] = trained.start(
            model, config["init_from"], config["init_parts"], data.info, config["model"]["backbone"]
        )
        model.trained = set(config["init_parts"])
    return model


def _remember(data: Prepared, folder: Path, resume: bool) -> None:
    """Write down what the model is for; a run that goes on must find the same.

    Raises:
        DataError: if it does not.
    """
    file = folder / "data.json"
    told = {
        "classes": list(data.info.classes),
        "shape": list(data.info.shape),
        "rows": {name: len(rows) for name, rows in {**data.roles, **data.evaluation}.items()},
        "fingerprint": data.fingerprint,
    }
    if resume and file.exists() and (before := json.loads(file.read_text())) != told:
        changed = [k for k, v in told.items() if before.get(k) != v]
        raise DataError(f"the data has changed since this run began ({', '.join(changed)}): start a new run")
    replace_text(file, json.dumps(told, indent=2))


def sample_shape(data: Prepared, augment: Augment) -> tuple[int, ...]:
    """Of a sample as the model sees it."""
    stored = data.info.shape
    if len(stored) == 1:
        return stored
    size = augment.size or stored[0]
    if size > stored[0]:
        raise UserError(f"model.size={size} is larger than the stored images, model.resize={stored[0]}")
    return (stored[2], size, size)


def _describe(config: Config, data: Prepared) -> None:
    info: DataInfo = data.info
    roles = ", ".join(f"{role} {len(rows)}" for role, rows in data.roles.items())
    evaluation = ", ".join(f"{name} {len(rows)}" for name, rows in data.evaluation.items())
    log.info(
        "data %s: %d classes; training rows: %s; evaluation rows: %s",
        *(
            _transfer(config),
            info.num_classes,
            roles,
            evaluation,
        ),
    )


def _transfer(config: Config) -> str:
    """`amazon+dslr -> webcam`; the target alone where there is no source, and the other way round."""
    names = [config["data"][end] or [] for end in ("source", "target")]
    return " -> ".join("+".join(n) if isinstance(n, list) else n for n in names if n)


def _method_name(config: Config, stage: str) -> str:
    node = (config["recipe"]["stages"][stage] or {}).get("method") or config["method"]
    return named(node)


def _story(fitted: Fitted) -> dict[str, Any]:
    return {
        "epochs": len(fitted.history),
        "picks": fitted.picks,
        "losses": {
            k.removeprefix("loss/"): v for k, v in fitted.history[-1].items() if k.startswith("loss/")
        },
        "timing": fitted.timing,
        "parameters": fitted.parameters,
    }


def environment(data_fingerprint: str) -> dict[str, Any]:
    """What a reader needs to judge or repeat the numbers."""

    def git(*command: str) -> str | None:
        try:
            done = subprocess.run(["git", *command], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    packages = (
        "tl-runner",
        "torch",
        "torchvision",
        "timm",
        "pytorch-lightning",
        "torchmetrics",
        "hydra-core",
    )
    return {
        "command": sys.argv[1:],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        # Of the folder the run was started in: the user's code, not this package's.
        "git": {"revision": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))},
        "data": data_fingerprint,
    }
