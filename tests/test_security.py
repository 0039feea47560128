"""What comes with a stranger's run folder, checkpoint, weights or cache is data: nothing of it is executed."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import composed
from test_configs import teacher_run

from tl_runner.commands import predict, resume
from tl_runner.data.store import ArrayStore
from tl_runner.errors import ConfigError, DataError, UserError
from tl_runner.nn import weights
from tl_runner.run import run
from tl_runner.trained import teacher
from tl_runner.trust import check_trust


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.fixture
def sentinel(tmp_path: Path) -> Path:
    """A file that is there only if something was executed."""
    return tmp_path / "executed"


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A finished run's folder, as somebody else might have changed it."""
    return Path(shutil.copytree(teacher_run(), tmp_path / "run"))


def change(folder: Path, place: str, value: Any) -> None:
    file = folder / "config.yaml"
    config = yaml.safe_load(file.read_text())
    *groups, key = place.split(".")
    node = config
    for group in groups:
        node = node.setdefault(group, {})
    node[key] = value
    file.write_text(yaml.safe_dump(config))


def attack(target: str, file: Path) -> dict[str, Any]:
    return {"_target_": target, "_args_": [f"touch {file}"]}


PLACES = (
    "method",
    "data.reader",
    "model.backbone",
    "validators.im",
    "optim.schedule",
    "augment.more",
    "paths.more",
)


@pytest.mark.parametrize("command", [resume.main, predict.main])
@pytest.mark.parametrize("place", PLACES)
def test_a_run_folder_names_nothing_to_be_called(
    command: Any, place: str, stranger: Path, sentinel: Path
) -> None:
    change(stranger, place, attack("os.system", sentinel))
    (stranger / "results.json").unlink()
    with pytest.raises(
        ConfigError, match=r"config\.yaml names 'os\.system', which nothing on this machine vouches for"
    ):
        command([str(stranger)], [])
    assert not sentinel.exists()


def test_a_teacher_is_a_strangers_too(stranger: Path, sentinel: Path) -> None:
    change(stranger, "model.backbone", attack("os.system", sentinel))
    with pytest.raises(ConfigError, match=r"names 'os\.system'"):
        teacher(str(stranger))
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "target",
    [
        *(
            "os.system",
            "posix.system",
            "builtins.eval",
            "subprocess.Popen",
            "torch.load",
            "hydra.utils.instantiate",
        ),
        *(
            "tl_runner.files.replace_text",
            "tl_runner.methods.mmd.F.mse_loss",
            "torch.optim.sgd.os.system",
            "eval",
            "",
        ),
    ],
)
def test_only_what_is_known_is_trusted(target: str) -> None:
    with pytest.raises(ConfigError, match="vouches"):
        check_trust({"data": [{"deep": {"_target_": target}}]}, Path("config.yaml"))


def test_it_is_refused_before_it_is_imported(stranger: Path) -> None:
    change(stranger, "method", {"_target_": "this.Zen"})  # A module of Python's that prints a poem.
    (stranger / "results.json").unlink()
    assert "this" not in sys.modules
    with pytest.raises(ConfigError, match="vouches"):
        resume.main([str(stranger)], [])
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    "group", ["method", "data", "model", "tuning", "optim", "augment", "validators", "metrics", "recipe"]
)
def test_what_our_configs_name_is_trusted(group: str) -> None:
    check_trust(composed()[group], Path("config.yaml"))
    check_trust(
        {
            "a": {"_target_": "torch.optim.Adagrad"},
            "b": {"_target_": "torchmetrics.classification.MulticlassAUROC"},
        },
        Path("config.yaml"),
    )


def test_modules_of_the_working_folder_are_the_users(tmp_path: Path) -> None:
    """They go on being found by `tlrun resume`; the same name among what is installed does not count."""
    (tmp_path / "mine.py").write_text("")
    script = (
        "from pathlib import Path; from tl_runner.trust import check_trust;"
        "check_trust({'_target_': 'mine.Method'}, Path('c')); check_trust({'_target_': 'pip.main'}, Path('c'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": "."},
    )
    assert "names 'pip.main'" in done.stderr
    assert "mine" not in done.stderr


