"""From features to a verdict, and `tlrun diagnose`."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tlrun, composed, image_folders
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from rich.console import Console

from tl_runner import cli
from tl_runner.diagnosis import Diagnosis, Domain, Estimate, Settings, diagnose, ranked, verdict
from tl_runner.diagnosis.build import class_map
from tl_runner.errors import DataError
from tl_runner.report.diagnosis import as_json, number, page, show
from tl_runner.report.diagnosis_plot import draw
from tl_runner.run import run

FEW = Settings(repeats=10, class_repeats=3)
CLASSES = ("bike", "mug", "ruler")


def domain(
    name: str,
    shift: float = 0.0,
    priors: tuple[float, ...] = (1, 1, 1),
    order: tuple[int, ...] = (0, 1, 2),
    n: int = 240,
    labels: bool = True,
    seed: int = 0,
) -> Domain:
    """Three classes in the corners of a simplex; `order` says which corner each class has."""
    rng = np.random.default_rng(seed)
    y = rng.choice(3, size=n, p=np.array(priors) / sum(priors))
    x = 4 * np.eye(3, 6)[np.array(order)[y]] + rng.normal(size=(n, 6))
    x[:, 5] += shift
    return Domain(name, x.astype(np.float32), y if labels else None, 10 * n)


SOURCE = domain("old", seed=1)


def found(target: Domain, source: Domain = SOURCE, settings: Settings = FEW) -> Diagnosis:
    return diagnose(source, target, CLASSES, settings, "net")


def topics(d: Diagnosis) -> dict[str, str]:
    return {finding.topic: finding.text for finding in verdict(d)}


def test_domains_that_hardly_differ() -> None:
    d = found(domain("new"))
    assert d.distances["a_distance"].value < 0.5
    assert d.distances["mmd"].low <= 0 <= d.distances["mmd"].high
    assert d.bound.target is not None
    assert d.bound.target.value == pytest.approx(d.bound.source.value, abs=0.05)
    assert d.class_map is not None
    assert d.class_map.nearest.tolist() == [0, 1, 2]
    said = topics(d)
    assert "training on the source alone may do" in said["domains"]
    assert "little to win" in said["target"]
    assert "close enough" in said["class priors"]
    assert d.rows == {"source": (240, 2400), "target": (240, 2400)}


def test_domains_far_apart() -> None:
    d = found(domain("new", shift=20))
    assert d.distances["a_distance"] == Estimate(2.0, d.distances["a_distance"].low, 2.0)
    assert d.bound.divergence.value == 1.0
    assert d.bound.total >= 1
    said = topics(d)
    assert "nearly always tells the domains apart" in said["domains"]
    assert "promises nothing" in said["bound"]
    assert "can serve both domains" in said["joint error"], "the classes lie as before"


def test_a_difference_that_no_line_sees() -> None:
    wide = domain("new")
    d = found(replace(wide, features=(wide.features - wide.features.mean(0)) * 6 + wide.features.mean(0)))
    assert d.distances["a_distance"].value < 0.5
    assert "differ, in spread or shape" in topics(d)["domains"]


def test_classes_that_changed_places() -> None:
    d = found(domain("new", order=(1, 0, 2)))
    assert d.bound.target is not None
    assert d.bound.joint is not None
    assert d.bound.target.value > 0.5
    assert d.bound.joint.value > 0.5, "no classifier is right on both"
    assert d.class_map is not None
    assert d.class_map.nearest.tolist() == [1, 0, 2]
    said = topics(d)
    assert "aligning these features alone may hurt" in said["joint error"]
    assert "bike (mug), mug (bike)" in said["classes"]


def test_class_priors_that_changed() -> None:
    target = domain("new", priors=(1, 1, 10), n=1000)
    true, estimated = found(target), found(replace(target, labels=None))
    assert true.label_shift.true_distance is not None
    assert estimated.label_shift.distance == pytest.approx(true.label_shift.true_distance, abs=0.05)
    assert estimated.label_shift.distance > estimated.label_shift.noise
    for d in (true, estimated):
        assert "avoid methods that align whole domains" in topics(d)["class priors"]


def test_priors_are_not_blamed_for_another_difference() -> None:
    """A shift that moves predictions looks like one of priors; the A-distance tells that it cannot be."""
    target = domain("new", shift=12, labels=False)
    moved = replace(target, features=target.features + np.array([4, 0, 0, 0, 0, 0], dtype=np.float32))
    d = found(moved)
    assert d.label_shift.distance > 0.3
    assert "cannot be told" in topics(d)["class priors"]


def test_without_labels_nothing_depends_on_them() -> None:
    blind, seeing = found(domain("new", shift=1, labels=False)), found(domain("new", shift=1))
    assert (blind.labels_used, seeing.labels_used) == (False, True)
    assert blind.class_distances == {}
    assert blind.class_map is blind.bound.joint is blind.bound.target is blind.label_shift.true is None
    assert blind.scores.keys() == {"logme", "h_score"}
    assert blind.distances == seeing.distances
    assert blind.bound.source == seeing.bound.source
    assert set(topics(blind)) == {"features", "domains", "bound", "class priors"}


def test_features_that_do_not_tell_the_classes_apart() -> None:
    rng = np.random.default_rng(0)
    noise = replace(SOURCE, features=rng.normal(size=(240, 6)).astype(np.float32))
    d = found(domain("new"), noise)
    assert d.bound.source.value > 0.5
    assert "Train the backbone" in topics(d)["features"]
    assert "random weights" in topics(replace(d, trained=False))["weights"]


def test_the_same_seed_gives_the_same_numbers_and_another_does_not() -> None:
    target = domain("new", shift=1)
    first = as_json(found(target))
    assert as_json(found(target)) == first
    other = as_json(found(target, settings=replace(FEW, seed=1)))
    assert other["distances"]["mmd"]["value"] == first["distances"]["mmd"]["value"]
    assert other["distances"]["mmd"]["low"] != first["distances"]["mmd"]["low"]


def test_distances_do_not_depend_on_the_unit_of_the_features() -> None:
    target = domain("new", shift=1)
    scaled = [replace(d, features=1000 * d.features) for d in (SOURCE, target)]
    plain, large = found(target), found(scaled[1], scaled[0])
    for name, e in plain.distances.items():
        assert large.distances[name].value == pytest.approx(e.value, rel=1e-3), name


def test_many_features_and_few_rows() -> None:
    rng = np.random.default_rng(0)
    few = [
        Domain(n, rng.normal(size=(12, 300)).astype(np.float32), np.arange(12) % 3, 12)
        for n in ("old", "new")
    ]
    d = found(few[1], few[0])
    assert d.class_distances == {}, "four rows of a class are too few"
    assert all(np.isfinite(e.value) for e in d.distances.values())
    assert all(np.isfinite(v) for v in d.scores.values())


def test_class_map_by_hand() -> None:
    """From the middle (0, 0), classes at ±(1, 0) in the source, at (0, 1) and −(1, 1) in the target."""
    s, t = np.array([[1.0, 0], [-1, 0]]), np.array([[0, 1.0], [1, 1], [-1, -2]])
    found = class_map(s, t, np.array([0, 1]), np.array([0, 0, 2]), 3)
    assert found.similarity[0, :2] == pytest.approx([1 / 5**0.5, -1 / 5**0.5])
    assert np.isnan(found.similarity[1]).all()
    assert np.isnan(found.similarity[:, 2]).all()
    assert found.nearest.tolist() == [0, -1, 1]
    assert found.astray == [2]


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (SOURCE, domain("new", n=5), "new: a diagnosis needs at least 10 rows, and there are 5"),
        (domain("old", priors=(1, 0, 0)), domain("new"), "old: all rows have class 'bike'"),
        (
            SOURCE,
            replace(SOURCE, name="new", features=np.full((240, 6), np.nan, np.float32)),
            "new: the features of net are not finite in 240 of 240 rows",
        ),
        (
            replace(SOURCE, features=np.full((240, 6), 0.1, np.float32)),
            domain("new"),
            "old: the features of net are the same in all 240 rows",
        ),
    ],
    ids=["few", "one class", "nan", "constant"],
)
def test_what_cannot_be_diagnosed(source: Domain, target: Domain, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        found(target, source)


def test_a_class_for_each_row() -> None:
    y = np.arange(12)
    d = Domain("old", np.eye(12, dtype=np.float32), y, 12)
    with pytest.raises(DataError, match="every class has a single row"):
        diagnose(d, replace(d, labels=None), tuple(map(str, y)), FEW)


def test_pages_say_the_same() -> None:
    good, bad = found(domain("new", shift=1)), found(domain("new", shift=1, order=(1, 0, 2)))
    good, bad = replace(good, model="good"), replace(bad, model="bad|er")
    order = [d.model for d in ranked([bad, good])]
    assert order == sorted(order, key=lambda m: -{d.model: d.scores["logme_target"] for d in (good, bad)}[m])
    text = page([good, bad], "diagnosis.png")
    console = Console(width=200, record=True, file=io.StringIO())
    show([good, bad], console)
    printed = console.export_text()
    for d in (good, bad):
        assert number(d.scores["leep_transfer"]) in printed
        assert number(d.scores["leep_transfer"]) in text
    for finding in verdict(good):
        assert finding.text in printed
        assert finding.text in text
    assert "bad\\|er" in text, "a name breaks no table"
    written = json.loads(json.dumps(as_json(good), allow_nan=False))
    assert written["bound"]["total"] == good.bound.total
    assert written["class_distances"].keys() == set(CLASSES)
    assert len(written["class_map"]["similarity"]) == 3


def test_what_there_is_none_of_has_no_headings() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    show([found(domain("new"))], console)
    for text in (console.export_text(), page([found(domain("new"))], "diagnosis.png")):
        assert "3 of 3 target classes are nearest to their own class" in text
        assert "nearest source class" not in text


def test_pictures() -> None:
    for target, heights in (
        (domain("new"), range(800, 1200)),
        (domain("new", labels=False), range(400, 600)),
    ):
        with Image.open(io.BytesIO(draw(found(target)))) as image:
            assert image.width == int(7.2 * 144)
            assert image.height in heights


def test_the_pretrained_classifier_is_scored_where_there_is_one() -> None:
    """A classifier of four classes, two of which are `bike`: it gives the labels away."""
    y = SOURCE.labels
    assert y is not None
    four = np.eye(4)[np.where(y == 0, np.arange(len(y)) % 2, y + 1)]
    blind = domain("new", labels=False)
    scores = found(blind, replace(SOURCE, pretrained=four)).scores
    assert scores.keys() == {"logme", "h_score", "leep", "nce"}
    assert (scores["leep"], scores["nce"]) == pytest.approx((0, 0))
    both = found(replace(domain("new"), pretrained=four), replace(SOURCE, pretrained=four)).scores
    assert len(both) == 10
    assert both["nce_target"] < -0.5, "these rows have other labels"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.00012345, "0.000123"), (254.4, "254"), (1.9889, "1.99"), (-12.34, "−12.3")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


# The command


def test_diagnose_the_embedded_digits(tlrun: Tlrun, tmp_path: Path) -> None:
    done = tlrun("diagnose", "--rows", "200", "--repeats", "5")
    folder = tmp_path / "work" / done.stdout.strip().splitlines()[-1].removeprefix("Diagnosis: ")
    assert folder.parent.parent.name == "outputs"
    assert sorted(f.name for f in folder.iterdir()) == ["diagnosis.json", "diagnosis.md", "diagnosis.png"]
    written = json.loads((folder / "diagnosis.json").read_text())
    (d,) = written["diagnoses"]
    assert (d["source"], d["target"], d["model"]) == ("clean", "photo", "tiny")
    assert d["rows"] == {"source": [200, 898], "target": [200, 899]}
    assert d["labels_used"]
    assert d["distances"]["a_distance"]["value"] > 1, "photographs are easily told from clean digits"
    assert written["configs"]["tiny"]["data"]["source"] == "clean"
    assert "Target labels were looked at" in done.stdout
    assert "clean 200 of 898 rows" in done.stdout
    assert "random weights" in done.stdout
    assert "\x1b[" not in done.stdout


def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[dict[str, Any]]:
    """What `tlrun` in this process writes of its diagnoses."""
    GlobalHydra.instance().clear()
    monkeypatch.chdir(tmp_path)
    few = ("--rows", "100", "--repeats", "3", "hydra.run.dir=here")
    monkeypatch.setattr(sys, "argv", ["tlrun", "diagnose", *arguments, *few])
    cli.main()
    diagnoses: list[dict[str, Any]] = json.loads((tmp_path / "here" / "diagnosis.json").read_text())[
        "diagnoses"
    ]
    return diagnoses


def test_rank_backbones_on_the_cached_features_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = ("tuning=frozen", "augment=none", "trainer=smoke", "trainer.epochs=1")
    cache = tmp_path / "cache" / "features"
    run(composed("model=tiny", *frozen), tmp_path / "run")
    before = {f.name for f in cache.glob("*.npy")}
    assert len(before) == 2
    own = tmp_path / "own" / "model" / "wide.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [tiny, _self_]\nbackbone:\n  width: 48\n")
    found = here(
        tmp_path, monkeypatch, "--no-labels", "model=tiny,wide", "--config-dir", str(tmp_path / "own")
    )
    assert len({f.name for f in cache.glob("*.npy")} - before) == 2, (
        "only those of the second backbone are new"
    )
    assert {d["model"] for d in found} == {"tiny", "wide"}
    scores = [d["scores"]["logme"] for d in found]
    assert scores == sorted(scores, reverse=True)
    assert not any(d["labels_used"] for d in found)


def test_a_trained_model_is_diagnosed_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(composed("model=tiny", "method=source_only", "trainer=smoke"), tmp_path / "run")
    (fresh,) = here(tmp_path, monkeypatch)
    (trained,) = here(tmp_path, monkeypatch, f"init_from={tmp_path / 'run'}")
    assert (fresh["trained"], trained["trained"]) == (False, True)
    assert trained["distances"]["mmd"]["value"] != fresh["distances"]["mmd"]["value"]


def test_vectors_are_compared_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (d,) = here(tmp_path, monkeypatch, "data=toy", "recipe.stages.adapt.tuning=frozen")
    assert (d["model"], d["dimensions"]) == ("", 2)


def test_a_held_out_test_split_is_what_labels_are_looked_at_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = ("data=toy", "data.protocol=split", "data.target_test=0.2")
    (seeing,) = here(tmp_path, monkeypatch, *split)
    (blind,) = here(tmp_path, monkeypatch, *split, "--no-labels")
    assert (seeing["rows"]["target"], blind["rows"]["target"]) == ([100, 200], [100, 800])


@pytest.fixture
def told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The message of a `tlrun diagnose` that must fail, run in this process."""

    def run(*arguments: str) -> str:
        GlobalHydra.instance().clear()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["tlrun", "diagnose", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code not in (0, None)
        message = capsys.readouterr().err
        assert "Traceback" not in message
        return message

    return run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["modle=tiny"], "unknown key 'modle'; did you mean 'model'?"),
        (["model=tiny,resnet81"], "model: there is no 'resnet81'; did you mean 'resnet18'?"),
        (["optim.lr=-1"], "optim.lr: input should be greater than 0"),
        (["seed=0,1"], "'seed=0,1' has several values: tlrun diagnose compares models"),
        (["data.source=null"], "there is only a target: set data.source"),
        (["data.target=null"], "there is only a source: set data.target"),
        (["data=toy", "model=mlp,tiny"], "this data is vectors"),
        (["--rows", "3"], "expected a whole number >= 10, got '3'"),
        (["--no-label"], "unrecognized arguments: --no-label"),
        (
            ["model=timm", "model.backbone.name=resnet18", "model.backbone.weights=nowhere.pth"],
            "no file 'nowhere.pth'",
        ),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, list) else "",
)
def test_bad_input(arguments: list[str], expected: str, told: Callable[..., str]) -> None:
    assert expected in told(*arguments)


def test_bad_data(tmp_path: Path, told: Callable[..., str]) -> None:
    image_folders(tmp_path / "photos", ["a", "b"], ["bike"], each=12)
    on = ("data=folder", f"data.root={tmp_path / 'photos'}", "data.source=a", "data.target=b", "model=tiny")
    assert "a: all rows have class 'bike'" in told(*on)
    image_folders(tmp_path / "few", ["a", "b"], ["bike", "mug"], each=3)
    assert "at least 10 rows, and there are 6" in told(*on, f"data.root={tmp_path / 'few'}")
