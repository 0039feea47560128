"""Every code block of docs/extending.md works as printed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
BLOCKS = dict(re.findall(r"^<!-- (.+?) -->\n```\w+\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """The page's folder `lab` with all its files, and the package beside it."""
    lab = tmp_path / "lab"
    lab.mkdir()
    files = {k.removeprefix("file: "): v for k, v in BLOCKS.items() if k.startswith("file: ")}
    own = {name: text for name, text in files.items() if not name.startswith("../")}
    write(lab, own)
    shell(BLOCKS["prepare beside lab"], tmp_path, tmp_path)
    write(lab, {name: text for name, text in files.items() if name not in own})
    return lab


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def shell(script: str, cwd: Path, cache: Path, **env: str) -> str:
    """What a script prints, run as a user would, with this environment's `tlrun`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=cwd,
        env={**os.environ, "PATH": path, "TLRUN_CACHE": str(cache), "COLUMNS": "200", **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def results(folder: Path) -> dict[str, Any]:
    """Of the only run in the folder."""
    [file] = folder.glob("outputs/*/*/results.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def offered(words: str, cwd: Path, **env: str) -> list[str]:
    """What Bash offers after `words`, once the page's line has installed the completion."""
    query = f"""
        COMP_LINE="{words}" COMP_POINT={len(words)} COMP_CWORD={len(words.split()) - 1}
        hydra_bash_completion
        echo "${{COMPREPLY[@]}}"
    """
    return shell(BLOCKS["completion"] + query, cwd, cwd, **env).split()


def with_package(folder: Path) -> str:
    """A PYTHONPATH that has the package, in place of installing it."""
    return os.pathsep.join(filter(None, [str(folder / "tl-stripes"), os.environ.get("PYTHONPATH")]))


def test_every_block_is_tested() -> None:
    blocks = re.findall(r"^```(\w+)$", PAGE.read_text(), re.MULTILINE)
    assert len(BLOCKS) == len([language for language in blocks if language != "text"])


def test_from_the_working_folder(lab: Path, tmp_path: Path) -> None:
    printed = shell(BLOCKS["run in lab"], lab, tmp_path / "cache")
    assert "Features with the same mean in both domains." in printed
    assert "Deep Domain Confusion" in printed
    found = results(lab)
    assert found["stages"]["adapt"]["method"] == "means"
    assert set(found["stages"]["adapt"]["losses"]) == {"source", "means"}
    assert found["data"] == "clean -> noisy"
    assert found["config"]["data"]["reader"]["_target_"] == "mine.Stripes"
    assert found["config"]["model"]["backbone"]["_target_"] == "mine.bars"


def test_from_another_folder(lab: Path, tmp_path: Path) -> None:
    shell(BLOCKS["run beside lab"], tmp_path, tmp_path / "cache")
    found = results(tmp_path)
    assert found["stages"]["adapt"]["method"] == "critic"
    assert set(found["stages"]["adapt"]["losses"]) == {"critic", "source", "distance"}
    assert found["config"]["model"]["backbone"]["_target_"] == "mine.bars"


def test_as_a_package(lab: Path, tmp_path: Path) -> None:
    work = tmp_path / "elsewhere"
    work.mkdir()
    path = with_package(tmp_path)
    shell(BLOCKS["run with the package"], work, tmp_path / "cache", PYTHONPATH=path)
    found = results(work)
    assert found["stages"]["adapt"]["method"] == "means"
    assert found["config"]["method"]["_target_"] == "tl_stripes.means.Means"
    assert found["config"]["data"]["reader"]["_target_"] == "tl_stripes.mine.Stripes"
    assert found["config"]["model"]["backbone"]["_target_"] == "tl_stripes.mine.bars"


def test_completion_offers_names(lab: Path, tmp_path: Path) -> None:
    assert {"method=mmd", "method=dann"} <= set(offered("tlrun method=", tmp_path))
    assert "method=means" not in offered("tlrun method=", tmp_path)
    assert "trainer.epochs=" in offered("tlrun trainer.", tmp_path)
    assert {"method=mmd", "method=means", "method=critic"} <= set(offered("tlrun method=", lab))
    assert offered("tlrun method=means", tmp_path, PYTHONPATH=with_package(tmp_path)) == ["method=means"]


def test_options_may_follow_own_names(lab: Path, tmp_path: Path) -> None:
    assert "_target_: means.Means" in shell("tlrun method=means --cfg job", lab, tmp_path)


def test_names_that_ship_win(lab: Path, tmp_path: Path) -> None:
    write(lab, {"conf/method/mmd.yaml": BLOCKS["file: conf/method/means.yaml"]})
    assert "_target_: tl_runner.methods.mmd.MMD" in shell("tlrun --cfg job method=mmd", lab, tmp_path)


def test_own_names_are_known_beside_a_wrong_one(lab: Path, tmp_path: Path) -> None:
    printed = shell("tlrun method=means data=strips 2>&1 || true", lab, tmp_path)
    assert "there is no 'strips'; did you mean 'stripes'?" in printed
    assert "there is no 'means'" not in printed


def test_a_working_folder_may_have_any_name(lab: Path, tmp_path: Path) -> None:
    odd = lab.rename(tmp_path / "it's a lab, mine")
    assert "_target_: means.Means" in shell("tlrun --cfg job method=means", odd, tmp_path)
