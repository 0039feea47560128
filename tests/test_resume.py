"""A run that is killed at any moment and resumed is the run that was not killed, bit for bit."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS, Tlrun, composed, walk
from test_configs import needs

from tl_runner.checkpoints import WholeFiles
from tl_runner.errors import DataError, TrainingError
from tl_runner.module import TransferModule
from tl_runner.run import run

SETTINGS = (
    "trainer.epochs=6",
    "trainer.steps_per_epoch=12",
    "trainer.batch_size=16",
    "trainer.accelerator=cpu",
    "trainer.eval_rows=200",
    "report=none",
)


def start(folder: Path, *overrides: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tl_runner.cli", *SETTINGS, *overrides, f"hydra.run.dir={folder}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder.parent)


def kill_after_first_epoch(process: subprocess.Popen[bytes], checkpoint: Path, delay: float) -> None:
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert process.poll() is None, "the run ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def assert_same(one: Path, other: Path) -> None:
    """Weights, optimiser state and metrics of two finished runs."""
    names = sorted(f.relative_to(one) for f in one.rglob("*.ckpt"))
    assert names == sorted(f.relative_to(other) for f in other.rglob("*.ckpt"))
    for name in names:
        a, b = (torch.load(folder / name, weights_only=True) for folder in (one, other))
        assert a["epoch"] == b["epoch"], name
        for key, value in a["state_dict"].items():
            assert torch.equal(value, b["state_dict"][key]), f"{name}: {key}"
        for state_a, state_b in zip(
            a.get("optimizer_states", []), b.get("optimizer_states", []), strict=True
        ):
            for p, values in state_a["state"].items():
                for k, v in values.items():
                    assert v is None or torch.equal(
                        torch.as_tensor(v), torch.as_tensor(state_b["state"][p][k])
                    )
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    first, second = (json.loads((f / "results.json").read_text())["stages"] for f in (one, other))
    assert {k: v["picks"] for k, v in first.items()} == {k: v["picks"] for k, v in second.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("method=mcd", "augment=strong", "optim=adamw"), id="alternating"),
        pytest.param(("method=mmd",), id="single-step"),
        pytest.param(("method=shot", "recipe=source_free"), id="two-stages"),
        pytest.param(("method=mmd", "validators=all"), id="all-validators"),
    ],
)
def test_kill_and_resume(overrides: tuple[str, ...], tmp_path: Path, tlrun: Tlrun) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(killed, *overrides)
    delay = random.Random(str(overrides)).uniform(0, 0.5)
    kill_after_first_epoch(process, killed / "checkpoints" / "adapt" / "last.ckpt", delay)
    assert not (killed / "results.json").exists(), "killed too late to show anything"
    tlrun("resume", str(killed))
    assert start(whole, *overrides).wait() == 0
    assert_same(whole, killed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_kills_at_random_moments(seed: int, tmp_path: Path, tlrun: Tlrun) -> None:
    """Several kills of one run, from its start on, at times that are not chosen to suit it."""
    rng = random.Random(seed)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    method = rng.choice(["method=mmd", "method=mcd", "method=dann"])
    process = start(killed, method)
    for _ in range(3):
        time.sleep(rng.uniform(4, 14))
        process.kill()
        process.wait()
        if not (killed / "config.yaml").exists():
            process = start(killed, method)
        else:
            process = subprocess.Popen([sys.executable, "-m", "tl_runner.cli", "resume", str(killed)])
    process.wait()
    assert (killed / "results.json").exists()
    assert start(whole, method).wait() == 0
    assert_same(whole, killed)


@pytest.mark.parametrize("method", walk(CONFIGS["method"]))
def test_every_method_resumes(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers, memory banks and centroids are in the checkpoint, or follow from what is."""
    config = interrupted(tmp_path / "killed", 2, monkeypatch, f"method={method}", *needs(method))
    run(config, tmp_path / "whole")
    run(config, tmp_path / "killed", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    config = composed("trainer=smoke", "method=shot", "recipe=source_free")
    first = run(config, tmp_path)
    (tmp_path / "results.json").unlink()
    (tmp_path / "checkpoints" / "adapt" / "done.json").unlink()
    for file in (tmp_path / "checkpoints" / "adapt").glob("*.ckpt"):
        file.unlink()
    stamp = (tmp_path / "checkpoints" / "source" / "last.ckpt").stat().st_mtime_ns
    second = run(config, tmp_path, resume=True)
    assert (tmp_path / "checkpoints" / "source" / "last.ckpt").stat().st_mtime_ns == stamp
    assert first["stages"]["adapt"]["picks"] == second["stages"]["adapt"]["picks"]


@pytest.mark.parametrize("name", ["source_val", "rank_ensemble"])
def test_a_run_that_had_stopped_early_stays_stopped(name: str, tmp_path: Path) -> None:
    """Killed between the last checkpoint and the results."""
    config = composed(
        *("trainer=smoke", "trainer.epochs=30", f"trainer.early_stop={name}"),
        *("trainer.patience=1", "optim.lr=1e-9"),
    )
    first = run(config, tmp_path)
    stopped = first["stages"]["adapt"]["epochs"]
    assert stopped < 30
    (tmp_path / "checkpoints" / "adapt" / "done.json").unlink()
    metrics = (tmp_path / "metrics.csv").read_text()
    second = run(config, tmp_path, resume=True)
    assert second["stages"]["adapt"]["epochs"] == stopped
    assert (tmp_path / "metrics.csv").read_text() == metrics


def test_an_unwritable_checkpoint_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    io = WholeFiles()
    io.save_checkpoint({"epoch": 1}, path)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DataError, match=r"last\.ckpt .*No space left on device.*previous one is kept"):
        io.save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["last.ckpt"]


