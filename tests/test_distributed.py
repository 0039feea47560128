"""One run on several processes is the run of one process with the whole batch."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import CONFIGS, Tlrun, composed, result_folder, walk
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from test_configs import needs
from torch import distributed as dist
from torch import nn

from tl_runner import ranks
from tl_runner.building import build_stage
from tl_runner.commands import resume
from tl_runner.errors import TrainingError, UserError
from tl_runner.module import TransferModule
from tl_runner.processes import together
from tl_runner.run import _data, _train, run
from tl_runner.sharding import sharded
from tl_runner.trainer import TrainerSettings

State = dict[str, torch.Tensor]
Pair = Callable[..., Any]


def double() -> None:
    """float64 throughout, also where losses ask for floats."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]


def single() -> None:
    torch.set_default_dtype(torch.float32)
    torch.Tensor.float = FLOAT  # type: ignore[method-assign]


FLOAT = torch.Tensor.float


def member(rank: int, rendezvous: Path, tasks: Any) -> None:
    """One of two processes that go through the tasks that they are sent."""
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    while (task := tasks.recv()) is not None:
        function, *arguments = task
        try:
            tasks.send((function(*arguments), ""))
        except BaseException:
            tasks.send((None, traceback.format_exc()))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Runs a function in two processes of one group, started once; gives the results of both."""
    rendezvous = tmp_path_factory.mktemp("group") / "file"
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(2)]
    processes = [
        context.Process(target=member, args=(rank, rendezvous, theirs), daemon=True)
        for rank, (_, theirs) in enumerate(pipes)
    ]
    for process in processes:
        process.start()

    def both(*task: Any) -> list[Any]:
        for ours, _ in pipes:
            ours.send(task)
        found = []
        for ours, _ in pipes:
            assert ours.poll(900), "a process hangs"
            found.append(ours.recv())
        for _, error in found:
            assert not error, error
        return [result for result, _ in found]

    yield both
    for process in processes:
        process.kill()
        process.join()


def trained(
    config: dict[str, Any], folder: Path, resume: bool = False, dies: int | None = None
) -> tuple[State, list[dict[str, Any]]]:
    """What the run's last stage leaves, all in float64: the method's state, and its history.

    Args:
        dies: the epoch before which the run is killed.
    """
    double()
    begin = TransferModule.on_train_epoch_start

    def begin_or_die(self: TransferModule) -> None:
        if self.current_epoch == dies:
            raise InterruptedError("killed")
        begin(self)

    TransferModule.on_train_epoch_start = begin_or_die  # type: ignore[method-assign]
    try:
        stages = {name: build_stage(name, config) for name in config["recipe"]["stages"]}
        folder.mkdir(exist_ok=True)
        (folder / "checkpoints").mkdir(exist_ok=True)
        _, fitted = _train(config, stages, _data(config, stages), folder, resume)
    except InterruptedError:
        assert dies
        return {}, []
    finally:
        TransferModule.on_train_epoch_start = begin  # type: ignore[method-assign]
        single()
    *_, name = fitted
    ranks.wait()
    state = torch.load(folder / "checkpoints" / name / "last.ckpt", weights_only=True)["state_dict"]
    return state, fitted[name].history


def assert_alike(one: Any, other: Any, tolerance: float = 1e-9) -> None:
    (state, history), (others, rows) = one, other
    assert state.keys() == others.keys()
    for name, value in state.items():
        torch.testing.assert_close({name: others[name]}, {name: value}, rtol=tolerance, atol=tolerance)
    for row, expected in zip(rows, history, strict=True):
        assert row == pytest.approx(expected, rel=tolerance, abs=tolerance, nan_ok=True)


def compare(pair: Pair, folder: Path, *overrides: str) -> None:
    config = composed("trainer=smoke", "trainer.batch_size=8", *overrides)
    expected = trained(config, folder / "one")
    assert any(v.dtype == torch.float64 for v in expected[0].values())
    first, second = pair(trained, config, folder / "two")
    assert_alike(expected, first)
    assert_alike(expected, second)


@pytest.mark.parametrize("method", walk(CONFIGS["method"]))
def test_every_method_on_two_processes_is_itself_on_one(method: str, pair: Pair, tmp_path: Path) -> None:
    """Weights, buffers, losses and scores, with augmentation, batch-norm and dropout."""
    compare(pair, tmp_path, f"method={method}", *needs(method))


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.bn=per_domain", "method=dann"),
        ("model=dtn", "method=mcc", "optim=adamw", "optim.clip_norm=0.1"),
        ("model=lenet", "method=cdan", "trainer.batch_size={source: 6, target: 4}", "data.workers=2"),
        ("method=finetune", "method.mixup=1", "method.cutmix=1", "data.labeled_per_class=3"),
        ("method=mmd", "validators=all", "trainer.eval_rows=31"),
        pytest.param(("augment=strong", "method=mcd", "optim=adamw"), marks=pytest.mark.slow),
        pytest.param(("method=vada", "model.bn=per_domain"), marks=pytest.mark.slow),
    ],
    ids=lambda overrides: ",".join(overrides[:2]),
)  # fmt: skip
def test_settings_on_two_processes(overrides: tuple[str, ...], pair: Pair, tmp_path: Path) -> None:
    compare(pair, tmp_path, *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=source_only",),
        ("method=dann", "optim=adamw", "optim.clip_norm=0.1"),
        ("method=mmd", "tuning=layerwise_lr", "model.bn=per_domain"),
        ("tuning=lora",),
        pytest.param(("method=mcd", "optim.clip_norm=0.1"), marks=pytest.mark.slow),
        pytest.param(("method=vada", "tuning=gradual"), marks=pytest.mark.slow),
    ],
    ids=lambda overrides: overrides[0],
)
def test_divided_weights_are_those_of_one_process(
    overrides: tuple[str, ...], pair: Pair, tmp_path: Path
) -> None:
    compare(pair, tmp_path, "trainer.shard=true", *overrides)


@pytest.mark.slow
@pytest.mark.parametrize("method", CONFIGS["method"])
def test_every_method_with_divided_weights(method: str, pair: Pair, tmp_path: Path) -> None:
    """It either is right or says that it cannot be."""
    overrides = ("trainer.shard=true", f"method={method}", *needs(method))
    if method not in OF_WEIGHTS:
        compare(pair, tmp_path, *overrides)
        return
    with pytest.raises(AssertionError, match=r"trainer\.shard=true: this method computes with"):
        pair(trained, composed("trainer=smoke", *overrides), tmp_path)


OF_WEIGHTS = {"adda", "bi_tuning", "dirt_t", "ewc", "l2_sp", "mean_teacher", "sdat", "wise_ft"}
"""Methods that compute with the backbone's weights themselves."""


