"""What the runner costs over a bare PyTorch loop, which is the limit of what a machine can do.

    python scripts/bench/step.py [--rounds 5] [--device cuda] [--trace trace.json] [--json step.json]

The runner is `tl_runner.stage.fit` with everything on: loader, augmentation, schedule, progress bar, TensorBoard,
history, checkpoints, validators and metrics. The bare loop does the model's arithmetic and nothing else: same model,
losses, optimiser and learning rates, on batches gathered by index from data that lie in the device's memory as the
model wants them. Where nothing is augmented both must end with the same weights, which is checked.

The two take turns in one process, and which goes first alternates too. `ratio` compares the seconds of the training
epochs (`History.train_seconds`); `with scores` adds those that the validators and metrics take at the end of
each epoch. An evaluation's forward passes, which the bare loop does not have, are in neither, nor are checkpoints and
the building of the model. A case's result is the median over rounds. On a GPU the cases are a ResNet-50 and a ViT-S/16
in bf16, and `MB` is the runner's peak there. `--trace` writes a profile of the first case for a trace viewer.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from machine import about, show
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

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
from tl_runner.scoring import Score
from tl_runner.search import config_dir
from tl_runner.stage import Stage, fit
from tl_runner.trainer import TrainerSettings
from tl_runner.tuning import Tuning
from tl_runner.types import DataInfo

SEED = 0
CLASSES = 31
METHODS: dict[str, type[SourceOnly] | type[MMD]] = {"source_only": SourceOnly, "mmd": MMD}


@dataclass
class Case:
    """What is measured, and the ratio that is promised.

    Attributes:
        shape: of a sample for the model: (D,) for vectors, (C, side, side) for images.
        batch: rows of each role. steps: per epoch; evaluation and checkpoints happen between epochs.
        stored: side of the stored images; None: as the model sees them, without augmentation.
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
    stored: int | None = None
    device: str = "cpu"
    precision: str = "32"
    validators: str = "default"

    @property
    def images(self) -> bool:
        return len(self.shape) == 3


def cases(steps: int, image_steps: int, device: str) -> list[Case]:
    if device == "cuda":
        real = partial(Case, rows=1024, batch=32, epochs=1, steps=image_steps, limit=1.053, stored=256)
        return [
            real(
                name,
                "mmd",
                partial(timm, network, weights="none"),
                (3, 224, 224),
                device=device,
                precision="bf16",
            )
            for name, network in (
                ("ResNet-50, 224²", "resnet50"),
                ("ViT-S/16, 224²", "vit_small_patch16_224"),
            )
        ]
    per_epoch = 100  # steps per epoch as in conf/trainer/features.yaml
    frozen = partial(
        Case,
        backbone=lambda shape: Features(shape[0]),
        shape=(1280,),
        rows=2000,
        batch=64,
        epochs=max(1, round(steps / per_epoch)),
        steps=per_epoch,
        limit=1.25,
    )
    small = partial(timm, "resnet18", weights="none")
    return [
        frozen("frozen features", "source_only"),
        frozen("frozen features", "mmd"),
        # The published epochs of Office-31 are of 500 or 1000 steps.
        frozen("frozen features, epochs of 500 steps", "source_only", epochs=1, steps=500),
        frozen("frozen features, validators=fast", "source_only", validators="fast"),
        frozen("frozen features, validators=fast", "mmd", validators="fast"),
        Case("ResNet-18, 64²", "source_only", small, (3, 64, 64), 256, 32, 1, image_steps, 1.053),
        Case("ResNet-18, 112², augmented", "mmd", small, (3, 112, 112), 256, 16, 1, image_steps, 1.053, 128),
    ]


def prepared(case: Case) -> Prepared:
    """Random rows of two domains with random labels."""
    g = torch.Generator().manual_seed(SEED)

    def domain(name: str) -> Rows:
        if case.images:
            side = case.stored or case.shape[1]
            data = torch.randint(256, (case.rows, side, side, case.shape[0]), generator=g, dtype=torch.uint8)
        else:
            data = torch.randn(case.rows, *case.shape, generator=g)
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


