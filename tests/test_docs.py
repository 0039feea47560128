"""The written pages are those that the scripts write."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CONFIGS

ROOT = Path(__file__).parent.parent


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"scripts/{arguments[0]}", *arguments[1:]]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [("methods.py", "--check"), ("results.py", "write", "--check")])
def test_pages_are_fresh(arguments: tuple[str, ...]) -> None:
    done = script(*arguments)
    assert done.returncode == 0, done.stderr


def test_every_method_is_described_and_known_numbers_are_of_methods() -> None:
    text = (ROOT / "docs" / "methods.md").read_text()
    for method in CONFIGS["method"]:
        assert f"\n## {method}\n" in text
    for path in (ROOT / "docs" / "results").glob("*.csv"):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                first = row["method"].partition("+")[0].partition("(")[0]
                assert first in CONFIGS["method"], f"{path.name}: {row['method']}"