def held(_: int) -> tuple[int, int]:
    """How many numbers of a backbone's weights a process holds, divided and afterwards."""
    model = torch.nn.Module()
    model.backbone = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Sequential(nn.Linear(6, 4)))
    with sharded(model, torch.device("cpu")):  # type: ignore[arg-type]
        model.backbone(torch.ones(2, 8)).sum().backward()
        parts = [p.to_local() for p in model.backbone.parameters()]  # type: ignore[operator]
        grads = [p.grad.to_local() for p in model.backbone.parameters()]  # type: ignore[operator,union-attr]
        assert [g.shape for g in grads] == [p.shape for p in parts]
    return sum(p.numel() for p in parts), sum(p.numel() for p in model.backbone.parameters())


def test_each_process_holds_its_part(pair: Pair) -> None:
    whole = 8 * 6 + 6 + 6 * 4 + 4
    assert pair(held, 0) == [(whole // 2, whole)] * 2


@pytest.mark.parametrize("method", ["l2_sp", "sdat"])
def test_a_method_that_computes_with_weights_says_so(method: str, pair: Pair, tmp_path: Path) -> None:
    config = composed("trainer=smoke", "trainer.shard=true", f"method={method}", *needs(method))
    with pytest.raises(
        AssertionError, match=r"trainer\.shard=true: this method computes with the backbone's"
    ):
        pair(trained, config, tmp_path)


@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("first", [1, 2])
def test_a_run_goes_on_with_another_number_of_processes(
    first: int, shard: bool, pair: Pair, tmp_path: Path
) -> None:
    overrides = ("trainer.shard=true",) if shard else ("method=atdoc",)
    config = composed("trainer=smoke", "trainer.epochs=3", *overrides)
    expected = trained(config, tmp_path / "whole")
    folder = tmp_path / "killed"
    if first == 1:
        trained(config, folder, False, 2)
        found = pair(trained, config, folder, True)
    else:
        pair(trained, config, folder, False, 2)
        found = [trained(config, folder, True)]
    assert [row["epoch"] for row in expected[1]] == [1, 2, 3]
    for one in found:
        assert_alike(expected, one)


def parts(_: int) -> dict[str, torch.Tensor]:
    """What the two processes see and leave of a small computation on 4 rows."""
    x = torch.arange(8.0, dtype=torch.float64).view(4, 2).requires_grad_()
    net = nn.Linear(2, 3).double()
    nn.init.constant_(net.weight, 0.5)
    nn.init.constant_(net.bias, 0.1)
    seen: list[int] = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    y = ranks.divided(net, x)
    ranks.divided(net, x[:3])
    (y**3).sum().backward()
    ranks.average([net.weight.grad])
    assert x.grad is not None
    assert net.weight.grad is not None
    return {"y": y.detach(), "x": x.grad, "weight": net.weight.grad, "seen": torch.tensor(seen)}


def test_backbones_are_divided_and_gradients_whole(pair: Pair) -> None:
    expected = parts(0)
    assert expected["seen"].tolist() == [4, 3]
    for found in pair(parts, 0):
        assert found.pop("seen").tolist() == [2, 3]
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name])


