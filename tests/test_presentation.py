"""What a finished run leaves to be looked at: a report that changes nothing, and predictions that agree."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CONFIGS, Tlrun, composed, image_folders, result_folder
from test_configs import needs

from tl_runner import presentation
from tl_runner.commands import predict
from tl_runner.errors import ConfigError, DataError, UserError
from tl_runner.jobs import ready
from tl_runner.report import outputs, page
from tl_runner.report.predictions import check_format, write
from tl_runner.reporting import Reporting
from tl_runner.run import reopen, run
from tl_runner.schema import check

SMOKE = ("trainer=smoke", "report.embedding=none")
TOY = ("data=toy", "model=mlp", "data.reader.target_size=50")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.relative_to(folder)}: {name}": value
        for file in sorted(folder.rglob("*.ckpt"))
        for name, value in torch.load(file, weights_only=True)["state_dict"].items()
    }


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def finished(folder: Path, *overrides: str, report: bool = False, data: tuple[str, ...] = TOY) -> Any:
    """A finished run, and what `reopen` makes of it."""
    config = composed(
        *SMOKE, "report=html" if report else "report=none", *data, "trainer.eval_rows=null", *overrides
    )
    return run(config, folder), reopen(folder, config)


@pytest.mark.parametrize(
    "overrides",
    [("method=mcd",), pytest.param(("method=shot", "recipe=source_free"), marks=pytest.mark.slow)],
)
def test_a_report_changes_no_weight_and_no_number(overrides: tuple[str, ...], tmp_path: Path) -> None:
    made = {}
    for report in ("html", "none"):
        config = composed("trainer=smoke", f"report={report}", "predictions=csv", *overrides)
        results = run(config, tmp_path / report)
        made[report] = {name: stage["picks"] for name, stage in results["stages"].items()}
        assert (tmp_path / report / "report.html").exists() == (report == "html")
    assert made["html"] == made["none"]
    one, other = weights(tmp_path / "html"), weights(tmp_path / "none")
    assert one.keys() == other.keys()
    assert len(one) > 20
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    text = (tmp_path / "html" / "report.html").read_text()
    for stage in made["html"]:
        assert f"Stage {stage}: " in text
        assert (tmp_path / "html" / "report" / f"{stage}-features.png").exists()
        kept = outputs.read(outputs.path(tmp_path / "html", stage))
        assert len(kept.predicted) == 32  # trainer.eval_rows
        assert kept.about.total == 899
        assert kept.thumbnails is not None
        assert kept.thumbnails.shape[1:] == (32, 32, 3)


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=mcd",),
        ("method=sdat", "method.method=cdan"),
        ("method=shot", "recipe=source_free"),
        ("data=digits", "model=tiny", "tuning=frozen", "trainer.eval_rows=40"),
        ("tuning=lora",),
        ("trainer.precision=bf16",),
        ("data.protocol=split", "data.labeled_per_class=2", "method=finetune"),
    ],
)
def test_predictions_of_a_checkpoint_have_the_accuracy_that_the_run_reported(
    overrides: tuple[str, ...], tmp_path: Path
) -> None:
    data = () if "data=digits" in overrides else TOY
    results, again = finished(tmp_path, *overrides, data=data)
    for stage, found in results["stages"].items():
        for pick, at in found["picks"].items():
            rows = table(presentation.write_predictions(again, stage, pick, "csv"))
            assert {(row["stage"], row["checkpoint"]) for row in rows} == {(stage, pick)}
            right = np.mean([row["true"] == row["predicted"] for row in rows])
            assert right == pytest.approx(at["target"]["accuracy"], abs=1e-6), (stage, pick)
    assert len({row["name"] for row in rows}) == len(rows)
    assert list(rows[0])[:7] == ["name", "domain", "true", "predicted", "probability", "stage", "checkpoint"]
    for row in rows:
        shares = {name.removeprefix("p_"): float(p) for name, p in row.items() if name.startswith("p_")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
        assert max(shares.values()) == float(row["probability"]) == shares[row["predicted"]]


@pytest.mark.slow
@pytest.mark.parametrize("method", CONFIGS["method"])
def test_every_method_predicts_from_its_checkpoint_what_it_was_scored_by(method: str, tmp_path: Path) -> None:
    config = composed("trainer=smoke", f"method={method}", *needs(method))
    results = run(config, tmp_path)
    again = reopen(tmp_path, config)
    for stage, found in results["stages"].items():
        rows = table(presentation.write_predictions(again, stage, "last", "csv"))
        right = np.mean([row["true"] == row["predicted"] for row in rows])
        assert right == pytest.approx(found["picks"]["last"]["target"]["accuracy"], abs=1e-6)


def test_kept_outputs_are_those_of_the_checkpoint_asked_for(tmp_path: Path) -> None:
    results, _ = finished(tmp_path, "report.checkpoint=source_val", "report.rows=20", report=True)
    kept = outputs.read(outputs.path(tmp_path, "adapt"))
    pick = results["stages"]["adapt"]["picks"]["source_val"]
    assert (kept.about.checkpoint, kept.about.epoch) == ("source_val", pick["epoch"])
    assert kept.y is not None
    assert (kept.y == kept.predicted).mean() == pytest.approx(pick["target"]["accuracy"], abs=1e-6)
    assert kept.predicted_before is None  # the head was untrained
    assert (len(kept.sample), len(kept.source_y)) == (10, 10)
    assert kept.features.shape == kept.features_before.shape == (20, 64)
    assert not np.array_equal(kept.features, kept.features_before)
    assert f"the pick of source_val (epoch {pick['epoch']})" in (tmp_path / "report.html").read_text()


def test_a_report_without_features_and_samples(tmp_path: Path) -> None:
    finished(tmp_path, "report.rows=0", "report.images=0", "report.embedding=tsne", report=True)
    kept = outputs.read(outputs.path(tmp_path, "adapt"))
    assert (len(kept.features), len(kept.source_y), len(kept.shown)) == (0, 0, 0)
    text = (tmp_path / "report.html").read_text()
    assert "Confusion matrix" in text
    assert "t-SNE" not in text


def test_a_stage_is_compared_with_the_one_before_it(tmp_path: Path) -> None:
    finished(tmp_path, "method=shot", "recipe=source_free", report=True)
    source, adapt = (outputs.read(outputs.path(tmp_path, name)) for name in ("source", "adapt"))
    assert source.predicted_before is None
    assert adapt.predicted_before is not None
    assert np.array_equal(adapt.predicted_before, source.predicted)
    assert np.array_equal(adapt.features_before, source.features)


def test_a_run_is_compared_with_its_baseline(tmp_path: Path) -> None:
    finished(tmp_path / "source_only", "method=source_only", report=True)
    finished(tmp_path / "mmd", f"report.baseline={tmp_path / 'source_only'}", "seed=1", report=True)
    theirs = outputs.read(outputs.path(tmp_path / "source_only", "adapt"))
    ours = outputs.read(outputs.path(tmp_path / "mmd", "adapt"))
    assert np.array_equal(ours.predicted_baseline, theirs.predicted)  # type: ignore[arg-type]
    assert (
        "From the baseline, the run source_only, to this run."
        in (tmp_path / "mmd" / "report.html").read_text()
    )


def test_a_baseline_of_other_samples_or_classes_is_refused(tmp_path: Path) -> None:
    finished(tmp_path / "a", report=True)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    kept = outputs.read(outputs.path(tmp_path / "a", "adapt"))
    other = outputs.read(outputs.path(tmp_path / "b", "adapt"))
    other.about.names = [f"other {name}" for name in other.about.names]
    outputs.write(outputs.path(tmp_path / "b", "adapt"), other)
    with pytest.raises(UserError, match="predictions of other samples"):
        presentation.compare(kept, tmp_path / "b")
    other.about.classes = ["x", "y"]
    outputs.write(outputs.path(tmp_path / "b", "adapt"), other)
    with pytest.raises(UserError, match="has other classes"):
        presentation.compare(kept, tmp_path / "b")
    with pytest.raises(UserError, match=r"tlrun predict .* --report"):
        Reporting(baseline=str(tmp_path / "nothing"))


def test_telling_rows() -> None:
    y = np.array([0, 0, 0, 0, 1, 1, 2])
    predicted = np.array([1, 1, 1, 0, 2, 1, 0])
    confidence = np.array([0.9, 0.8, 0.99, 1.0, 0.7, 0.6, 0.95], dtype=np.float32)
    assert presentation.telling(predicted, confidence, y, 9).tolist() == [2, 6, 0, 4]
    assert presentation.telling(predicted, confidence, y, 2).tolist() == [2, 6]
    assert presentation.telling(y, confidence, y, 9).tolist() == []
    assert presentation.telling(predicted, confidence, None, 2).tolist() == [5, 4]


@pytest.mark.parametrize("broken", ["observe", "page", "predictions"])
def test_a_failure_is_told_and_the_run_is_done(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no space left")

    where = {"observe": presentation, "page": page, "predictions": presentation}[broken]
    name = {"observe": "observe", "page": "write", "predictions": "write_predictions"}[broken]
    monkeypatch.setattr(where, name, fail)
    results = run(composed(*SMOKE, *TOY, "report=html", "predictions=csv"), tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert "the run is done, but not what it leaves to be looked at: OSError: no space left" in caplog.text
    assert logging.getLogger("tl_runner").level == logging.NOTSET


def test_results_of_an_earlier_run_in_the_folder_go(tmp_path: Path) -> None:
    finished(tmp_path, "predictions=csv", report=True)
    assert list((tmp_path / "predictions").iterdir())
    finished(tmp_path)
    assert not list((tmp_path / "predictions").iterdir())
    assert not (tmp_path / "report.html").exists()
    assert not outputs.path(tmp_path, "adapt").exists()
    assert "This run kept no outputs" in page.write(tmp_path).read_text()


def test_a_source_without_target_is_reported_on_its_held_out_rows(tmp_path: Path) -> None:
    finished(tmp_path, "method=source_only", "data.target=null", report=True)
    kept = outputs.read(outputs.path(tmp_path, "adapt"))
    assert kept.about.rows == "source_val"
    assert "rows held out of the source: source" in (tmp_path / "report.html").read_text()


def test_a_run_without_source_starts_from_another(tmp_path: Path) -> None:
    finished(tmp_path / "source", "method=source_only", report=True)
    more = ("method=shot", f"init_from={tmp_path / 'source'}", "data.source=null")
    finished(tmp_path / "shot", *more, report=True)
    kept = outputs.read(outputs.path(tmp_path / "shot", "adapt"))
    assert (len(kept.source_y), kept.about.source_rows) == (0, 0)
    assert kept.predicted_before is not None
    last = outputs.read(outputs.path(tmp_path / "source", "adapt"))
    assert np.array_equal(kept.predicted_before, last.predicted)


def photos(root: Path) -> tuple[str, ...]:
    """A labelled old camera, and a new one without class folders."""
    image_folders(root, ["old"], ["bike", "mug"], each=6)
    image_folders(root, ["flat"], ["bike", "mug"], each=5)
    (root / "new").mkdir()
    for i, file in enumerate(sorted((root / "flat").rglob("*.png"))):
        shutil.move(file, root / "new" / f"{i}.png")
    layout = "+data.layout={default: '{domain}/{class}/*', new: '{domain}/*'}"
    return ("data=folder", f"data.root={root}", layout, "data.source=old", "data.target=new")


def test_predictions_of_an_unlabelled_target(tmp_path: Path) -> None:
    config = composed(*SMOKE, "report=html", "predictions=csv", *photos(tmp_path / "photos"))
    run(config, tmp_path / "run")
    rows = table(tmp_path / "run" / "predictions" / "adapt-last.csv")
    assert [row["name"] for row in rows] == sorted(f"new/{i}.png" for i in range(10))
    assert {row["true"] for row in rows} == {""}
    assert {row["predicted"] for row in rows} <= {"bike", "mug"}
    assert "These rows have no labels" in (tmp_path / "run" / "report.html").read_text()


def test_parquet_says_what_csv_says(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    _, again = finished(tmp_path)
    one = pd.read_parquet(presentation.write_predictions(again, "adapt", "im", "parquet"))
    other = pd.read_csv(presentation.write_predictions(again, "adapt", "im", "csv"))
    assert list(one.columns) == list(other.columns)
    pd.testing.assert_frame_equal(one, other, check_dtype=False, rtol=1e-4, atol=1e-6)


def test_parquet_of_an_unlabelled_target_has_texts(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run(composed(*SMOKE, "predictions=parquet", *photos(tmp_path / "photos")), tmp_path / "run")
    schema = parquet.read_schema(tmp_path / "run" / "predictions" / "adapt-last.parquet")
    assert {str(schema.field(name).type) for name in ("name", "true", "predicted")} == {"string"}
    assert str(schema.field("p_mug").type) == "float"


def test_missing_packages_are_named_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"predictions=parquet needs pyarrow: pip install 'tl-runner\[parquet\]'"
    ):
        check(composed("predictions=parquet"))
    with pytest.raises(UserError, match=r"pip install 'tl-runner\[parquet\]'"):
        check_format("parquet")
    with pytest.raises(UserError, match=r"pip install 'tl-runner\[umap\]'"):
        Reporting(embedding="umap")


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("predictions=cvs", "predictions: expected none, csv, parquet, got 'cvs'"),
        ("report.embedding=tnse", "report.embedding: input should be 'tsne', 'umap' or 'none', got 'tnse'"),
        ("report.rows=-1", "report.rows: input should be greater than or equal to 0"),
        ("+report.dpi=3", "report.dpi: Reporting has no argument 'dpi'"),
    ],
)
def test_wrong_settings_are_named(override: str, why: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(composed(override))
    assert why in str(error.value)


def test_a_failed_table_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, again = finished(tmp_path)

    def halfway(*_: Any) -> Any:
        yield {"name": ["a"]}
        raise OSError("full")

    monkeypatch.setattr(presentation, "predict", halfway)
    with pytest.raises(DataError, match=r"adapt-last\.csv \(OSError: full\)"):
        presentation.write_predictions(again, "adapt", "last", "csv")
    assert list((tmp_path / "predictions").iterdir()) == []


def test_where_no_table_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, why in (
        (tmp_path, "IsADirectoryError"),
        (tmp_path / "file" / "x.csv", "NotADirectoryError|FileExis"),
    ):
        with pytest.raises(DataError, match=f"cannot write predictions into {place} .({why})"):
            write(place, "csv", iter(()))


@pytest.mark.parametrize(
    ("overrides", "multirun", "write"),
    [
        ((), False, "always"),
        ((), True, "never"),
        (("trainer=smoke",), False, "never"),
        (("trainer=smoke", "report=html"), True, "always"),
        (("report=none",), False, "never"),
    ],
)
def test_who_gets_a_report_unasked(overrides: tuple[str, ...], multirun: bool, write: str) -> None:
    assert ready(composed(*overrides), multirun)["report"]["write"] == write


def test_predict_through_the_command_line(tlrun: Tlrun, tmp_path: Path) -> None:
    where = photos(tmp_path / "photos")
    done = tlrun("trainer=smoke", *where)
    folder = result_folder(done)
    assert not (folder / "report.html").exists()
    done = tlrun("predict", str(folder), "--pick", "im", "--report")
    assert len(table(folder / "predictions" / "adapt-im.csv")) == 10
    assert (folder / "report.html").exists()
    assert f"report: {folder / 'report.html'}" in done.stdout
    for i in range(3):
        shutil.copy(tmp_path / "photos" / "new" / f"{i}.png", tmp_path / "photos" / "new" / f"later_{i}.png")
    out = tmp_path / "later.csv"
    tlrun("predict", str(folder), "data.target=[new]", "--output", str(out))
    assert len(table(out)) == 13
    assert table(out)[0]["checkpoint"] == "last"


def test_new_images_are_predicted_without_the_source_and_without_labels(tlrun: Tlrun, tmp_path: Path) -> None:
    """The model knows its classes, and its method what it was built from: a memory of each training sample, too."""
    image_folders(tmp_path / "photos", ["old", "new"], ["bike", "mug"], each=6)
    where = ("data=folder", f"data.root={tmp_path / 'photos'}", "data.source=old", "data.target=new")
    labels = ("data.protocol=split", "data.target_test=0.3", "data.labeled_per_class=1")
    stage = ("recipe=pretrain_adapt_finetune", "recipe.stages.finetune.method.class_weights=balanced")
    folder = result_folder(tlrun("trainer=smoke", "method=atdoc", *where, *labels, *stage))
    shutil.move(tmp_path / "photos" / "old", tmp_path / "gone")
    latest = tmp_path / "photos" / "the latest"
    latest.mkdir()
    for i in range(3):
        shutil.copy(next((tmp_path / "photos" / "new").rglob("*.png")), latest / f"{i}.png")
    for n, layout in enumerate(("data.layout={domain}/*", "data.layout.the latest={domain}/*")):
        out = tmp_path / f"{n}.csv"
        for stage in ("adapt", "finetune"):
            tlrun(
                "predict",
                str(folder),
                "data.target=the latest",
                layout,
                "--stage",
                stage,
                "--output",
                str(out),
            )
            assert [line["name"] for line in table(out)] == [f"the latest/{i}.png" for i in range(3)]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["{run}", "--pick", "imm"], "stage adapt left no checkpoint 'imm'; did you mean 'im'?"),
        (["{run}", "--stage", "adept"], "the run has no stage 'adept'; did you mean 'adapt'?"),
        (["{run}", "trainer.epochs=3"], "expected data.KEY=VALUE, got 'trainer.epochs=3'"),
        (["{run}", "data.seed=3"], "say with --output where predictions of other samples go"),
        (["{run}", "data.seed=3", "--report"], "--report is of the run's own samples"),
        (
            ["{run}", "data.reader.angel=3", "--output", "x.csv"],
            "has no argument 'angel'; did you mean 'angle'?",
        ),
        (["{run}", "--output", "x.csv", "--format", "parquet"], "names another format than --format parquet"),
        (["{run}/nothing"], "is no run's folder: it has no config.yaml"),
    ],
)
def test_predict_explains_what_is_wrong(
    arguments: list[str], why: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path_factory.getbasetemp() / "predict-errors"
    if not folder.exists():
        run(composed(*SMOKE, *TOY), folder)
    with pytest.raises(UserError) as error:
        predict.main([a.format(run=folder) for a in arguments], [])
    assert why in str(error.value)


def test_a_suffix_says_which_format(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    finished(tmp_path / "run")
    for name, *more in (("x.parquet",), ("x", "--format", "parquet"), ("x.csv",), ("x.tsv",)):
        predict.main([str(tmp_path / "run"), "--output", str(tmp_path / name), *more], [])
    assert len(pd.read_parquet(tmp_path / "x.parquet")) == len(pd.read_parquet(tmp_path / "x"))
    assert (tmp_path / "x.csv").read_text() == (tmp_path / "x.tsv").read_text()


def test_predict_needs_the_classes_that_the_model_knows(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    told = json.loads((tmp_path / "run" / "data.json").read_text())
    (tmp_path / "run" / "data.json").write_text(json.dumps({**told, "classes": ["a", "b"]}))
    with pytest.raises(DataError, match=r"knows classes \['a', 'b'\], and this data has"):
        predict.main([str(tmp_path / "run")], [])
