"""From a composed config to objects: stages, data, model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from . import trained
from .data.augment import Augment
from .data.domains import Prepared
from .data.loader import key
from .errors import UserError, nearest
from .methods.base import Builder
from .methods.builders import classes
from .methods.combined import Combined, Extra
from .nn.model import Model
from .parts import of_extra, word
from .reporting import Reporting
from .stage import Stage, check_stop
from .validators import LABELLED

log = logging.getLogger(__name__)

Config = dict[str, Any]


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


def build_stage(name: str, config: Config) -> Stage:
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


def check_start(stages: Mapping[str, Stage], init_from: str | None) -> None:
    first = next(iter(stages.values()))
    for method in classes(first.method):
        if method.source_free and init_from is None:
            raise UserError(
                f"method {word(method)} adapts a trained model, and stage '{first.name}' has none to start "
                "from: add recipe=source_free, which trains one on the source first, or init_from=RUN_DIR"
            )


def check_picks(stages: Mapping[str, Stage], reporting: Reporting) -> None:
    """Whether what is to stop a stage, and what is to be reported of it, can be among what picks its epochs.

    Raises:
        UserError: naming the setting.
    """
    every: set[str] = set()
    for stage in stages.values():
        known = {*stage.validators, *LABELLED}
        every |= known
        check_stop(stage, known)
    if reporting.checkpoint not in (every := every | {"last", "oracle"}):
        hint = nearest(reporting.checkpoint, every)
        raise UserError(f"report.checkpoint: nothing picks '{reporting.checkpoint}'{hint}")


def prepare(config: Config, stages: Mapping[str, Stage], known: tuple[str, ...] | None = None) -> Prepared:
    """The data, without a source that no stage may see; then a trained model says what its classes are.

    Args:
        known: those classes, where they need not be looked for in the run that it starts from.
    """
    node = config["data"]
    if config["init_from"] is not None:
        if node["source"] and all(any(m.source_free for m in classes(s.method)) for s in stages.values()):
            log.info("no stage reads the source: it is not opened")
            node = {**node, "source": None}
        if known is None and "head" in config["init_parts"]:
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


def sample_shape(data: Prepared, augment: Augment) -> tuple[int, ...]:
    """Of a sample as the model sees it."""
    stored = data.info.shape
    if len(stored) != 3:
        return stored
    size = augment.size or stored[0]
    if size > stored[0]:
        raise UserError(f"model.size={size} is larger than the stored images, model.resize={stored[0]}")
    return (stored[2], size, size)
