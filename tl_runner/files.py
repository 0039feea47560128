"""Files that appear whole or not at all, and whether they are whole still."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

from .errors import DataError, reason


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def make_folder(folder: Path) -> None:
    """Make it, if it is not there.

    Raises:
        DataError: if that cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder} ({reason(error)})") from error


def part_of_name(text: str) -> str:
    """Something in a file's name, though it be a path itself.

    >>> part_of_name("stanfordnlp/imdb")
    'stanfordnlp-imdb'
    """
    return re.sub(r"[/\\:]+", "-", text)[-100:]


def check_archive(path: Path) -> None:
    """Whether what `torch.save` wrote is as it was written: torch itself looks at no checksum.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is torn or damaged, or larger when unpacked: torch packs nothing, and what grows may fill
            the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked, size = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
            if unpacked > size:
                raise ValueError(f"{size} bytes that unpack to {unpacked}")
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"damaged: the checksum of {damaged} is wrong")
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(f"torn or damaged: {error}") from error
