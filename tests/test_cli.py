"""What a user types, and what they are told when it is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, Tlrun, composed, image_folders, result_folder, save_image
from hydra.core.global_hydra import GlobalHydra

from tl_runner import cli

CLASSES = ["bike", "mug", "ruler"]
Told = Callable[..., str]
FAST = ("trainer=smoke", "model=tiny", "trainer.accelerator=cpu")


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    """The exit code and the error message of a command line that must fail, run in this process."""

    def run(*arguments: str) -> str:
        GlobalHydra.instance().clear()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["tlrun", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code not in (0, None)
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert "tlrun: " in message
        return message

    return run


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    image_folders(root, ["a", "b"], CLASSES)
    return root


def on(root: Path, *more: str) -> tuple[str, ...]:
    return (*FAST, "data=folder", f"data.root={root}", "data.source=a", "data.target=b", *more)


WRONG = [
    ("method=dnn", "method: there is no 'dnn'; did you mean 'dann'?"),
    ("methd=mmd", "unknown key 'methd'; did you mean 'method'?"),
    ("optim.lrr=0.1", "unknown key 'optim.lrr'; did you mean 'lr'?"),
    ("method.weigth=2", "unknown key 'method.weigth'; did you mean 'weight'?"),
    ("+optm.lr=1", "unknown key 'optm'; did you mean 'optim'?"),
    ("data=ofice31", "data: there is no 'ofice31'; did you mean 'office31'?"),
    ("optim/schedule=cosin", "optim/schedule: there is no 'cosin'; did you mean 'cosine'?"),
    (
        "experiment=office31/frozn",
        "experiment: there is no 'office31/frozn'; did you mean 'office31/frozen'?",
    ),
    ("recipe.stages.adpat.epochs=3", "recipe.stages: there is no stage 'adpat'; did you mean 'adapt'?"),
    ("recipe.stages.adapt.method=dnn", "recipe.stages.adapt.method: there is no 'dnn'; did you mean 'dann'?"),
    ("recipe.stages.adapt.optim=adm", "recipe.stages.adapt.optim: there is no 'adm'; did you mean 'adam'?"),
    ("recipe.stages.adapt.tuning=full,frozen", "has several values: add -m to run each"),
    ("experiment=office31", "experiment=office31 is a folder of"),
    ("seed=-1", "seed: expected a whole number >= 0, got -1"),
    ("data=folder", "data.root: needs a value"),
    ("method=[", "'method=['"),
    ("method=mmd,dann", "'method=mmd,dann' has several values: add -m to run each"),
]

WRONG_VALUES = [
    ("+method.weigth=2", "method.weigth: MMD has no argument 'weigth'; did you mean 'weight'?"),
    ("optim.lr=-1", "optim.lr: input should be greater than 0, got -1"),
    ("optim.lr=fast", "optim.lr: input should be a valid number, got 'fast'"),
    ("trainer.batch_size=0", "trainer.batch_size"),
    ("trainer.epochs=0", "trainer.epochs: input should be greater than or equal to 1, got 0"),
    ("trainer.epochs=1.5", "trainer.epochs: input should be a valid integer"),
    ("model.dropout=1.2", "model.dropout: input should be less than or equal to 1, got 1.2"),
    (
        "model.neck=botleneck",
        "model.neck: input should be 'none', 'bottleneck', 'relu' or 'shot', got 'botleneck'",
    ),
    ("method.estimator=liner", "did you mean 'linear'?"),
    ("data.labeled_per_class=some", "data.labeled_per_class"),
    ("model.backbone.widht=3", "did you mean 'width'?"),
    (
        "method._target_=tl_runner.methods.mmd.MDM",
        "tl_runner.methods.mmd has no 'MDM'; did you mean 'MMD'?",
    ),
    ("method._target_=tl_runner.nosuch.MMD", "no module 'tl_runner.nosuch'"),
    ("method._target_=os.system", "method._target_: 'os.system' is not a tl_runner.methods.base.Method"),
    (
        "+optim.optimizer.momentm=0.9",
        "SGD has no argument 'momentm'; did you mean 'momentum'?",
    ),
    (
        "+metrics.accuracy.averge=micro",
        "metrics.accuracy.averge: MulticlassAccuracy has no argument 'averge'",
    ),
    (
        "recipe.stages.adapt.method.weight=-1",
        "recipe.stages.adapt.method.weight: input should be greater than",
    ),
    (
        "recipe.stages.adapt.optim.lrr=1",
        "recipe.stages.adapt.optim.lrr: Optim has no argument 'lrr'; did you",
    ),
    (
        "recipe.stages.adapt.optim.schedule.gama=1",
        "InverseDecay has no argument 'gama'; did you mean 'gamma'?",
    ),
    ("~optim.optimizer._partial_", "optim.optimizer._partial_: expected true"),
    ("optim.optimizer._partial_=abc", "optim.optimizer._partial_: expected a bool, got 'abc'"),
    ("+optim._pairtial_=abc", "optim._pairtial_: Optim has no argument '_pairtial_'"),
    ("augment.views=1", "augment.views: expected a list, got 1"),
    ("report=false", "report: there is no 'false'; known: auto, html, none"),
    ("optim.lr='${nope}'", "optim.lr: Interpolation key 'nope' not found"),
    ("seed=???", "seed: needs a value"),
    (
        "validators.im='[bold]'",
        "validators.im: expected a mapping with _target_, the class to build, got '[bold]'",
    ),
    (
        "metrics.accuracy=null",
        "metrics.accuracy: expected a mapping with _target_, the class to build, got None",
    ),
    (
        "optim.schedule=cosine",
        "optim.schedule: expected a mapping with _target_, the class to build, got 'cosine'",
    ),
    ("recipe.stages.adapt.epochs=0", "recipe.stages.adapt.epochs: expected a whole number >= 1, got 0"),
    ("recipe.stages.adapt.epoch=1", "recipe.stages.adapt: unknown key 'epoch'; did you mean 'epochs'?"),
]


@pytest.mark.parametrize(("override", "expected"), WRONG, ids=[w for w, _ in WRONG])
def test_wrong_names(override: str, expected: str, told: Told) -> None:
    assert expected in told(override)


@pytest.mark.parametrize(("override", "expected"), WRONG_VALUES, ids=[w for w, _ in WRONG_VALUES])
def test_wrong_values(override: str, expected: str, told: Told) -> None:
    assert expected in told(override)


def test_all_problems_at_once(told: Told) -> None:
    message = told("method=dnn", "optim.lrr=1", "dta=office31", "seed=x")
    assert "4 problems" in message
    assert all(word in message for word in ("'dann'", "'lr'", "'data'", "seed: expected"))
    message = told("optim.lr=-1", "+method.weigth=1", "model.dropout=3", "trainer.patience=0")
    assert "4 problems" in message


def test_own_yaml_is_checked_like_everything_else(tmp_path: Path, told: Told) -> None:
    own = tmp_path / "conf" / "method" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("_target_: tl_runner.methods.dann.DANN\nweight: heavy\nhiden: 3\n")
    message = told("method=mine")
    assert "method.weight: input should be a valid number, got 'heavy'" in message
    assert "method.hiden: DANN has no argument 'hiden'; did you mean 'hidden'?" in message


def test_bad_choice_in_a_sweep_is_found_before_the_first_job(told: Told) -> None:
    assert "did you mean 'dann'?" in told("-m", "method=mmd,dnn", *FAST)


def test_missing_data(tmp_path: Path, told: Told) -> None:
    message = told(*FAST, "data=office31")
    assert f"looked for {tmp_path / 'data' / 'office31'}" in message
    assert "{domain}/images/{class}/*" in message
    assert "https://" in message
    assert "TLRUN_DATA" in message


def test_missing_domain(folders: Path, told: Told) -> None:
    message = told(*on(folders, "data.target=bb"))
    assert "did you mean 'b'?" in message


def test_class_mismatch(folders: Path, told: Told) -> None:
    (folders / "b" / "mug").rename(folders / "b" / "mugs")
    message = told(*on(folders))
    assert "domain 'b' has classes that a lacks: ['mugs'] and lacks classes: ['mug']" in message
    assert "data.label_set" in message


def test_corrupt_images_are_all_named(folders: Path, told: Told, tlrun: Tlrun) -> None:
    bad = [folders / "a" / "bike" / "frame_0000.png", folders / "a" / "mug" / "frame_0001.png"]
    bad[0].write_bytes(bad[0].read_bytes()[:200])
    bad[1].write_text("no image at all")
    message = told(*on(folders))
    assert "2 images cannot be read" in message
    assert all(str(file) in message for file in bad)
    assert "data.on_corrupt=skip" in message
    done = tlrun(*on(folders, "data.on_corrupt=skip"))
    assert "2 unreadable images left out" in done.stdout


def test_empty_class_folder_is_named(folders: Path, tlrun: Tlrun) -> None:
    (folders / "b" / "lamp").mkdir()
    done = tlrun(*on(folders))
    assert "domain 'b': class folders without an image are ignored: ['lamp']" in done.stdout


def test_missing_role(folders: Path, told: Told) -> None:
    assert "reads role 'labeled', which this data lacks: set data.labeled_per_class" in told(
        *on(folders, "method=finetune")
    )
    assert "set data.protocol=split" in told(*on(folders, "method=target_only", "data.labeled_per_class=all"))
    assert "target rows are unlabelled" in told(
        *on(folders, "method=target_only", "data.labeled_per_class=2")
    )
    assert "has 8 training samples of class 'bike'" in told(*on(folders, "data.labeled_per_class=50"))


def test_untrained_model_is_not_adapted(told: Told) -> None:
    assert "add recipe=source_free" in told(*FAST, "method=shot")


def test_unknown_model_and_weights(folders: Path, tmp_path: Path, told: Told) -> None:
    timm = on(folders, "model=timm", "model.backbone.name=resnet18")
    assert "timm has no model 'resnet81'" in told(*timm[:-1], "model.backbone.name=resnet81")
    assert "no file 'nowhere.pth'" in told(*timm, "model.backbone.weights=nowhere.pth")
    assert "package 'no-such-weights' is not installed" in told(
        *timm, "model.backbone.weights=package:no-such-weights"
    )
    torch.save({"conv1.weight": torch.zeros(2), "other": torch.zeros(1)}, tmp_path / "w.pth")
    message = told(*timm, f"model.backbone.weights={tmp_path / 'w.pth'}")
    assert "conv1.weight (2,) instead of (64, 3, 7, 7)" in message
    assert "missing: " in message
    assert "unexpected: other" in message


def test_impossible_sizes_and_names(folders: Path, told: Told) -> None:
    assert "model.size=64 is larger than the stored images, model.resize=32" in told(
        *on(folders, "model.size=64")
    )
    assert "no validator 'imm'; did you mean 'im'?" in told(*FAST, "trainer.early_stop=imm")
    assert "domain 'a' is both source and target" in told(*on(folders, "data.target=a"))
    assert "unknown {klass}" in told(*on(folders, "data.layout='{domain}/{klass}/*'"))
    if not torch.cuda.is_available():
        assert "no CUDA device" in told("trainer=smoke", "trainer.accelerator=cuda")


def test_what_is_wrong_with_a_later_stage_is_said_before_the_first_trains(tmp_path: Path, told: Told) -> None:
    both = (*FAST, "recipe=pretrain_adapt_finetune", f"hydra.run.dir={tmp_path / 'run'}")
    message = told(*both)
    assert "stage finetune: method finetune reads role 'labeled', which this data lacks" in message
    labels = (*both, "data.labeled_per_class=2")
    message = told(*labels, "recipe.stages.finetune.trainer.early_stop=imm")
    assert "stage finetune: trainer.early_stop: no validator 'imm'; did you mean 'im'?" in message
    message = told(*labels, "report.checkpoint=entrophy")
    assert "report.checkpoint: nothing picks 'entrophy'; did you mean 'entropy'?" in message
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_finished_run_is_not_replaced_by_another(tmp_path: Path, tlrun: Tlrun, told: Told) -> None:
    command = ("trainer=smoke", "trainer.epochs=1", f"hydra.run.dir={tmp_path / 'run'}")
    tlrun(*command, "method=dann")
    before = (tmp_path / "run" / "results.json").read_text()
    message = told(*command, "method=mcc")
    assert "holds a finished run of another config: choose another hydra.run.dir, or delete it" in message
    assert (tmp_path / "run" / "results.json").read_text() == before
    tlrun(*command, "method=dann")  # the same, once more


def test_what_cannot_begin_leaves_no_folder(tmp_path: Path, tlrun: Tlrun) -> None:
    done = tlrun("trainer=smoke", "optim.lr=fast", f"hydra.run.dir={tmp_path / 'runs' / 'a'}", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("tlrun: The config has 1 problem:")
    assert not (tmp_path / "runs" / "a").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    tlrun("trainer=smoke", "optim.lr=fast", f"hydra.run.dir={tmp_path / 'mine'}", check=False)
    assert (tmp_path / "mine" / "notes.txt").exists()


def test_a_mistyped_command_and_the_version(tlrun: Tlrun) -> None:
    done = tlrun("reprot", "outputs", check=False)
    assert done.returncode == 2
    assert "there is no command 'reprot'; did you mean 'report'?" in done.stderr
    assert tlrun("--version").stdout == f"tl-runner {version('tl-runner')}\n"


def test_what_a_domain_without_class_folders_is_told_is_right(
    folders: Path, told: Told, tlrun: Tlrun
) -> None:
    (folders / "the new").mkdir()
    for file in (folders / "b").rglob("*.png"):
        file.rename(folders / "the new" / f"{file.parent.name}-{file.name}")
    message = told(*on(folders, "data.target=the new"))
    hint = re.search(r'in no class folders: "(data\.layout=.*?)"', message)
    assert hint is not None
    assert "target 24" in tlrun(*on(folders, "data.target=the new", hint[1])).stdout


def test_a_layout_may_be_typed_as_it_is(folders: Path, tlrun: Tlrun) -> None:
    done = tlrun(*on(folders, "data.layout={domain}/{class}/*"))
    assert "evaluation rows: source_val" in done.stdout


def test_malformed_list(tmp_path: Path, told: Told) -> None:
    (tmp_path / "list.txt").write_text("a.png 0\nonlyapath\n")
    message = told(
        *FAST, "data=list", f"data.root={tmp_path}", "data.files=list.txt", "data.source=a", "data.target=b"
    )
    assert "list.txt:2: expected 'path label', got 'onlyapath'" in message


def test_loss_that_is_not_finite_stops_the_run(tmp_path: Path, told: Told) -> None:
    run = tmp_path / "run"
    message = told(*FAST, "optim.lr=1e30", "trainer.epochs=3", f"hydra.run.dir={run}")
    assert "is not finite" in message
    assert not (run / "results.json").exists()
    for file in run.rglob("*.ckpt"):
        state = torch.load(file, weights_only=True)["state_dict"]
        assert state, file


def test_a_folder_that_cannot_be_made(tmp_path: Path, told: Told) -> None:
    (tmp_path / "file").touch()
    assert f"cannot make the folder {tmp_path}/file (" in told(*FAST, f"hydra.run.dir={tmp_path}/file")
    message = told("-m", *FAST, f"hydra.sweep.dir={tmp_path}/file/sweep")
    assert f"cannot make the folder {tmp_path}/file/sweep (NotADirectoryError" in message


def test_resume_needs_a_run(tmp_path: Path, told: Told) -> None:
    assert "is no run folder" in told("resume", str(tmp_path))
    (tmp_path / "config.yaml").write_text("a: [")
    assert "is not valid YAML" in told("resume", str(tmp_path))
    (tmp_path / "config.yaml").write_text("method: {_target_: os.system}\n")
    assert "names 'os.system', which nothing on this machine vouches for" in told("resume", str(tmp_path))
    (tmp_path / "results.json").write_text("{}")
    assert "is finished" in told("resume", str(tmp_path))


def test_unknown_list_group(told: Told) -> None:
    assert "no group 'methodes'; did you mean 'method'?" in told("list", "methodes")


WITHOUT_TORCH = """
import sys
from tl_runner import cli
sys.argv = ["tlrun", *sys.argv[1:]]
try:
    cli.main()
