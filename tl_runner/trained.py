"""Models that earlier runs have trained."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import yaml
from hydra.utils import instantiate

from .errors import DataError, UserError
from .nn.model import Model
from .nn.weights import mismatch, of_checkpoint
from .types import DataInfo

log = logging.getLogger(__name__)

Part = Literal["backbone", "neck", "head"]


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


def load(model: Model, file: Path, parts: Collection[Part] = ("backbone", "neck", "head")) -> None:
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
    try:
        file = checkpoint(where)
        told = next((p for p in file.parents if (p / "data.json").is_file()), None)
        if told is not None:
            classes = json.loads((told / "data.json").read_text())["classes"]
            if "head" in parts and classes != list(info.classes):
                raise UserError(
                    f"{_differ(classes, info.classes)}; init_parts=[backbone,neck] starts with a new head"
                )
            config = _yaml(told / "config.yaml")["model"]["backbone"]
            if "backbone" in parts and config != backbone:
                raise UserError(f"'{where}' trained model.backbone={config}, and this run has {backbone}")
        load(model, file, parts)
    except UserError as error:
        raise type(error)(f"init_from: {error}") from error
    log.info("starting from %s of %s", ", ".join(parts), file)
    return file


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
    folder = next((p for p in file.parents if (p / "data.json").is_file()), None)
    if folder is None:
        raise UserError(
            f"'{run}': expected a run's folder or a checkpoint in it, with data.json beside config.yaml"
        )
    told = json.loads((folder / "data.json").read_text())
    info = DataInfo(tuple(told["classes"]), tuple(told["shape"]))
    node = dict(_yaml(folder / "config.yaml")["model"])
    if "weights" in node["backbone"] and any(k.startswith("backbone.") for k in of_checkpoint(file)):
        node["backbone"] = {
            **node["backbone"],
            "weights": "none",
        }  # About to be replaced: not worth a download.
    model: Model = instantiate(node, _partial_=True, _convert_="all")(info=info)
    load(model, file)
    return model.eval().requires_grad_(False)


def _yaml(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())
    return found
