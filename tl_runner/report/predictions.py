"""Predictions as a table that other programs read: CSV or Parquet."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import UserError

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
        OSError: if the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        (_write_parquet if kind == "parquet" else _write_csv)(temporary, parts)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
