"""What the runner costs over a bare PyTorch loop.

    python scripts/bench_step.py [--rounds 5] [--json step.json]

The runner is `tl_runner.stage.fit` with everything on: loader, schedule, progress bar, TensorBoard, history,
validators, metrics, checkpoints. The bare loop does the same arithmetic and nothing else: same model, losses,
optimiser and learning rates, and the same batches, gathered by index from the same array in memory. That it
is the same arithmetic is checked: both must end with the same weights.

The two take turns in one process, and which goes first alternates too. Compared are the seconds between an
epoch's start and its evaluation (`History.train_seconds`); building the model, evaluation and checkpoints are
outside. A case's result is the median over rounds of runner / bare. Runs on the CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from tl_runner.data.augment import Augment, View
from tl_runner.data.domains import Prepared
from tl_runner.data.loader import key, order
from tl_runner.data.rows import Rows
from tl_runner.data.store import ArrayStore
from tl_runner.losses import mmd
from tl_runner.methods.mmd import MMD
from tl_runner.methods.source_only import SourceOnly
from tl_runner.nn.backbones import Features, timm
from tl_runner.nn.model import Model
from tl_runner.optim import Optim
from tl_runner.schedules import InverseDecay
from tl_runner.stage import Stage, fit
from tl_runner.trainer import TrainerSettings
from tl_runner.tuning import Tuning
from tl_runner.types import DataInfo
from tl_runner.validators.entropy import Entropy
from tl_runner.validators.im import InformationMaximization
from tl_runner.validators.snd import SoftNeighborhoodDensity

SEED = 0
CLASSES = 31
METHODS: dict[str, type[SourceOnly] | type[MMD]] = {"source_only": SourceOnly, "mmd": MMD}


@dataclass
class Case:
    """What is measured, and the ratio that is promised.

    Attributes:
        shape: of a sample: (D,) for vectors, (C, side, side) for images.
        steps: per epoch; evaluation and checkpoints happen between epochs, untimed.
    """

    name: str
    method: str
    backbone: Callable[..., torch.nn.Module]
    shape: tuple[int, ...]
    rows: int
    batch: int
    epochs: int
    steps: int
    limit: float


def cases(steps: int, image_steps: int) -> list[Case]:
    vectors, per_epoch = 2000, 100  # steps per epoch as in conf/trainer/features.yaml
    frozen = partial(
        Case,
        backbone=lambda shape: Features(shape[0]),
        shape=(1280,),
        rows=vectors,
        batch=64,
        epochs=max(1, round(steps / per_epoch)),
        steps=per_epoch,
        limit=1.25,
    )
    return [
        frozen("frozen features", "source_only"),
        frozen("frozen features", "mmd"),
        Case(
            *("ResNet-18, 64²", "source_only", partial(timm, "resnet18", weights="none"), (3, 64, 64)),
            *(256, 32, 1, image_steps, 1.05),
        ),
    ]


def prepared(case: Case) -> Prepared:
    """Random rows of two domains with random labels, and a few of them to evaluate on."""
    g = torch.Generator().manual_seed(SEED)

    def domain(name: str) -> Rows:
        if len(case.shape) == 1:
            data = torch.randn(case.rows, *case.shape, generator=g)
        else:
            channels, side, _ = case.shape
            data = torch.randint(256, (case.rows, side, side, channels), generator=g, dtype=torch.uint8)
        index = torch.arange(case.rows)
        y = torch.randint(CLASSES, (case.rows,), generator=g)
        return Rows([ArrayStore(data)], torch.zeros_like(index), index, y, (name,))

    source, target = domain("a"), domain("b")
    info = DataInfo(
        tuple(str(k) for k in range(CLASSES)),
        case.shape,
        {"source": case.rows, "target": case.rows},
        {"source": ("a",), "target": ("b",)},
    )
    return Prepared(
        {"source": source, "target": target.hidden()},
        {"source_val": source, "target": target.hidden()},
        target.y,
        info,
    )


def build_model(case: Case, data: Prepared) -> Model:
    torch.manual_seed(SEED)
    return Model(data.info, case.backbone)


def build_optim() -> Optim:
    """`conf/optim/sgd.yaml`."""
    sgd = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
    return Optim(sgd, lr=0.01, weight_decay=0.001, schedule=InverseDecay())


def runner(case: Case, data: Prepared, bar: bool) -> tuple[float, Model]:
    """Seconds of training as `tlrun` trains, and the model."""
    model = build_model(case, data)
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        stage = Stage(
            name="bench",
            method=METHODS[case.method],
            tuning=Tuning(),
            optim=build_optim(),
            augment=Augment([View()], case.shape[-1] if len(case.shape) == 3 else None),
            trainer=TrainerSettings(
                epochs=case.epochs,
                steps_per_epoch=case.steps,
                batch_size=case.batch,
                eval_rows=128,
                accelerator="cpu",
                precision="32",
            ),
            validators={
                "im": InformationMaximization(),
                "entropy": Entropy(),
                "snd": SoftNeighborhoodDensity(),
            },
            metrics={"accuracy": partial(MulticlassAccuracy, average="micro")},
            seed=SEED,
            workers=1,
            cache=Path(folder) / "cache",
        )
        # A terminal that nobody sees: the bar is drawn, as in a user's run.
        console = Console(file=nowhere, force_terminal=bar)
        fitted = fit(stage, model, data, Path(folder), console, resume=False)
    return fitted.timing["train_seconds"], model


def bare(case: Case, data: Prepared) -> tuple[float, Model]:
    """Seconds of the loop that a careful person would write by hand, and the model."""
    model = build_model(case, data).train()
    optim = build_optim()
    optimizer = optim.build(model, model.backbone.parameters())
    source, target = data.roles["source"], data.roles["target"]
    x_source, x_target, y_source = source.stores[0].data, target.stores[0].data, source.y  # type: ignore[attr-defined]
    images, n, total = len(case.shape) == 3, case.batch, case.epochs * case.steps
    adapts = case.method == "mmd"

    def take(data: Tensor, row: Tensor) -> Tensor:
        return data[row].permute(0, 3, 1, 2).contiguous() if images else data[row]

    seconds = 0.0
    for epoch in range(case.epochs):
        # As the runner does, so that dropout and the order of rows agree.
        torch.manual_seed(key(SEED, "bench", epoch) % 2**32)
        rows = order(case.rows, case.steps * n, SEED, "bench", "source", epoch)
        others = order(case.rows, case.steps * n, SEED, "bench", "target", epoch)
        started = time.perf_counter()
        for step in range(case.steps):
            row = rows[step * n : (step + 1) * n]
            done = epoch * case.steps + step
            factor = optim.schedule(done / total, done)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            x, y = take(x_source, row), y_source[row]
            if adapts:
                out = model(torch.cat([x, take(x_target, others[step * n : (step + 1) * n])]))
                loss = F.cross_entropy(out.logits[:n], y) + mmd(out.features[:n], out.features[n:])
            else:
                loss = F.cross_entropy(model(x).logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds += time.perf_counter() - started
    return seconds, model


def difference(a: Model, b: Model) -> float:
    """Largest absolute difference of any weight."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


