"""The machine that a run is on, and its process."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def keep_memory() -> None:
    """Let the C library keep freed buffers.

    glibc returns every large one to the system and fetches zeroed pages for the next: on a CPU that took
    most of the time of an EfficientNet's forward pass (24 images/s against 96 with batches of 64).
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        mmap_max, trim_threshold, top_pad = -4, -1, -2
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 64 << 20)


def peak_memory() -> int:
    """Bytes of memory (resident set) that this process has held at its peak."""
    try:  # Where Linux says it: what `getrusage` gives there is at least the peak of who started this process.
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found:
        return 1024 * int(found[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def end_with_parent() -> None:
    """Let this process end with the one that started it, however that ends."""
    if (parent := multiprocessing.parent_process()) is None:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def environment(data_fingerprint: str, device: torch.device) -> dict[str, Any]:
    """What a reader needs to judge or repeat the numbers.

    Args:
        device: that was computed on: a GPU that stood idle is not in it.
    """

    def git(*command: str) -> str | None:
        try:
            done = subprocess.run(["git", *command], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    packages = (
        "tl-runner",
        "torch",
        "torchvision",
        "timm",
        "pytorch-lightning",
        "torchmetrics",
        "hydra-core",
    )
    return {
        "command": sys.argv[1:],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        # Of the folder the run was started in: the user's code, not this package's.
        "git": {"revision": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))},
        "data": data_fingerprint,
    }