def chosen(group: str, option: str) -> dict[str, Any]:
    """Validators or metrics of the config tree."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return dict(instantiate(compose("config", [f"{group}={option}"])[group], _convert_="all"))


@contextlib.contextmanager
def timed_scores() -> Iterator[list[float]]:
    """Seconds of each epoch's validators and metrics."""
    seconds: list[float] = []
    score = Score.__call__

    def timed(self: Score, collected: Any) -> Any:
        started = time.perf_counter()
        found = score(self, collected)
        seconds.append(time.perf_counter() - started)
        return found

    Score.__call__ = timed  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        Score.__call__ = score  # type: ignore[method-assign]


def runner(case: Case, data: Prepared, bar: bool) -> tuple[float, float, float, Model]:
    """Seconds of training as `tlrun` trains, seconds of scores, the peak of memory in MB, and the model."""
    model = build_model(case, data)
    side = case.shape[-1] if case.images else None
    views = [View("resized", flip=0.5)] if case.stored else [View()]
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as nowhere,
        timed_scores() as scores,
    ):
        stage = Stage(
            name="bench",
            method=METHODS[case.method],
            tuning=Tuning(),
            optim=build_optim(),
            augment=Augment(views, side),
            trainer=TrainerSettings(
                epochs=case.epochs,
                steps_per_epoch=case.steps,
                batch_size=case.batch,
                accelerator=case.device,  # type: ignore[arg-type]
                precision=case.precision,  # type: ignore[arg-type]
                eval_rows=None if not case.images else 128,
            ),
            validators=chosen("validators", case.validators),
            metrics=chosen("metrics", "default"),
            seed=SEED,
            workers=1,
            cache=Path(folder) / "cache",
        )
        # A terminal that nobody sees: the bar is drawn, as in a user's run.
        console = Console(file=nowhere, force_terminal=bar)
        fitted = fit(stage, model, data, Path(folder), console, resume=False)
    return fitted.timing["train_seconds"], sum(scores), fitted.timing["peak_memory_mb"], model


