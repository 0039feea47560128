"""Checkpoint files that survive kills, full disks and damage."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from . import ranks
from .errors import DataError, reason
from .files import check_archive

log = logging.getLogger(__name__)

LAST = "last.ckpt"


def previous(path: Path) -> Path:
    """Where the checkpoint before the last is kept while a stage trains."""
    return path.with_name(f"{path.name}.previous")


def newest_whole(path: Path) -> Path | None:
    """The last checkpoint, or the one before if that is damaged; None if there is none.

    Raises:
        DataError: if both are damaged.
    """
    problems = []
    for file in (path, previous(path)):
        if file.exists():
            try:
                check_archive(file)
            except (OSError, ValueError) as error:
                problems.append(f"{file} is damaged ({reason(error)})")
                continue
            for problem in problems:
                log.warning("%s: going on from the one before it", problem)
            return file
    if problems:
        raise DataError(f"{'; '.join(problems)}: remove {path.parent} to train the stage anew")
    return None


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then renames it: no kill and no full disk leaves half a file.

    Lightning's own goes through the temporary folder and a move, which is not atomic across file systems. It also
    executes what a checkpoint says, unless told not to: a run's folder may be a stranger's. Before `last.ckpt` is
    replaced it becomes `last.ckpt.previous`, in case a disk damages the newer one.
    """

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except Exception as error:
            raise DataError(f"{path}: cannot be read as a checkpoint ({reason(error)})") from error

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if ranks.own() > 0:
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        try:
            with part.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            if path.name == LAST and path.exists():
                link(path, previous(path))
            part.replace(path)
        except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
            part.unlink(missing_ok=True)
            raise DataError(
                f"cannot write checkpoint {path} ({reason(error)}); the previous one is kept"
            ) from error


def link(file: Path, name: Path) -> None:
    """Give a whole file another name, replacing what had it: no second copy where hard links exist."""
    part = name.with_name(f".{name.name}.part")
    part.unlink(missing_ok=True)
    try:
        try:
            part.hardlink_to(file)
        except OSError:
            with file.open("rb") as whole, part.open("wb") as copy:
                shutil.copyfileobj(whole, copy)
                copy.flush()
                os.fsync(copy.fileno())
        part.replace(name)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DataError(
            f"cannot write checkpoint {name} ({reason(error)}); the previous one is kept"
        ) from error
