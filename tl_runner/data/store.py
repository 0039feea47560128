"""Where rows come from, and maps on disk that are built once."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ..errors import DataError, reason
from ..files import part_of_name, replace_text
from .samples import Samples

log = logging.getLogger(__name__)

CHUNK = 128
"""Rows written between two records of progress."""


class Store(Protocol):
    """N rows of equal shape.

    Attributes:
        group: (N,) ascending numbers, which rows are drawn together (words of a sentence); None: each is by itself.
    """

    shape: tuple[int, ...]
    group: Tensor | None

    def rows(self, index: Tensor) -> Tensor:
        """(len(index), ...): uint8 images (n, H, W, C), or float32 vectors (n, D); or texts with so many marks."""

    def __len__(self) -> int: ...


class ArrayStore:
    """Rows of an array in memory, on a device, or mapped from a file."""

    group: Tensor | None = None

    def __init__(self, data: Tensor) -> None:
        self.data, self.shape = data, tuple(data.shape[1:])

    @classmethod
    def map(cls, path: Path) -> ArrayStore:
        # Copy-on-write: torch wants writable memory; the file is never changed.
        return cls(torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False)))

    def rows(self, index: Tensor) -> Tensor:
        return self.data[index.to(self.data.device)]

    def __len__(self) -> int:
        return len(self.data)

    def to(self, device: torch.device) -> ArrayStore:
        moved = ArrayStore(self.data.to(device))
        moved.group = self.group
        return moved


class FileStore:
    """Images decoded whenever they are asked for: the slow way, for data that no disk can hold twice."""

    group: Tensor | None = None

    def __init__(self, files: list[Path], side: int, channels: int, pool: ThreadPoolExecutor) -> None:
        self.files, self.side, self.channels, self.pool = files, side, channels, pool
        self.shape: tuple[int, ...] = (side, side, channels)

    def __len__(self) -> int:
        return len(self.files)

    def rows(self, index: Tensor) -> Tensor:
        images = self.pool.map(self._read, [self.files[i] for i in index.tolist()])
        return torch.from_numpy(np.stack(list(images)))

    def _read(self, file: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
        try:
            return decode(file, self.side, self.channels)
        except Exception as error:
            raise DataError(f"{file}: cannot be read ({reason(error)})") from error


def decode(
    source: Path | np.ndarray[Any, Any], side: int, channels: int
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """One image as (side, side, channels) uint8, whatever its mode, orientation and depth.

    Bilinear with antialiasing, as the published protocols resize.

    Raises:
        OSError, SyntaxError, ValueError: for an image that cannot be read.
    """
    image: Image.Image
    if isinstance(source, np.ndarray):
        image = Image.fromarray(source[..., 0] if source.shape[2:] == (1,) else source)
    else:
        image = Image.open(source)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        # 16-bit images are scaled by their format, never by their content; F is taken as [0, 1] or bytes.
        top = 65535.0 if image.mode.startswith("I") else (1.0 if values.max(initial=0) <= 1 else 255.0)
        image = Image.fromarray((values.clip(0, top) * (255.0 / top)).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(side, side, channels)


def build_map(
    path: Path,
    shape: tuple[int, ...],
    dtype: type,
    fill: Callable[[int, int], np.ndarray[Any, Any]],
    what: str,
    chunk: int | None = None,
) -> None:
    """Write `path` (.npy) chunk by chunk, once, whoever else wants it too.

    A job that finds another one building waits for it. A killed build goes on where it stopped. The file
    appears under its name only when it is whole.

    Args:
        fill: rows [start, stop) -> array; may raise, then nothing is left behind.
        what: shown in the progress bar.
        chunk: rows written between two records of progress; None: `CHUNK`.
    """
    chunk = chunk or CHUNK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".lock").touch()
    except OSError as error:
        raise _unwritable(path, error) from error
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
        lock.release()
    except Timeout:
        log.info("%s: another job is building it; waiting", what)
    with lock:
        if path.exists():
            return
        part, done = path.with_suffix(".part"), path.with_suffix(".done")
        start = int(done.read_text()) if done.exists() and part.exists() else 0
        mode: Any = "r+" if start else "w+"
        target = np.lib.format.open_memmap(part, mode=mode, dtype=dtype, shape=shape)
        try:
            _reserve(part)
            chunks: Iterable[int] = range(start, shape[0], chunk)
            # To stderr, and only a bar where somebody looks.
            console = Console(stderr=True)
            if not console.is_terminal:
                log.info("%s: %d rows, once", what, shape[0] - start)
            for first in track(chunks, what, console=console, disable=not console.is_terminal):
                last = min(first + chunk, shape[0])
                target[first:last] = fill(first, last)
                target.flush()
                replace_text(done, str(last))
        except Exception as error:
            del target
            part.unlink(missing_ok=True)
            done.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _unwritable(path, error) from error
            raise
        del target
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
        done.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"cannot write the cache {path} ({reason(error)}): make room, or set paths.cache")


def _reserve(file: Path) -> None:
    """Take the room that a sparse file says it has: what writes into a map of it is else killed by a full disk."""
    if hasattr(os, "posix_fallocate"):
        with file.open("rb+") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)


def cached_pixels(
    samples: Samples,
    side: int | None,
    channels: int,
    folder: Path,
    on_corrupt: str,
    pool: ThreadPoolExecutor,
) -> tuple[Samples, Store]:
    """The samples' images, decoded once; samples whose image cannot be read are dropped or an error.

    Args:
        side: of the stored square; None keeps an array's own size.
        folder: where the maps lie.
        on_corrupt: `error` names all unreadable files; `skip` leaves them out and says so.

    Returns:
        The samples that can be read, and their rows.

    Raises:
        DataError: with `error`, naming the files.
    """
    if samples.array is not None:
        if samples.array.dtype != np.uint8:
            return samples, ArrayStore(torch.from_numpy(samples.array))
        array = samples.array if samples.array.ndim == 4 else samples.array[..., None]
        if (
            side in (None, array.shape[1])
            and array.shape[1] == array.shape[2]
            and array.shape[3] in (1, channels)
        ):
            if array.shape[3] != channels:
                array = np.repeat(array, channels, axis=3)
            return samples, ArrayStore(torch.from_numpy(np.ascontiguousarray(array)))
    if side is None:
        raise DataError("model.resize: say at which size images are stored (a side in pixels)")
    path = folder / f"{part_of_name(samples.domain)}-{side}-{channels}-{samples.fingerprint()[:20]}.npy"
    corrupt: dict[str, str] = {}
    originals: list[Any] = list(samples.files if samples.files is not None else samples.array)  # type: ignore[arg-type]

    def read(i: int) -> np.ndarray[Any, Any]:
        try:
            return decode(originals[i], side, channels)
        except Exception as error:
            corrupt[str(originals[i])] = reason(error)
            return np.zeros((side, side, channels), np.uint8)

    def fill(first: int, last: int) -> np.ndarray[Any, Any]:
        rows = np.stack(list(pool.map(read, range(first, last))))
        if last == len(samples) and corrupt and on_corrupt == "error":
            memory.unlink(missing_ok=True)
            raise _corrupt(corrupt)
        if corrupt:
            # Kept beside the map, so that a build that is killed and resumed still knows them.
            replace_text(path.with_suffix(".corrupt"), json.dumps(corrupt))
        return rows

    memory = path.with_suffix(".corrupt")
    if not path.exists():
        if memory.exists() and path.with_suffix(".done").exists():
            corrupt.update(json.loads(memory.read_text()))
        build_map(path, (len(samples), side, side, channels), np.uint8, fill, f"decoding {samples.domain}")
    known = json.loads(memory.read_text()) if memory.exists() else {}
    if not known:
        return samples, ArrayStore.map(path)
    if on_corrupt == "error":
        raise _corrupt(known)
    log.warning(
        "domain '%s': %d unreadable images left out: %s", samples.domain, len(known), ", ".join(known)
    )
    good = np.array([str(original) not in known for original in originals])
    data = ArrayStore.map(path).data[torch.from_numpy(np.flatnonzero(good))]
    return samples.keep(good), ArrayStore(data)


def _corrupt(files: dict[str, str]) -> DataError:
    lines = "\n".join(f"  {name} ({why})" for name, why in list(files.items())[:50])
    more = f"\n  and {len(files) - 50} more" if len(files) > 50 else ""
    return DataError(
        f"{len(files)} images cannot be read; repair or remove them, or set data.on_corrupt=skip:\n{lines}{more}"
    )
