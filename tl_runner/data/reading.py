"""Text files, line by line, and what is said of those that cannot be read."""

from __future__ import annotations

import codecs
from pathlib import Path

from ..errors import DataError, nearest, reason


def read_text(file: Path, encoding: str = "utf-8") -> str:
    """A file's text, without a byte order mark, lines ended by \\n.

    Raises:
        DataError: if it cannot be read, or is not in that encoding, which names the line.
    """
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise DataError(
            f"data.reader.encoding: there is no '{encoding}'; utf-8 and latin-1 are the usual ones"
        ) from None
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({reason(error)})") from error
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{file}:{line}: is not {encoding} (byte 0x{content[error.start]:02x}); "
            "set data.reader.encoding, to latin-1 say"
        ) from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def missing(file: Path, root: Path, source_url: str | None, domain: str | None = None) -> DataError:
    """That a file is not there, what is, and where to get it."""
    message = f"no file {file}"
    if domain and root.is_dir():
        have = [f.name for f in root.iterdir() if f.is_dir()]
        message += f" (folders in {root}: {', '.join(sorted(have)[:12]) or 'none'}{nearest(domain, have)})"
    if source_url:
        message += f". Get it from {source_url}"
    return DataError(
        message + ". Set data.reader.root, or paths.data / TLRUN_DATA for the folder that holds all data sets"
    )
