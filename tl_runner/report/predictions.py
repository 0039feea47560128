"""Predictions as a table that other programs read: CSV or Parquet."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import DataError, UserError, reason

Format = Literal["csv", "parquet"]
FORMATS: tuple[Format, ...] = ("csv", "parquet")
Part = Mapping[str, list[str | None] | npt.NDArray[np.float32]]
"""Some rows of a table: texts (None: an empty cell) and numbers by the names of their columns."""


def check_format(name: str) -> None:
    """Complain before any work is done.

    Raises:
        UserError: if the package that writes the format is not installed.
    """
    if name == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError("predictions as parquet need pyarrow: pip install 'tl-runner[parquet]', or write csv")


def write(file: Path, kind: Format, parts: Iterable[Part]) -> None:
    """Write a table part by part, whole or not at all.

    Args:
        parts: columns by name, the same in each part.

    Raises:
        DataError: if the file cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        if file.is_dir():  # Which would show at the end.
            raise IsADirectoryError("it is a folder")
        file.parent.mkdir(parents=True, exist_ok=True)
        (_write_parquet if kind == "parquet" else _write_csv)(temporary, parts)
        temporary.replace(file)
    except OSError as error:
        raise DataError(f"cannot write predictions into {file} ({reason(error)})") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _write_csv(file: Path, parts: Iterable[Part]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        for number, part in enumerate(parts):
            if not number:
                writer.writerow(part)
            columns = [
                [f"{value:.6g}" for value in column] if isinstance(column, np.ndarray) else column
                for column in part.values()
            ]
            writer.writerows(zip(*columns, strict=True))


def _write_parquet(file: Path, parts: Iterable[Part]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    writer: Any = None
    try:
        for part in parts:
            arrays = {
                name: pa.array(column, pa.float32() if isinstance(column, np.ndarray) else pa.string())
                for name, column in part.items()
            }
            table = pa.table(arrays)
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
