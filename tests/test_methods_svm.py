"""The support vector machine against scikit-learn's own decision values."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import composed
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC
from torch import Tensor

from tl_runner.methods.svm import SVM
from tl_runner.nn import Model, backbones
from tl_runner.run import build, run
from tl_runner.types import Batch, Collected, DataInfo


def vectors(shape: tuple[int, ...] = (4,)) -> torch.nn.Module:
    return backbones.mlp(layers=0, shape=shape)


def data(classes: int, n: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    return torch.randn(n, 4, generator=g) + 2 * torch.nn.functional.one_hot(y, 4), y


def fitted(x: Tensor, y: Tensor, classes: int, **options: float | None) -> SVM:
    info = DataInfo(tuple("abcd"[:classes]), (4,), {"labeled": len(x)}, {"labeled": ("t",)})
    method = SVM(Model(info, vectors, neck="none"), info, **options)  # type: ignore[arg-type]
    zeros = torch.zeros(len(x), dtype=torch.long)
    asked: list[str] = []

    def collect(role: str) -> Collected:
        asked.append(role)
        return Collected(x, torch.zeros(len(x), classes), y, zeros, torch.arange(len(x)))

    method.begin_epoch(collect)  # type: ignore[arg-type]
    method.begin_epoch(collect)  # type: ignore[arg-type]
    assert asked == ["labeled"]  # fitted once
    return method


@pytest.mark.parametrize(("penalty", "gamma"), [(1.0, None), (10.0, 0.3), (0.1, 2.0)])
def test_two_classes_are_those_of_svc(penalty: float, gamma: float | None) -> None:
    (x, y), (new, _) = data(2), data(2, seed=1)
    logits = fitted(x, y, 2, penalty=penalty, gamma=gamma).predict(new).logits
    expected = SVC(C=penalty, gamma=gamma or "scale").fit(x.double(), y).decision_function(new.double())
    np.testing.assert_allclose(logits[:, 1], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits[:, 0], -expected, atol=3e-3)  # as exact as the solver: another fit


def test_many_classes_are_one_against_the_rest() -> None:
    (x, y), (new, truth) = data(4), data(4, seed=1)
    found = fitted(x, y, 4, penalty=2.0).predict(new)
    expected = (
        OneVsRestClassifier(SVC(C=2.0, gamma="scale")).fit(x.double(), y).decision_function(new.double())
    )
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.features, new)
    assert (found.logits.argmax(1) == truth).float().mean() > 0.6


def test_a_class_without_samples_is_never_predicted() -> None:
    x, y = data(3)
    method = fitted(x, y, 4)
    assert (method.predict(x).logits[:, 3] == -1).all()
    assert (method.predict(x).logits.argmax(1) == y).float().mean() > 0.8
    alone = fitted(x, torch.zeros_like(y), 2)  # nothing to tell apart
    assert (alone.predict(x).logits == torch.tensor([1.0, -1.0])).all()


def test_what_it_has_learnt_is_in_its_state_and_no_step_changes_the_network() -> None:
    (x, y), (new, _) = data(2), data(2, seed=1)
    method, other = fitted(x, y, 2), fitted(*data(2, seed=2), 2)
    other.load_state_dict(method.state_dict())
    torch.testing.assert_close(other.predict(new).logits, method.predict(new).logits)
    zeros = torch.zeros(60, dtype=torch.long)
    (step,) = method.steps({"labeled": Batch((x,), y, zeros, torch.arange(60))}, 0.0)
    assert step.updates == []
    z = method.predict(x).logits
    others = 1 - torch.nn.functional.one_hot(y, 2)
    expected = ((1 - z.gather(1, y[:, None]) + z).clamp(min=0) * others).sum(1).mean() / 2
    torch.testing.assert_close(step.losses["labeled"], expected)


def test_an_untrained_neck_is_named(caplog: pytest.LogCaptureFixture) -> None:
    info = DataInfo(("a", "b"), (4,), {"labeled": 6})
    with caplog.at_level(logging.WARNING):
        SVM(Model(info, vectors, neck="none"), info)
        model = Model(info, vectors)
        model.trained = {"backbone", "neck", "head"}
        SVM(model, info)
        assert not caplog.records
        SVM(Model(replace(info), vectors), info)
    assert "model.neck=none" in caplog.text


def test_on_the_plane_it_is_scikit_learns_accuracy(tmp_path: Path) -> None:
    """The whole way, of vectors as they are: trained on the source, tested on the target."""
    overrides = ("data=toy", "model=mlp", "model.backbone.layers=0", "method=svm", "method.role=source")
    config = composed(*overrides, "trainer=once", "data.source_val=0", "trainer.accelerator=cpu")
    found = run(config, tmp_path)["stages"]["adapt"]["picks"]["last"]["target"]["accuracy"]
    prepared = build(config["data"]).prepare()
    source, target = prepared.roles["source"], prepared.evaluation["target"]
    x, new = (r.gather(torch.arange(len(r))).double() for r in (source, target))
    machine = SVC(gamma="scale").fit(x, source.y)
    assert found == pytest.approx(machine.score(new, prepared.truth), abs=1e-6)
