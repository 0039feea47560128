"""What a run keeps of its source, from one stage or run to the next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS, Tlrun, composed, image_folders, result_folder, walk
from test_configs import needs, stages_need, teacher_run

from tl_runner.building import build
from tl_runner.data.loader import EvalLoader
from tl_runner.errors import UserError
from tl_runner.run import run
from tl_runner.trained import teacher

REGULARISERS = (
    *("finetune", "l2_sp", "delta", "bss", "stochnorm", "co_tuning", "bi_tuning"),
    *("lwf", "ewc", "replay", "distill"),
)
FEW = ("trainer=smoke", "trainer.epochs=1", "data.labeled_per_class=3")


def held_out_source(config: dict[str, Any], checkpoint: Path) -> float:
    """Accuracy on the held-out source of the model in a checkpoint, computed on its own."""
    model = teacher(str(checkpoint))
    assert model is not None
    rows = build(config["data"]).prepare().evaluation["source_val"]
    loader = EvalLoader(rows, 64, build(config["augment"]), torch.device("cpu"))
    return float(torch.cat([model(b.x).logits.argmax(1) == b.y for b in loader]).float().mean())


@pytest.mark.parametrize("recipe", CONFIGS["recipe"])
def test_the_source_accuracy_of_every_stage_is_that_of_its_model(recipe: str, tmp_path: Path) -> None:
    method = {"source_free": "shot_im", "lp_ft": "finetune", "freeze_then_finetune": "finetune"}
    config = composed(
        *("trainer=smoke", "trainer.epochs=1", "trainer.eval_rows=null", "trainer.steps_per_epoch=10"),
        *("trainer.batch_size=16", "data.labeled_per_class=3", f"recipe={recipe}"),
        *(f"method={method.get(recipe, 'mmd')}", f"init_from={teacher_run()}"),
        *stages_need(recipe),
    )
    told = run(config, tmp_path)["source_accuracy"]
    stages = [*config["recipe"]["stages"]]
    assert [*told] == ["init_from", *stages]
    expected = {"init_from": held_out_source(config, teacher_run() / "checkpoints" / "adapt" / "last.ckpt")}
    for stage in stages:
        expected[stage] = held_out_source(config, tmp_path / "checkpoints" / stage / "last.ckpt")
    assert told == pytest.approx(expected, abs=1e-6)
    assert len(set(told.values())) > 1


def test_a_new_head_has_no_accuracy_before(tmp_path: Path) -> None:
    start = (f"init_from={teacher_run()}", "init_parts=[backbone,neck]")
    results = run(composed(*FEW, "method=finetune", *start), tmp_path)
    assert [*results["source_accuracy"]] == ["adapt"]


@pytest.fixture(scope="module")
def four_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images of four classes, and beside it those of three others."""
    folder = tmp_path_factory.mktemp("classes")
    image_folders(folder / "four", ["a", "b"], ["ash", "elm", "fir", "oak"])
    image_folders(folder / "three", ["a", "b"], ["cat", "dog", "elm"])
    run(config_of(folder / "four", "method=source_only"), folder / "run")
    return folder


def config_of(root: Path, *overrides: str) -> dict[str, Any]:
    data = ("data=folder", f"data.root={root}", "data.source=a", "data.target=b", f"paths.cache={root}")
    return composed("trainer=smoke", "trainer.epochs=1", *data, *overrides)


