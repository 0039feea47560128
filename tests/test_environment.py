"""What a process says of itself."""

from __future__ import annotations

import subprocess
import sys

CHILD = """
from tl_runner.environment import peak_memory
before = peak_memory()
held = b"1" * (200 << 20)
del held
print(before / 2**20, peak_memory() / 2**20)
"""


def test_peak_memory_is_of_this_process_alone() -> None:
    """Of one that holds 1 GiB comes another: what that one holds itself counts, freed or not, and no more."""
    parent = (
        f"held = b'1' * (1 << 30); import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert before + 150 < after < 1024
