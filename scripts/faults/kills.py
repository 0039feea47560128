"""Kill runs at random moments, resume them, and compare each with the run that was not killed.

    python scripts/faults/kills.py [--kills 50] [--seed 0]

Each run decodes its own small images into a cache of its own, trains for a few epochs and is killed once (SIGKILL)
at a moment drawn from the whole of its life; a run that had ended before does not count. A resumed run has to end
with the same weights, optimiser state, metrics and picks, bit for bit. Exits with 1 if one does not.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table
from runs import SETTINGS, different, ended, images, start


def moment(folder: Path, cache: Path) -> str:
    """What a killed run was at, as far as its files tell."""
    stage = folder / "checkpoints" / "adapt"
    if not (folder / "config.yaml").exists():
        return "before it began"
    if (stage / "done.json").exists():
        return "after training"
    if [*folder.rglob("*.part")] or [*folder.rglob(".*.json.*")]:
        return "writing a checkpoint"
    if stage.exists() and [*stage.iterdir()]:
        return "training, validation"
    return "first epoch" if len([*cache.rglob("*.npy")]) > 1 else "building the cache"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    rng, console = random.Random(told.seed), Console()
    moments: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        os.chdir(root)
        images(root / "data")

        def begin(name: str) -> tuple[Path, Path, int]:
            folder, cache = root / name, root / f"{name}-cache"
            return (
                folder,
                cache,
                start(cache, *SETTINGS, f"data.root={root / 'data'}", f"hydra.run.dir={folder}"),
            )

        began = time.monotonic()
        whole, _, pid = begin("whole")
        if ended(pid, 600) != 0:
            sys.exit("the run that is not killed failed")
        seconds = time.monotonic() - began
        console.print(f"a whole run takes {seconds:.1f} s")
        for k in track(range(told.kills), "kills", console=console):
            while True:
                folder, cache, pid = begin(f"{k}-{rng.random()}")
                if ended(pid, rng.uniform(0, seconds)) is None:
                    break
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            moments[where := moment(folder, cache)] += 1
            code: int | None = 0
            if not (folder / "config.yaml").exists():
                code = ended(begin(folder.name)[2], 600)
            elif not (folder / "results.json").exists():
                code = ended(start(cache, "resume", str(folder)), 600)
            if code != 0:
                failures.append(f"killed at '{where}': resuming ended with {code}")
            elif what := different(whole, folder):
                failures.append(f"killed at '{where}': another result ({what})")
    table = Table("killed", "times", title=f"{told.kills} kills, {told.kills - len(failures)} identical runs")
    for where, times in moments.most_common():
        table.add_row(where, str(times))
    console.print(table)
    for failure in failures:
        console.print(failure)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
