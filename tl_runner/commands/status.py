"""`tlrun status DIR`: how the runs in a folder stand, those of a living sweep too."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import rich
from rich import box
from rich.live import Live
from rich.table import Table

from ..errors import UserError
from ..report.render import plain
from ..status import told
from ..sweep import Outcome

STATES = ("done", "skipped", "pruned", "running", "waiting", "unfinished", "failed", "broken")
_STYLES = {"done": "green", "running": "cyan", "unfinished": "yellow", "failed": "red", "broken": "red"}


@dataclass(frozen=True)
class Line:
    """A job: its name, how it stands, and why if it is not done."""

    folder: Path
    name: str
    state: str
    why: str = ""
    value: float | None = None


def main(arguments: list[str], own: list[Path]) -> None:
    """Print how the runs in a folder stand.

    Raises:
        UserError: if there is none.
    """
    parser = argparse.ArgumentParser(
        prog="tlrun status",
        description="How the runs in a folder stand: state, stage and epoch, time, and what went wrong.",
        epilog="unfinished: killed, or stopped by somebody; `tlrun resume DIR` goes on with a run or a sweep.",
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="a sweep's folder, a run's, or any that holds some")
    add("--all", action="store_true", help="a line for each run; by default those done are only counted")
    add("--watch", type=float, metavar="SECONDS", help="print it anew every so often, until none runs")
    given = parser.parse_args(arguments)
    if given.watch is not None and not given.watch > 0:
        raise UserError(f"tlrun status: --watch: expected seconds > 0, got {given.watch:g}")
    lines = _lines(given.folder)
    if given.watch is None:
        _print(lines, given.all)
        return
    with Live(_table(lines, given.all), console=rich.get_console(), auto_refresh=False) as live:
        while any(line.state in ("running", "waiting") for line in lines):
            time.sleep(given.watch)
            lines = _lines(given.folder)
            live.update(_table(lines, given.all), refresh=True)


def show_sweep(outcomes: Sequence[Outcome]) -> None:
    """Print what has become of the jobs of a sweep."""
    _print([Line(o.folder, o.folder.name, o.state, o.why, o.value) for o in outcomes], every=False)


def _lines(folder: Path) -> list[Line]:
    from ..report.runs import Run, find

    def value(run: Run) -> float | None:
        found = run.results.get("objective") if run.results else None
        score = found.get("value") if found else None
        return score if isinstance(score, int | float) else None

    runs = find([folder])
    root = folder if any(run.folder != folder for run in runs) else folder.parent
    return [Line(r.folder, str(r.folder.relative_to(root)), r.status, r.why, value(r)) for r in runs]


def _print(lines: Sequence[Line], every: bool) -> None:
    rich.get_console().print(_table(lines, every))


def _table(lines: Sequence[Line], every: bool) -> Table:
    """Of jobs, those that are well only counted; all of them if there are few."""
    well = ("done", "skipped", "waiting")
    shown = [line for line in lines if every or len(lines) <= 12 or line.state not in well]
    same = set.intersection(*(set(line.name.split(",")) for line in lines)) if len(lines) > 1 else set()
    cells = [_cells(line, same) for line in shown]
    heads = ("job", "state", "at", "time", "objective", "why")
    table = Table(title=_counted(line.state for line in lines), title_justify="left", box=box.SIMPLE_HEAD)
    used = [i for i in range(len(heads)) if any(row[i] for row in cells)]
    for i in used:
        words = heads[i] in ("job", "why")
        justify: Literal["left", "right"] = "right" if heads[i] == "objective" else "left"
        table.add_column(heads[i], overflow="fold", no_wrap=not words, justify=justify)
    for line, row in zip(shown, cells, strict=True):
        table.add_row(*(plain(row[i]) for i in used), style=_STYLES.get(line.state))
    return table


def _cells(line: Line, same: Collection[str]) -> tuple[str, ...]:
    """Of a job. `same`: the overrides that all have, which tell nobody anything."""
    name = ",".join(part for part in line.name.split(",") if part not in same) or line.name
    about = told(line.folder)
    at = (
        f"{about['stage']} {about['epoch']}/{about['epochs']}"
        if {"stage", "epoch", "epochs"} <= {*about}
        else ""
    )
    value = "" if line.value is None else f"{line.value:.4g}"
    return name, line.state, at, _duration(about, line.state), value, line.why


def _counted(states: Iterable[str]) -> str:
    count = Counter(states)
    found = ", ".join(f"{count[state]} {state}" for state in STATES if count[state])
    total = sum(count.values())
    return f"{total} {'job' if total == 1 else 'jobs'}: {found}"


def _duration(about: dict[str, Any], state: str) -> str:
    """Of the last process that was at it; nobody knows when a killed one ended."""
    try:
        begun = datetime.fromisoformat(about["started"])
        ended = datetime.now(UTC) if state == "running" else datetime.fromisoformat(about["ended"])
        seconds = round((ended - begun).total_seconds())
    except (KeyError, TypeError, ValueError):
        return ""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
