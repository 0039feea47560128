"""From Enter to the first update, with warm caches, and where the time goes.

    python scripts/bench/start.py [--rounds 5] [-- OVERRIDES...]

Each round starts new interpreters, in turns: one that imports torch and Lightning and nothing else, and one that does
what `tlrun OVERRIDES` does and ends after the first update. Compared are their seconds from start to end; the limit is
1.3. Without OVERRIDES it is the embedded data (`trainer.epochs=1`). One more run beforehand fills the caches.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import about, show

LIMIT = 1.3
IMPORTS = "import torch, pytorch_lightning"
# Runs in the new interpreter. Marks are seconds since the process began; parts are from mark to mark.
TLRUN = """
import importlib, json, os, sys, time
began = float(os.environ["BENCH_BEGAN"])
marks = [("interpreter", time.time() - began)]
def mark(name):
    marks.append((name, time.time() - began))
def around(module, name, after):
    module = importlib.import_module(module)
    function = getattr(module, name)
    def wrapped(*args, **kwargs):
        result = function(*args, **kwargs)
        mark(after)
        return result
    setattr(module, name, wrapped)
import tl_runner.cli, tl_runner.preflight
mark("import of the command line")
around("tl_runner.preflight", "preflight", after="checking names and keys (preflight)")
def imports_done():
    import tl_runner.run as run
    mark("imports: torch, Lightning and what the run needs")
    for name, text in (
        ("check", "checking values against signatures"),
        ("_data", "data: files listed, maps opened"),
        ("build_model", "building the model"),
    ):
        around("tl_runner.run", name, after=text)
    from tl_runner.module import TransferModule
    update = TransferModule.update
    def first(self, step):
        mark("stage: loaders, trainer, cached features")
        update(self, step)
        mark("first update")
        with open(os.environ["BENCH_OUT"], "w") as file:
            json.dump(marks, file)
        os._exit(0)
    TransferModule.update = first
job = tl_runner.cli._job
def _job(config):
    mark("composing the config (Hydra)")
    imports_done()
    return job(config)
tl_runner.cli._job = _job
sys.argv[0] = "tlrun"
tl_runner.cli.main()
"""


def seconds(code: str, arguments: list[str], folder: Path, **variables: str) -> float:
    """Of a new interpreter that runs the code, from start to end."""
    began = time.time()
    environment = (
        os.environ | {"BENCH_BEGAN": repr(began), "BENCH_OUT": str(folder / "marks.json")} | variables
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"it failed:\n{done.stdout}{done.stderr}")
    return time.time() - began


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("overrides", nargs="*", default=["trainer.epochs=1"])
    args = parser.parse_args()
    imports: list[float] = []
    runs: list[float] = []
    parts: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds(TLRUN, args.overrides, folder)
        for _ in range(args.rounds):
            imports.append(seconds(IMPORTS, [], folder))
            runs.append(seconds(TLRUN, args.overrides, folder))
            last = 0.0
            for part, at in json.loads((folder / "marks.json").read_text()):
                parts.setdefault(part, []).append(at - last)
                last = at
    ratio = statistics.median(a / b for a, b in zip(runs, imports, strict=True))
    rows = [(part, f"{statistics.median(times):.2f}") for part, times in parts.items()]
    rows += [
        ("all", f"{statistics.median(runs):.2f}"),
        ("importing torch and Lightning alone", f"{statistics.median(imports):.2f}"),
        ("ratio", f"{ratio:.2f} (promised: {LIMIT})"),
    ]
    show(f"From Enter to the first update: tlrun {' '.join(args.overrides)}", ("part", "seconds"), rows)
    if args.json:
        args.json.write_text(
            json.dumps({"machine": about(), "imports": imports, "runs": runs, "parts": parts}, indent=2)
        )


if __name__ == "__main__":
    main()
