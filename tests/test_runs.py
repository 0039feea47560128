"""Run folders are found and read whatever state they are in, and nothing in them is executed."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Tlrun, composed, write_run

from tl_runner import status
from tl_runner.commands.status import main as show
from tl_runner.errors import DataError, UserError
from tl_runner.report.runs import find, flat, read
from tl_runner.run import run


def test_a_run_that_is_done(tmp_path: Path) -> None:
    one = read(write_run(tmp_path / "a", method="mcc", source="amazon", target="dslr", seed=2))
    assert (one.status, one.why) == ("done", "")
    assert (one.method, one.transfer, one.value("seed")) == ("mcc", "amazon -> dslr", 2)
    assert one.value("model.backbone.name") == "resnet18"
    assert one.value("model.nothing.here", "default") == "default"
    history = one.history()
    assert list(history) == ["adapt"]
    assert list(history["adapt"]["epoch"]) == [1, 2]
    assert {"val/im", "test/accuracy", "loss/source"} <= set(history["adapt"])


def test_names_of_values(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", source=["a", "b"])
    one = read(folder)
    assert one.name("data.source") == "a+b"
    assert one.name("model") == "model"
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {model: resnet18}}}")
    assert read(folder).name("model") == "resnet18"
    assert read(folder).name("init_from") == "null"


@pytest.mark.parametrize(
    ("stages", "name"),
    [
        ({"adapt": None}, "mcc"),
        ({"source": "source_only", "adapt": None}, "mcc"),
        ({"adapt": None, "finetune": "finetune"}, "mcc"),
        ({"vada": "vada", "adapt": "dirt_t"}, "dirt_t"),
    ],
)
def test_a_run_of_several_stages_is_named_by_its_method(
    stages: dict[str, str | None], name: str, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "a", method="mcc", stages=stages)
    assert read(folder).method == name
    (folder / "results.json").unlink()
    assert read(folder).method == name, "from the config alone"


def test_search(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, seed=i) for i, name in enumerate(["a", "m/b", "m/deep/er/c"])]
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("defaults: []")
    write_run(tmp_path / ".hidden")
    write_run(tmp_path / "a" / "checkpoints" / "run_in_a_run")
    assert [run.folder for run in find([tmp_path])] == folders
    assert [run.folder for run in find([tmp_path / "m", tmp_path / "m" / "b", *folders])] == [
        folders[1],
        folders[2],
        folders[0],
    ]


def test_nothing_to_find(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        find([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="no run in"):
        find([tmp_path])
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is no folder"):
        find([tmp_path / "file"])


def _results(change: Any) -> Any:
    def edit(folder: Path) -> None:
        results = json.loads((folder / "results.json").read_text())
        change(results)
        (folder / "results.json").write_text(json.dumps(results))

    return edit


BROKEN = {
    "torn": (lambda f: (f / "results.json").write_text("{"), "results.json: Invalid JSON"),
    "empty": (lambda f: (f / "results.json").write_text(""), "results.json: Invalid JSON"),
    "bytes": (lambda f: (f / "results.json").write_bytes(b"\xff\x00"), "results.json: Invalid JSON"),
    "list": (lambda f: (f / "results.json").write_text("[]"), "should be an object"),
    "deep": (lambda f: (f / "results.json").write_text("[" * 10**5), "results.json: "),
    "no stages": (_results(lambda r: r.pop("stages")), "stages: Field required"),
    "no stage": (_results(lambda r: r["stages"].clear()), "it has no stage"),
    "no last": (_results(lambda r: r["stages"]["adapt"]["picks"].pop("last")), "lacks 'last'"),
    "no number": (
        _results(lambda r: r["stages"]["adapt"]["picks"]["last"]["target"].update(accuracy="<b>high")),
        "stages.adapt.picks.last.target.accuracy: Input should be a valid number",
    ),
    "missing": (lambda f: (f / "results.json").unlink(), "results.json is missing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_is_listed_and_hides_no_other(name: str, tmp_path: Path) -> None:
    damage, why = BROKEN[name]
    broken, good = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    damage(broken)
    first, second = find([tmp_path])
    assert first.status == "broken"
    assert why in first.why
    assert "\n" not in first.why
    assert (second.status, second.folder) == ("done", good)


@pytest.mark.parametrize(
    "text",
    ["a: [", "!!python/object/apply:os.system ['touch {mark}']", "just a string", "[" * 10**4, "\x00"],
)
def test_a_broken_config_is_named_and_not_executed(text: str, tmp_path: Path) -> None:
    folder, mark = write_run(tmp_path / "a"), tmp_path / "mark"
    (folder / "results.json").unlink()
    (folder / "status.json").unlink()
    (folder / "config.yaml").write_text(text.replace("{mark}", str(mark)))
    one = read(folder)
    assert one.status == "broken"
    assert one.why.startswith("config.yaml: ")
    assert one.method == "?"
    assert not mark.exists()


@pytest.mark.parametrize("text", ["", "stage,epoch\nadapt,many\n", "a,b\n1,2\n", "\x00\x01", "epoch\n1\n"])
def test_a_broken_history_is_named(text: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "metrics.csv").write_text(text)
    with pytest.raises(DataError, match=r"metrics\.csv is broken"):
        read(folder).history()


def test_an_unfinished_run_has_no_results_and_no_history_yet(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    for name in ("results.json", "status.json", "metrics.csv"):
        (folder / name).unlink()
    one = read(folder)
    assert (one.status, one.why, one.history()) == ("unfinished", "", {})
    with pytest.raises(DataError, match="not done"):
        _ = one.stage


def test_status_of_the_living_and_the_dead(tmp_path: Path) -> None:
    with status.recorded(tmp_path):
        told = json.loads((tmp_path / "status.json").read_text())
        assert status.read(tmp_path) == ("running", f"process {os.getpid()} on {platform.node()}")
    assert status.read(tmp_path) == ("done", "")
    for change in ({"process_started": told["process_started"] - 60}, {"pid": 2**22 + 1}, {"pid": None}):
        (tmp_path / "status.json").write_text(json.dumps(told | change))
        state = status.read(tmp_path)
        assert state is not None
        assert state[0] == "unfinished"
        assert state[1].startswith("killed (process ")
    (tmp_path / "status.json").write_text(json.dumps(told | {"host": "elsewhere"}))
    assert status.read(tmp_path) == (
        "unfinished",
        f"it was process {os.getpid()} on elsewhere; whether it still runs shows only there",
    )
    assert [f.name for f in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize(
    ("error", "state", "why"),
    [
        (UserError("set data.root"), "failed", "set data.root"),
        (ValueError("too small\nat line 3"), "failed", "ValueError: too small"),
        (MemoryError(), "failed", "MemoryError"),
        (KeyboardInterrupt(), "unfinished", "interrupted"),
        (SystemExit(143), "unfinished", "terminated"),
    ],
)
def test_status_of_the_failed(error: BaseException, state: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)), status.recorded(tmp_path):
        raise error
    assert status.read(tmp_path) == (state, why)


def test_the_time_of_a_short_job_is_known_and_that_of_a_killed_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with status.recorded(tmp_path / "short"):
        told = json.loads((tmp_path / "short" / "status.json").read_text())
    (tmp_path / "short" / "status.json").write_text(
        json.dumps(told | {"state": "done", "ended": told["started"]})
    )
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "status.json").write_text(json.dumps(told | {"pid": 2**22 + 1}))
    show([str(tmp_path)], [])
    lines = {
        line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()
    }
    assert lines["short"][:2] == ["broken", "0:00:00"]
    assert lines["killed"][:2] == ["unfinished", "killed"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(DataError, match="cannot write into the run's folder"),
        status.recorded(tmp_path / "file"),
    ):
        pass


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"state": "happy"}'])
def test_a_broken_status(text: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "results.json").unlink()
    (folder / "status.json").write_text(text)
    assert read(folder).status == "broken"
    assert read(folder).why.startswith("status.json: ")


FAST = ("trainer=smoke", "trainer.accelerator=cpu")


def test_a_killed_run_is_unfinished_and_a_living_one_is_left_alone(tmp_path: Path, tlrun: Tlrun) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "tl_runner.cli", *FAST, "trainer.epochs=300", f"hydra.run.dir={folder}"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "config.yaml").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    assert read(folder).status == "running"
    done = tlrun("resume", str(folder), check=False)
    assert done.returncode == 1
    assert f"still running (process {process.pid}" in done.stderr
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert read(folder).status == "unfinished"
    assert read(folder).why.startswith("killed")


def test_a_new_run_in_an_old_folder_has_no_results_until_it_has_its_own(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", method="mcc")
    with pytest.raises(UserError, match="reads role 'labeled'"):
        run(composed("trainer=smoke", "method=finetune"), folder)
    assert read(folder).method == "finetune"
    assert read(folder).results is None


def test_flat_keeps_empty_nodes() -> None:
    assert flat({}) == {"": {}}
    assert flat({"a": [], "b": None, "c": [{"d": 1}]}) == {"a": [], "b": None, "c.0.d": 1}
