"""What gradient checkpointing saves and costs, and what jobs on one cache share.

    python scripts/bench/memory.py [--batch 16] [--json memory.json]

`a step`: one forward and backward pass of a network at 224² on the CPU, in a process of its own; its own (anonymous)
memory at the peak above what it held before, and seconds. `jobs`: so many processes read all rows of one 256 MB map;
memory is the sum of what each is charged with when shared pages are divided among those who share them (Pss).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from growth import Measured, Peak, measured
from machine import about, show

NETWORKS = {"ResNet-50": "resnet50", "ViT-S/16": "vit_small_patch16_224"}
MB = 256


def step(network: str, batch: int, checkpointing: bool) -> Measured:
    """One pass there and back."""
    import torch

    from tl_runner.nn.backbones import timm
    from tl_runner.nn.model import Model
    from tl_runner.types import DataInfo

    torch.set_num_threads(2)
    shape = (3, 224, 224)
    info = DataInfo(tuple("abc"), shape, {}, {})
    model = Model(info, partial(timm, network, weights="none"), gradient_checkpointing=checkpointing).train()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)  # They are there in either case.
    x = torch.rand(batch, *shape)
    with Peak() as peak:
        started = time.perf_counter()
        model(x).logits.square().sum().backward()
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "memory": peak.mb}


def reads(path: Path, ready: Any, go: Any) -> None:
    import torch

    from tl_runner.data.store import ArrayStore

    store = ArrayStore.map(path)
    for rows in torch.arange(len(store)).split(256):
        store.rows(rows)
    ready.put(1)
    go.wait()


def jobs(count: int) -> float:
    """MB of all of them, of the map alone."""
    import numpy as np

    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.npy"
        made = np.lib.format.open_memmap(path, "w+", np.uint8, (MB, 2**20))
        made[:] = 1
        made.flush()
        del made
        ready, go = context.Queue(), context.Event()
        processes = [context.Process(target=reads, args=(path, ready, go)) for _ in range(count)]
        for process in processes:
            process.start()
        for _ in processes:
            ready.get()
        total = 0.0
        for process in processes:
            inside = False
            for line in Path(f"/proc/{process.pid}/smaps").read_text().splitlines():
                inside = path.name in line if "-" in line.split(" ")[0] else inside
                if inside and line.startswith("Pss:"):
                    total += int(line.split()[1]) / 1024
        go.set()
        for process in processes:
            process.join()
    return total


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    rows = []
    for name, network in NETWORKS.items():
        one, two = (measured(step, network=network, batch=args.batch, checkpointing=c) for c in (False, True))
        found[name] = [one, two]
        rows.append(
            (
                *(
                    name,
                    f"{one['memory']:,.0f}",
                    f"{two['memory']:,.0f}",
                    f"{two['memory'] / one['memory']:.2f}",
                ),
                f"{two['seconds'] / one['seconds']:.2f}",
            )
        )
    head = (f"a step of {args.batch}", "MB", "checkpointed MB", "memory ratio", "time ratio")
    show("model.gradient_checkpointing", head, rows)
    shared = {count: jobs(count) for count in (1, 2, 4)}
    show("One map, read whole", ("jobs", "MB together"), [(str(n), f"{mb:,.0f}") for n, mb in shared.items()])
    if args.json:
        args.json.write_text(json.dumps({"machine": about(), **found, "jobs": shared}, indent=2) + "\n")


if __name__ == "__main__":
    main()
