"""How a run stands: `status.json` in its folder, written while it lives and read after it died.

A lock in the folder says that some process is at it, on whatever machine; it goes with the process.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import psutil
from filelock import FileLock, Timeout

from .errors import DataError, UserError, reason
from .files import replace_text

NAME = "status.json"
LOCK = ".lock"
State = Literal["waiting", "running", "unfinished", "failed", "pruned", "done"]


class Busy(UserError):  # noqa: N818
    """Another process runs the run in this folder."""


class Pruned(Exception):  # noqa: N818
    """The run was stopped early: a search expects nothing of it."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process from running what is in the folder. A process that dies lets go.

    Raises:
        Busy: if another one is at it.
        DataError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, blocking=False)
        lock.acquire()
    except Timeout:
        where = f"process {told(folder).get('pid')} on {told(folder).get('host')}"
        raise Busy(f"the run in {folder} is still running ({where})") from None
    except OSError as error:
        raise DataError(f"cannot write into the run's folder {folder} ({reason(error)})") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def recorded(folder: Path, digest: str = "") -> Iterator[None]:
    """Write down that a run is alive in the folder, and how it ended.

    A killed process leaves `running`, with its own number and time of birth.

    Args:
        digest: of the run's config.

    Raises:
        DataError: if the folder cannot be written.
    """
    process = psutil.Process()
    begun = {
        "state": "running",
        "config": digest,
        "pid": process.pid,
        "process_started": process.create_time(),
        "host": platform.node(),
        "started": _now(),
    }

    def ended(state: State, why: str = "") -> None:
        with suppress(OSError):  # A full disk must not hide what happened.
            _write(folder, {**told(folder), **begun, "state": state, "why": why, "ended": _now()})

    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, begun)
    except OSError as error:
        raise DataError(f"cannot write into the run's folder {folder} ({reason(error)})") from error
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        ended("unfinished", "interrupted" if isinstance(stop, KeyboardInterrupt) else "terminated")
        raise
    except Pruned as stop:
        ended("pruned", str(stop))
        raise
    except BaseException as error:
        ended("failed", str(error) if isinstance(error, UserError) else reason(error))
        raise
    ended("done")


def done(folder: Path) -> str | None:
    """The digest of the finished run that a folder holds, if it does."""
    found = told(folder)
    return str(found.get("config")) if found.get("state") == "done" else None


def await_start(folder: Path, digest: str) -> None:
    """Write down that a run is to begin, if nothing is known of it yet."""
    if not (folder / NAME).exists():
        _write(folder, {"state": "waiting", "config": digest})


def advanced(folder: Path, stage: str, epoch: int, epochs: int) -> None:
    """Write down how far a recorded run is."""
    if before := told(folder):
        with suppress(OSError):
            _write(folder, {**before, "stage": stage, "epoch": epoch, "epochs": epochs})


def digest(config: Mapping[str, Any]) -> str:
    """Of a run's config: equal if the runs are the same, however they came to be."""
    kept = {key: value for key, value in config.items() if key not in ("sweep", "launcher")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def told(folder: Path) -> dict[str, Any]:
    """What the file says, without judging it; nothing if it is not there or broken."""
    try:
        found = json.loads((folder / NAME).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


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
    if state not in get_args(State):
        raise ValueError(f"it does not say how the run stands (state: {state!r})")
    if state == "running":
        where = f"process {told.get('pid')} on {told.get('host')}"
        if told.get("host") == platform.node():
            return ("running", where) if _alive(told) else ("unfinished", f"killed ({where})")
        if _held(folder):
            return "running", where
        return "unfinished", f"it was {where}; whether it still runs shows only there"
    found: State = state  # type: ignore[assignment]
    return found, str(told.get("why", ""))


def _held(folder: Path) -> bool:
    """Whether some process, on whatever machine, holds the folder's lock."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, blocking=False):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def _alive(told: dict[str, Any]) -> bool:
    """Whether the very process that wrote this lives; numbers are used again."""
    try:
        born = psutil.Process(int(told["pid"])).create_time()
        return bool(abs(born - float(told["process_started"])) < 1)
    except (KeyError, TypeError, ValueError, OverflowError, psutil.Error):
        return False


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    replace_text(folder / NAME, json.dumps(content, indent=2))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
