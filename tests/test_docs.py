"""The written pages are those that the scripts write."""

from __future__ import annotations

import csv
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from conftest import CONFIGS, write_run

ROOT = Path(__file__).parent.parent


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"scripts/{arguments[0]}", *arguments[1:]]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [("methods.py", "--check"), ("results.py", "write", "--check")])
def test_pages_are_fresh(arguments: tuple[str, ...]) -> None:
    done = script(*arguments)
    assert done.returncode == 0, done.stderr


def test_collected_runs_replace_their_rows_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    results = import_module("results")
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    old = "method,source,target,seed,last,im,oracle,date,torch,gpu\n"
    old += "dann,a,b,0,50.10,,51.00,2026-01-01,2.6,\nmmd,a,b,0,1.00,,2.00,2026-01-01,2.6,\n"
    (tmp_path / "x.csv").write_text(old)
    write_run(tmp_path / "runs" / "new", "mmd", picks={"last": 0.3, "im": 0.31, "oracle": 0.4})
    (write_run(tmp_path / "runs" / "torn", "mcc") / "results.json").write_text("{")
    results.collect("x", [tmp_path / "runs"])
    head, dann, mmd = (tmp_path / "x.csv").read_text().splitlines()
    assert [head, dann] == old.splitlines()[:2]
    assert mmd.startswith("mmd,a,b,0,30.00,31.00,40.00,")
    assert "torn (broken: results.json" in capsys.readouterr().out


def test_every_method_is_described_and_known_numbers_are_of_methods() -> None:
    text = (ROOT / "docs" / "methods.md").read_text()
    for method in CONFIGS["method"]:
        assert f"\n## {method}\n" in text
    for path in (ROOT / "docs" / "results").glob("*.csv"):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                first = row["method"].partition("+")[0].partition("(")[0]
                assert first in CONFIGS["method"], f"{path.name}: {row['method']}"