@pytest.mark.parametrize("method", REGULARISERS)
def test_a_head_of_other_classes(method: str, four_classes: Path, tmp_path: Path) -> None:
    """Refused in a sentence; without it every method but those that learn by it starts from the run."""
    few = (
        "data.labeled_per_class=3",
        f"method={method}",
        "augment=two_views",
        f"init_from={four_classes / 'run'}",
    )
    few += ("method.samples=4",) if method in ("ewc", "delta") else ()
    root = four_classes / "three"
    says = r"its head knows 4 classes, this data has 3; unknown to the head: cat, dog; not in this data: ash, fir, oak"
    with pytest.raises(UserError, match=says):
        run(config_of(root, *few), tmp_path / "whole")
    config = config_of(root, *few, "init_parts=[backbone,neck]")
    if method == "distill":
        with pytest.raises(UserError, match="needs a teacher"):
            run(config, tmp_path / "parts")
        return
    results = run(config, tmp_path / "parts")
    assert [*results["source_accuracy"]] == ["adapt"]
    state = torch.load(tmp_path / "parts" / "checkpoints" / "adapt" / "last.ckpt", weights_only=True)[
        "state_dict"
    ]
    assert state["method.model.head.weight"].shape[0] == 3
    if method in ("lwf", "co_tuning"):
        assert state["method.earlier_head.weight"].shape[0] == 4
        assert not torch.equal(
            state["method.earlier_head.weight"],
            torch.load(four_classes / "run" / "checkpoints" / "adapt" / "last.ckpt", weights_only=True)[
                "state_dict"
            ]["method.model.head.weight"],
        )


def test_another_network_is_named_with_keys_and_shapes(four_classes: Path, tmp_path: Path) -> None:
    start = ("method=finetune", "data.labeled_per_class=3", f"init_from={four_classes / 'run'}")
    with pytest.raises(UserError, match=r"trained model\.backbone=.*tiny.*this run has.*lenet"):
        run(config_of(four_classes / "four", *start, "model=lenet", "data.channels=1"), tmp_path / "a")
    with pytest.raises(UserError, match=r"neck\.0\.weight \(128, \d+\) instead of \(64, \d+\)"):
        run(config_of(four_classes / "four", *start, "model.neck_features=64"), tmp_path / "b")
    distill = ("method=distill", f"method.teacher.run={four_classes / 'run'}")
    with pytest.raises(UserError, match=r"the teacher knows the classes ash, elm, fir, oak.*cat, dog, elm"):
        run(config_of(four_classes / "three", *distill), tmp_path / "c")
    ewc = (*start, "method=ewc", "data.source=null")
    with pytest.raises(UserError, match=r"reads role 'source', which this data lacks: set data\.source"):
        run(config_of(four_classes / "four", *ewc), tmp_path / "d")


def test_the_points_of_wise_ft_are_on_the_line(tmp_path: Path) -> None:
    config = composed(
        *("trainer=smoke", "trainer.steps_per_epoch=15", "trainer.batch_size=16", "trainer.eval_rows=null"),
        *("recipe=wise_ft", "data.labeled_per_class=3"),
        "recipe.stages.line.method.points=5",
    )
    assert config["recipe"]["stages"]["line"]["epochs"] == 5
    results = run(config, tmp_path)
    folder = tmp_path / "checkpoints"

    def weights(stage: str, pick: str = "last") -> dict[str, torch.Tensor]:
        return torch.load(folder / stage / f"{pick}.ckpt", weights_only=True)["state_dict"]

    before, after = weights("source"), weights("finetune")
    picks = results["stages"]["line"]["picks"]
    assert {"last", "source_val", "oracle"} <= picks.keys()
    assert picks["last"]["epoch"] == 5
    for name, pick in picks.items():
        alpha = (pick["epoch"] - 1) / 4
        for key, value in weights("line", name).items():
            if value.is_floating_point() and key in before:
                expected = before[key] + alpha * (after[key] - before[key])
                torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
    for name in after:
        assert torch.equal(weights("line")[name], after[name])
    # The ends score what their stages scored.
    rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    at = rows[0].index("val/source_val")
    values = {
        stage: [float(r[at]) for r in rows[1:] if r[0] == stage] for stage in ("source", "finetune", "line")
    }
    assert values["line"][0] == values["source"][-1]
    assert values["line"][-1] == values["finetune"][-1]
    assert len(values["line"]) == 5
    best = max(values["line"])
    assert picks["source_val"]["validators"]["source_val"] == best


@pytest.mark.parametrize("epochs", [2, 4, 6])
def test_wise_ft_takes_a_point_from_each_epoch(epochs: int, tmp_path: Path) -> None:
    config = composed(
        *("trainer=smoke", "recipe=wise_ft", "data.labeled_per_class=3"),
        *(f"recipe.stages.line.epochs={epochs}", "recipe.stages.line.method.points=5"),
    )
    with pytest.raises(UserError, match=r"method\.points=5 needs as many epochs"):
        run(config, tmp_path)


