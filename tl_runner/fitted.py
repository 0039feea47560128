"""What a finished stage leaves behind, in memory and on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import DataError
from .files import replace_text
from .nn.model import Model
from .scoring import Row
from .trained import load


@dataclass
class Fitted:
    """What a stage leaves: a row per epoch, the pick of each criterion, its cost, and how well it still does
    on held-out source rows."""

    history: list[Row]
    picks: dict[str, dict[str, Any]]
    timing: dict[str, float]
    parameters: dict[str, list[int]] = field(default_factory=dict)
    source_accuracy: float | None = None


def finished(folder: Path, name: str) -> Path:
    """The file whose presence says that a stage is done."""
    return folder / "checkpoints" / name / "done.json"


def store(fitted: Fitted, folder: Path, name: str) -> None:
    """Mark a stage as done."""
    replace_text(finished(folder, name), json.dumps(fitted.__dict__))


def restore(folder: Path, name: str, model: Model) -> Fitted | None:
    """A stage that an earlier, killed run has finished: its results, and its weights into `model`.

    Raises:
        DataError: if the weights are damaged.
    """
    if not finished(folder, name).exists():
        return None
    place = folder / "checkpoints" / name
    try:
        load(model, place / "last.ckpt")
    except DataError as error:
        raise DataError(f"{error}; remove {place} to train the stage anew") from error
    return Fitted(**json.loads(finished(folder, name).read_text()))


def picks(history: list[Row], picked: Mapping[str, int], classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For `last` and each criterion: the epoch it picked, and what was measured there.

    Metrics of single classes are under `per_class`, by the class's name.

    Args:
        picked: row of `history` by criterion.
    """

    def at(row: Row) -> dict[str, Any]:
        def under(prefix: str) -> dict[str, float]:
            found = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
            return {k: v for k, v in found.items() if math.isfinite(v)}  # JSON has no NaN.

        target = under("test/")
        per_class: dict[str, dict[str, float]] = {}
        for key in [k for k in target if "/" in k]:
            metric, _, index = key.partition("/")
            per_class.setdefault(classes[int(index)], {})[metric] = target.pop(key)
        told = {"epoch": int(row["epoch"]), "target": target, "validators": under("val/")}
        return told | ({"per_class": per_class} if per_class else {})

    return {"last": at(history[-1]), **{name: at(history[i]) for name, i in picked.items()}}
