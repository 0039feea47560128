"""Small runs as forks of this process, and whether two of them ended alike. Import it first: it keeps torch from
starting threads, which a fork would not have."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import json
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import tl_runner.run  # noqa: F401 (for the forks)
from tl_runner import cli

torch.set_num_threads(1)

SETTINGS = (
    *("data=folder", "data.source=old", "data.target=new", "model=tiny", "augment=weak", "method=mmd"),
    "report=none",
    *("trainer.epochs=5", "trainer.steps_per_epoch=8", "trainer.batch_size=8", "trainer.accelerator=cpu"),
)


def images(root: Path) -> None:
    rng = np.random.default_rng(0)
    for domain in ("old", "new"):
        for k, name in enumerate(("ash", "elm", "oak")):
            folder = root / domain / name
            folder.mkdir(parents=True)
            for i in range(60):
                pixels = rng.integers(0, 80, (160, 160, 3)) + 50 * k + 30 * (domain == "new")
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")


def start(cache: Path, *arguments: str, log: Path = Path(os.devnull)) -> int:
    """`tlrun ARGUMENTS` in a process of its own."""
    if (pid := os.fork()) == 0:
        said = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ["TLRUN_CACHE"] = str(cache)
        sys.argv = ["tlrun", *arguments]
        code = 1
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return pid


def ended(pid: int, seconds: float) -> int | None:
    """How it ended within some seconds; None if it lives."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, how = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(how)
        time.sleep(0.002)
    return None


def different(one: Path, other: Path) -> str:
    """In what two finished runs differ; empty if in nothing."""
    names = sorted(str(f.relative_to(one)) for f in one.rglob("*.ckpt*"))
    if names != sorted(str(f.relative_to(other)) for f in other.rglob("*.ckpt*")):
        return "which checkpoints there are"
    for name in names:
        a, b = (torch.load(folder / name, weights_only=True) for folder in (one, other))
        for state in (a, b):
            for callback in (
                state.get("callbacks") or {}
            ).values():  # They know the seconds, and their folder.
                callback.clear()
        if not same(a, b):
            return name
    if (one / "metrics.csv").read_bytes() != (other / "metrics.csv").read_bytes():
        return "metrics.csv"
    a, b = (json.loads((f / "results.json").read_text())["stages"]["adapt"]["picks"] for f in (one, other))
    return "" if a == b else "picks"


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b
