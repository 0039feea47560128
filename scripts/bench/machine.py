"""What all benchmarks print: a table, and where it was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def about() -> dict[str, Any]:
    """Processor, GPU, versions and date."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        **gpu,
        **{name: version(name) for name in ("torch", "torchvision", "pillow", "pytorch-lightning")},
        "date": date.today().isoformat(),
    }


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table with the machine below. The first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.width = max(console.width, 120)  # A pipe has no width; the table does.
    console.print(table)
    console.print(", ".join(f"{k} {v}" for k, v in about().items()), highlight=False)
