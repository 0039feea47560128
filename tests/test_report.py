"""`report.html`: one run on one page, made of its folder alone, whatever names are in it."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_run
from safetensors.numpy import load_file, save_file

from tl_runner.errors import DataError
from tl_runner.report import content, outputs, page
from tl_runner.report.outputs import About, StageOutputs

NASTY = "<script>alert(1)</script>\"' & <img src=http://example.org/x.png>"


def some_outputs(classes: int = 3, rows: int = 40, labelled: bool = True, **changes: Any) -> StageOutputs:
    rng = np.random.default_rng(0)
    names = [NASTY, *(f"class {k}" for k in range(1, classes))]
    y = rng.integers(0, classes, rows)
    predicted = np.where(rng.random(rows) < 0.6, y, rng.integers(0, classes, rows))
    wrong = np.flatnonzero(y != predicted)[:5]
    about = About("target", "last", 2, names, ["photo"], ["clean"], [f"{NASTY}/{i}.png" for i in range(rows)])
    found = StageOutputs(
        replace(about, total=rows, source_rows=90),
        domain=np.zeros(rows, np.int64),
        predicted=predicted,
        confidence=rng.uniform(0.4, 1, rows).astype(np.float32),
        sample=np.arange(0, rows, 2),
        features_before=rng.normal(size=(10 + rows // 2, 8)),
        features=rng.normal(size=(10 + rows // 2, 8)),
        source_y=rng.integers(0, classes, 10),
        source_domain=np.zeros(10, np.int64),
        shown=wrong,
        probabilities=np.full((len(wrong), classes), 1 / classes, np.float32),
        y=y if labelled else None,
        predicted_before=rng.integers(0, classes, rows),
        thumbnails=rng.integers(0, 255, (len(wrong), 16, 16, 3), dtype=np.uint8),
    )
    return replace(found, **changes)


def reported(folder: Path, found: StageOutputs | None = None, stage: str = "adapt", **run: Any) -> Path:
    write_run(folder, **run)
    if found is not None:
        outputs.write(outputs.path(folder, stage), found)
    return folder


class Reader(HTMLParser):
    """What a browser would see."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(file.read_text())
        self.text = " ".join(" ".join(self.said).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_page_shows_everything_there_is(tmp_path: Path) -> None:
    folder = reported(tmp_path / "run", some_outputs())
    file = page.write(folder)
    assert file == folder / "report.html"
    seen = Reader(file)
    for said in (
        "mmd: a → b",
        "Stage adapt: mmd",
        "Accuracy over epochs, and which epoch each criterion picks",
        "What each pick reaches on the target; percent, but for ece",
        "Confusion matrix",
        "Accuracy of each class",
        "Reliability",
        "t-SNE of 20 of 40 evaluated rows and 10 of 90 source rows",
        "Confident mistakes",
        "target truth",
        "The whole config",
        "resnet18",
    ):
        assert said in seen.text, said
    figures = {f"adapt-{key}.png" for key in FIGURES}
    assert {f.name for f in (folder / "report").iterdir()} == figures
    assert len(seen.all("img")) == len(figures) + 5
    assert all(image["alt"] for image in seen.all("img"))
    assert file.stat().st_size < 1_000_000


FIGURES = ("selection", "losses", "validators", "confusion", "classes", "reliability", "features")


def test_page_fetches_nothing_and_runs_nothing(tmp_path: Path) -> None:
    """Names of classes and files, the method's and the folder's, and the config may all contain HTML."""
    nasty = "x" + NASTY.replace("/", "")
    folder = reported(tmp_path / nasty, some_outputs(), method=nasty, source=nasty, extra={nasty: nasty})
    seen = Reader(page.write(folder))
    assert NASTY in seen.text  # as text
    assert not seen.all("script")
    for tag, attributes in seen.tags:
        assert tag != "iframe"
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "action"):
                assert str(value).startswith(("data:", "#")), (tag, value)
    assert not re.search(r"url\(|@import", (folder / "report.html").read_text())
    (policy,) = (meta["content"] for meta in seen.all("meta") if "http-equiv" in meta)
    assert str(policy).startswith("default-src 'none'; img-src data:;")


def test_texts_are_shown_and_are_text(tmp_path: Path) -> None:
    """Whole ones, and words with those around them; whatever is in them."""
    found = some_outputs(thumbnails=None)
    found.about.passages = [("", NASTY, "")] * len(found.shown)
    text = Reader(page.write(reported(tmp_path / "texts", found)))
    assert [t for t, _ in text.tags].count("blockquote") == len(found.shown)
    assert NASTY in text.text
    assert not text.all("mark")
    found.about.passages = [(f"before {NASTY} ", NASTY, f" {NASTY} after")] * len(found.shown)
    words = Reader(page.write(reported(tmp_path / "words", found)))
    assert len(words.all("mark")) == len(found.shown)
    assert f"before {NASTY} {NASTY} {NASTY} after" in words.text
    for seen in (text, words):
        assert not seen.all("script")
        assert {"http://example.org/x.png"}.isdisjoint(a.get("src") for a in seen.all("img"))