def test_a_checkpoint_is_not_executed(stranger: Path, sentinel: Path) -> None:
    """Neither by the run that goes on from it, nor by one that starts from it, nor to predict."""
    for file in stranger.rglob("*.ckpt"):
        state = torch.load(file, weights_only=True)
        torch.save({**state, "evil": Evil(sentinel)}, file)
    config = composed("trainer=smoke", "trainer.epochs=1", "method=source_only", f"init_from={stranger}")
    with pytest.raises(UserError, match=r"last\.ckpt: cannot be read as weights"):
        run(config, stranger.parent / "new")
    with pytest.raises(UserError, match=r"last\.ckpt: cannot be read as weights"):
        predict.main([str(stranger)], [])
    (stranger / "results.json").unlink()
    (stranger / "checkpoints" / "adapt" / "done.json").unlink()
    with pytest.raises(UserError, match=r"last\.ckpt: cannot be read as a checkpoint"):
        resume.main([str(stranger)], [])
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "override",
    [
        *("method._target_=os.system", "+x={_target_: os.system}", "+x={'_target_':os.system}"),
        *("method._target_=${evil}", "hydra.job.env_set.LD_PRELOAD=/evil.so", "+hydra.callbacks.x=1"),
        *(
            "launcher.additional_parameters={wrap: evil}",
            "+launcher.setup=[evil]",
            "--config-dir=/evil",
            "-cd=/evil",
        ),
    ],
)
def test_a_sweeps_folder_names_nothing_to_be_called(override: str, tmp_path: Path) -> None:
    told = {"hydra": {"overrides": {"task": ["seed=0,1", override]}}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(UserError, match=r"vouches|may run commands"):
        resume.main([str(tmp_path)], [])


def test_a_sweep_goes_on_as_it_began(tmp_path: Path) -> None:
    task = [
        "seed=0,1",
        "launcher=joblib",
        "optim.optimizer._target_=torch.optim.Adagrad",
        "launcher.n_jobs=2",
    ]
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump({"hydra": {"overrides": {"task": task}}}))
    line = resume.main([str(tmp_path), "launcher.n_jobs=3"], [])
    assert line == ["-m", *task[:3], "launcher.n_jobs=3", f"hydra.sweep.dir='{tmp_path}'"]


@pytest.mark.parametrize("end", [".pth", ".safetensors"])
def test_weights_are_not_executed(end: str, sentinel: Path, tmp_path: Path) -> None:
    file = tmp_path / f"weights{end}"
    file.write_bytes(pickle.dumps({"weight": Evil(sentinel)}))
    with pytest.raises(DataError, match="cannot be read as weights"):
        weights.read(file)
    assert not sentinel.exists()


def test_weights_that_grow_when_unpacked_are_refused(tmp_path: Path) -> None:
    plain, bomb = tmp_path / "plain.pth", tmp_path / "bomb.pth"
    torch.save({"weight": torch.zeros(2**22)}, plain)
    assert weights.read(plain)["weight"].shape == (2**22,)
    with zipfile.ZipFile(plain) as parts, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in parts.infolist():
            packed.writestr(entry.filename, parts.read(entry))
    assert bomb.stat().st_size < 2**20
    with pytest.raises(DataError, match=r"bomb\.pth: cannot be read as weights .*that unpack to 16"):
        weights.read(bomb)


def test_a_cache_is_not_executed(sentinel: Path, tmp_path: Path) -> None:
    file = tmp_path / "map.npy"
    np.save(file, np.array([Evil(sentinel)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="object"):
        ArrayStore.map(file)
    assert not sentinel.exists()


@pytest.mark.parametrize("place", ["recipe.stages", "validators", "metrics"])
@pytest.mark.parametrize("name", ["../../climbs", "/climbs", "a/b", ".."])
def test_no_name_climbs_out_of_the_run_folder(place: str, name: str, tmp_path: Path) -> None:
    config = copy.deepcopy(composed("trainer=smoke"))
    node = config
    for key in place.split("."):
        node = node[key]
    node[name] = next(iter(node.values()))
    with pytest.raises(ConfigError, match=rf"{place}: a name becomes a file's: .* got '{name}'"):
        run(config, tmp_path / "run")
    assert [*tmp_path.iterdir()] == []
