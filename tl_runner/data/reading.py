"""Text files, line by line, and what is said of those that cannot be read."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError, nearest, reason


def read_text(file: Path, encoding: str = "utf-8", key: str = "data.reader.encoding") -> str:
    """A file's text, without a byte order mark, lines ended by \\n.

    Args:
        key: of the config, that sets the encoding.

    Raises:
        DataError: if it cannot be read, or is not in that encoding, which names the line.
    """
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise DataError(f"{key}: there is no '{encoding}'; utf-8 and latin-1 are the usual ones") from None
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({reason(error)})") from error
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{file}:{line}: is not {encoding} (byte 0x{content[error.start]:02x}); set {key}, to latin-1 say"
        ) from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def table(file: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table with a header, each with the line at which it begins; a `.tsv` file's fields end with tabs.

    Raises:
        DataError: naming the line of a row with other fields than the header's, or with a quote that does not close.
    """
    delimiter, ended = "\t" if file.suffix == ".tsv" else ",", 1
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            ended = reader.line_num
            begun = ended - sum(v.count("\n") + v.count("\r") for v in row.values() if isinstance(v, str))
            if None in row or None in row.values():
                header = reader.fieldnames or []
                raise DataError(f"{file}:{begun}: expected {len(header)} fields ({', '.join(header)})")
            yield begun, row
    except csv.Error as error:
        raise DataError(f"{file}:{ended + 1}: is no row of a table ({error})") from error


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