def test_stages_are_sections(tmp_path: Path) -> None:
    folder = reported(
        tmp_path / "run", some_outputs(), "source", stages={"source": "source_only", "adapt": None}
    )
    outputs.write(outputs.path(folder, "adapt"), some_outputs())
    results = json.loads((folder / "results.json").read_text())
    results["source_accuracy"] = {"source": 0.9, "adapt": 0.85}
    (folder / "results.json").write_text(json.dumps(results))
    seen = Reader(page.write(folder))
    assert "source_only, then mmd: a → b" in seen.text
    assert "Stage source: source_only" in seen.text
    assert "Stage adapt: mmd" in seen.text
    assert "What is left of the source" in seen.text
    assert "−5.0" in seen.text
    assert [link["href"] for link in seen.all("a")] == ["#stage-1", "#stage-2"]
    assert {"stage-1", "stage-2"} <= {str(heading.get("id")) for heading in seen.all("h2")}
    assert len(list((folder / "report").iterdir())) == 2 * len(FIGURES)


def test_without_labels_their_figures_are_left_out_and_it_says_so(tmp_path: Path) -> None:
    folder = reported(tmp_path / "run", some_outputs(labelled=False))
    seen = Reader(page.write(folder))
    assert "These rows have no labels" in seen.text
    assert "Least confident predictions" in seen.text
    assert "Target rows have the colour of their predicted class" in seen.text
    left = {f.stem.removeprefix("adapt-") for f in (folder / "report").iterdir()}
    assert left == {"selection", "losses", "validators", "confidence", "features"}


def test_without_outputs_it_says_how_to_make_them(tmp_path: Path) -> None:
    seen = Reader(page.write(reported(tmp_path / "run")))
    assert f"`tlrun predict {tmp_path / 'run'} --report` computes them" in seen.text
    assert "Losses" in seen.text


@pytest.mark.parametrize(
    ("picks", "said"),
    [
        (["last", "im"], "No criterion sees a label of the target."),
        (["last", "oracle"], "seen by the oracle (all, as in most papers), and by no other criterion."),
        (
            ["last", "labeled_val"],
            "seen by labeled_val (those that the run was given, of rows held out), and by no",
        ),
        (["last", "labeled_val", "oracle"], "as in most papers) and labeled_val (those"),
    ],
)
def test_criteria_that_see_labels_of_the_target_are_named(
    picks: list[str], said: str, tmp_path: Path
) -> None:
    folder = reported(tmp_path / "run", picks=dict.fromkeys(picks, 0.5))
    if given := "labeled_val" in picks:
        table = (folder / "metrics.csv").read_text().replace("val/im", "val/labeled_val")
        (folder / "metrics.csv").write_text(table)
    text = Reader(page.write(folder)).text
    assert said in text
    assert ("without its labels (but for labeled_val, which has some); higher" in text) == given
    assert ("without its labels; higher" in text) == (not given)


def test_many_classes_and_few_rows_are_said(tmp_path: Path) -> None:
    found = some_outputs(classes=60, rows=400)
    found.about.total = 1000
    seen = Reader(page.write(reported(tmp_path / "run", found)))
    for said in (
        "on 400 of 1000 rows of the target: photo",
        "15 of 60 classes: those of the largest confusions",
        "40 of 60 classes: both ends of the order",
        "Coloured: the 8 most confused classes",
    ):
        assert said in seen.text, said


def test_a_baseline_is_named(tmp_path: Path) -> None:
    found = some_outputs()
    baseline = np.where(np.arange(40) < 30, found.predicted, -1)
    found = replace(found, predicted_baseline=baseline)
    found.about.baseline = "source_only run"
    seen = Reader(page.write(reported(tmp_path / "run", found)))
    assert "From the baseline, the run source_only run, to this run." in seen.text


