"""Everything about speed that needs a GPU, in one command.

    python scripts/bench/gpu.py [--root data/office31] [--out gpu]        # --device cpu --small: does it run?

1. `step.py --device cuda`: a ResNet-50 and a ViT-S/16 in bf16 with MMD at 32 + 32 images, augmented, against a bare
   loop on resident data: images/s, memory, and a trace of the ResNet-50's steps.
2. `peers.py --device cuda --cases resnet50`: the same ResNet-50 as the known libraries train it.
3. How long an Office-31 transfer of 20 epochs of 500 steps takes, from the steps of 1.

Random weights: speed does not depend on them. The numbers go to the folder --out, tables to the terminal.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--root", type=Path, help="Office-31, or another folder of <domain>/images/<class>/*")
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="a few steps on a few images")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    few = (
        ["--rounds", "1", "--steps", "100", "--image-steps", "2"] if args.small else ["--image-steps", "200"]
    )
    step = [
        "--device",
        args.device,
        "--trace",
        str(args.out / "trace.json"),
        "--json",
        str(args.out / "step.json"),
    ]
    peers = ["--device", args.device, "--json", str(args.out / "peers.json")]
    peers += ["--cases", "small" if args.small else "resnet50"]
    peers += ["--images", "32", "--epochs", "1", "--batch", "8"] if args.small else ["--images", "795"]
    peers += [] if args.root is None else ["--root", str(args.root)]
    for script, options in (("step.py", [*step, *few]), ("peers.py", peers)):
        subprocess.run([sys.executable, str(HERE / script), *options], check=True)
    for case in json.loads((args.out / "step.json").read_text())["cases"]:
        minutes = 20 * 500 * case["runner_ms_per_step"] / 60_000
        speed = f"{case['rows_per_second']:,.0f} images/s, {case['peak_memory_mb']:,.0f} MB"
        print(
            f"{case['case']}, {case['method']}: {speed}; 20 epochs of 500 steps: {minutes:.1f} minutes of training"
        )


if __name__ == "__main__":
    main()
