"""Runs of several stages, and runs that start from runs."""

from __future__ import annotations

import doctest
import json
import re
import shlex
import shutil
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from conftest import CONFIGS, Tlrun, composed, image_folders, lasting_folder, save_image
from hydra.core.global_hydra import GlobalHydra
from test_configs import stages_need
from test_resume import assert_same

import tl_runner.overrides
import tl_runner.run
from tl_runner.data.rows import Rows
from tl_runner.errors import DataError, UserError
from tl_runner.module import TransferModule
from tl_runner.preflight import preflight
from tl_runner.run import run
from tl_runner.search import own_configs, register
from tl_runner.trained import backbone_of, teacher

CLASSES = ["bike", "mug", "ruler"]
MODEL = ("model=tiny", "trainer=smoke")
SOURCE_FREE = [m for m in CONFIGS["method"] if m in ("shot", "shot_im", "nrc", "aad")]


def stages(recipe: str) -> list[str]:
    return list(composed(f"recipe={recipe}")["recipe"]["stages"])


def given(recipe: str) -> list[str]:
    """What a recipe has to be given."""
    method = ["method=shot"] if recipe == "source_free" else []
    return [f"recipe={recipe}", "data.labeled_per_class=3", *method, *stages_need(recipe)]


def weights(folder: Path, stage: str = "adapt") -> dict[str, torch.Tensor]:
    file = folder / "checkpoints" / stage / "last.ckpt"
    state: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["state_dict"]
    return state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], part: str = "") -> bool:
    keys = {k for k in one if k.startswith(f"method.model.{part}")}
    assert keys
    return keys == {k for k in other if k.startswith(f"method.model.{part}")} and all(
        torch.equal(one[k], other[k]) for k in keys
    )


# The command line


def test_examples_of_overrides() -> None:
    assert doctest.testmod(tl_runner.overrides, raise_on_error=True).attempted >= 4


def test_a_stage_is_set_as_the_run_is(tlrun: Tlrun, tmp_path: Path) -> None:
    tlrun(
        *(
            "trainer=smoke",
            "recipe=lp_ft",
            "method=mmd",
            "optim.lr=0.02",
            f"hydra.run.dir={tmp_path / 'run'}",
        ),
        *("recipe.stages.probe.epochs=1", "recipe.stages.probe.optim.lr=0.3"),
        *("recipe.stages.full.tuning=norm_only", "recipe.stages.full.tuning.head=false"),
        *("recipe.stages.full.optim=adamw", "recipe.stages.full.optim.schedule=cosine"),
        *("recipe.stages.full.method=dann", "recipe.stages.full.method.hidden=8"),
    )
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["recipe"]["stages"]
    probe, full = written["probe"], written["full"]
    # Changes to what is inherited, and choices of one's own.
    assert (probe["epochs"], probe["optim"]["lr"], probe["optim"]["optimizer"]["momentum"]) == (1, 0.3, 0.9)
    assert (full["optim"]["lr"], full["optim"]["schedule"]) == (
        0.001,
        {"_target_": "tl_runner.schedules.Cosine", "final": 0.0},
    )
    assert (full["method"]["hidden"], full["method"]["gamma"]) == (8, 10.0)
    assert full["tuning"] == {"_target_": "tl_runner.tuning.NormOnly", "head": False}
    results = json.loads((tmp_path / "run" / "results.json").read_text())["stages"]
    assert [(s["method"], s["epochs"]) for s in results.values()] == [("mmd", 1), ("dann", 2)]
    assert results["full"]["parameters"]["head"][0] == 0


def test_changes_reach_only_what_they_name() -> None:
    config = composed(
        *("recipe=pretrain_adapt_finetune", "method=dann", "+method.extra=[mcc]", "method.hidden=5"),
        *("recipe.stages.adapt.method.gamma=3", "recipe.stages.finetune.method.label_smoothing=0.1"),
        "recipe.stages.finetune.trainer.batch_size=7",
    )
    adapt, finetune = config["recipe"]["stages"].values()
    assert adapt["method"] == {**config["method"], "gamma": 3}
    assert adapt["method"]["hidden"] == 5
    assert adapt["method"]["extra"] == {"mcc": composed("method=mcc")["method"]}
    assert finetune["method"] == {**composed("method=finetune")["method"], "label_smoothing": 0.1}
    assert finetune["trainer"] == {**config["trainer"], "batch_size": 7}
    assert config["method"]["gamma"] == 10.0


