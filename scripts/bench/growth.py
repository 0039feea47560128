"""What grows with the data, and how fast: rows, classes, domains, and the size of features.

    python scripts/bench/growth.py [--only rows] [--json growth.json]

Every number is measured in a process of its own. Images are a map of 32-pixel squares on disk, as a run's cache is, but
without content; features are drawn at random. `exponent` is the slope of log(measured) over log(size) through the last
three sizes: 0 does not grow, 1 grows in proportion. Memory is what the process holds of its own at its peak
(anonymous memory), above what it held when all was imported: pages of a mapped file, which the system takes back when
it needs the room, are not counted.

    step       ms of a training step of 64 + 64 rows (MMD; LeNet on images, a bottleneck on features)
    open       ms to open the map and read its first rows
    order      ms to draw an epoch's order of rows
    validators ms of the default validators, of 31 classes and 256 features
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from machine import about, show

SIDE, BATCH, STEPS = 32, 64, 30
Measured = dict[str, float]


class Peak:
    """The most anonymous memory above that at the start, in MB, looked at a hundred times a second."""

    def __init__(self) -> None:
        self.start = self.most = anonymous()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self.done.wait(0.01):
            self.most = max(self.most, anonymous())

    def __enter__(self) -> Peak:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.thread.join()

    @property
    def mb(self) -> float:
        return max(self.most, anonymous()) - self.start


def anonymous() -> float:
    """MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def images(rows: int, domains: int = 1) -> Measured:
    """Train on a map of so many images, divided among so many source domains."""
    import numpy as np
    import torch

    from tl_runner.data.loader import order
    from tl_runner.data.rows import Rows
    from tl_runner.data.store import ArrayStore
    from tl_runner.nn.backbones import lenet

    with tempfile.TemporaryDirectory() as name:
        part = rows // domains
        for number in range(domains):
            shape = (part, SIDE, SIDE, 1)
            np.lib.format.open_memmap(Path(name) / f"{number}.npy", "w+", np.uint8, shape).flush()
        with Peak() as peak:
            started = time.perf_counter()
            stores = [ArrayStore.map(Path(name) / f"{number}.npy") for number in range(domains)]
            stores[0].rows(torch.arange(BATCH))
            opened = time.perf_counter() - started
            started = time.perf_counter()
            order(rows, STEPS * BATCH, 0, "bench", 0)
            ordered = time.perf_counter() - started
            index = torch.arange(rows)
            whole = Rows(stores, index // part, index % part, index % 10, tuple(map(str, range(domains))))
            step = train(whole, lenet, (1, SIDE, SIDE), 10, Path(name))
        return {"step": step, "open": 1000 * opened, "order": 1000 * ordered, "memory": peak.mb}


def vectors(width: int = 256, classes: int = 31, rows: int = 2000) -> Measured:
    """Train on features."""
    import torch

    from tl_runner.data.rows import Rows
    from tl_runner.data.store import ArrayStore
    from tl_runner.nn.backbones import Features

    index = torch.arange(rows)
    data = ArrayStore(torch.randn(rows, width))
    whole = Rows([data], torch.zeros_like(index), index, index % classes, ("a",))
    with tempfile.TemporaryDirectory() as name, Peak() as peak:
        step = train(whole, lambda shape: Features(shape[0]), (width,), classes, Path(name))
    return {"step": step, "memory": peak.mb}


def train(rows: Any, backbone: Any, shape: tuple[int, ...], classes: int, folder: Path) -> float:
    """ms of a step in the second epoch."""
    import torch
    from rich.console import Console

    from tl_runner.data.augment import Augment, View
    from tl_runner.data.domains import Prepared
    from tl_runner.methods.mmd import MMD
    from tl_runner.module import TransferModule
    from tl_runner.nn.model import Model
    from tl_runner.optim import Optim
    from tl_runner.stage import Stage, fit
    from tl_runner.trainer import TrainerSettings
    from tl_runner.tuning import Tuning
    from tl_runner.types import DataInfo

    times: list[float] = []
    update = TransferModule.update

    def timed(self: TransferModule, step: Any) -> None:
        update(self, step)
        times.append(time.perf_counter())

    TransferModule.update = timed  # type: ignore[method-assign]
    sizes = {"source": len(rows), "target": len(rows)}
    info = DataInfo(tuple(map(str, range(classes))), shape, sizes, {"source": rows.names, "target": ("t",)})
    data = Prepared({"source": rows, "target": rows.hidden()}, {"target": rows.hidden()}, rows.y, info)
    stage = Stage(
        name="bench",
        method=MMD,
        tuning=Tuning(),
        optim=Optim(partial(torch.optim.SGD, momentum=0.9)),
        augment=Augment([View("resized", flip=0.5)], shape[-1] if len(shape) == 3 else None),
        trainer=TrainerSettings(
            epochs=2,
            steps_per_epoch=STEPS,
            batch_size=BATCH,
            eval_rows=256,
            accelerator="cpu",
            precision="32",
        ),
        validators={},
        metrics={},
        seed=0,
        workers=1,
        cache=folder,
    )
    with Path(os.devnull).open("w") as nowhere:
        fit(stage, Model(info, backbone), data, folder, Console(file=nowhere), resume=False)
    return 1000 * (times[-1] - times[STEPS]) / (STEPS - 1)


def validators(rows: int, classes: int = 31) -> Measured:
    """The default ones, on outputs that tell classes apart halfway."""
    import torch
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from tl_runner.search import config_dir
    from tl_runner.types import Collected
    from tl_runner.validators import RankEnsemble

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        chosen = instantiate(compose("config").validators, _convert_="all")

    def outputs(count: int) -> Collected:
        row = torch.arange(count)
        y = row % classes
        features = torch.randn(count, 256) + 2 * torch.eye(classes, 256)[y]
        logits = torch.randn(count, classes) + 3 * torch.eye(classes)[y]
        return Collected(features, logits, y, torch.zeros_like(row), row)

    collected = {"target": outputs(rows), "source_val": outputs(2000)}
    with Peak() as peak:
        started = time.perf_counter()
        for validator in chosen.values():
            if not isinstance(validator, RankEnsemble):
                validator(collected)
        seconds = time.perf_counter() - started
    return {"validators": 1000 * seconds, "memory": peak.mb}


def alone(measure: Callable[..., Measured], arguments: dict[str, Any], queue: Any) -> None:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in ("pytorch_lightning", "tl_runner"):
        logging.getLogger(name).setLevel(logging.ERROR)
    queue.put(measure(**arguments))


def measured(measure: Callable[..., Measured], **arguments: Any) -> Measured:
    """In a process of its own, which has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tl_runner.stage", "tl_runner.validators", "hydra.utils"])
    queue = context.Queue()
    process = context.Process(target=alone, args=(measure, arguments, queue))
    process.start()
    found: Measured = queue.get()
    process.join()
    return found


TABLES: dict[str, tuple[str, Callable[..., Measured], str, tuple[int, ...]]] = {
    "rows": ("images in the map", images, "rows", (1_000, 10_000, 100_000, 1_000_000)),
    "domains": ("source domains of 64,000 images", partial(images, 64_000), "domains", (1, 4, 16, 64)),
    "classes": ("classes", vectors, "classes", (31, 100, 310, 1000)),
    "features": ("size of features", vectors, "width", (64, 256, 1024, 4096)),
    "evaluated": ("target rows evaluated", validators, "rows", (1_000, 10_000, 30_000, 100_000)),
    "evaluated-classes": (
        "classes, 5000 rows evaluated",
        partial(validators, 5000),
        "classes",
        (31, 100, 310, 1000),
    ),
}


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """Least squares through the last three, in logarithms."""
    x, y = [math.log(s) for s in sizes[-3:]], [math.log(max(v, 1e-3)) for v in values[-3:]]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--only", choices=TABLES)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    for name, (what, measure, key, sizes) in TABLES.items():
        if args.only not in (None, name):
            continue
        results = [measured(measure, **{key: size}) for size in sizes]
        found[name] = {"sizes": sizes, "results": results}
        rows = []
        for quantity in results[0]:
            values = [r[quantity] for r in results]
            unit = "MB" if quantity == "memory" else "ms"
            rows.append(
                (f"{quantity}, {unit}", *(f"{v:,.1f}" for v in values), f"{exponent(sizes, values):.2f}")
            )
        show(what, ("", *(f"{size:,}" for size in sizes), "exponent"), rows)
    if args.json:
        args.json.write_text(json.dumps({"machine": about(), **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
