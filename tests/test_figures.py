"""Every figure of a report, on tiny input and at its edges: drawn, legible, nothing cut off."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torchmetrics.functional.classification import multiclass_calibration_error

from tl_runner.report import curves, figures
from tl_runner.report.curves import Picked
from tl_runner.report.embedding import embed, scatter
from tl_runner.report.style import DPI, png, short, style

LONG = "<b>a_class_name_that_goes_on_and_on_and_on</b> $x_1$"


@pytest.fixture(autouse=True)
def _style() -> Any:
    with style():
        yield


def texts(made: Figure) -> list[str]:
    """What a figure says, once it is known to be legible: 8 points or more, and inside the picture."""
    with Image.open(io.BytesIO(png(made))) as image:
        assert image.size == tuple(int(DPI * side) for side in made.get_size_inches())
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 3
    said = []
    for text in shown(made):
        if not text.get_text():
            continue
        assert text.get_fontsize() >= 8, text.get_text()
        box, bounds = text.get_window_extent(), made.bbox
        assert bounds.x0 - 2 <= box.x0, text.get_text()
        assert box.x1 <= bounds.x1 + 2, text.get_text()
        assert bounds.y0 - 2 <= box.y0, text.get_text()
        assert box.y1 <= bounds.y1 + 2, text.get_text()
        said.append(text.get_text())
    return said


def shown(made: Figure) -> list[Text]:
    found = []
    for axes in made.axes:
        if not axes.axison:
            continue
        found += [*axes.texts, axes.xaxis.label, axes.yaxis.label]
        found += [text for text in axes.get_children() if isinstance(text, Text)]  # the titles
        found += [] if (legend := axes.get_legend()) is None else legend.get_texts()
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [
                t.label1
                for t in axis.get_major_ticks()
                if low <= t.get_loc() <= high and t.label1.get_visible()
            ]
    return found


@pytest.mark.parametrize(("epochs", "count"), [(1, 1), (2, 4), (60, 5), (2, 15)])
def test_panels(epochs: int, count: int) -> None:
    numbers = list(range(1, epochs + 1))
    values = {f"curve {i}": np.linspace(i, -i, epochs) for i in range(count)}
    said = texts(curves.panels(numbers, values, {"curve 0": epochs}))
    assert set(values) <= set(said)


def test_panels_with_holes_and_without_values() -> None:
    nan = math.nan
    made = curves.panels(
        [1, 2, 3], {"some": np.array([nan, 1.0, nan]), "none": np.array([nan] * 3)}, {"some": 2}
    )
    assert "no finite value" in texts(made)
    ring = [line for line in made.axes[0].lines if line.get_markersize() == 9]
    assert [list(line.get_xdata()) for line in ring] == [[2]]


def test_selection_marks_each_pick_and_names_who_sees_labels() -> None:
    picks = [Picked("oracle", 2, 0.61), Picked("last", 3, 0.5), Picked("im", 2, 0.6)]
    made = curves.selection([1, 2, 3], np.array([0.4, 0.6, 0.5]), np.array([0.8, 0.9, 0.9]), picks)
    said = texts(made)
    assert [text for text in said if text in ("last", "im", "oracle (sees labels)")] == [
        "last",
        "im",
        "oracle (sees labels)",
    ]
    assert {"50.0", "60.0", "61.0", "target", "held-out source"} <= set(said)
    below = made.axes[1]
    marks = [(line.get_xdata()[0], line.get_ydata()[0]) for line in below.lines if len(line.get_xdata()) == 1]  # type: ignore[index]
    assert marks == [(3, 0), (2, 1), (2, 2)]
    assert below.get_yticklabels()[2].get_text() == "oracle (sees labels)"


def test_no_axis_goes_far_beyond_what_an_accuracy_can_be() -> None:
    made = curves.selection([1, 2], np.ones(2), np.ones(2), [Picked("last", 2, 1.0)])
    low, high = made.axes[0].get_ylim()
    assert low < 99
    assert 100 < high < 101


@pytest.mark.parametrize("target", [None, np.array([math.nan])])
def test_selection_without_truth(target: Any) -> None:
    said = texts(curves.selection([1], target, None, [Picked("last", 1)]))
    assert "last" in said
    assert not any(text.startswith("oracle") for text in said)


@pytest.mark.parametrize("classes", [1, 15, 345])
def test_confusion(classes: int) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, 1000)
    predicted = np.where(rng.random(1000) < 0.7, y, rng.integers(0, classes, 1000))
    names = [f"{LONG} {k}" for k in range(classes)]
    table = figures.counts(y, predicted, classes)
    assert table.sum() == 1000
    made = figures.confusion(table, names, 15)
    said = texts(made)
    assert ("any other" in said) == (classes > 15)
    shown = made.axes[0].images[0].get_array()
    assert shown is not None
    rows = np.asarray(shown).sum(1)
    assert np.allclose(rows[rows > 0], 100)


def test_confusion_of_a_class_without_rows() -> None:
    texts(figures.confusion(figures.counts(np.array([0, 0]), np.array([0, 1]), 3), ["a", "b", "c"]))


def test_the_most_confused_classes_are_shown() -> None:
    y = np.repeat(np.arange(20), 10)
    predicted = y.copy()
    predicted[y == 3] = 17
    predicted[np.flatnonzero(y == 8)[:4]] = 5
    table = figures.counts(y, predicted, 20)
    assert figures.most_confused(table, 4) == [3, 5, 8, 17]
    assert figures.most_confused(table, 2) == [3, 17]
    assert figures.most_confused(np.diag(np.ones(20, dtype=np.int64)), 4) == [0, 1, 2, 3]
    found = figures.confusions(table, [str(k) for k in range(20)])
    assert [(c.true, c.predicted, c.count, c.share) for c in found] == [
        ("3", "17", 10, 1.0),
        ("8", "5", 4, 0.4),
    ]


@pytest.mark.parametrize("classes", [1, 2, 345])
@pytest.mark.parametrize("compared", [False, True])
def test_accuracy_of_each_class(classes: int, compared: bool) -> None:
    rng = np.random.default_rng(0)
    after, before = rng.random(classes), rng.random(classes)
    rows = rng.integers(1, 99, classes)
    if classes > 1:
        after[1], rows[1] = math.nan, 0
    names = [f"{LONG} {k}" for k in range(classes)]
    made = figures.per_class(after, before if compared else None, rows, names, "before", 40)
    texts(made)
    shown = [label.get_text() for label in made.axes[0].get_yticklabels()]
    assert len(shown) == min(40, classes - (classes > 1))
    assert not any(text.endswith("(0)") for text in shown)


def test_classes_are_in_order_of_their_change() -> None:
    after, before = np.array([0.5, 0.9, 0.2, 0.4]), np.array([0.5, 0.1, 0.7, 0.3])
    made = figures.per_class(after, before, np.array([4, 4, 4, 4]), ["same", "up", "down", "little"])
    order = [label.get_text().split()[0] for label in made.axes[0].get_yticklabels()]
    assert order == ["down", "same", "little", "up"]
    said = texts(made)
    assert {"−50", "0", "+10", "+80", "better", "worse", "unchanged"} <= set(said)
    assert figures.extremes(np.array([3.0, 1.0, 2.0, 0.0]), 2) == [3, 0]


def test_calibration_error_is_torchmetrics() -> None:
    g = torch.Generator().manual_seed(0)
    for classes in (2, 10):
        p = (3 * torch.randn(500, classes, generator=g)).softmax(1)
        y = torch.randint(0, classes, (500,), generator=g)
        reference = float(multiclass_calibration_error(p, y, classes, n_bins=15, norm="l1"))
        best = p.max(1)
        found = figures.calibration(best.values.numpy(), (best.indices == y).numpy())
        assert found.ece == pytest.approx(reference, abs=1e-6)
        assert found.rows.sum() == 500


def test_calibration_at_its_ends() -> None:
    sure = figures.calibration(np.ones(4), np.array([True] * 4))
    assert (sure.ece, sure.rows[-1]) == (0.0, 4)
    wrong = figures.calibration(np.ones(4), np.array([False] * 4))
    assert wrong.ece == 1.0
    assert math.isnan(wrong.accuracy[0])


@pytest.mark.parametrize("rows", [1, 300])
def test_reliability(rows: int) -> None:
    confidence = np.random.default_rng(0).random(rows)
    right = np.random.default_rng(1).random(rows) < confidence
    said = texts(figures.reliability(confidence, right))
    assert f"reliability: ECE {figures.calibration(confidence, right).ece:.3f} (15 bins)" in said
    texts(figures.confidences(confidence))


def blobs(rows: int = 40) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    centres = 20 * rng.normal(size=(3, 64))
    label = np.arange(rows) % 3
    return centres[label] + rng.normal(size=(rows, 64)), label


def test_embedding_keeps_neighbours_and_is_the_same_every_time() -> None:
    x, label = blobs()
    xy = embed(x, "tsne")
    assert xy.shape == (40, 2)
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=2) + 1e9 * np.eye(40)
    assert (label[apart.argmin(1)] == label).all()
    assert np.array_equal(xy, embed(x, "tsne"))


@pytest.mark.slow
def test_umap_keeps_neighbours() -> None:
    pytest.importorskip("umap")
    x, label = blobs(60)
    xy = embed(x, "umap")
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=2) + 1e9 * np.eye(60)
    assert (label[apart.argmin(1)] == label).mean() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("how", ["tsne", "umap"])
def test_an_embedding_leaves_the_number_of_threads(how: str) -> None:
    """Or what is trained after a report would not be what is trained without one."""
    pytest.importorskip("umap")
    script = f"""
