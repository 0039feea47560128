"""Metrics against scikit-learn, and where they end up."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tlrun, composed, image_folders, result_folder
from hydra.utils import instantiate
from sklearn.metrics import f1_score, precision_recall_fscore_support, recall_score, roc_auc_score
from torchmetrics import Metric

from tl_runner.metrics import AUROC, Support, evaluate
from tl_runner.report.summary import averages
from tl_runner.run import run


def drawn(classes: int, n: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=g)
    return torch.randn(n, classes, generator=g) + 1.5 * torch.nn.functional.one_hot(y, classes), y


def auroc(logits: torch.Tensor, y: torch.Tensor) -> float:
    return evaluate({"auroc": AUROC}, logits, y)["auroc"]


@pytest.mark.parametrize("seed", range(3))
def test_auroc_of_two_classes(seed: int) -> None:
    logits, y = drawn(2, seed=seed)
    assert auroc(logits, y) == pytest.approx(roc_auc_score(y, logits.softmax(1)[:, 1]), abs=1e-6)


@pytest.mark.parametrize("classes", [3, 7])
def test_auroc_of_many_classes(classes: int) -> None:
    logits, y = drawn(classes)
    expected = roc_auc_score(y, logits.double().softmax(1), multi_class="ovr")
    assert auroc(logits, y) == pytest.approx(expected, abs=1e-6)


def test_ties_count_half_and_absent_classes_not_at_all() -> None:
    y = torch.tensor([0, 0, 1, 1, 1])
    assert auroc(torch.zeros(5, 2), y) == 0.5
    logits, y = drawn(5)
    kept = y < 3
    by_hand = [roc_auc_score(y[kept] == k, logits[kept].softmax(1)[:, k]) for k in range(3)]
    assert auroc(logits[kept], y[kept]) == pytest.approx(np.mean(by_hand), abs=1e-6)
    rounded = (2 * logits).round() / 2
    expected = roc_auc_score(y, rounded.softmax(1), multi_class="ovr")
    assert auroc(rounded, y) == pytest.approx(expected, abs=1e-6)
    assert "auroc" not in evaluate({"auroc": AUROC}, logits, torch.ones_like(y))  # undefined, not NaN


def test_auroc_in_batches_is_that_of_all() -> None:
    logits, y = drawn(4)
    metric: Metric = AUROC(4)
    for rows in torch.arange(200).split(64):
        metric.update(logits[rows], y[rows])
    assert float(metric.compute()) == pytest.approx(float(AUROC(4)(logits, y)), abs=1e-12)


@pytest.mark.parametrize("group", ["default", "entities", "report"])
def test_means_over_classes_are_of_those_that_there_are(group: str) -> None:
    """Class 2 is predicted and has no true row, class 3 is neither."""
    y, predicted = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 2])
    node = composed(f"metrics={group}")["metrics"]
    means = instantiate(
        {name: node[name] for name in {"class_mean", "macro_f1", "weighted_f1"} & node.keys()}
    )
    found = evaluate(means, 9 * torch.eye(4)[predicted], y)
    options: dict[str, Any] = {"labels": [0, 1], "average": "macro"}
    expected = {
        "class_mean": recall_score(y, predicted, **options),
        "macro_f1": f1_score(y, predicted, **options),
        "weighted_f1": f1_score(y, predicted, labels=[0, 1], average="weighted"),
    }
    assert expected["class_mean"] == 0.75
    assert found == pytest.approx({name: expected[name] for name in means})


def test_the_mean_of_f1_is_that_of_the_table_of_classes() -> None:
    """Both of one run, of which a class is predicted and has no true row."""
    logits, y = drawn(5)
    kept = y < 3
    found = evaluate(instantiate(composed("metrics=report")["metrics"]), logits[kept], y[kept])
    shown = ("precision", "recall", "f1", "support")
    classes = {str(k): {name: found[f"{name}/{k}"] for name in shown} for k in range(5)}
    assert found["macro_f1"] == pytest.approx(averages(classes)["macro"]["f1"])


@pytest.mark.parametrize("classes", [2, 6])
def test_the_report_is_that_of_scikit_learn(classes: int) -> None:
    logits, y = drawn(classes, n=60)
    logits[:, 0] -= 20  # a class that is never predicted
    found = evaluate(instantiate(composed("metrics=report")["metrics"]), logits, y)
    expected = precision_recall_fscore_support(y, logits.argmax(1), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [found[f"{name}/{k}"] for k in range(classes)] == pytest.approx(values.tolist(), abs=1e-6)


def test_support_counts_labels() -> None:
    assert Support(3)(torch.eye(3)[[0, 0, 1]], torch.tensor([1, 1, 2])).tolist() == [0, 2, 1]


def test_a_report_on_request(tmp_path: Path, tlrun: Tlrun) -> None:
    """Of every pick in the results, under class names; of one on the terminal; of every epoch in the table."""
    root = tmp_path / "xray"
    image_folders(root, ["xray"], ["ill", "normal"], "{split}/{class}/*", 12, ("train", "test", "val"))
    where = ("data=chest_xray", f"data.root={root}", "model=tiny", "method=finetune", "trainer=smoke")
    done = tlrun(*where, "metrics=report", "trainer.eval_rows=null", "report=none")
    folder = result_folder(done)
    results = json.loads((folder / "results.json").read_text())
    assert results["data"] == "chest_xray"
    for pick in results["stages"]["adapt"]["picks"].values():
        assert set(pick["target"]) == {"accuracy", "macro_f1", "auroc", "ece"}
        assert set(pick["per_class"]) == {"ill", "normal"}
        for values in pick["per_class"].values():
            assert set(values) == {"precision", "recall", "f1", "support"}
            assert values["support"] == 4
        recall = [values["recall"] for values in pick["per_class"].values()]
        assert np.mean(recall) == pytest.approx(pick["target"]["accuracy"])  # equally many of both
    row = next(csv.DictReader((folder / "metrics.csv").open()))
    assert {"test/auroc", "test/recall/0", "test/support/1"} <= row.keys()
    table = done.stdout[done.stdout.index("each class at epoch") :]
    assert "given labels" in table.splitlines()[0]
    assert [
        word for word in ("precision", "recall", "f1", "support", "ill", "normal") if word not in table
    ] == []


def test_nothing_of_single_classes_without_asking(tmp_path: Path) -> None:
    results: dict[str, Any] = run(composed("trainer=smoke"), tmp_path)
    assert "per_class" not in results["stages"]["adapt"]["picks"]["last"]
