"""A sweep on frozen features: 15 methods, the six transfers of Office-31, three seeds.

    python scripts/bench/sweep.py --data data [--seeds 0] [--methods mmd dann] [--json sweep.json]

`tlrun -m launcher=joblib experiment=office31/frozen`, once for each source domain, into an empty cache, 1000 steps of
64 + 64 rows a job, everything written, compared and drawn at the end. The promise: 270 jobs in 30 minutes on two cores.
Next to it stand jobs per hour of

    one by one     jobs as processes of their own, as many at a time as there are cores, on the cache that is there
    the usual way  every job decodes its images and runs the frozen network at every step (as `peers.py` has it): some
                   steps are timed, on all cores, and the rest is calculated

DIR is where `office31` lies (<domain>/images/<class>/*); EfficientNet-Lite0's weights are the package of '.[weights]'.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from machine import about, cores, show
from peers import CASES, part_of, seconds

METHODS: tuple[str, ...] = ("source_only", "adabn", "coral", "mmd", "jan", "dsan", "cmd", "afn")
METHODS += ("entropy", "im", "mcc", "bnm", "mdd", "dann", "cdan")
DOMAINS = ("amazon", "dslr", "webcam")
STEPS, BATCH = 1000, 64
JOB = ("experiment=office31/frozen", f"trainer.epochs={STEPS // 100}", "trainer.steps_per_epoch=100")
TLRUN = (sys.executable, "-m", "tl_runner.cli")


def sweep(methods: list[str], seeds: list[str], folder: Path) -> tuple[float, int]:
    """Seconds, and jobs."""
    took, jobs = 0.0, 0
    for source in DOMAINS:
        chosen = [f"method={','.join(methods)}", f"seed={','.join(seeds)}", f"data.source={source}"]
        chosen += [f"data.target={','.join(d for d in DOMAINS if d != source)}"]
        where = folder / source
        command = [*TLRUN, "-m", "launcher=joblib", *JOB, *chosen, f"hydra.sweep.dir={where}"]
        part = seconds(command, folder, folder / f"{source}.log")
        done = list(where.glob("*/results.json"))
        print(f"from {source}: {len(done)} jobs in {part / 60:.1f} minutes", flush=True)
        took, jobs = took + part, jobs + len(done)
    return took, jobs


def one_by_one(methods: list[str], folder: Path) -> float:
    """Seconds a job, as many at a time as there are cores."""

    def job(number: int) -> None:
        chosen = [f"method={methods[number % len(methods)]}", "data.source=amazon", "data.target=webcam"]
        command = [*TLRUN, *JOB, *chosen, f"hydra.run.dir={folder / f'alone{number}'}", "report=none"]
        environment = os.environ | {"TLRUN_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)

    started = time.perf_counter()
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(job, range(len(methods))))
    return (time.perf_counter() - started) / len(methods)


def usual_way(root: Path, folder: Path) -> float:
    """Seconds a job, calculated from the difference of a longer and a shorter run of it."""
    part_of(root / "office31", folder / "data", ("amazon", "webcam"), BATCH * 8)
    steps = {}
    for epochs in (1, 2):
        peers = str(Path(__file__).parent / "peers.py")
        command = [sys.executable, peers, "--usual", "frozen", "--root", str(folder / "data")]
        command += ["--epochs", str(epochs), "--batch", str(BATCH)]
        steps[epochs] = seconds(command, folder, folder / "usual.log")
    per_epoch = len(list((folder / "data" / "a").rglob("*.*"))) // BATCH
    return steps[1] + (STEPS / per_epoch - 1) * (steps[2] - steps[1])


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--seeds", nargs="*", default=["0", "1", "2"])
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    os.environ["TLRUN_DATA"] = str(args.data.absolute())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        took, jobs = sweep(list(args.methods), args.seeds, folder)
        alone = one_by_one(list(args.methods), folder)
        usual = usual_way(args.data.absolute(), folder)
    whole = 6 * len(args.methods) * len(args.seeds)
    found = {
        "sweep": took / jobs,
        "one by one": alone,
        f"the usual way ({CASES['frozen']['network']})": usual,
    }
    rows = [(way, f"{s:,.1f}", f"{3600 / s:,.1f}", f"{s * jobs / took:.1f}") for way, s in found.items()]
    title = f"{jobs} of {whole} jobs in {took / 60:.1f} minutes, {cores()} cores"
    show(title, ("", "seconds a job", "jobs per hour", "× the sweep's time"), rows)
    if args.json:
        args.json.write_text(
            json.dumps({"machine": about(), "jobs": jobs, "seconds": took, **found}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
