"""The story of one run, from a composed config to `results.json`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import rich
import torch
import yaml

from . import ranks
from .building import Config, build, build_model, build_stage, check_picks, check_start, prepare, sample_shape
from .callbacks import Watcher, as_csv
from .data.domains import Prepared
from .environment import environment, keep_memory
from .errors import DataError, UserError
from .evaluation import Finished
from .files import replace_text
from .fitted import Fitted, restore, store
from .parts import named
from .presentation import clear, finish
from .processes import check_count, together
from .report.summary import show, where, write_classes
from .reporting import Reporting
from .schema import check
from .scoring import Row
from .selection import scored_by, sees_target_labels, value_of
from .stage import Stage, fit, part, source_accuracy
from .status import advanced
from .types import DataInfo

log = logging.getLogger(__name__)
# What Lightning says of hardware and progress, the run says itself.
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


def run(
    config: Config,
    folder: Path,
    resume: bool = False,
    watch: Callable[[int, float], None] | None = None,
    devices: int | None = None,
) -> dict[str, Any]:
    """Run the experiment that a composed, resolved config describes.

    Args:
        config: plain mappings and lists, names of methods expanded (`parts.expand`); saved as `config.yaml`,
            which alone repeats the run.
        folder: where everything goes.
        resume: skip finished stages and go on from the last checkpoint.
        watch: called in the last stage after each epoch with its number and the objective's score at it;
            what it raises ends the run.
        devices: how many processes train this time; None: as the config says.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: for anything the user can mend.
    """
    started = time.perf_counter()
    check(config)
    sees = sees_target_labels(config["objective"], config["metrics"])
    keep_memory()
    if config["init_from"] is not None:  # Wherever the run may be resumed from.
        start = Path(config["init_from"]).expanduser().absolute()
        if not resume and start.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"init_from: {start} lies in the run's own folder, which the run writes anew")
        config = {**config, "init_from": str(start)}
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder, config["recipe"]["stages"], checkpoints=not resume)
    replace_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    stages = {name: build_stage(name, config) for name in config["recipe"]["stages"]}
    check_start(stages, config["init_from"])
    reporting: Reporting = build(config["report"])
    check_picks(stages, reporting)

    count, device = _devices(stages, config, devices)

    data = _data(config, stages)
    for stage in stages.values():
        part(stage, data)  # A later one's lack is said now.
    if count > 1 and any(rows.units != len(rows) for rows in data.roles.values()):
        raise UserError("trainer.devices: sentences, whose rows are words, cannot be divided; set it to 1")
    _describe(config, data)
    _remember(data, folder, resume)
    with together(count, device, follow, config, folder.absolute(), resume):
        before, fitted = _train(config, stages, data, folder, resume, watch)

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
            "value": value_of(config["objective"], [*fitted.values()][-1].picks, sees),
            "sees_target_labels": sees,
        },
        "seconds": round(time.perf_counter() - started, 3),
        "environment": environment(data.fingerprint, device),
        "config": config,
    }
    replace_text(folder / "results.json", json.dumps(results, indent=2))
    show(results, rich.get_console())
    write_classes(results, folder)
    finish(
        Finished(folder, stages, data, partial(build_model, config, data)), reporting, config["predictions"]
    )
    where(results, rich.get_console())
    return results


def _watcher(config: Config, folder: Path, stage: str, watch: Callable[[int, float], None] | None) -> Watcher:
    """Writes down how far a stage is, and passes the objective's scores on."""
    score = scored_by(config["objective"], config["metrics"])

    def watcher(epoch: int, epochs: int, row: Row) -> None:
        if ranks.own() == 0:
            advanced(folder, stage, epoch, epochs)
        if watch is not None and score in row:
            watch(epoch, row[score])

    return watcher


def follow(config: Config, folder: Path, resume: bool) -> None:
    """What the other processes of a run do: train the same stages, and write nothing."""
    keep_memory()
    stages = {name: build_stage(name, config) for name in config["recipe"]["stages"]}
    _train(config, stages, _data(config, stages), folder, resume)