def test_an_untrained_head_is_no_baseline(tmp_path: Path) -> None:
    seen = Reader(page.write(reported(tmp_path / "run", some_outputs(predicted_before=None))))
    assert "the stage began with an untrained head" in seen.text


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_the_smallest_sets(rows: int, tmp_path: Path) -> None:
    """No source, too few rows to embed, no mistake to show: a sentence, not an error."""
    none = np.zeros(0, np.int64)
    y = np.zeros(rows, np.int64)
    found = some_outputs(
        classes=1,
        rows=max(rows, 1),
        domain=y,
        predicted=y,
        y=y,
        predicted_before=None,
        confidence=np.ones(rows, np.float32),
        sample=np.arange(rows),
        features=np.ones((rows, 2)),
        features_before=np.ones((rows, 2)),
        source_y=none,
        source_domain=none,
        shown=none,
        probabilities=np.zeros((0, 1)),
        thumbnails=None,
    )
    found.about.names, found.about.total = found.about.names[:rows], rows
    seen = Reader(page.write(reported(tmp_path / "run", found)))
    assert "Confident mistakes" not in seen.text
    assert f"on {rows} rows of the target" in seen.text
    assert rows == 0 or "Not drawn: ValueError: too few different rows" in seen.text


def test_a_figure_that_fails_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(content.figures, "reliability", broken)
    folder = reported(tmp_path / "run", some_outputs())
    seen = Reader(page.write(folder))
    assert "Not drawn: RuntimeError: no ink." in seen.text
    assert "the figure 'reliability' of stage adapt cannot be drawn" in caplog.text
    assert {f.stem.removeprefix("adapt-") for f in (folder / "report").iterdir()} == {*FIGURES} - {
        "reliability"
    }


def test_figures_of_an_older_page_are_removed(tmp_path: Path) -> None:
    folder = reported(tmp_path / "run")
    (folder / "report").mkdir()
    for name in ("adapt-old.png", "mine.png"):
        (folder / "report" / name).write_bytes(b"")
    page.write(folder)
    assert not (folder / "report" / "adapt-old.png").exists()
    assert (folder / "report" / "mine.png").exists()


def test_an_unfinished_run_has_no_page(tmp_path: Path) -> None:
    folder = reported(tmp_path / "run")
    (folder / "results.json").unlink()
    (folder / "status.json").write_text('{"state": "failed", "why": "out of memory"}')
    with pytest.raises(DataError, match=r"a run that is failed \(out of memory\)"):
        page.write(folder)


@pytest.mark.parametrize(
    "change", [{"objective": "im"}, {"environment": []}, {"source_accuracy": {"a": "b", "c": "d"}}]
)
def test_results_that_no_run_leaves_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    folder = reported(tmp_path / "run")
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**results, **change}))
    with pytest.raises(DataError, match=r"results\.json"):
        page.write(folder)


def test_how_it_was_made(tmp_path: Path) -> None:
    folder = reported(tmp_path / "run")
    results = json.loads((folder / "results.json").read_text())
    for revision, rows in (("abc", ["command", "git"]), (None, ["command"])):
        results["environment"] = {
            "command": ["data=folder", "data.source=old camera"],
            "git": {"revision": revision, "changed": False},
        }
        (folder / "results.json").write_text(json.dumps(results))
        text = Reader(page.write(folder)).text.partition("How it was made")[2]
        assert "data=folder 'data.source=old camera'" in text
        assert [name for name in ("command", "git") if name in text] == rows


@pytest.mark.parametrize(("name", "sees"), [("im", False), ("oracle", True)])
def test_an_objective_that_sees_labels_is_marked(name: str, sees: bool, tmp_path: Path) -> None:
    folder = reported(tmp_path / "run")
    results = json.loads((folder / "results.json").read_text())
    results["objective"] = {"name": name, "value": 0.5, "sees_target_labels": sees}
    (folder / "results.json").write_text(json.dumps(results))
    text = Reader(page.write(folder)).text
    assert f"A sweep would maximise {name}, here 0.5" in text
    assert ("no honest result" in text) == sees


@pytest.mark.parametrize("stage", ["../out", "{tmp}/out", "a/../../../out", "[/b] a"])
def test_nothing_is_written_outside_the_folder(stage: str, tmp_path: Path) -> None:
    folder = reported(tmp_path / "a" / "run", stages={stage.format(tmp=tmp_path): None})
    for place in (tmp_path, tmp_path / "a"):
        outputs.write(place / "out.safetensors", some_outputs())
    before = {*tmp_path.rglob("*")}
    text = Reader(page.write(folder)).text
    assert "Confusion matrix" not in text
    assert all(folder in file.parents for file in {*tmp_path.rglob("*")} - before)
    assert len(list((folder / "report").iterdir())) == 3


def test_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    outputs.write(outside / "evaluation" / "adapt.safetensors", some_outputs())
    folder = reported(tmp_path / "run")
    (folder / "evaluation").symlink_to(outside / "evaluation")
    assert "leads out of the run's folder" in Reader(page.write(folder)).text
    (tmp_path / "other").mkdir()
    folder = reported(tmp_path / "other" / "run")
    (folder / "report").symlink_to(outside)
    with pytest.raises(DataError, match="leads out"):
        page.write(folder)
    assert {f.name for f in outside.iterdir()} == {"evaluation"}


