"""The installed wheel works from an empty folder, without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import result_folder

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_wheel_runs_from_an_empty_folder(tmp_path: Path) -> None:
    wheels, site, work = tmp_path / "wheels", tmp_path / "site", tmp_path / "work"
    work.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", wheels, ROOT], check=True)
    (wheel,) = wheels.glob("tl_runner-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {f"tl_runner/{f.relative_to(ROOT).as_posix()}" for f in (ROOT / "conf").rglob("*.yaml")}
    shipped |= {f.relative_to(ROOT).as_posix() for f in (ROOT / "tl_runner").rglob("*.jinja")}
    assert shipped <= set(names)
    assert not [n for n in names if n.startswith(("tests", "scripts", "conf/"))]
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    # -S would lose the dependencies; an empty PYTHONPATH entry would find the checkout.
    environment = {**os.environ, "PYTHONPATH": str(site), "TLRUN_CACHE": str(tmp_path / "cache")}
    where = "import tl_runner; print(tl_runner.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=work, env=environment, capture_output=True, text=True
    )
    assert found.stdout.startswith(str(site))
    command = [sys.executable, "-m", "tl_runner.cli", "trainer=smoke", "report=html"]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=True)
    results = json.loads((result_folder(done) / "results.json").read_text())
    assert results["stages"]["adapt"]["method"] == "mmd"
    assert "Confusion matrix" in (result_folder(done) / "report.html").read_text()
