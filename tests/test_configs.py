"""Every config of the tree runs: walked, never listed by hand. (For methods see test_honesty.)"""

from __future__ import annotations

import csv
import json
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import (
    CONFIGS,
    EXPERIMENTS,
    composed,
    image_folders,
    lasting_folder,
    method_class,
    stand_in,
    walk,
    with_tiny_encoder,
)

from tl_runner.run import run
from tl_runner.schema import check
from tl_runner.search import config_dir
from tl_runner.signatures import _parameters, located
from tl_runner.trust import _NAMED


def needs(method: str) -> list[str]:
    """What a method's roles ask of the other groups."""
    cls = method_class(method)
    overrides = ["recipe=source_free"] if cls.source_free else []
    if method == "distill":
        overrides += [f"method.teacher.run={teacher_run()}"]
    if method in ("lwf", "ewc", "co_tuning"):  # They keep what an earlier classifier knows.
        overrides += [f"init_from={teacher_run()}"]
    if method in ("ewc", "delta"):
        overrides += ["method.samples=4"]
    if method == "wise_ft":
        overrides += ["recipe=wise_ft"]
    if cls.two_views:
        overrides += ["augment=weak_strong"]
    if "labeled" in cls.roles or method == "svm":
        overrides += ["data.labeled_per_class=all", "data.protocol=split"]
    return overrides


def stages_need(recipe: str) -> list[str]:
    """What a recipe's stages have to be given; and few points where one would evaluate many."""
    if recipe == "wise_ft":
        return ["recipe.stages.line.method.points=3"]
    if recipe == "distill_then_finetune":
        return [f"recipe.stages.distill.method.teacher.run={teacher_run()}"]
    return []


@cache
def teacher_run() -> Path:
    """A finished run on the embedded data, the same for all tests of a process."""
    folder = lasting_folder()
    run(composed("trainer=smoke", "method=source_only", "trainer.epochs=1"), folder)
    return folder


def smoke(folder: Path, *overrides: str, data: bool = True) -> dict[str, Any]:
    config = composed("trainer=smoke", *overrides)
    if "weights" in config["model"]["backbone"]:
        config["model"]["backbone"]["weights"] = "none"
    if "tokenizer" in config["data"]:
        with_tiny_encoder(config, folder.parent / "encoder")
    if data:
        stand_in(config["data"])
    results = run(config, folder)
    assert json.loads((folder / "results.json").read_text())["stages"].keys() == results["stages"].keys()
    for name, stage in results["stages"].items():
        assert stage["epochs"] == ((config["recipe"]["stages"][name] or {}).get("epochs") or 2)
        assert {"last", "oracle"} <= stage["picks"].keys()
        for pick in stage["picks"].keys() - {"last"}:
            state = torch.load(folder / "checkpoints" / name / f"{pick}.ckpt", weights_only=True)
            assert state["epoch"] + 1 == stage["picks"][pick]["epoch"]
        assert (folder / "checkpoints" / name / "last.ckpt").is_file()
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert len(rows) == sum(stage["epochs"] for stage in results["stages"].values())
    return results


def test_configs_name_our_classes_where_they_are() -> None:
    named = {t for file in config_dir().rglob("*.yaml") for t in _NAMED.findall(file.read_text())}
    ours = {target: located(target) for target in named if target.startswith("tl_runner.")}
    assert {target: f"{found.__module__}.{found.__qualname__}" for target, found in ours.items()} == {
        target: target for target in ours
    }


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_what_an_experiment_says_is_taken(experiment: str) -> None:
    check(composed(f"experiment={experiment}"))


# The settings of published code differ by numbers: to run them all takes a minute.
TRIED = {f"office31/{e}" for e in ("source_only_tllib", "dann_tllib", "mcd_tllib", "mmd_deepda")}
ALIKE = {e for e in EXPERIMENTS if e.endswith(("_tllib", "_deepda"))} - TRIED


@pytest.mark.parametrize("experiment", walk(EXPERIMENTS, [e for e in EXPERIMENTS if e not in ALIKE]))
def test_experiment(experiment: str, tmp_path: Path) -> None:
    overrides = [f"experiment={experiment}", "model.size=64", "model.resize=72"]
    large = composed(overrides[0])["model"]["backbone"].get("name") == "resnet50.tv_in1k"
    if large and experiment != "office31/source_only_tllib":  # All of them would write gigabytes.
        overrides.append("model.backbone.name=resnet18")
    smoke(tmp_path, *overrides)


# Those of one's own files have no place to look at by default.
NAMED = [
    d
    for d in CONFIGS["data"]
    if d not in ("folder", "list", "digits", "text", "text_folder", "hf_text", "conll")
]


@pytest.mark.parametrize("data", NAMED)
def test_data(data: str, tmp_path: Path) -> None:
    model = {"toy": "mlp", "amazon_reviews": "minilm", "conll2003": "minilm"}.get(data, "tiny")
    method = "mmd" if composed(f"data={data}")["data"]["source"] else "finetune"
    smoke(tmp_path, f"data={data}", f"model={model}", f"method={method}")


@pytest.mark.parametrize(
    ("recipe", "tuning"),
    [
        pytest.param(r, t, marks=() if r == "single" or t == "full" else pytest.mark.slow)
        for r in CONFIGS["recipe"]
        for t in CONFIGS["tuning"]
    ],
)
def test_recipe_and_tuning(recipe: str, tuning: str, tmp_path: Path) -> None:
    overrides = (f"recipe={recipe}", f"tuning={tuning}", "data.labeled_per_class=3", "optim=adamw")
    smoke(tmp_path, *overrides, *stages_need(recipe))


