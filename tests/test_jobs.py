"""Jobs of a sweep: done once, resumed, retried, and none takes the others along."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Tlrun, composed
from test_resume import assert_same

from tl_runner import status
from tl_runner.commands import resume
from tl_runner.errors import UserError
from tl_runner.jobs import Job, ready
from tl_runner.module import TransferModule

FAST = ("trainer=smoke", "trainer.accelerator=cpu")


def job(folder: Path, *overrides: str) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    return Job(folder, ready(composed(*FAST, *overrides), multirun=True))


def die_in_epoch(patch: pytest.MonkeyPatch, epoch: int, error: BaseException) -> None:
    original = TransferModule.on_train_epoch_start

    def die(self: TransferModule) -> None:
        if self.current_epoch == epoch:
            raise error
        original(self)

    patch.setattr(TransferModule, "on_train_epoch_start", die)


def test_a_job_that_is_done_is_skipped_and_has_its_value(tmp_path: Path) -> None:
    one = job(tmp_path / "a")
    assert one.settled() is None
    assert one.outcome().state == "waiting"
    one()
    value = json.loads((tmp_path / "a" / "results.json").read_text())["objective"]["value"]
    assert (one.outcome().state, one.outcome().value) == ("done", value)
    again = one.settled()
    assert again is not None
    assert (again.state, again.value, again.bad) == ("skipped", value, False)
    stamp = (tmp_path / "a" / "results.json").stat().st_mtime_ns
    one()
    assert (tmp_path / "a" / "results.json").stat().st_mtime_ns == stamp


def test_a_job_of_another_config_is_run_anew(tmp_path: Path) -> None:
    """Nothing of the old one is left for it to resume from, killed or not."""
    job(tmp_path / "a", "trainer.epochs=3")()
    other = job(tmp_path / "a", "optim.lr=0.02", "trainer.epochs=3")
    assert other.settled() is None
    other()
    job(tmp_path / "b", "optim.lr=0.02", "trainer.epochs=3")()
    assert_same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("error", [OSError("no room"), SystemExit(3)])
def test_what_was_killed_or_failed_goes_on_from_its_checkpoint(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, whole = (job(tmp_path / name, "trainer.epochs=3") for name in ("a", "whole"))
    with monkeypatch.context() as patch:
        die_in_epoch(patch, 2, error)
        with pytest.raises(type(error)):
            one()
    assert one.outcome().state == ("failed" if isinstance(error, OSError) else "unfinished")
    assert one.outcome().bad
    assert (status.told(one.folder)["stage"], status.told(one.folder)["epoch"]) == ("adapt", 2)
    first = one.folder / "checkpoints" / "adapt" / "source_val.ckpt"
    stamp = first.stat().st_mtime_ns
    one()
    assert one.outcome().state == "done"
    picked = json.loads((one.folder / "results.json").read_text())["stages"]["adapt"]["picks"]["source_val"]
    assert picked["epoch"] == 3 or first.stat().st_mtime_ns == stamp, "trained from the start"
    whole()
    assert_same(one.folder, whole.folder)


def test_what_failed_is_left_if_so_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = job(tmp_path / "a")
    with monkeypatch.context() as patch:
        die_in_epoch(patch, 1, ValueError("a bug\nin two lines"))
        with pytest.raises(ValueError, match="a bug"):
            one()
    assert "in die" in (one.folder / "run.log").read_text(), "where it crashed"
    left = replace(one, config={**one.config, "sweep": {"retry_failed": False}})
    found = left.settled()
    assert found is not None
    assert (found.state, found.why, found.bad) == ("failed", "ValueError: a bug", True)
    assert one.settled() is None


def test_a_job_that_another_process_is_at_is_left_alone(tmp_path: Path) -> None:
    one = job(tmp_path / "a")
    with status.locked(one.folder), status.recorded(one.folder, one.digest):
        found = one.settled()
        assert found is not None
        assert (found.state, found.bad) == ("running", False)
        one()
        assert not (one.folder / "config.yaml").exists()
        with (
            pytest.raises(status.Busy, match=f"still running \\(process {os.getpid()}"),
            status.locked(one.folder),
        ):
            pass
    with status.locked(one.folder):
        pass


def test_a_run_elsewhere_lives_as_long_as_it_holds_its_lock(tmp_path: Path) -> None:
    with status.locked(tmp_path):
        (tmp_path / "status.json").write_text('{"state": "running", "pid": 1, "host": "elsewhere"}')
        assert status.read(tmp_path) == ("running", "process 1 on elsewhere")
    state = status.read(tmp_path)
    assert state is not None
    assert state[0] == "unfinished"


def test_the_digest_is_of_the_run_alone(tmp_path: Path) -> None:
    a = composed("seed=3")
    assert status.digest(a) == status.digest({**a, "sweep": {}, "launcher": {}})
    assert status.digest(a) != status.digest(composed("seed=4"))
    relative, absolute = ({**a, "init_from": place} for place in ("x", str(Path("x").absolute())))
    assert ready(relative, True) == ready(absolute, True)


def test_a_run_does_not_start_from_what_it_overwrites(tmp_path: Path) -> None:
    one = job(tmp_path / "a")
    one()
    with pytest.raises(Exception, match="lies in the run's own folder"):
        job(tmp_path / "a", f"init_from={tmp_path / 'a'}")()
    assert (tmp_path / "a" / "results.json").exists()


OWN = """
import os, signal, sys
from tl_runner.methods.source_only import SourceOnly