except SystemExit:
    pass
print("IMPORTED", [m for m in ("torch", "pytorch_lightning", "timm") if m in sys.modules])
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--cfg", "job"],
        ["list"],
        ["list", "methods"],
        ["method=dnn"],
        ["optim.lrr=1"],
        ["+fo=1"],
    ],
    ids=" ".join,
)
def test_questions_are_answered_without_torch(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "IMPORTED []"


def test_help_names_every_group_and_option(tlrun: Tlrun) -> None:
    text = tlrun("--help").stdout
    for group, options in CONFIGS.items():
        assert group in text
        assert all(option.partition("/")[0] in text for option in options)
    assert len(text.splitlines()) <= 48, "one screen"


def test_a_module_of_ones_own_that_python_cannot_read_is_listed(tmp_path: Path, tlrun: Tlrun) -> None:
    (tmp_path / "work" / "conf" / "method").mkdir(parents=True)
    (tmp_path / "work" / "mine.py").write_text("frm torch import nn\n")
    (tmp_path / "work" / "conf" / "method" / "mine.yaml").write_text("_target_: mine.Mine\n")
    done = tlrun("list", "methods", env={**os.environ, "COLUMNS": "200"})
    assert "mine.py, line 1: invalid syntax" in done.stdout


def test_the_folder_of_a_job_tells_what_it_can() -> None:
    short = cli._folder_name(
        ["method=mmd", "+method.extra=[mcc]", "tuning@recipe.stages.a.tuning=lora", "launcher=joblib"]
    )
    assert short == "method.extra=[mcc],method=mmd,recipe.stages.a.tuning=lora"
    long = [*(f"some.very.long.place.in.the.config.option{i}={i}" for i in range(6)), "validators=fast"]
    name = cli._folder_name(long)
    assert name.startswith("option0=0,option1=1,")
    assert ",validators=fast," in name
    assert name == cli._folder_name(long[::-1])
    assert name != cli._folder_name([*long[:-1], "validators=default"])
    assert len(cli._folder_name([f"a.b{i}={'x' * 50}" for i in range(9)])) < 200


@pytest.mark.parametrize("group", [g for g in CONFIGS if not g.startswith(("hydra", "paths"))])
def test_list(group: str, tlrun: Tlrun) -> None:
    text = tlrun("list", group, env={**os.environ, "COLUMNS": "200"}).stdout
    assert all(option in text for option in CONFIGS[group])


def test_a_list_cuts_nothing(tlrun: Tlrun) -> None:
    assert "…" not in tlrun("list", "methods", env={**os.environ, "COLUMNS": "60"}).stdout


def test_run_writes_everything(tlrun: Tlrun) -> None:
    done = tlrun(*FAST)
    folder = result_folder(done)
    assert folder.parent.parent.name == "outputs"
    for name in ("results.json", "metrics.csv", "config.yaml", "run.log"):
        assert (folder / name).is_file(), name
    assert list(folder.glob("tensorboard/adapt/events*"))
    results = json.loads((folder / "results.json").read_text())
    stage = results["stages"]["adapt"]
    assert set(stage["picks"]) == {"last", "source_val", "oracle", *composed()["validators"]}
    assert set(stage["picks"]["last"]["target"]) == {"accuracy", "class_mean", "macro_f1", "ece"}
    assert set(stage["losses"]) == {"source", "mmd"}
    assert stage["timing"]["samples_per_second"] > 0
    assert results["environment"]["packages"]["torch"] == torch.__version__.split("+")[0] or torch.__version__
    assert "epoch 2/2" in done.stdout
    assert "\x1b[" not in done.stdout, "no colours into a pipe"


def test_multirun_folders_and_shared_cache(folders: Path, tlrun: Tlrun, tmp_path: Path) -> None:
    done = tlrun("-m", *on(folders, "method=source_only,mmd"))
    found = sorted((tmp_path / "work" / "multirun").rglob("results.json"))
    assert len(found) == 2
    assert [f"method={m}" in str(f.parent) for f, m in zip(found, ("mmd", "source_only"), strict=True)] == [
        True,
        True,
    ]
    assert done.stdout.count("decoding a: ") == 1, "the second job uses the first one's cache"


def test_own_config_of_a_shipped_name_is_not_silently_ignored(tmp_path: Path, tlrun: Tlrun) -> None:
    own = tmp_path / "work" / "conf" / "method" / "mmd.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("_target_: tl_runner.methods.dann.DANN\n")
    assert "conf/method/mmd.yaml is not read" in tlrun("--cfg", "job").stderr


def test_long_sweeps_get_short_folders(tlrun: Tlrun, tmp_path: Path) -> None:
    tlrun("-m", *FAST, f"paths.data={'x' * 180}/{'y' * 60}")
    assert len(list((tmp_path / "work" / "multirun").glob("*/*/*/results.json"))) == 1


def test_a_failing_job_does_not_take_the_others_along(tlrun: Tlrun, tmp_path: Path) -> None:
    done = tlrun("-m", *FAST, "method=finetune,mmd", check=False)
    assert done.returncode != 0
    assert "reads role 'labeled'" in " ".join(done.stdout.split())
    assert len(list((tmp_path / "work" / "multirun").rglob("results.json"))) == 1


def test_unlabelled_target(tmp_path: Path, tlrun: Tlrun) -> None:
    """Photos from another camera, without class folders: adapted to, not scored."""
    root = tmp_path / "photos"
    image_folders(root, ["old"], CLASSES)
    for i in range(12):
        save_image(root / "new" / f"img_{i}.jpg", seed=i)
    layout = "{default: '{domain}/{class}/*', new: '{domain}/*'}"
    done = tlrun(
        *FAST,
        "data=folder",
        f"data.root={root}",
        f"data.layout={layout}",
        "data.source=old",
        "data.target=new",
    )
    picks = json.loads((result_folder(done) / "results.json").read_text())["stages"]["adapt"]["picks"]
    assert set(picks) == {"last", "source_val", *composed()["validators"]}
    assert picks["last"]["target"] == {}


def test_sigterm_is_not_success(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tl_runner.cli",
        "trainer.epochs=500",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("last.ckpt")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    _, message = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "tlrun resume" in message


def test_an_interrupt_ends_a_run_and_the_whole_sweep(tlrun: Tlrun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tl_runner.run.advanced", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    command = ("trainer=smoke", "trainer.epochs=3", "hydra.run.dir=run")
    done = tlrun(*command, check=False)
    assert done.returncode == 130
    assert done.stderr.strip().endswith(
        "tlrun: interrupted; `tlrun resume RUN_DIR` goes on from the last epoch"
    )
    done = tlrun("-m", *command[:2], "seed=0,1,2", "hydra.sweep.dir=sweep", check=False)
    assert done.returncode == 130
    monkeypatch.undo()
    done = tlrun("resume", "sweep")
    assert "3 jobs: 3 done" in done.stdout
    whole = tlrun(*command[:2], "hydra.run.dir=whole")
    tlrun("resume", "run")
    work = Path(result_folder(whole)).parent
    assert (work / "run" / "metrics.csv").read_text() == (work / "whole" / "metrics.csv").read_text()


def test_an_exit_that_gets_lost_is_not_success_either(tlrun: Tlrun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python drops what a signal's handler raises while an object is destroyed."""

    class Last:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)

    monkeypatch.setattr("tl_runner.run.advanced", lambda *_: Last() and None)
    assert tlrun("trainer=smoke", "trainer.epochs=3", check=False).returncode == 143
