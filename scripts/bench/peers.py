"""The runner against the way that the known libraries load and step, from Enter to the end of the run.

    python scripts/bench/peers.py [--root data/office31 --source amazon --target webcam] [--json peers.json]

The usual way, as TLlib, DeepDA and ADAPT's examples have it, in this file: images are opened by PIL, resized, cropped
and flipped one by one in two worker processes, which start anew with each epoch; source and target pass through the
network one after the other; `.item()` of the losses after each step. The runner is the command line. Both are new
processes, both train the same network from random weights with MMD, SGD and the same batches per epoch, and neither
evaluates more than once an epoch (the usual way not at all). The runner's first epoch pays for decoding the images into
an empty cache. Without --root the images are 300-pixel JPEGs cut from scikit-learn's two photographs.

    frozen     EfficientNet-Lite0 at 224², its weights frozen, 20 epochs: the runner trains on cached features
    small      MobileNetV3-Small (width 0.5) at 96², all of it, 5 epochs: loading counts
    resnet50   ResNet-50 at 224² in bf16, all of it, 5 epochs: for a GPU (--device cuda)
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
from functools import partial
from pathlib import Path
from typing import Any

from machine import about, cores, show

CASES: dict[str, dict[str, Any]] = {
    "frozen": {"network": "tf_efficientnet_lite0", "size": 224, "resize": 256, "epochs": 20, "promised": 10},
    "small": {"network": "mobilenetv3_small_050", "size": 96, "resize": 108, "epochs": 5, "promised": 2.5},
    "resnet50": {"network": "resnet50", "size": 224, "resize": 256, "epochs": 5, "promised": 5},
}


def photographs(folder: Path, count: int) -> None:
    """Two domains of 4 classes with so many 300-pixel JPEGs each: pieces of two photographs."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    for domain, photo in zip(("a", "b"), load_sample_images().images, strict=True):
        for i in range(count):
            top, left = rng.integers(photo.shape[0] - 300), rng.integers(photo.shape[1] - 300)
            file = folder / domain / f"class{i % 4}" / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo[top : top + 300, left : left + 300]).save(file, quality=90)