class Ends(SourceOnly):
    def __init__(self, model, info, how: str = "well") -> None:
        super().__init__(model, info)
        if how == "raises":
            raise RuntimeError("a bug")
        if how == "exits":
            sys.exit(0)
        if how == "killed" and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def ends(tmp_path: Path) -> Path:
    """A method of the user's own, whose jobs end in every way."""
    work = tmp_path / "work"
    (work / "conf" / "method").mkdir(parents=True)
    (work / "ends.py").write_text(OWN)
    (work / "conf" / "method" / "ends.yaml").write_text("_target_: ends.Ends\nhow: well\n")
    return work


def states(sweep: Path) -> dict[str, str]:
    """Of the jobs, by the value of `method.how`."""
    found = {f.parent.name: json.loads(f.read_text()) for f in sweep.glob("*/status.json")}
    return {name.split("method.how=")[1].split(",")[0]: told["state"] for name, told in found.items()}


def test_no_job_takes_the_others_along_and_the_next_sweep_does_what_is_left(tlrun: Tlrun, ends: Path) -> None:
    command = ("-m", *FAST, "method=ends", "method.how=raises,exits,well", "hydra.sweep.dir=sweep")
    done = tlrun(*command, check=False)
    assert done.returncode == 1
    assert states(ends / "sweep") == {"raises": "failed", "exits": "unfinished", "well": "done"}
    assert "3 jobs: 1 done, 1 unfinished, 1 failed" in done.stdout
    assert "RuntimeError: a bug" in done.stdout
    assert "2 of 3 jobs are not done; `tlrun resume" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    shown = tlrun("status", "sweep", env={**os.environ, "COLUMNS": "150"}).stdout
    assert "3 jobs: 1 done, 1 unfinished, 1 failed" in shown
    assert all(word in shown for word in ("how=raises", "adapt 2/2", "terminated")), shown
    (ends / "ends.py").write_text(
        OWN.replace('== "raises"', '== "never"').replace('== "exits"', '== "never"')
    )
    again = tlrun("resume", "sweep", "sweep.retry_failed=false", check=False)
    assert again.returncode == 1
    assert "3 jobs: 1 done, 1 skipped, 1 failed" in again.stdout
    again = tlrun("resume", "sweep")
    assert "3 jobs: 1 done, 2 skipped" in again.stdout
    assert set(states(ends / "sweep").values()) == {"done"}
    assert "a sweep goes on as it began" in tlrun("resume", "sweep", "seed=3", check=False).stderr


LAUNCHERS: dict[str, tuple[str, ...]] = {
    "joblib": ("launcher=joblib", "launcher.jobs=2"),
    "ray": ("launcher=ray",),
    "submitit": ("launcher=slurm", "launcher.cluster=local"),
}


