"""What a run keeps of a stage's outputs, so that its report can be made at any time without the data."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import DataError, reason
from ..files import replace_bytes

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]


@dataclass
class About:
    """What the numbers of `StageOutputs` are of.

    Attributes:
        rows: which evaluation rows: `target`, or where there is none `source_val` or `labeled_val`.
        checkpoint, epoch: whose weights the outputs after the stage are of.
        classes: K names. domains: of the evaluation rows. source_domains: of the source rows embedded.
        names: N, of the evaluation rows.
        total: how many evaluation rows there are, of which `trainer.eval_rows` may have taken N.
        source_rows: how many source rows there are, of which some are embedded.
        baseline: what the baseline is, if there is one.
        passages: of the P rows that are looked at one by one, where they are texts or words: what stands before,
            the text or word itself, and what stands after.
    """

    rows: str
    checkpoint: str
    epoch: int
    classes: list[str]
    domains: list[str]
    source_domains: list[str]
    names: list[str]
    total: int = 0
    source_rows: int = 0
    baseline: str | None = None
    passages: list[tuple[str, str, str]] | None = None


@dataclass
class StageOutputs:
    """Outputs on N evaluation rows, after a stage and before it.

    Attributes:
        domain: (N,) index into `about.domains`.
        predicted: (N,) class with the largest probability, which is `confidence` (N,).
        y: (N,) true classes; None if they are not known.
        predicted_before: (N,) before the stage; None if the head was untrained.
        predicted_baseline: (N,) by another run; -1 for rows that it lacks.
        sample: (M,) the rows whose features are kept.
        features_before, features: (S + M, D): of S source rows, then of the M.
        source_y, source_domain: (S,) of these source rows.
        shown: (P,) rows that are looked at one by one, with their `probabilities` (P, K) and, for images,
            `thumbnails` (P, H, W, 1 or 3) uint8.
    """

    about: About
    domain: Ints
    predicted: Ints
    confidence: Floats
    sample: Ints
    features_before: Floats
    features: Floats
    source_y: Ints
    source_domain: Ints
    shown: Ints
    probabilities: Floats
    y: Ints | None = None
    predicted_before: Ints | None = None
    predicted_baseline: Ints | None = None
    thumbnails: npt.NDArray[np.uint8] | None = None


def path(folder: Path, stage: str) -> Path:
    """Where a run keeps them."""
    return folder / "evaluation" / f"{stage}.safetensors"


def write(file: Path, outputs: StageOutputs) -> None:
    """Keep them, whole or not at all."""
    arrays = {f.name: getattr(outputs, f.name) for f in fields(outputs) if f.name != "about"}
    # 16 bits are enough to draw features with.
    for name in ("features", "features_before"):
        arrays[name] = np.clip(arrays[name], -65504, 65504).astype(np.float16)
    content = save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None},
        {"about": json.dumps(outputs.about.__dict__)},
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(file, content)


def read(file: Path) -> StageOutputs:
    """What `write` kept.

    Raises:
        DataError: for a file that is anything else.
    """
    try:
        with safe_open(file, framework="numpy") as opened:
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            about = About(**json.loads(opened.metadata()["about"]))
        outputs = StageOutputs(about=about, **arrays)
        _check(outputs)
    except (
        OSError,
        SafetensorError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        raise DataError(f"{file} does not hold a stage's outputs ({reason(error)})") from error
    return outputs


def _check(outputs: StageOutputs) -> None:
    about, rows, classes = outputs.about, len(outputs.predicted), len(outputs.about.classes)
    for names in (about.classes, about.domains, about.source_domains, about.names):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("names are not a list of texts")
    for passage in about.passages or []:
        if len(passage) != 3 or not all(isinstance(part, str) for part in passage):
            raise ValueError("a passage is not three texts")
    embedded = (len(outputs.source_y) + len(outputs.sample),)
    whole = {
        "domain": (outputs.domain, rows, 0, len(about.domains)),
        "predicted": (outputs.predicted, rows, 0, classes),
        "y": (outputs.y, rows, 0, classes),
        "predicted_before": (outputs.predicted_before, rows, 0, classes),
        "predicted_baseline": (outputs.predicted_baseline, rows, -1, classes),
        "sample": (outputs.sample, len(outputs.sample), 0, rows),
        "source_y": (outputs.source_y, len(outputs.source_y), 0, classes),
        "source_domain": (outputs.source_domain, len(outputs.source_y), 0, len(about.source_domains)),
        "shown": (outputs.shown, len(outputs.shown), 0, rows),
    }
    for name, (array, length, low, high) in whole.items():
        if array is None:
            continue
        if array.dtype != np.int64 or array.shape != (length,):
            raise ValueError(f"{name} is {array.dtype} {array.shape}, expected int64 ({length},)")
        if length and not (array.min() >= low and array.max() < high):
            raise ValueError(f"{name} is not in [{low}, {high})")
    pictures = outputs.thumbnails
    shapes = {
        "names": len(about.names) == rows,
        "passages": about.passages is None or len(about.passages) == len(outputs.shown),
        "confidence": outputs.confidence.shape == (rows,),
        "features": outputs.features.ndim == 2 and outputs.features.shape[:1] == embedded,
        "features_before": outputs.features_before.ndim == 2
        and outputs.features_before.shape[:1] == embedded,
        "probabilities": outputs.probabilities.shape == (len(outputs.shown), classes),
        "thumbnails": pictures is None
        or (
            pictures.dtype == np.uint8
            and pictures.ndim == 4
            and len(pictures) == len(outputs.shown)
            and pictures.shape[3] in (1, 3)
        ),
    }
    if wrong := [name for name, fits in shapes.items() if not fits]:
        raise ValueError(f"{wrong[0]} has another shape than the rest")