def part_of(root: Path, folder: Path, domains: tuple[str, str], count: int) -> None:
    """The first images of each class of two domains, about `count` of each, as links."""
    for name, domain in zip(("a", "b"), domains, strict=True):
        classes = sorted(d for d in (root / domain / "images").iterdir() if d.is_dir())
        for kind in classes:
            for file in sorted(kind.iterdir())[: -(-count // len(classes))]:
                link = folder / name / kind.name / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file.resolve())


def usual(root: Path, case: dict[str, Any], frozen: bool, epochs: int, batch: int, device: str) -> None:
    """Train as the known libraries do. Runs as a process of its own."""
    import torch
    from torch.nn import functional as F
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    from tl_runner.losses import mmd
    from tl_runner.nn.backbones import timm
    from tl_runner.nn.model import Model
    from tl_runner.types import DataInfo

    transform = transforms.Compose(
        [
            transforms.Resize((case["resize"], case["resize"])),
            transforms.RandomResizedCrop(case["size"]),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    sets = [ImageFolder(str(root / domain), transform) for domain in ("a", "b")]
    loaders = [
        DataLoader(s, batch, shuffle=True, num_workers=2, drop_last=True, pin_memory=device == "cuda")
        for s in sets
    ]
    info = DataInfo(tuple(sets[0].classes), (3, case["size"], case["size"]), {}, {})

    backbone = partial(timm, case["network"], weights="none")
    torch.manual_seed(0)
    model = Model(info, backbone).to(device)
    for p in model.backbone.parameters():
        p.requires_grad_(not frozen)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-3)
    steps = max(len(loader) for loader in loaders)
    for epoch in range(epochs):
        model.train()
        if frozen:
            model.backbone.eval()
        iterators = [iter(loader) for loader in loaders]
        total = 0.0
        for _ in range(steps):
            batches = []
            for i, loader in enumerate(loaders):
                try:
                    x, y = next(iterators[i])
                except StopIteration:
                    iterators[i] = iter(loader)
                    x, y = next(iterators[i])
                batches.append((x.to(device), y.to(device)))
            (x_s, y_s), (x_t, _) = batches
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                source, target = model(x_s), model(x_t)
                classification = F.cross_entropy(source.logits, y_s)
                transfer = mmd(source.features, target.features)
                loss = classification + transfer
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += classification.item() + transfer.item()
        print(f"epoch {epoch + 1}: {total / steps:.3f}", flush=True)


def overrides(
    root: Path, case: dict[str, Any], frozen: bool, epochs: int, batch: int, device: str
) -> list[str]:
    """The same for the runner."""
    return [
        *("data=folder", f"data.root={root}", "data.source=a", "data.target=b", "data.source_val=0.1"),
        *("model=timm", f"model.backbone.name={case['network']}", "model.backbone.weights=none"),
        *(f"model.size={case['size']}", f"model.resize={case['resize']}"),
        *("method=mmd", f"tuning={'frozen' if frozen else 'full'}", f"trainer.epochs={epochs}"),
        *(f"trainer.batch_size={batch}", f"trainer.accelerator={device}", "report=none", "augment=office"),
    ]


def seconds(command: list[str], folder: Path, log: Path) -> float:
    """Of a new process, from start to end."""
    environment = os.environ | {"TLRUN_CACHE": str(folder / "cache"), "MPLBACKEND": "Agg"}
    started = time.perf_counter()
    with log.open("w") as out:
        code = subprocess.run(command, cwd=folder, env=environment, stdout=out, stderr=out).returncode
    if code:
        sys.exit(f"{' '.join(command)} ended with {code}:\n{log.read_text()[-3000:]}")
    return time.perf_counter() - started


def measure(name: str, args: argparse.Namespace, folder: Path, data: Path) -> dict[str, Any]:
    case, frozen = CASES[name], name == "frozen"
    epochs = args.epochs or case["epochs"]
    ours, theirs = [], []
    for turn in range(args.rounds):
        work = folder / f"{name}-{turn}"
        work.mkdir()
        chosen = overrides(data, case, frozen, epochs, args.batch, args.device)
        ours.append(
            seconds([sys.executable, "-m", "tl_runner.cli", *chosen, *args.set], work, work / "runner.log")
        )
        again = [sys.executable, __file__, "--usual", name, "--root", str(data), "--epochs", str(epochs)]
        again += ["--batch", str(args.batch), "--device", args.device]
        theirs.append(seconds(again, work, work / "usual.log"))
    return {"case": name, "epochs": epochs, "runner": ours, "usual": theirs, "promised": case["promised"]}


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--root", type=Path, help="folder of <domain>/images/<class>/*")
    parser.add_argument("--source", default="amazon")
    parser.add_argument("--target", default="webcam")
    parser.add_argument("--images", type=int, default=128, help="of each domain (128)")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=["frozen", "small"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="of each case (its own number)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--set", nargs="*", default=[], help="overrides for the runner: model.channels_last=false"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--usual", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.usual:
        usual(args.root, CASES[args.usual], args.usual == "frozen", args.epochs, args.batch, args.device)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data"
        if args.root is None:
            photographs(data, args.images)
        else:
            part_of(args.root, data, (args.source, args.target), args.images)
        counts = [len(list((data / domain).rglob("*.*"))) for domain in ("a", "b")]
        results = [measure(case, args, folder, data) for case in args.cases]
    rows = []
    for r in results:
        ratio = statistics.median(b / a for a, b in zip(r["runner"], r["usual"], strict=True))
        rows.append(
            (
                *(r["case"], str(r["epochs"]), f"{statistics.median(r['usual']):.1f}"),
                *(f"{statistics.median(r['runner']):.1f}", f"{ratio:.1f}", f"≥ {r['promised']}"),
            )
        )
    title = f"{counts[0]} + {counts[1]} images, batches of {args.batch} + {args.batch}, {cores()} cores"
    show(title, ("case", "epochs", "usual s", "runner s", "times faster", "promised"), rows)
    if args.json:
        args.json.write_text(
            json.dumps({"machine": about(), "images": counts, "cases": results}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