def bare(case: Case, data: Prepared) -> tuple[float, Model]:
    """Seconds of the loop that a careful person would write by hand, and the model."""
    device = torch.device(case.device)
    model = build_model(case, data).to(device).train()
    optim = build_optim()
    optimizer = optim.build(model, model.backbone.parameters())
    n, total = case.batch, case.epochs * case.steps

    def resident(rows: Rows) -> Tensor:
        x: Tensor = rows.stores[0].data  # type: ignore[attr-defined]
        if case.stored:  # The limit cuts nothing.
            edge = (case.stored - case.shape[1]) // 2
            x = x[:, edge : edge + case.shape[1], edge : edge + case.shape[1]]
        return x.contiguous().to(device)

    x_source, x_target = resident(data.roles["source"]), resident(data.roles["target"])
    y_source = data.roles["source"].y.to(device)

    def take(x: Tensor, row: Tensor) -> Tensor:
        return x[row].permute(0, 3, 1, 2).contiguous() if case.images else x[row]

    seconds = 0.0
    for epoch in range(case.epochs):
        # As the runner does, so that dropout and the order of rows agree.
        torch.manual_seed(key(SEED, "bench", epoch) % 2**32)
        rows = order(case.rows, case.steps * n, SEED, "bench", "source", epoch).to(device)
        others = order(case.rows, case.steps * n, SEED, "bench", "target", epoch).to(device)
        _wait(device)
        started = time.perf_counter()
        for step in range(case.steps):
            row = rows[step * n : (step + 1) * n]
            done = epoch * case.steps + step
            factor = optim.schedule(done / total, done)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            x, y = take(x_source, row), y_source[row]
            with torch.autocast(device.type, torch.bfloat16, enabled=case.precision == "bf16"):
                if case.method == "mmd":
                    out = model(torch.cat([x, take(x_target, others[step * n : (step + 1) * n])]))
                    loss = F.cross_entropy(out.logits[:n], y) + mmd(out.features[:n], out.features[n:])
                else:
                    loss = F.cross_entropy(model(x).logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        _wait(device)
        seconds += time.perf_counter() - started
    return seconds, model.cpu()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def difference(a: Model, b: Model) -> float:
    """Largest absolute difference of any weight."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


def measure(case: Case, rounds: int, bar: bool) -> dict[str, Any]:
    data = prepared(case)
    unlike = difference(runner(case, data, bar)[-1], bare(case, data)[-1])
    trained, scored, alone, memory = [], [], [], 0.0
    for number in range(rounds):
        for name in ("runner", "bare") if number % 2 else ("bare", "runner"):
            gc.collect()
            if name == "bare":
                alone.append(bare(case, data)[0])
            else:
                train, scores, memory, _ = runner(case, data, bar)
                trained.append(train)
                scored.append(train + scores)
    count = case.epochs * case.steps
    return {
        "case": case.name,
        "method": case.method,
        "batch": case.batch,
        "steps": count,
        "rounds": rounds,
        "runner_ms_per_step": 1000 * statistics.median(trained) / count,
        "bare_ms_per_step": 1000 * statistics.median(alone) / count,
        "rows_per_second": (1 + (case.method == "mmd")) * case.batch * count / statistics.median(trained),
        "peak_memory_mb": memory,
        "ratios": [a / b for a, b in zip(trained, alone, strict=True)],
        "ratios_with_scores": [a / b for a, b in zip(scored, alone, strict=True)],
        "limit": case.limit,
        # In bf16, and after other crops, they differ.
        "weights_differ_by": None if case.stored or case.precision != "32" else unlike,
    }


def report(results: list[dict[str, Any]]) -> None:
    rows = []
    for r in results:
        ratio = statistics.median(r["ratios"])
        rows.append(
            (
                f"{r['case']}, {r['method']}",
                *(str(r["batch"]), f"{r['rounds']} × {r['steps']}"),
                *(f"{r['runner_ms_per_step']:.2f}", f"{r['bare_ms_per_step']:.2f}"),
                f"[{'green' if ratio <= r['limit'] else 'red'}]{ratio:.3f}",
                f"{statistics.median(r['ratios_with_scores']):.3f}",
                *(f"≤ {r['limit']:.2f}", f"{r['rows_per_second']:,.0f}", f"{r['peak_memory_mb']:,.0f}"),
            )
        )
    head = (
        "case",
        "rows",
        "steps",
        "runner ms",
        "bare ms",
        "ratio",
        "with scores",
        "promised",
        "rows/s",
        "MB",
    )
    show("A step of the runner and of a bare loop", head, rows)
    for r in results:
        if (unlike := r["weights_differ_by"]) is not None and unlike > 1e-4:
            print(f"{r['case']}, {r['method']}: weights differ by {unlike:.1e}; the comparison is not fair")


def trace(case: Case, path: Path) -> None:
    """A profile of the runner's steps, and the operations that take most of the time."""
    data = prepared(case)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if case.device == "cuda" else []
    with torch.profiler.profile(activities=kinds) as profile:
        runner(case, data, bar=False)
    profile.export_chrome_trace(str(path))
    by = "self_cuda_time_total" if case.device == "cuda" else "self_cpu_time_total"
    print(profile.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=40))


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant (5)")
    parser.add_argument("--steps", type=int, default=400, help="per turn on frozen features (400)")
    parser.add_argument("--image-steps", type=int, default=40, help="per turn on images (40)")
    parser.add_argument("--only", help="cases whose name or method contains this")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, help="of torch (its own choice)")
    parser.add_argument("--no-bar", action="store_true", help="the runner as on no terminal: no progress bar")
    parser.add_argument("--trace", type=Path, help="write a profile of the first case here")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for name in ("pytorch_lightning", "tl_runner"):
        logging.getLogger(name).setLevel(logging.ERROR)
    wanted = [
        case
        for case in cases(args.steps, args.image_steps, args.device)
        if not args.only or args.only.lower() in f"{case.name} {case.method}".lower()
    ]
    if not wanted:
        parser.error(f"--only {args.only}: no such case")
    if args.trace:
        trace(wanted[0], args.trace)
    results = [measure(case, args.rounds, not args.no_bar) for case in wanted]
    report(results)
    if args.json:
        args.json.write_text(json.dumps({"machine": about(), "cases": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
