"""What decoding every image once is worth.

    python scripts/bench/rows.py --root data/office31 --domain amazon [--json cache.json]

Reads `<root>/<domain>/images/<class>/*`. First every image is decoded into a map in a temporary folder, as a
first run does, on all cores. Then, on one core each, in turns:

    gather            rows out of the map, no augmentation
    runner            what `StageLoader` gives the model: rows, random resized crop to 224, flip, as bytes
                      (the model's backbone makes them floats on the device)
    runner, floats    the same and then floats in [0, 1], as ToTensor leaves them
    usual             PIL open, convert, resize to 256; torchvision's RandomResizedCrop(224), flip, ToTensor

Both draw crops of 8 to 100 % of the area and flip every second image. Files and map have just been written
or read, so both come from the page cache: the usual way's disk is as fast as it can be.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import about, cores, show
from PIL import Image
from torchvision import transforms

from tl_runner.data.augment import Augment, View
from tl_runner.data.folders import Folders
from tl_runner.data.loader import StageLoader, order
from tl_runner.data.rows import Rows
from tl_runner.data.samples import Samples
from tl_runner.data.store import cached_pixels

SIDE, SIZE = 256, 224
SEED = 0


def decoded(samples: Samples, folder: Path, threads: int) -> tuple[float, Rows]:
    """Seconds to decode the images into a map, and its rows."""
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        samples, store = cached_pixels(samples, SIDE, 3, folder, "error", pool)
        seconds = time.perf_counter() - started
    index = torch.arange(len(samples))
    y = torch.from_numpy(samples.labels)
    return seconds, Rows([store], torch.zeros_like(index), index, y, (samples.domain,))


def gather(rows: Rows, batch: int, steps: int, turn: int) -> None:
    for row in order(len(rows), batch * steps, SEED, turn).split(batch):
        rows.gather(row)


def runner(rows: Rows, batch: int, steps: int, turn: int, floats: bool = False) -> None:
    loader = StageLoader(
        roles={"source": rows},
        batch_size={"source": batch},
        steps=steps,
        augment={"source": Augment([View("resized", flip=0.5)], SIZE)},
        seed=SEED,
        stage="bench",
        epoch=lambda: turn,
        workers=0,
        device=torch.device("cpu"),
    )
    for batches in loader:
        x = batches["source"].x
        if floats:
            x.float().div_(255)


def usual(files: list[Path], batch: int, steps: int, turn: int) -> None:
    transform = transforms.Compose(
        [
            transforms.Resize((SIDE, SIDE)),
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )
    for row in order(len(files), batch * steps, SEED, turn).split(batch):
        images = []
        for i in row.tolist():
            with Image.open(files[i]) as image:
                images.append(transform(image.convert("RGB")))
        torch.stack(images)


def measure(samples: Samples, rows: Rows, batch: int, images: int, rounds: int) -> dict[str, list[float]]:
    """Images per second of each way, one number per round."""
    assert samples.files is not None
    ways: dict[str, Callable[[int, int], None]] = {
        "gather": partial(gather, rows, batch),
        "runner": partial(runner, rows, batch),
        "runner, floats": partial(runner, rows, batch, floats=True),
        "usual": partial(usual, samples.files, batch),
    }
    steps = max(1, images // batch)
    torch.set_num_threads(1)
    for way in ways.values():
        way(2, rounds)
    speed: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, way in ways.items():
            gc.collect()
            started = time.perf_counter()
            way(steps, turn)
            speed[name].append(steps * batch / (time.perf_counter() - started))
    return speed


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--root", type=Path, required=True, help="folder of <domain>/images/<class>/*")
    parser.add_argument("--domain", default="amazon")
    parser.add_argument("--limit", type=int, help="decode only so many images, spread over the domain")
    parser.add_argument("--images", type=int, default=640, help="per way and round (640)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=cores(), help="that decode (all cores)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    samples = Folders(str(args.root), "{domain}/images/{class}/*").read(args.domain)
    if args.limit and args.limit < len(samples):
        samples = samples.keep(np.linspace(0, len(samples) - 1, args.limit).astype(int))
    with tempfile.TemporaryDirectory() as folder:
        seconds, rows = decoded(samples, Path(folder), args.threads)
        speed = measure(samples, rows, args.batch, args.images, args.rounds)
    usual_speed = speed["usual"]
    ways: dict[str, dict[str, Any]] = {
        name: {
            "images_per_second": statistics.median(all_),
            "times_usual": statistics.median(a / b for a, b in zip(all_, usual_speed, strict=True)),
            "all": all_,
        }
        for name, all_ in speed.items()
    }
    result = {
        "domain": args.domain,
        "images": len(samples),
        "timed": max(1, args.images // args.batch) * args.batch,
        "rounds": args.rounds,
        "batch": args.batch,
        "decoding": {
            "seconds": seconds,
            "threads": args.threads,
            "images_per_second": len(samples) / seconds,
            "map_mb": len(samples) * SIDE * SIDE * 3 / 1e6,
        },
        "ways": ways,
    }
    decoding = result["decoding"]
    shown = [
        (
            *(name, f"{way['images_per_second']:,.0f}", f"{min(way['all']):,.0f}–{max(way['all']):,.0f}"),
            f"{way['times_usual']:.1f}",
        )
        for name, way in ways.items()
    ]
    title = f"{args.domain}: {len(samples)} images, {args.rounds} rounds of {result['timed']}"
    show(title, ("one core", "images/s", "range", "× usual"), shown)
    print(
        f"decoded once in {decoding['seconds']:.1f} s: {decoding['images_per_second']:,.0f} images/s on "
        f"{decoding['threads']} threads, {decoding['map_mb']:,.0f} MB"
    )
    if args.json:
        args.json.write_text(json.dumps({"machine": about(), **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