def test_a_stages_method_is_chosen_by_name(tmp_path: Path, tlrun: Tlrun) -> None:
    done = tlrun(
        *(
            "trainer=smoke",
            "method=source_only",
            "recipe=pretrain_adapt_finetune",
            "data.labeled_per_class=3",
        ),
        *("recipe.stages.finetune.method=l2_sp", "recipe.stages.finetune.method.alpha=0.5"),
        *("recipe.stages.finetune.tuning=norm_only", "recipe.stages.finetune.optim=adamw"),
    )
    results = json.loads((result_folder(done) / "results.json").read_text())
    assert [s["method"] for s in results["stages"].values()] == ["source_only", "l2_sp"]
    stage = results["config"]["recipe"]["stages"]["finetune"]
    assert stage["method"]["alpha"] == 0.5
    assert stage["optim"]["optimizer"]["_target_"] == "torch.optim.AdamW"
    assert results["stages"]["finetune"]["parameters"]["backbone"][0] < 1000
    assert "Accuracy on held-out source data: " in done.stdout


# What has nothing to regularise says so.
NOTHING = {
    ("delta", "frozen"): "compares the feature maps of a backbone that trains",
    ("delta", "linear_probe"): "compares the feature maps of a backbone that trains",
    ("stochnorm", "linear_probe"): "needs batch-norm layers that train",
}


@pytest.mark.parametrize("tuning", walk(["frozen", "norm_only"], ["frozen"]))
@pytest.mark.parametrize("method", REGULARISERS)
def test_each_on_cached_features_and_on_part_of_a_network(method: str, tuning: str, tmp_path: Path) -> None:
    trains(method, tuning, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("tuning", [t for t in CONFIGS["tuning"] if t not in ("frozen", "norm_only")])
@pytest.mark.parametrize("method", REGULARISERS)
def test_each_with_any_tuning(method: str, tuning: str, tmp_path: Path) -> None:
    trains(method, tuning, tmp_path)


def trains(method: str, tuning: str, folder: Path) -> None:
    start = [] if any("init_from" in n for n in needs(method)) else [f"init_from={teacher_run()}"]
    config = composed(*FEW, f"method={method}", f"tuning={tuning}", *start, *needs(method))
    if (method, tuning) in NOTHING:
        with pytest.raises(UserError, match=NOTHING[method, tuning]):
            run(config, folder)
        return
    results = run(config, folder)
    assert [*results["source_accuracy"]] == ["init_from", "adapt"]
    assert all(torch.isfinite(torch.tensor(v)) for v in results["stages"]["adapt"]["losses"].values())


def test_a_teacher_that_is_the_model_itself_is_content_with_cached_features(tmp_path: Path) -> None:
    config = composed(*FEW, "method=distill", "tuning=frozen", f"init_from={teacher_run()}")
    results = run(config, tmp_path)
    assert results["stages"]["adapt"]["losses"]["teacher"] >= 0
    state = torch.load(tmp_path / "checkpoints" / "adapt" / "last.ckpt", weights_only=True)["state_dict"]
    assert not any(key.startswith("method.model.backbone") for key in state)


@pytest.mark.slow
def test_what_each_regulariser_keeps(tmp_path: Path) -> None:
    """From clean digits to three labels per class on photographs: of the clean ones, more than plain fine-tuning."""
    run(composed("method=source_only", "trainer.epochs=6"), tmp_path / "source")
    kept = {}
    for method in ("finetune", "lwf", "replay", "distill"):
        few = ("data.labeled_per_class=3", "trainer.epochs=6", f"init_from={tmp_path / 'source'}")
        results = run(composed(f"method={method}", *few), tmp_path / method)
        kept[method] = results["source_accuracy"]["adapt"]
    # Measured: 0.63; 0.89, 0.98, 0.94.
    assert all(kept[m] > kept["finetune"] + 0.1 for m in ("lwf", "replay", "distill")), kept