def test_outputs_come_back_as_they_were_kept(tmp_path: Path) -> None:
    kept = some_outputs()
    file = tmp_path / "evaluation" / "a.safetensors"
    outputs.write(file, kept)
    back = outputs.read(file)
    assert back.about == kept.about
    for name in load_file(file):
        one, other = getattr(kept, name), getattr(back, name)
        assert (
            np.allclose(one, other, rtol=1e-3, atol=1e-3)
            if "features" in name
            else np.array_equal(one, other)
        )
    outputs.write(file, replace(kept, y=None, thumbnails=None))
    assert (outputs.read(file).y, outputs.read(file).thumbnails) == (None, None)


def _tensor(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        arrays = load_file(file)
        arrays[name] = change(arrays[name])
        save_file(arrays, file, {"about": json.dumps(some_outputs().about.__dict__)})

    return spoil


def _about(**changes: Any) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        told = {**some_outputs().about.__dict__, **changes}
        save_file(load_file(file), file, {"about": json.dumps(told)})

    return spoil


class _Bomb:
    def __reduce__(self) -> Any:
        return (Path("exploded").touch, ())


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda file: file.write_bytes(pickle.dumps(_Bomb())), "SafetensorError"),
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "SafetensorError"),
        (lambda file: save_file(load_file(file), file), "TypeError"),
        (_tensor("predicted", lambda a: a + 99), r"predicted is not in \[0, 3\)"),
        (_tensor("y", lambda a: a - 99), "y is not in"),
        (_tensor("sample", lambda a: a + 99), "sample is not in"),
        (_tensor("shown", lambda a: -a - 1), "shown is not in"),
        (_tensor("predicted", lambda a: a.astype(np.float32)), "expected int64"),
        (_tensor("confidence", lambda a: a[:-1]), "confidence has another shape"),
        (_tensor("features", lambda a: a[:-1]), "features has another shape"),
        (_tensor("thumbnails", lambda a: a[..., :2]), "thumbnails has another shape"),
        (_about(names=["a"]), "names has another shape"),
        (_about(classes="abc"), "names are not a list of texts"),
        (_about(wrong=1), "unexpected keyword"),
        (_about(passages=[["", "a text", ""]]), "passages has another shape"),
        (_about(passages=[["", "a text"]] * 5), "a passage is not three texts"),
    ],
)
def test_a_file_that_is_something_else_is_refused(
    spoil: Callable[[Path], Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = reported(tmp_path / "run", some_outputs())
    file = outputs.path(folder, "adapt")
    spoil(file)
    with pytest.raises(DataError, match=f"does not hold a stage's outputs.*{why}"):
        outputs.read(file)
    assert "There is no figure of predictions and features" in Reader(page.write(folder)).text
    assert not (tmp_path / "exploded").exists()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(width: int, tmp_path: Path) -> None:
    """No script error, no request, no missing image, and nothing to scroll sideways."""
    chromium = next(
        (p for p in map(Path, ("/usr/bin/chromium", "/usr/bin/chromium-browser")) if p.exists()), None
    )
    if chromium is None:
        pytest.skip("no Chromium in /usr/bin")
    playwright = pytest.importorskip("playwright.sync_api")
    found = some_outputs(classes=40, rows=300)
    found.about.classes[5] = "a_class_name_" + "without_any_end_" * 20
    file = page.write(reported(tmp_path / "run", found, source="a_domain_" + "x" * 300))
    flags = ["background-networking", "component-update", "sync"]
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                *(f"--disable-{flag}" for flag in flags),
            ],
        )
        tab = browser.new_page(viewport={"width": width, "height": 900})
        trouble: list[str] = []
        tab.on("console", lambda message: trouble.append(message.text))
        tab.on("pageerror", lambda error: trouble.append(str(error)))
        tab.on("requestfailed", lambda request: trouble.append(request.url))
        requests: list[str] = []
        tab.on("request", lambda request: requests.append(request.url[:60]))
        tab.goto(file.as_uri())
        for details in tab.query_selector_all("details"):
            details.evaluate("d => d.open = true")
        images = tab.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)")
        sideways = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        screenshot = tab.screenshot(path=tmp_path / f"report-{width}.png", full_page=True)
        browser.close()
    assert trouble == []
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()[:60]]
    assert len(images) == len(FIGURES) + 5
    assert all(images)
    assert sideways <= 0
    assert len(screenshot) > 50_000