@pytest.mark.slow
@pytest.mark.parametrize("package", LAUNCHERS)
def test_a_killed_job_takes_no_other_along(package: str, tlrun: Tlrun, ends: Path) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    command = ("-m", *FAST, *LAUNCHERS[package], "method=ends", "hydra.sweep.dir=sweep")
    done = tlrun(*command, "method.how=killed,raises,exits,well", check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found = {"killed": "running", "raises": "failed", "exits": "unfinished", "well": "done"}
    assert states(ends / "sweep") == found
    assert "4 jobs: 1 done, 2 unfinished, 1 failed" in done.stdout, "a dead process runs no more"
    again = tlrun("resume", "sweep", check=False)
    assert "4 jobs: 1 done, 1 skipped, 1 unfinished, 1 failed" in again.stdout


@pytest.mark.slow
def test_a_job_of_several_tasks_is_one_run(tlrun: Tlrun, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    command = ("-m", *FAST, *LAUNCHERS["submitit"], "launcher.tasks_per_node=2", "hydra.sweep.dir=sweep")
    tlrun(*command, "trainer.devices=2", "seed=0,1")
    logs = [file.read_text() for file in (tmp_path / "work" / "sweep").glob("*/run.log")]
    assert len(logs) == 2
    assert all(text.count("stage adapt: ") == 1 for text in logs)
    failed = tlrun(*command, "trainer.devices=3", "seed=0", check=False)
    assert "trainer.devices=3, and 2 processes were started for this run" in failed.stdout


def start(work: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tl_runner.cli", *arguments]
    return subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_two_sweeps_on_one_folder_run_no_job_twice(tmp_path: Path) -> None:
    command = ("-m", *FAST, "trainer.epochs=8", "seed=0,1,2,3", "hydra.sweep.dir=sweep")
    sweeps = [start(tmp_path, *command) for _ in range(2)]
    told = [sweep.communicate(timeout=600)[0] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], told
    logs = [file.read_text() for file in (tmp_path / "sweep").glob("*/run.log")]
    assert len(logs) == 4
    assert all(text.count("stage adapt: ") == 1 for text in logs)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_that_is_killed_takes_its_jobs_along_and_the_next_resumes_them(
    number: signal.Signals, tmp_path: Path, tlrun: Tlrun
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    command = ("-m", "launcher=joblib", "launcher.jobs=2", "trainer.accelerator=cpu", "trainer.epochs=12")
    command += ("trainer.steps_per_epoch=40", "seed=0,1,2", "hydra.sweep.dir=sweep")
    sweep = start(work, *command)
    deadline = time.monotonic() + 300
    while not list(work.glob("sweep/*/checkpoints/adapt/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    sweep.send_signal(number)
    sweep.wait()
    while any(_lives(file.parent) for file in work.glob("sweep/*/status.json")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    left = len(list(work.glob("sweep/*/results.json")))
    assert left < 3, "killed too late to show anything"
    done = tlrun("resume", "sweep")
    assert f"3 jobs: {3 - left} done" in done.stdout
    tlrun(*command[3:-2], "seed=1", "hydra.run.dir=whole")
    (one,) = work.glob("sweep/*seed=1*")
    assert_same(work / "whole", one)


def _lives(folder: Path) -> bool:
    stands: Any = status.read(folder)
    return bool(stands[0] == "running")


@pytest.mark.parametrize(
    "override",
    [
        *("method._target_=os.system", "+method.x={_target_: os.system}"),
        "+hydra.callbacks.x._target_=os.system",
    ],
)
def test_a_strangers_sweep_executes_nothing(override: str, tmp_path: Path) -> None:
    told = {"hydra": {"overrides": {"task": ["seed=0,1", override]}}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(UserError, match=r"multirun\.yaml (names 'os\.system'|says '\+hydra)"):
        resume.main([str(tmp_path)], [])


def test_a_sweep_is_resumed_as_it_was_started(tmp_path: Path) -> None:
    told = {"hydra": {"overrides": {"task": ["seed=0,1", "launcher=ray", "sweep.retry_failed=false"]}}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(told))
    place = f"hydra.sweep.dir='{tmp_path}'"
    assert resume.main([str(tmp_path)], []) == ["-m", "seed=0,1", "launcher=ray", place]
    assert resume.main([str(tmp_path), "launcher=local"], []) == ["-m", "seed=0,1", "launcher=local", place]