def measure(case: Case, rounds: int, bar: bool) -> dict[str, Any]:
    data = prepared(case)
    contestants: dict[str, Callable[[], tuple[float, Model]]] = {
        "runner": partial(runner, case, data, bar),
        "bare": partial(bare, case, data),
    }
    warm = {name: run()[1] for name, run in contestants.items()}
    unlike = difference(warm["runner"], warm["bare"])
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name in sorted(contestants, reverse=number % 2 == 0):
            gc.collect()
            seconds[name].append(contestants[name]()[0])
    ratios = [a / b for a, b in zip(seconds["runner"], seconds["bare"], strict=True)]
    count = case.epochs * case.steps
    return {
        "case": case.name,
        "method": case.method,
        "batch": case.batch,
        "steps": count,
        "rounds": rounds,
        "runner_ms_per_step": 1000 * statistics.median(seconds["runner"]) / count,
        "bare_ms_per_step": 1000 * statistics.median(seconds["bare"]) / count,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "limit": case.limit,
        "weights_differ_by": unlike,
    }


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "lightning": pl.__version__,
        "date": date.today().isoformat(),
    }


def show(results: list[dict[str, Any]], about: dict[str, Any]) -> None:
    table = Table(title="One training step: the runner against a bare loop", title_justify="left")
    for column in ("case", "method", "batch", "steps", "runner ms", "bare ms", "ratio", "range", "promised"):
        table.add_column(column, justify="left" if column in ("case", "method") else "right")
    for r in results:
        kept = r["ratio"] <= r["limit"]
        table.add_row(
            *(r["case"], r["method"], str(r["batch"]), f"{r['rounds']} × {r['steps']}"),
            *(f"{r['runner_ms_per_step']:.3f}", f"{r['bare_ms_per_step']:.3f}"),
            f"[{'green' if kept else 'red'}]{r['ratio']:.3f}",
            f"{min(r['ratios']):.2f}–{max(r['ratios']):.2f}",
            f"≤ {r['limit']:.2f} {'kept' if kept else 'missed'}",
        )
    console = Console()
    # A pipe has no width; the table does.
    console.width = max(console.width, 110)
    console.print(table)
    for r in results:
        if r["weights_differ_by"] > 1e-4:
            console.print(
                f"[red]{r['case']}, {r['method']}: the two end with weights that differ by "
                f"{r['weights_differ_by']:.1e}; the comparison is not fair"
            )
    console.print(", ".join(f"{k} {v}" for k, v in about.items()), highlight=False)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant (5)")
    parser.add_argument("--steps", type=int, default=400, help="per turn on frozen features (400)")
    parser.add_argument("--image-steps", type=int, default=40, help="per turn with ResNet-18 (40)")
    parser.add_argument("--only", help="cases whose name or method contains this")
    parser.add_argument("--threads", type=int, help="of torch (its own choice)")
    parser.add_argument("--no-bar", action="store_true", help="the runner as on no terminal: no progress bar")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    chosen = [
        case
        for case in cases(args.steps, args.image_steps)
        if not args.only or args.only.lower() in f"{case.name} {case.method}".lower()
    ]
    if not chosen:
        parser.error(f"--only {args.only}: no such case")
    results = [measure(case, args.rounds, not args.no_bar) for case in chosen]
    about = machine()
    show(results, about)
    if args.json:
        args.json.write_text(json.dumps({"machine": about, "cases": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