def test_own_recipe_and_folder_of_experiments(tlrun: Tlrun, tmp_path: Path) -> None:
    """A sweep over a folder runs each of its experiments, and a shared file that begins with _ is none."""
    own = tmp_path / "work" / "conf"
    files = {
        "recipe/twice.yaml": "# Twice\nstages:\n  one: {epochs: 1}\n  two: {optim: {lr: 0.5}}\n",
        "experiment/pair/_both.yaml": "# @package _global_\ndefaults:\n  - override /trainer: smoke\n",
        "experiment/pair/a.yaml": "# @package _global_\ndefaults:\n  - pair/_both\n  - override /recipe: twice\n",
        "experiment/pair/b.yaml": "# @package _global_\ndefaults:\n  - pair/_both\n  - override /method: coral\n",
    }
    for name, text in files.items():
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(text)
    done = tlrun("-m", "experiment=pair", "hydra.sweep.dir=out")
    found = {
        file.parent.name: [s["method"] for s in json.loads(file.read_text())["stages"].values()]
        for file in (tmp_path / "work" / "out").rglob("results.json")
    }
    assert found == {"experiment=pair+a": ["mmd", "mmd"], "experiment=pair+b": ["coral"]}
    written = yaml.safe_load((tmp_path / "work" / "out" / "experiment=pair+a" / "config.yaml").read_text())
    assert written["recipe"]["stages"]["two"]["optim"] == {**written["optim"], "lr": 0.5}
    # In the end, compared by the names of the experiments.
    table = done.stdout[done.stdout.index("accuracy on the target at the last epoch") :]
    words = [line.split()[0] for line in table.splitlines() if line.split()]
    assert "experiment" in words
    assert {"a", "b"} <= set(words[words.index("experiment") :][:4])
    assert (tmp_path / "work" / "out" / "report" / "comparison.md").is_file()
    refused = tlrun("experiment=pair", check=False).stderr
    assert "experiment=pair is a folder of 2: add -m to run each, or choose one of pair/a, pair/b" in refused


PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("line", [line for b in blocks("sh") for line in b.replace("\\\n", "").splitlines()])
def test_the_commands_of_the_page_are_understood(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = blocks("yaml")
    name = text.splitlines()[0].removeprefix("# ").partition(":")[0]
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(line)
    assert program == "tlrun"
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    GlobalHydra.instance().clear()
    register(own_configs(arguments)[0])
    preflight(arguments)


def test_the_recipe_of_the_page(tmp_path: Path, tlrun: Tlrun) -> None:
    (text,) = blocks("yaml")
    file = tmp_path / "work" / text.splitlines()[0].removeprefix("# ").partition(":")[0]
    file.parent.mkdir(parents=True)
    file.write_text(text)
    tlrun("recipe=adapt_twice", "data.labeled_per_class=3", "trainer=smoke", "hydra.run.dir=run")
    results = json.loads((tmp_path / "work" / "run" / "results.json").read_text())
    assert [(s["method"], s["epochs"]) for s in results["stages"].values()] == [
        *(("mmd", 2), ("self_training", 5), ("finetune", 2))
    ]
    assert results["config"]["recipe"]["stages"]["finetune"]["optim"]["lr"] == 0.001


def test_the_page_names_every_recipe_and_stage() -> None:
    rows = {
        line.split("|")[1].strip(" `"): line
        for line in PAGE.read_text().partition("\n## ")[0].splitlines()
        if line.startswith("| `")
    }
    assert set(rows) == set(CONFIGS["recipe"])
    for recipe, row in rows.items():
        assert all(f"`{stage}`" in row for stage in stages(recipe)), recipe


# Stages


@cache
def whole(recipe: str) -> tuple[Path, dict[str, Any]]:
    """A run that nothing happens to, the same for all tests of a process."""
    folder = lasting_folder()
    return folder, run(composed(*MODEL, *given(recipe)), folder)


@pytest.mark.parametrize("recipe", CONFIGS["recipe"])
def test_every_recipe_tells_of_all_its_stages(recipe: str) -> None:
    folder, results = whole(recipe)
    assert results == json.loads((folder / "results.json").read_text())
    assert list(results["stages"]) == stages(recipe)
    for stage in results["stages"].values():
        assert {"accuracy", "macro_f1"} <= stage["picks"]["last"]["target"].keys()
        assert stage["timing"]["seconds"] > 0
    assert set(results["source_accuracy"]) == set(stages(recipe))
    rows = (folder / "metrics.csv").read_text().splitlines()[1:]
    assert list(dict.fromkeys(row.split(",")[0] for row in rows)) == stages(recipe)


@pytest.mark.parametrize(("recipe", "stage"), [(r, s) for r in CONFIGS["recipe"] for s in stages(r)[1:]])
def test_a_run_killed_in_a_later_stage_goes_on_there(
    recipe: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the stage has left anything, then after its first epoch."""
    config = composed(*MODEL, *given(recipe))
    original = TransferModule.on_train_epoch_start
    began: list[tuple[str, int]] = []

    def die(self: TransferModule) -> None:
        began.append((self.stage, self.current_epoch))
        if began[-1] == (stage, kill_at):
            raise InterruptedError("killed")
        original(self)

    monkeypatch.setattr(TransferModule, "on_train_epoch_start", die)
    for kill_at, expected in ((0, (stages(recipe)[0], 0)), (1, (stage, 0)), (-1, (stage, 1))):
        began.clear()
        with pytest.raises(InterruptedError) if kill_at >= 0 else nullcontext():
            run(config, tmp_path, resume=kill_at != 0)
        assert began[0] == expected
    assert_same(whole(recipe)[0], tmp_path)


# Without source data


@pytest.mark.parametrize("method", SOURCE_FREE)
def test_the_source_is_not_read_in_a_source_free_stage(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_folders(tmp_path / "data", ["a", "b"], CLASSES)
    gather, fit, inside, read = Rows.gather, tl_runner.run.fit, [""], set()

    def watched_fit(stage: Any, *rest: Any) -> Any:
        inside[0] = stage.name
        fitted = fit(stage, *rest)
        inside[0] = ""
        return fitted

    def watched_gather(self: Rows, row: torch.Tensor) -> torch.Tensor:
        read.add((inside[0], *self.names))
        return gather(self, row)

    monkeypatch.setattr(tl_runner.run, "fit", watched_fit)
    monkeypatch.setattr(Rows, "gather", watched_gather)
    run(
        composed(
            *(*MODEL, "data=folder", f"data.root={tmp_path / 'data'}", "data.source=a", "data.target=b"),
            *(f"method={method}", "recipe=source_free"),
        ),
        tmp_path / "run",
    )
    assert {("source", "a"), ("adapt", "b")} <= read
    assert ("adapt", "a") not in read


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, list[str]]:
    """A run on a source that is gone afterwards, with every trace of it, and how to point to its target."""
    root = tmp_path / "photos"
    image_folders(root, ["a", "b"], CLASSES)
    where = [*MODEL, "data=folder", f"data.root={root}", "data.source=a", "data.target=b"]
    run(composed(*where, "method=source_only"), tmp_path / "source")
    shutil.rmtree(root / "a")
    shutil.rmtree(tmp_path / "cache")
    return tmp_path / "source", where


def test_a_sweep_starts_from_one_source_model(
    trained: tuple[Path, list[str]], tmp_path: Path, tlrun: Tlrun
) -> None:
    """`tlrun -m init_from=DIR method=...`, of source-free methods, with no source there."""
    done = tlrun(
        *("-m", *trained[1], f"init_from={trained[0]}", f"method={','.join(SOURCE_FREE)}"),
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    )
    assert done.stdout.count("no stage reads the source: it is not opened") == len(SOURCE_FREE)
    found = [json.loads(file.read_text()) for file in (tmp_path / "sweep").rglob("results.json")]
    assert sorted(r["stages"]["adapt"]["method"] for r in found) == sorted(SOURCE_FREE)
    assert {r["data"] for r in found} == {"a -> b"}
    assert not list((tmp_path / "cache" / "pixels").glob("a-*"))


def test_a_target_without_labels_is_told_its_classes_by_the_model(
    trained: tuple[Path, list[str]], tmp_path: Path
) -> None:
    for i in range(12):
        save_image(tmp_path / "photos" / "new" / f"img_{i}.jpg", seed=i)
    config = composed(
        *(*trained[1], "data.layout='{domain}/*'", "data.source=null", "data.target=new"),
        *("method=shot", f"init_from={trained[0]}"),
    )
    results = run(config, tmp_path / "run")
    assert results["data"] == "new"
    assert json.loads((tmp_path / "run" / "data.json").read_text())["classes"] == CLASSES
    # Neither source nor labels: what looks at one of them is left out.
    picks = set(results["stages"]["adapt"]["picks"])
    assert picks == {"last", *composed()["validators"]} - {"circular"}


def test_a_target_of_fewer_classes_keeps_the_head(trained: tuple[Path, list[str]], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "photos" / "b" / "bike")
    start = [*trained[1], "data.source=null", "method=shot", f"init_from={trained[0]}"]
    with pytest.raises(
        DataError, match=r"'b' lacks classes: \['bike'\].*partial.*init_parts=\[backbone,neck\]"
    ):
        run(composed(*start), tmp_path / "refused")
    run(composed(*start, "data.label_set=partial"), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "data.json").read_text())["classes"] == CLASSES


# Starting from a run


def test_starting_from_a_stage_is_going_on_from_it(tmp_path: Path) -> None:
    """The second stage of a recipe, and the same as a run of its own, are one: bit for bit."""
    run(composed(*MODEL, "method=nrc", "recipe=source_free"), tmp_path / "both")
    start = tmp_path / "both" / "checkpoints" / "source" / "last.ckpt"
    run(composed(*MODEL, "method=nrc", f"init_from={start}"), tmp_path / "alone")
    one, other = weights(tmp_path / "both"), weights(tmp_path / "alone")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_a_pick_and_some_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any checkpoint can be named, relative to where one is; and its head left out."""
    run(composed(*MODEL, "trainer.epochs=3"), tmp_path / "first")
    monkeypatch.chdir(tmp_path)
    pick = "first/checkpoints/adapt/snd.ckpt"
    still = [
        "optim.lr=1e-30",
        "optim.weight_decay=0",
        "model.dropout=0",
        "method=finetune",
        "data.labeled_per_class=2",
    ]
    run(composed(*MODEL, *still, f"init_from={pick}"), tmp_path / "whole")
    run(composed(*MODEL, *still, f"init_from={pick}", "init_parts=[backbone,neck]"), tmp_path / "headless")
    start = torch.load(tmp_path / pick, weights_only=True)["state_dict"]
    trained = {k: v for k, v in start.items() if "running" not in k and "num_batches" not in k}
    for part, kept in (("backbone", True), ("neck", True), ("head", False)):
        names = [k for k in trained if k.startswith(f"method.model.{part}")]
        assert all(torch.equal(trained[k], weights(tmp_path / "whole")[k]) for k in names)
        assert all(torch.equal(trained[k], weights(tmp_path / "headless")[k]) for k in names) == kept
    written = yaml.safe_load((tmp_path / "whole" / "config.yaml").read_text())
    assert written["init_from"] == str(tmp_path / pick)  # or it could not be resumed from elsewhere


def test_the_backbone_is_that_of_an_earlier_stage(tmp_path: Path) -> None:
    """A frozen stage on cached features leaves none in its checkpoint; it is not the pretrained one."""
    config = composed(
        *(*MODEL, "recipe=pretrain_adapt_finetune", "data.labeled_per_class=3", "optim.lr=0.05"),
        "+tuning@recipe.stages.finetune.tuning=frozen",
    )
    run(config, tmp_path / "first")
    adapted, last = weights(tmp_path / "first"), weights(tmp_path / "first", "finetune")
    assert not any(k.startswith("method.model.backbone") for k in last)
    next_run = [
        "method=finetune",
        "data.labeled_per_class=3",
        "tuning=frozen",
        f"init_from={tmp_path / 'first'}",
    ]
    run(composed(*MODEL, *next_run), tmp_path / "second")
    run(
        composed(*MODEL, *next_run[:2], "optim.lr=1e-30", f"init_from={tmp_path / 'second'}"),
        tmp_path / "third",
    )
    found = weights(tmp_path / "third")
    kept = [k for k in adapted if k.startswith("method.model.backbone") and "weight" in k]
    assert kept
    assert all(torch.equal(found[k], adapted[k]) for k in kept)
    held = tmp_path / "first" / "checkpoints" / "adapt" / "last.ckpt"
    assert backbone_of(tmp_path / "second" / "checkpoints" / "adapt" / "last.ckpt") == held
    copy = teacher(str(tmp_path / "second"))
    assert copy is not None
    state = copy.state_dict()
    assert all(torch.equal(state[k.removeprefix("method.model.")], adapted[k]) for k in kept)


def test_weights_that_are_replaced_are_not_fetched(tmp_path: Path) -> None:
    where = [*MODEL[1:], "model=timm", "model.backbone.name=resnet10t", "model.size=32", "model.resize=32"]
    random, nowhere = (f"model.backbone.weights={w}" for w in ("none", tmp_path / "nowhere.pth"))
    run(composed(*where, random, "method=source_only"), tmp_path / "first")
    run(composed(*where, nowhere, "method=shot", f"init_from={tmp_path / 'first'}"), tmp_path / "second")
    # A run on cached features leaves no backbone: there they count.
    run(composed(*where, random, "method=source_only", "tuning=frozen"), tmp_path / "cached")
    with pytest.raises(UserError, match=r"no file '.*nowhere\.pth'"):
        run(
            composed(*where, nowhere, "method=shot", f"init_from={tmp_path / 'cached'}"), tmp_path / "refused"
        )
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match=r"init_from: .*'weights': 'none'.*, and this run has .*nowhere\.pth"):
        run(
            composed(*where, nowhere, "method=shot", f"init_from={tmp_path / 'cached'}"), tmp_path / "refused"
        )


# What is wrong


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("finished")
    run(composed(*MODEL, "method=source_only"), folder)
    return folder


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.neck_features=64"], r"head\.weight \(10, 128\) instead of \(10, 64\)"),
        (["model.neck=none"], r"of another shape: head\.weight .*unexpected: neck\.0\.weight, neck\.0\.bias"),
        (["model.head=weight_norm"], r"missing: head\.\S+.*unexpected: head\.weight"),
        (["model.backbone.width=16"], r"trained model\.backbone=.*'width': 32.*this run has .*'width': 16"),
        (
            ["data=toy", "model=mlp"],
            r"its head knows 10 classes, this data has 2; unknown to the head: negative",
        ),
        (["method=finetune"], r"reads role 'labeled', which this data lacks: set data\.labeled_per_class"),
        (["method=mmd", "data.source=null"], r"reads role 'source', which this data lacks: set data\.source"),
    ],
    ids=["width", "neck", "head", "backbone", "classes", "labeled", "source"],
)
def test_a_start_that_does_not_fit(finished: Path, overrides: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        run(composed(*MODEL, f"init_from={finished}", *overrides), tmp_path)


def test_what_is_no_finished_run(finished: Path, tmp_path: Path) -> None:
    def said(where: Path) -> str:
        with pytest.raises(UserError) as caught:
            run(composed(*MODEL, "method=shot", f"init_from={where}"), tmp_path / "run")
        return str(caught.value)

    assert "init_from: no run folder or checkpoint" in said(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "is no run folder: it has no config.yaml" in said(tmp_path / "empty")
    killed = tmp_path / "killed"
    shutil.copytree(finished, killed)
    (killed / "checkpoints" / "adapt" / "done.json").unlink()
    assert f"has not finished its stage adapt: tlrun resume {killed}" in said(killed)
    file = tmp_path / "weights.pth"
    torch.save({"conv1.weight": torch.zeros(2)}, file)
    assert "expected a checkpoint of a run, and its names start with conv1.weight" in said(file)
    file.write_text("no weights at all")
    assert f"init_from: {file}: cannot be read as weights" in said(file)
    lone = tmp_path / "lone.ckpt"
    shutil.copy(finished / "checkpoints" / "adapt" / "last.ckpt", lone)
    run(composed(*MODEL, "method=shot", f"init_from={lone}"), tmp_path / "run")  # needs no folder
    with pytest.raises(DataError, match=r"head\.weight \(10, 128\) instead of \(10, 64\)"):
        run(composed(*MODEL, "method=shot", f"init_from={lone}", "model.neck_features=64"), tmp_path / "run")
