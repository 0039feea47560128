"""Writes docs/methods.md from the methods' docstrings and configs and from the measured numbers.

python scripts/methods.py [--check]    with --check only compare
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

import pandas as pd
import yaml
from results import FOLDER, accuracies, averages, plus_minus, read

from tl_runner.methods.base import Method, is_loss
from tl_runner.report.render import grid
from tl_runner.search import config_dir, groups

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
COST = "cost"


def entry(name: str, file: Path) -> Iterator[str]:
    node: dict[str, Any] = yaml.safe_load(file.read_text())
    module, _, cls = node.pop("_target_").rpartition(".")
    kind: type[Method] = getattr(import_module(module), cls)
    idea, *rest = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    yield f"## {name}"
    yield ""
    yield idea
    yield ""
    for paragraph in rest:
        if paragraph.startswith("Args:"):
            yield "Arguments:"
            yield ""
            yield from arguments(paragraph, node)
        else:
            yield paragraph
        yield ""
    for loss in losses(kind):
        first, second, *_ = [*inspect.cleandoc(loss.__doc__ or "").split("\n\n"), ""]
        formula = f" {second}" if "=" in second and "http" not in second and "Args:" not in second else ""
        yield f"- loss `tl_runner.losses.{loss.__name__}`: {' '.join((first + formula).split())}"
    views = [f", two views of {role}" for role in kind.two_views]
    yield f"- reads {', '.join(kind.roles)}{''.join(views)}"
    if kind.collects:
        yield f"- reads as a whole before an epoch: {', '.join(kind.collects)}"
    if kind.source_free:
        yield "- adapts a trained model: it needs an earlier stage"
    elif is_loss(kind) and "target" in kind.roles:
        free = ", which need not read the source" if kind.source_optional else ""
        yield f"- can be added to another method{free}: `+method.extra=[{name}]`"
    yield from measured(name)
    yield from experiments(name)
    yield ""


@cache
def published() -> dict[str, str]:
    """The text of every experiment, by its path."""
    options = groups([config_dir()])
    return {
        f"{group}/{option}".removeprefix("experiment/"): file.read_text()
        for group in options
        if group.startswith("experiment")
        for option, file in options[group].items()
    }


def experiments(name: str) -> Iterator[str]:
    """What the published settings that use the method say of themselves."""
    for path, text in published().items():
        if f"override /method: {name}\n" in text:
            about = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
            yield f"- `experiment={path}`: {' '.join(line for line in about if '@package' not in line)}"


def arguments(paragraph: str, node: dict[str, Any]) -> Iterator[str]:
    """The docstring's arguments as a list, with their defaults."""
    text: list[str] = []
    for line in paragraph.splitlines()[1:]:
        if line.startswith("     "):
            text[-1] += " " + line.strip()
        else:
            text.append(line.strip())
    for line in text:
        names, _, about = line.partition(": ")
        given = ", ".join(f"`{n}={_plain(node[n])}`" if n in node else f"`{n}`" for n in names.split(", "))
        yield f"- {given}: {about}"


def _plain(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]


def losses(kind: type[Method]) -> list[FunctionType]:
    """The loss functions that the method's module, or its parent method's, uses by name."""
    modules = [sys.modules[c.__module__] for c in kind.__mro__ if issubclass(c, Method) and c is not Method]
    found = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, FunctionType) and value.__module__.startswith("tl_runner.losses.")
    ]
    return sorted(set(found), key=lambda f: f.__name__)


@cache
def tables() -> dict[str, pd.DataFrame]:
    """What was measured: last epochs, averaged over the transfers (seeds, methods); the cost as it stands."""
    found = {path.stem: averages(read(path), "last") for path in accuracies()}
    return found | {COST: read(FOLDER / f"{COST}.csv")}


def measured(name: str) -> Iterator[str]:
    for table_name, table in tables().items():
        if table_name == COST:
            yield from (
                f"- a step on cached features takes {row['time']} times source_only's, its arithmetic is "
                f"{row['arithmetic']} times as much; on images {row['passes']} times the passes"
                for _, row in table[table["method"] == name].iterrows()
            )
        elif name in table:
            last, base = (plus_minus(table[m]) for m in (name, "source_only"))
            yield f"- {table_name}: **{last}** at the last epoch" + (
                f" (source_only {base})" if name != "source_only" else ""
            )


def page() -> str:
    methods = groups([config_dir()])["method"]
    lines = [
        "# Methods",
        "",
        "Written by `python scripts/methods.py` from docstrings, configs and [measured numbers](results.md).",
        "Accuracies are averages over transfers in percent, mean ± standard deviation over seeds.",
        "",
        *grid(["", "", "", ""], _in_rows([f"[{m}](#{m})" for m in methods], 4)),
        "",
    ]
    for name, file in methods.items():
        lines += entry(name, file)
    return "\n".join(lines).rstrip() + "\n"


def _in_rows(cells: list[str], width: int) -> list[list[str]]:
    cells = cells + [""] * (-len(cells) % width)
    return [cells[i : i + width] for i in range(0, len(cells), width)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit("docs/methods.md is stale: run python scripts/methods.py")


if __name__ == "__main__":
    main()