def test_the_command_line_on_two_processes(tmp_path: Path, tlrun: Tlrun) -> None:
    """The same picks as one process, in one folder."""
    settings = ("trainer=smoke", "trainer.eval_rows=null", "method=dann")
    folder = result_folder(done := tlrun(*settings, "trainer.devices=2"))
    assert done.stdout.count("epoch 2/2") == 1
    results = json.loads((tmp_path / "work" / folder / "results.json").read_text())
    assert results["config"]["trainer"]["devices"] == 2
    expected = run(composed(*settings), tmp_path / "one")["stages"]["adapt"]
    assert results["stages"]["adapt"]["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    assert results["stages"]["adapt"]["picks"].keys() == expected["picks"].keys()
    for name, pick in expected["picks"].items():
        found = results["stages"]["adapt"]["picks"][name]
        assert found["epoch"] == pick["epoch"], name
        assert found["target"] == pytest.approx(pick["target"], rel=1e-4), name
    assert len(list((tmp_path / "work" / folder / "tensorboard" / "adapt").glob("events*"))) == 1


STARTED = {  # What `torchrun` and `srun` on two machines tell the processes.
    "torchrun": ("WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", "LOCAL_RANK=0", "RANK={rank}"),
    "srun": (
        *("SLURM_NTASKS=2", "SLURM_NTASKS_PER_NODE=1", "SLURM_NODELIST=localhost,other[2-3]", "SLURM_STEP_ID=0"),
        *("SLURM_LOCALID=0", "SLURM_NODEID={rank}", "SLURM_PROCID={rank}"),
    ),
}  # fmt: skip


def started(by: str, rank: int, port: int) -> dict[str, str]:
    told = dict(line.format(rank=rank).split("=", 1) for line in STARTED[by])
    return {**os.environ, **told, "MASTER_PORT": str(port)}


def second(work: Path, env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    work.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tl_runner.cli", *arguments]
    return subprocess.Popen(
        command, cwd=work, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.parametrize("by", ["torchrun", pytest.param("srun", marks=pytest.mark.slow)])
def test_processes_that_were_started_on_two_machines(by: str, tmp_path: Path, tlrun: Tlrun) -> None:
    """The weights of one process, in the folder that the first one chose."""
    settings, port = ("trainer=smoke", "method=dann"), find_free_network_port()
    command = (*settings, "trainer.devices=2")
    other = second(tmp_path / "other", started(by, 1, port), *command)
    folder = tmp_path / "work" / result_folder(tlrun(*command, env=started(by, 0, port)))
    assert other.communicate(timeout=60)[0] == ""
    assert other.returncode == 0
    assert not [*(tmp_path / "other").iterdir()], "the first process alone writes"
    run(composed(*settings), tmp_path / "one")
    found, expected = (
        torch.load(f / "checkpoints" / "adapt" / "last.ckpt", weights_only=True)["state_dict"]
        for f in (folder, tmp_path / "one")
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("devices", "error"),
    [("3", "trainer.devices=3, and 2 processes were started"), ("0", "trainer.devices")],
)
def test_what_is_wrong_ends_all_processes(devices: str, error: str, tmp_path: Path, tlrun: Tlrun) -> None:
    command, port = ("trainer=smoke", f"trainer.devices={devices}"), find_free_network_port()
    other = second(tmp_path / "other", started("torchrun", 1, port), *command)
    first = tlrun(*command, check=False, env=started("torchrun", 0, port))
    told = other.communicate(timeout=60)[0]
    assert first.returncode != 0
    assert error in first.stderr
    assert other.returncode == 1
    assert told.startswith("tlrun: process 1 of 2 failed: ")
    assert error in told


@pytest.mark.slow
def test_a_machine_that_is_lost_ends_the_run(tmp_path: Path, tlrun: Tlrun) -> None:
    """Which then goes on without it."""
    settings, port = ("trainer=smoke", "trainer.epochs=30", "hydra.run.dir=run"), find_free_network_port()
    work, command = tmp_path / "work", (*settings, "trainer.devices=2")
    both = [second(work, started("torchrun", rank, port), *command) for rank in range(2)]
    last, deadline = work / "run" / "checkpoints" / "adapt" / "last.ckpt", time.monotonic() + 300
    while not last.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    both[1].kill()
    told = both[0].communicate(timeout=60)[0]
    assert both[0].returncode == 1
    assert "tlrun: one of 2 processes is gone; the last checkpoint is kept" in told
    tlrun("resume", "run", "trainer.devices=1")
    assert json.loads((work / "run" / "results.json").read_text())["stages"]["adapt"]["epochs"] == 30


@pytest.mark.slow
def test_killed_processes_leave_none_behind(tmp_path: Path, tlrun: Tlrun) -> None:
    """A killed run takes its other processes along, and goes on with one."""
    work, settings = tmp_path / "work", ("trainer=smoke", "trainer.epochs=30", "hydra.run.dir=run")
    work.mkdir()
    command = [sys.executable, "-m", "tl_runner.cli", *settings, "trainer.devices=2"]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=work)
    last, deadline = work / "run" / "checkpoints" / "adapt" / "last.ckpt", time.monotonic() + 300
    while not last.exists():
        assert started.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    others = psutil.Process(started.pid).children(recursive=True)
    assert len(others) >= 1
    started.kill()
    started.wait()
    _, alive = psutil.wait_procs(others, timeout=60)
    assert not alive
    tlrun("resume", "run", "trainer.devices=1")
    assert json.loads((work / "run" / "results.json").read_text())["stages"]["adapt"]["epochs"] == 30


@pytest.mark.parametrize(
    ("target", "argument", "message"),
    [
        (os._exit, 3, r"process 2 of 2 ended \(exit code 3\); the last checkpoint is kept"),
        (TrainerSettings(batch_size=3).check_devices, 2, "process 2 of 2 failed: trainer.batch_size: 3 rows"),
    ],
)
def test_a_process_that_fails_ends_the_run(target: Any, argument: int, message: str) -> None:
    with (
        pytest.raises(TrainingError, match=message),
        together(2, torch.device("cpu"), target, argument),
    ):
        ranks.wait()
    assert ranks.count() == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("trainer.batch_size=5",), "5 rows of a role do not divide by trainer.devices=2; take 4 or 6"),
        (
            ("trainer.batch_size={source: 4, target: 1}",),
            "trainer.batch_size: 1 rows of target do not divide by trainer.devices=2; take 2",
        ),
        (("model.compile=true",), "model.compile=true: such a backbone cannot be divided"),
        (("trainer.devices=0",), r"trainer\.devices"),
    ],
)  # fmt: skip
def test_what_cannot_be_distributed_says_so(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(composed("trainer=smoke", "trainer.devices=2", *overrides), tmp_path)


def test_more_processes_than_gpus_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = composed("trainer=smoke", "trainer.devices=2", "trainer.accelerator=cuda")
    with pytest.raises(UserError, match=r"trainer\.devices=2: this machine has 1 CUDA devices"):
        run(config, tmp_path)


@pytest.mark.parametrize("given", ["trainer.devices=0", "trainer.devices=two", "optim.lr=1"])
def test_resume_changes_the_number_of_devices_alone(given: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"but for trainer.devices=NUMBER; got '{given}'"):
        resume.main([str(tmp_path), given], [])
