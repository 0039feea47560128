"""What a process says of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import composed

from tl_runner.environment import environment
from tl_runner.report.comparison import compare
from tl_runner.report.cost import machines
from tl_runner.report.runs import find
from tl_runner.run import run

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


def test_the_gpu_is_the_one_that_was_computed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run on the CPU of a machine that has one: none, in its results and in the cost of runs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "some GPU")
    results = run(composed("trainer=smoke", "trainer.accelerator=cpu", "report=none"), tmp_path)
    assert results["environment"]["gpu"] is None
    assert machines(compare(find([tmp_path])).rows) == ["CPU"]
    assert environment("", torch.device("cuda"))["gpu"] == "some GPU"