@pytest.mark.parametrize(
    "option", [f"augment={a}" for a in CONFIGS["augment"]] + [f"optim={o}" for o in CONFIGS["optim"]]
)
def test_augment_and_optim(option: str, tmp_path: Path) -> None:
    smoke(tmp_path, option)


@pytest.mark.parametrize("schedule", CONFIGS["optim/schedule"])
def test_schedule(schedule: str, tmp_path: Path) -> None:
    smoke(tmp_path, f"optim/schedule={schedule}")


@pytest.mark.parametrize("model", CONFIGS["model"])
def test_model_config_is_bound(model: str) -> None:
    check(composed(f"model={model}"))


def test_a_stage_has_its_own_settings(tmp_path: Path) -> None:
    """What a stage gives replaces the run's choice whole; what it leaves null it inherits."""
    config = composed(
        *("trainer=smoke", "recipe=pretrain_adapt_finetune", "data.labeled_per_class=3"),
        *("+optim@recipe.stages.finetune.optim=adamw", "recipe.stages.finetune.epochs=1"),
        "+tuning@recipe.stages.finetune.tuning=linear_probe",
    )
    stages = run(config, tmp_path)["stages"]
    assert [stages[s]["method"] for s in ("adapt", "finetune")] == ["mmd", "finetune"]
    assert [stages[s]["epochs"] for s in ("adapt", "finetune")] == [2, 1]
    assert stages["adapt"]["parameters"]["backbone"][0] > 0
    assert stages["finetune"]["parameters"]["backbone"][0] == 0
    groups = [
        torch.load(tmp_path / "checkpoints" / s / "last.ckpt", weights_only=True)["optimizer_states"][0][
            "param_groups"
        ]
        for s in ("adapt", "finetune")
    ]
    assert "momentum" in groups[0][0]
    assert "betas" in groups[1][0]


@pytest.mark.parametrize(
    "override", ["trainer.precision=bf16", "model.bn=per_domain", "data.label_set=shared"]
)
def test_switches(override: str, tmp_path: Path) -> None:
    smoke(tmp_path, override)


def test_train_val_and_test_folders(tmp_path: Path) -> None:
    """One data set with its own splits, all labels given: plain fine-tuning, validated on its val split."""
    root = tmp_path / "xray"
    for split in ("train", "val", "test"):
        image_folders(root, [split], ["normal", "ill"], each=6)
    results = smoke(
        *(tmp_path / "run", "method=finetune", "data=folder", f"data.root={root}"),
        *("data.layout='{split}/{class}/*'", "data.source=null", "data.target=xray", "data.protocol=split"),
        *("data.labeled_per_class=all", "trainer.early_stop=labeled_val"),
        data=False,
    )
    assert set(results["stages"]["adapt"]["picks"]) == {
        "last",
        "labeled_val",
        "oracle",
        *composed()["validators"].keys() - {"circular"},  # which looks at the source
    }


def test_extra_choices(tmp_path: Path) -> None:
    """Several sources, per-domain batch-norm, per-role batch sizes, early stopping, clipping, SHOT's network."""
    config = composed(
        "trainer=smoke",
        *("data=pacs", "model=tiny", "model.bn=per_domain", "model.neck=shot", "model.head=weight_norm"),
        *("trainer.batch_size={source: 6, target: 4}", "trainer.early_stop=im", "optim.clip_norm=1.0"),
        *("model.channels_last=false", "data.workers=2", "data.cache=false"),
    )
    stand_in(config["data"])
    assert run(config, tmp_path)["data"].startswith("art_painting+cartoon+photo -> ")


def _class_configs() -> list[tuple[str, str]]:
    found = []
    for group in (
        "method",
        "tuning",
        "augment",
        "optim",
        "data",
        "model",
        "trainer",
        "optim/schedule",
        "validators",
    ):
        found += [(group, name) for name in CONFIGS[group]]
    return found


@pytest.mark.parametrize(
    ("group", "name"), [(g, n) for g, n in _class_configs() if g in ("method", "tuning")]
)
def test_yaml_holds_every_argument_with_its_default(group: str, name: str) -> None:
    node = composed(f"{group}={name}")[group]
    for given in ("method", "teacher"):  # What a wrapper wraps and a teacher have no default in Python.
        node.pop(given, None)
    module, _, cls = node.pop("_target_").rpartition(".")
    parameters = _parameters(getattr(import_module(module), cls))
    expected = {
        k: list(p.default) if isinstance(p.default, tuple) else p.default
        for k, (p, _) in parameters.items()
        if k not in ("model", "info", "method", "teacher")
    }
    assert node == expected


def test_every_file_of_the_tree_is_yaml_and_described() -> None:
    files = sorted(config_dir().rglob("*.yaml"))
    assert len(files) > 50
    from tl_runner.commands.list import describe

    for file in files:
        yaml.safe_load(file.read_text())
        group = file.relative_to(config_dir()).parts[0]
        if group in ("method", "data", "model", "experiment", "recipe", "augment"):
            assert describe(file)[0], f"{file.name} has neither a comment nor a class with a docstring"
        if group == "method" and file.stem not in ("source_only", "target_only"):
            assert describe(file)[1], f"{file.name}'s class cites no paper"