def interrupted(folder: Path, epoch: int, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> dict[str, Any]:
    """A run that died when an epoch began; its config."""
    config = composed("trainer=smoke", "trainer.epochs=4", *overrides)
    original = TransferModule.on_train_epoch_start

    def die(self: TransferModule) -> None:
        if self.current_epoch == epoch:
            raise InterruptedError("killed")
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(TransferModule, "on_train_epoch_start", die)
        with pytest.raises(InterruptedError):
            run(config, folder)
    return config


def tear(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    """One bit in the middle of the weights, which torch would load without a word."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [tear, flip])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    damage: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = interrupted(tmp_path / "killed", 3, monkeypatch)
    run(config, tmp_path / "whole")
    folder = tmp_path / "killed" / "checkpoints" / "adapt"
    damage(folder / "last.ckpt")
    run(config, tmp_path / "killed", resume=True)
    assert re.search(
        r"last\.ckpt is damaged \(ValueError: .*\): going on from the one before it", caplog.text
    )
    assert not (folder / "last.ckpt.previous").exists()
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_two_damaged_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = interrupted(tmp_path, 3, monkeypatch)
    folder = tmp_path / "checkpoints" / "adapt"
    tear(folder / "last.ckpt")
    flip(folder / "last.ckpt.previous")
    with pytest.raises(
        DataError, match=r"last\.ckpt is damaged .*last\.ckpt\.previous is damaged .*remove .*adapt to"
    ):
        run(config, tmp_path, resume=True)


def test_a_damaged_checkpoint_of_a_finished_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed("trainer=smoke", "trainer.epochs=1", "method=shot", "recipe=source_free")
    whole = run(config, tmp_path)
    (tmp_path / "results.json").unlink()
    flip(tmp_path / "checkpoints" / "source" / "last.ckpt")
    with pytest.raises(DataError, match=r"source/last\.ckpt.*checksum.*remove .*checkpoints/source to train"):
        run(config, tmp_path, resume=True)
    shutil.rmtree(tmp_path / "checkpoints" / "source")
    again = run(config, tmp_path, resume=True)
    assert [s["picks"] for s in again["stages"].values()] == [s["picks"] for s in whole["stages"].values()]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), None],
    ids=["python", "cuda", "cpu"],
)
def test_out_of_memory_says_what_to_lower(
    error: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        if error is not None:
            raise error
        torch.empty(2**60)  # What torch itself says.

    monkeypatch.setattr(TransferModule, "training_step", full)
    with pytest.raises(
        TrainingError, match=r"out of memory.*batch_size \{source: 4, target: 4\}.*Lower them"
    ):
        run(composed("trainer=smoke"), tmp_path)


def test_same_seed_same_run_other_seed_other_run(tmp_path: Path) -> None:
    picks = [
        run(composed("trainer=smoke", f"seed={seed}"), tmp_path / name)["stages"]["adapt"]["picks"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert picks[0] == picks[1]
    assert picks[0] != picks[2]