def _train(
    config: Config,
    stages: Mapping[str, Stage],
    data: Prepared,
    folder: Path,
    resume: bool,
    watch: Callable[[int, float], None] | None = None,
) -> tuple[float | None, dict[str, Fitted]]:
    """The model goes through the stages.

    Returns:
        The source accuracy that it began with, if it knew the classes, and what each stage left.
    """
    model = build_model(config, data)
    fitted: dict[str, Fitted] = {}
    before = source_accuracy(next(iter(stages.values())), model, data) if "head" in model.trained else None
    for name, stage in stages.items():
        done = restore(folder, name, model) if resume else None
        if done is None:
            log.info("stage %s: %s", name, _method_name(config, name))
            shown = _watcher(config, folder, name, watch if name == list(stages)[-1] else None)
            done = fit(stage, model, data, folder, rich.get_console(), resume, shown)
            done.source_accuracy = done.history[-1].get("val/source_val")
            if done.source_accuracy is None:  # The stage had no source to look at.
                done.source_accuracy = source_accuracy(stage, model, data)
            ranks.wait()  # Then its files are there.
            if ranks.own() == 0:
                store(done, folder, name)
        fitted[name] = done
        model.past[name] = folder / "checkpoints" / name / "last.ckpt"
        model.trained = {"backbone", "neck", "head"}
        if ranks.own() == 0:
            rows = [{"stage": stage_name, **row} for stage_name, f in fitted.items() for row in f.history]
            replace_text(folder / "metrics.csv", as_csv(rows))
    return before, fitted


def _data(config: Config, stages: Mapping[str, Stage], known: tuple[str, ...] | None = None) -> Prepared:
    data = prepare(config, stages, known)
    return replace(data, info=replace(data.info, shape=sample_shape(data, build(config["augment"]))))


def _devices(stages: Mapping[str, Stage], config: Config, devices: int | None) -> tuple[int, torch.device]:
    """How many processes train, and on which kind of device: the stages of a run share them.

    Raises:
        UserError: if they cannot.
    """
    settings = [stage.trainer for stage in stages.values()]
    devices = devices or max(s.devices for s in settings)
    device = max((s.device() for s in settings), key=lambda d: d.type)
    check_count(devices, device)
    for s in settings:
        s.check_devices(devices)
    for key in ("compile", "gradient_checkpointing"):
        if devices > 1 and config["model"].get(key):
            raise UserError(
                f"model.{key}=true: such a backbone cannot be divided; set it to false, or trainer.devices=1"
            )
    return devices, device


def reopen(folder: Path, config: Config) -> Finished:
    """A run that is over, to look at what its checkpoints say of the data that the config describes.

    Args:
        config: the run's own, but for its data, which may be other samples of the same classes.

    Raises:
        UserError: if the data has other classes or another shape than the model.
    """
    check(config)
    stages = {name: build_stage(name, config) for name in config["recipe"]["stages"]}
    told = json.loads((folder / "data.json").read_text())
    data = _data(config, stages, tuple(told["classes"]))
    for what, now in (("classes", list(data.info.classes)), ("shape", list(data.info.shape))):
        if told[what] != now:
            raise DataError(f"the run's model knows {what} {told[what]}, and this data has {now}")
    # The method is built as it was, whatever it is asked of now: it may remember every sample that it was trained on.
    info = {key: told[key] for key in ("sizes", "domains", "counts") if key in told}
    data = replace(data, info=replace(data.info, **info))
    return Finished(folder, stages, data, partial(build_model, config, data))


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
        "sizes": dict(data.info.sizes),
        "domains": {role: list(names) for role, names in data.info.domains.items()},
        "counts": {role: list(counts) for role, counts in data.info.counts.items()},
    }
    before = json.loads(file.read_text()) if resume and file.exists() else {}
    if changed := [k for k, v in before.items() if told.get(k) != v]:
        raise DataError(f"the data has changed since this run began ({', '.join(changed)}): start a new run")
    replace_text(file, json.dumps(told, indent=2))


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
