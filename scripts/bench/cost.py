"""What a step of each method costs, relative to source_only.

    python scripts/bench/cost.py [--steps 40] [--rounds 5] [--methods mmd dann] [--csv docs/results/cost.csv]

A step is everything between two batches: forward passes, losses, backward passes, updates, and whatever the
method does between them. All methods take turns in one process on one thread, on the same random features
(1280-d, 64 + 64 rows, 31 classes, 256-d bottleneck), with their default settings. Next to the time stand the
floating-point operations of the step's matrix products, counted by torch, also relative to source_only. `time /
arithmetic` above 1 is what is not in matrix products: elementwise work, decompositions, the overhead of small
operations. The same step on images is dominated by the backbone: `passes` is what it would cost there, in
forward (1) and backward (2) passes of the rows, relative to source_only.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from machine import about, show
from omegaconf import OmegaConf
from rich.progress import track
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tl_runner.building import method_builder
from tl_runner.methods.base import Collect, Method
from tl_runner.module import TransferModule
from tl_runner.nn.backbones import Features
from tl_runner.nn.model import Model
from tl_runner.parts import expand, method_config
from tl_runner.search import config_dir, groups
from tl_runner.types import HIDDEN, Batch, DataInfo

WIDTH, ROWS, BATCH, CLASSES = 1280, 1000, 64, 31
INFO = DataInfo(
    tuple(map(str, range(CLASSES))),
    (WIDTH,),
    {"source": ROWS, "target": ROWS},
    {"source": ("s",), "target": ("t",)},
)


class Case:
    """One method with its optimiser, ready to step."""

    def __init__(self, name: str, node: dict[str, Any], optim: dict[str, Any]) -> None:
        torch.manual_seed(0)
        self.name = name
        model = Model(INFO, lambda shape: Features(shape[0]))
        self.method: Method = method_builder(node)(model, INFO)
        optimiser = instantiate(optim, _convert_="all")
        self.module = TransferModule(self.method, optimiser, 1, 1, 0, "bench", {}, lambda collected: {}, ())
        self.module.manual_backward = torch.Tensor.backward  # type: ignore[method-assign]
        self.module.optimizer = self.module.configure_optimizers()
        self.features = {role: torch.randn(ROWS, WIDTH) for role in self.method.roles}
        self.y = torch.arange(ROWS) % CLASSES
        self.method.begin_epoch(Collect(self.method, {role: [self.whole(role)] for role in self.features}))
        self.method.train()
        self.passes = 0.0
        model.neck.register_forward_hook(self.count)

    def count(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.passes += len(inputs[0]) * (3 if output.requires_grad else 1)

    def batch(self) -> dict[str, Batch]:
        found = {}
        for role in self.method.roles:
            row = torch.randint(ROWS, (BATCH,))
            y = torch.full((BATCH,), HIDDEN) if role == "target" else self.y[row]
            views = (self.features[role][row],) * (1 + (role in self.method.two_views))
            found[role] = Batch(views, y, torch.zeros(BATCH, dtype=torch.long), row)
        return found

    def whole(self, role: str) -> Batch:
        rows = torch.arange(ROWS)
        return Batch((self.features[role],), torch.full((ROWS,), HIDDEN), torch.zeros_like(rows), rows)

    def run(self, steps: int) -> float:
        """Seconds of a step in the middle of training."""
        started = time.perf_counter()
        for _ in range(steps):
            for step in self.method.steps(self.batch(), 0.5):
                self.module.update(step)
        self.module.losses = {}
        return (time.perf_counter() - started) / steps

    def arithmetic(self) -> tuple[int, float]:
        """Floating-point operations and passes of one step."""
        self.passes = 0.0
        with Flops() as counter:
            self.run(1)
        return counter.total, self.passes


class Flops(TorchDispatchMode):
    """Counts what torch's own counter counts, which does not run with gradients of gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def cases(names: list[str]) -> list[Case]:
    found = []
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        root: Any = OmegaConf.to_container(compose("config"), resolve=True)
        for name in names:
            node = expand({"method": method_config(name)})["method"]
            found.append(Case(name, node, root["optim"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="*", help="default: all that read an unlabelled target")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = arguments.methods or [
        m for m in groups([config_dir()])["method"] if m not in ("finetune", "target_only")
    ]
    built = cases(list(dict.fromkeys(["source_only", *every])))
    for case in built:
        case.run(arguments.steps)
    seconds: dict[str, list[float]] = {case.name: [] for case in built}
    for turn in track(range(arguments.rounds), "rounds"):
        for case in built if turn % 2 else reversed(built):
            seconds[case.name].append(case.run(arguments.steps))
    work = {case.name: case.arithmetic() for case in built}
    rows: list[tuple[Any, ...]] = []
    for case in built:
        relative = [a / b for a, b in zip(seconds[case.name], seconds["source_only"], strict=True)]
        took = statistics.median(relative)
        flops, passes = (a / b for a, b in zip(work[case.name], work["source_only"], strict=True))
        rows.append(
            (case.name, took, flops, took / flops, passes, 1000 * statistics.median(seconds[case.name]))
        )
    rows.sort(key=lambda row: row[1])
    head = ["method", "time", "arithmetic", "time / arithmetic", "passes", "ms"]
    show("relative to source_only", head, [(row[0], *(f"{v:.2f}" for v in row[1:])) for row in rows])
    machine = about()
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*head, "cpu", "torch", "date"])
            writer.writerows(
                [
                    [r[0], *(f"{v:.2f}" for v in r[1:]), machine["cpu"], machine["torch"], machine["date"]]
                    for r in rows
                ]
            )


if __name__ == "__main__":
    main()
