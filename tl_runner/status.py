"""How a run stands: `status.json` in its folder, written while it lives and read after it died."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from .errors import DataError, UserError, reason
from .files import replace_text

NAME = "status.json"
State = Literal["running", "unfinished", "failed", "done"]


@contextmanager
def recorded(folder: Path) -> Iterator[None]:
    """Write down that a run is alive in the folder, and how it ended.

    A killed process leaves `running`, with its own number and time of birth.

    Raises:
        DataError: if the folder cannot be written.
    """
    process = psutil.Process()
    told: dict[str, Any] = {
        "state": "running",
        "pid": process.pid,
        "process_started": process.create_time(),
        "host": platform.node(),
        "started": _now(),
    }

    def ended(state: State, why: str = "") -> None:
        text = json.dumps({**told, "state": state, "why": why, "ended": _now()}, indent=2)
        with suppress(OSError):  # A full disk must not hide what happened.
            replace_text(folder / NAME, text)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / NAME, json.dumps(told, indent=2))
    except OSError as error:
        raise DataError(f"cannot write into the run's folder {folder} ({reason(error)})") from error
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        ended("unfinished", "interrupted" if isinstance(stop, KeyboardInterrupt) else "terminated")
        raise
    except BaseException as error:
        ended("failed", str(error) if isinstance(error, UserError) else reason(error))
        raise
    ended("done")


def read(folder: Path) -> tuple[State, str] | None:
    """How the run in a folder stands, and why; None if nothing there says so.

    Raises:
        OSError, ValueError: if the file cannot be read or is not what a run writes.
    """
    file = folder / NAME
    if not file.exists():
        return None
    told = json.loads(file.read_text())
    state = told.get("state") if isinstance(told, dict) else None
    why = str(told.get("why", "")) if isinstance(told, dict) else ""
    if state == "running":
        where = f"process {told.get('pid')} on {told.get('host')}"
        if told.get("host") != platform.node():
            return "unfinished", f"it was {where}; whether it still runs shows only there"
        return ("running", where) if _alive(told) else ("unfinished", f"killed ({where})")
    if state == "unfinished" or state == "failed" or state == "done":
        return state, why
    raise ValueError(f"it does not say how the run stands (state: {state!r})")


def _alive(told: dict[str, Any]) -> bool:
    """Whether the very process that wrote this lives; numbers are used again."""
    try:
        born = psutil.Process(int(told["pid"])).create_time()
        return bool(abs(born - float(told["process_started"])) < 1)
    except (KeyError, TypeError, ValueError, OverflowError, psutil.Error):
        return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