import numpy, torch
from threadpoolctl import threadpool_info
from tl_runner.report.embedding import embed
torch.set_num_threads(1)
embed(numpy.random.default_rng(0).normal(size=(60, 8)), "{how}")
print([i["num_threads"] for i in threadpool_info() if "torch" in i["filepath"] and i["user_api"] == "openmp"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[1]", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("features", "why"),
    [
        (np.full((9, 4), np.nan), "not finite"),
        (np.ones((9, 4)), "too few different rows"),
        (np.eye(4), "too few"),
        (np.ones((9, 0)), "too few"),
    ],
)
def test_what_cannot_be_embedded(features: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        embed(features, "tsne")


@pytest.mark.parametrize("source", [True, False])
@pytest.mark.parametrize("classes", [1, 10, 31])
def test_scatter(source: bool, classes: int) -> None:
    rng = np.random.default_rng(0)
    xy, label = rng.normal(size=(60, 2)), rng.integers(0, classes, 60)
    domains = ["a source", "another", "the target"] if source else ["the target"]
    domain = np.arange(60) % len(domains)
    coloured = list(range(min(8, classes)))
    names = [f"{LONG} {k}" for k in range(classes)]
    target = np.array([len(domains) - 1])
    made = scatter([("before", xy), ("after", xy)], domain, domains, label, names, coloured, target)
    said = texts(made)
    assert set(domains) <= set(said)
    assert ("any other" in said) == (classes > 8)
    looks = {str(c.get_facecolor()[0]) for c in made.axes[0].collections}
    assert len(looks) == len(domains)


def test_letters_that_no_font_has_are_not_told_one_by_one() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with style():
            png(figures.confusion(np.eye(2, dtype=int), ["\U00013000", "\U00013001"]))
    assert not told


def test_short_names() -> None:
    assert short("mug") == "mug"
    assert len(short(LONG, 22)) == 22
    assert short("two\nlines") == "two lines"
