"""Models that earlier runs have trained."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import yaml
from hydra.utils import instantiate

from .errors import DataError, UserError
from .nn.model import Model
from .nn.weights import mismatch, of_checkpoint
from .trust import check_trust
from .types import DataInfo

log = logging.getLogger(__name__)

Part = Literal["backbone", "neck", "head"]
PARTS: tuple[Part, ...] = ("backbone", "neck", "head")
Node = dict[str, Any]


def checkpoint(where: str) -> Path:
    """The checkpoint that a run folder or a file stands for: a run's is the last of its last stage.

    Raises:
        UserError: if there is none, or if the run is unfinished.
    """
    path = Path(where).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"no run folder or checkpoint '{where}'")
    if not (path / "config.yaml").is_file():
        raise UserError(f"'{where}' is no run folder: it has no config.yaml")
    stage = str(list(_yaml(path / "config.yaml")["recipe"]["stages"])[-1])
    folder = path / "checkpoints" / stage
    if not (folder / "done.json").is_file():
        raise UserError(
            f"the run in '{where}' has not finished its stage {stage}: tlrun resume {where}, or name one of its "
            "checkpoints"
        )
    return folder / "last.ckpt"


def load(model: Model, file: Path, parts: Collection[Part] = PARTS) -> None:
    """Load the parts' weights into the model.

    A stage on cached features leaves no backbone in its checkpoints: the model's then stays as it is.

    Raises:
        DataError: listing the weights that are missing, misshapen or unexpected.
    """
    given = {k: v for k, v in of_checkpoint(file).items() if k.partition(".")[0] in parts}
    cached = not any(k.startswith("backbone.") for k in given)
    wanted = {
        k: v
        for k, v in model.state_dict().items()
        if k.partition(".")[0] in parts and not (cached and k.startswith("backbone."))
    }
    if problems := mismatch(given, wanted):
        raise DataError(f"{file} does not fit this model; {problems}")
    model.load_state_dict(given, strict=False)


def start(model: Model, where: str, parts: Collection[Part], info: DataInfo, backbone: Any) -> Path:
    """Load an earlier run's weights into a new run's model, after checking that they mean the same.

    Args:
        where: run folder or checkpoint. parts: what to load.
        info: of the new run's data. backbone: its config.

    Returns:
        The checkpoint.

    Raises:
        UserError: for other classes, another backbone, or anything wrong with the file.
    """
    with _of_init_from():
        file = checkpoint(where)
        if (told := _run(file)) is not None:
            known = _data(told)["classes"]
            if "head" in parts and known != list(info.classes):
                raise UserError(
                    f"{_differ(known, info.classes)}; init_parts=[backbone,neck] starts with a new head"
                )
            theirs = _yaml(told / "config.yaml")["model"]["backbone"]
            same = _random(theirs) == _random(backbone) if backbone_of(file) else theirs == backbone
            if "backbone" in parts and not same:
                raise UserError(f"'{where}' trained model.backbone={theirs}, and this run has {backbone}")
        _load_whole(model, file, parts)
    log.info("starting from %s of %s", ", ".join(parts), file)
    return file


def classes(where: str) -> tuple[str, ...] | None:
    """What the model of a run tells apart, in order; None for a checkpoint that lies in no run's folder.

    Raises:
        UserError: if there is no such run.
    """
    with _of_init_from():
        told = _run(checkpoint(where))
    return None if told is None else tuple(_data(told)["classes"])


def unread(model: Node, where: str) -> Node:
    """A model's config, its pretrained weights left out where the checkpoint replaces them: not worth a download."""
    with _of_init_from():
        replaced = backbone_of(checkpoint(where)) is not None
    return {**model, "backbone": _random(model["backbone"])} if replaced else model


@contextmanager
def _of_init_from() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise type(error)(f"init_from: {error}") from error


def _differ(theirs: list[str], ours: Collection[str]) -> str:
    lost = [c for c in theirs if c not in ours]
    new = [c for c in ours if c not in theirs]

    def some(names: list[str]) -> str:
        return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

    text = f"its head knows {len(theirs)} classes, this data has {len(ours)}"
    if new:
        text += f"; unknown to the head: {some(new)}"
    if lost:
        text += f"; not in this data: {some(lost)}"
    return text if new or lost else "its classes have another order than this data's"


def teacher(run: str | None = None) -> Model | None:
    """The model that a finished run ended with, to be imitated: in eval mode, and frozen.

    Args:
        run: its folder, or one of its checkpoints; None: no model.

    Raises:
        UserError: if there is no such run.
    """
    if run is None:
        return None
    file = checkpoint(run)
    folder = _run(file)
    if folder is None:
        raise UserError(
            f"'{run}': expected a run's folder or a checkpoint in it, with data.json beside config.yaml"
        )
    told = _data(folder)
    info = DataInfo(tuple(told["classes"]), tuple(told["shape"]))
    node = _yaml(folder / "config.yaml")["model"]
    check_trust(node, folder / "config.yaml")
    node = unread(node, str(file))
    model: Model = instantiate(node, _partial_=True, _convert_="all")(info=info)
    _load_whole(model, file)
    return model.eval().requires_grad_(False)


def backbone_of(file: Path) -> Path | None:
    """The checkpoint that holds the backbone of a checkpoint's model; None where it is as pretrained.

    A stage on cached features leaves none: it is that of the stage before, or of the run that its run started from.
    """
    if any(k.startswith("backbone.") for k in of_checkpoint(file)):
        return file
    if (run := _run(file)) is None:
        return None
    config = _yaml(run / "config.yaml")
    before = list(takewhile(lambda stage: stage != file.parent.name, config["recipe"]["stages"]))
    if before:
        return backbone_of(run / "checkpoints" / before[-1] / "last.ckpt")
    if config["init_from"] is not None and "backbone" in config["init_parts"]:
        return backbone_of(checkpoint(config["init_from"]))
    return None


def _load_whole(model: Model, file: Path, parts: Collection[Part] = PARTS) -> None:
    load(model, file, parts)
    held = backbone_of(file) if "backbone" in parts else None
    if held is not None and held != file:
        load(model, held, PARTS[:1])


def _random(backbone: Node) -> Node:
    return {**backbone, "weights": "none"} if "weights" in backbone else backbone


def _run(file: Path) -> Path | None:
    """The folder of the run that left a checkpoint."""
    return next((p for p in file.parents if (p / "data.json").is_file()), None)


def _data(run: Path) -> Node:
    found: Node = json.loads((run / "data.json").read_text())
    return found


def _yaml(file: Path) -> Node:
    found: Node = yaml.safe_load(file.read_text())
    return found
