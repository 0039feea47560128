"""Methods that adapt a trained model to the target alone, and their losses, against loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_losses import agree
from test_methods import batches, build, changed, runner, snapshot
from torch import Tensor
from torch.nn import functional as F

from tl_runner.errors import UserError
from tl_runner.losses import dispersion, nearest_rows, neighbour_agreement
from tl_runner.methods.aad import AaD
from tl_runner.methods.base import Method
from tl_runner.methods.memory import Memory
from tl_runner.methods.nrc import NRC
from tl_runner.methods.shot import SHOT, pseudo_labels
from tl_runner.methods.shot_im import SHOTIM
from tl_runner.types import HIDDEN, Batch, Collected, Step

# Without ReLU: rows of nothing but zeros are as near to one as to another.
SHOT_NECK = {"neck": "shot"}


def whole(seed: int = 0) -> Collected:
    """What a model might say of all target rows."""
    g = torch.Generator().manual_seed(seed)
    return Collected(
        torch.randn(30, 6, generator=g),
        2 * torch.randn(30, 3, generator=g),
        torch.full((30,), HIDDEN),
        torch.zeros(30),
        torch.arange(30),
    )


def target(seed: int = 0) -> dict[str, Batch]:
    return {"target": batches(seed)["target"]}


def never(role: str) -> Collected:
    raise AssertionError(f"{role} need not be collected")


# SHOT


def loop_pseudo_labels(features: np.ndarray, logits: np.ndarray, least: float) -> list[int]:
    """As the authors write it: cosine distance to centroids, first soft, then hard."""
    n, k = logits.shape
    rows = [np.append(f, 1.0) / np.linalg.norm(np.append(f, 1.0)) for f in features]
    p = [np.exp(z - z.max()) / np.exp(z - z.max()).sum() for z in logits]
    labels, share = [int(np.argmax(q)) for q in p], p
    for _ in range(2):
        candidates = [c for c in range(k) if labels.count(c) > least]
        centroids = {
            c: sum(share[i][c] * rows[i] for i in range(n)) / (1e-8 + sum(share[i][c] for i in range(n)))
            for c in candidates
        }
        labels = []
        for row in rows:
            distance = {
                c: 1 - row @ centre / (np.linalg.norm(row) * np.linalg.norm(centre))
                for c, centre in centroids.items()
            }
            labels.append(min(distance, key=lambda c: distance[c]))
        share = [np.eye(k)[label] for label in labels]
    return labels


@pytest.mark.parametrize("least", [0, 6])
@pytest.mark.parametrize("seed", range(8))
def test_pseudo_labels_are_those_of_the_authors(seed: int, least: int) -> None:
    rng = np.random.default_rng(seed)
    k, n = 5, 60
    truth = rng.choice(k - 1, n, p=[0.5, 0.3, 0.12, 0.08])  # one class is never there
    features = 2 * rng.normal(size=(k, 8))[truth] + 1.5 * rng.normal(size=(n, 8))
    logits = 2.0 * np.eye(k)[truth] + rng.normal(size=(n, k))
    logits[:, k - 1] -= 20
    expected = loop_pseudo_labels(features, logits, least)
    found = pseudo_labels(torch.tensor(features), torch.tensor(logits), least)
    assert found.dtype == torch.int64
    assert found.tolist() == expected
    assert found.tolist() != logits.argmax(1).tolist()  # they do something
    assert k - 1 not in found


def test_classes_that_are_hardly_predicted_get_no_pseudo_label() -> None:
    features = torch.eye(3).repeat_interleave(torch.tensor([10, 10, 2]), 0)
    logits = 5 * features
    assert set(pseudo_labels(features, logits, 0).tolist()) == {0, 1, 2}
    assert set(pseudo_labels(features, logits, 2).tolist()) == {0, 1}


def test_shot_learns_from_the_pseudo_labels_of_its_rows() -> None:
    method = build(SHOT, weight=0.3)
    asked: list[str] = []

    def collect(role: str) -> Collected:
        asked.append(role)
        return whole()

    assert (method.pseudo == HIDDEN).all()
    method.begin_epoch(collect)
    assert asked == ["target"]
    expected = pseudo_labels(whole().features, whole().logits, 0)
    assert torch.equal(method.pseudo, expected)
    batch = target()
    logits = method(batch)["target"].logits
    losses = method.losses(method(batch), batch, 0.0)
    y = expected[batch["target"].row]
    torch.testing.assert_close(losses["pseudo"], 0.3 * F.cross_entropy(logits, y))
    p = logits.softmax(1)
    im = -(p * p.log()).sum(1).mean() + (p.mean(0) * p.mean(0).log()).sum()
    torch.testing.assert_close(losses["im"], im)
    assert "pseudo" in method.state_dict()


def test_a_class_that_loses_its_rows_gets_none_back() -> None:
    """Predicted twice, but both rows are nearer to other classes' centroids: in round two it has no centroid."""
    f = torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 1.0]] * 6)
    z = torch.tensor([[4.0, 0.0, 0.0]] * 6 + [[0.0, 4.0, 0.0]] * 6)
    z[[0, 6]] = torch.tensor([0.0, 0.0, 0.1])
    assert pseudo_labels(f, z).tolist() == [0] * 6 + [1] * 6
    with pytest.raises(UserError, match=r"method\.least=12: no class has more target samples"):
        pseudo_labels(f, z, 12)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e4])
def test_pseudo_labels_of_degenerate_outputs_are_labels(scale: float) -> None:
    out = whole()
    labels = pseudo_labels(scale * out.features, scale * out.logits)
    assert labels.min() >= 0
    assert labels.max() <= 2


@pytest.mark.parametrize(("kind", "names"), [(SHOT, {"im", "pseudo"}), (SHOTIM, {"im"})])
def test_shot_keeps_the_head(kind: Any, names: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    method: Method = build(kind)
    method.begin_epoch(never if kind is SHOTIM else lambda role: whole())
    module, before = runner(method, monkeypatch), snapshot(method)
    losses = method.losses(method(target()), target(), 0.0)
    assert set(losses) == names
    module.update(Step(losses))
    moved = {name.split(".")[1] for name in changed(method, before)}
    assert moved == {"backbone", "neck"}
    assert not method.model.head.training


# Neighbours


def softmax(row: Tensor) -> list[Tensor]:
    e = [torch.exp(z - row.max().detach()) for z in row]
    return [x / sum(e) for x in e]


def naive_agreement(z: Tensor, q: Tensor, w: Tensor | None = None) -> Tensor:
    """−mean over n of Σ_m w_nm Σ_c p_nc q_nmc."""
    total = torch.zeros((), dtype=z.dtype)
    for n in range(len(z)):
        p = softmax(z[n])
        for m in range(q.shape[1]):
            share = 1.0 if w is None else float(w[n, m])
            total = total - share * sum(a * float(b) for a, b in zip(p, q[n, m], strict=True))
    return total / len(z)


def naive_dispersion(z: Tensor) -> Tensor:
    p = [softmax(row) for row in z]
    total = torch.zeros((), dtype=z.dtype)
    for n in range(len(p)):
        for m in range(len(p)):
            if m != n:
                total = total + sum(a * b for a, b in zip(p[n], p[m], strict=True))
    return total / len(p)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Q, W = drawn(5, 4, 3, seed=1).softmax(2), drawn(5, 4, seed=2).abs()
CASES = {
    "agreement": (lambda z: neighbour_agreement(z, Q), lambda z: naive_agreement(z, Q)),
    "weighted": (lambda z: neighbour_agreement(z, Q, W), lambda z: naive_agreement(z, Q, W)),
    "dispersion": (dispersion, naive_dispersion),
}
each_case = pytest.mark.parametrize(("loss", "naive"), CASES.values(), ids=CASES)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@each_case
def test_value_and_gradient_are_those_of_the_formula(
    loss: Any, naive: Any, dtype: torch.dtype, tolerance: float
) -> None:
    agree(loss, naive, (drawn(5, 3),), {}, dtype, tolerance)


@each_case
def test_the_gradient_is_that_of_finite_differences(loss: Any, naive: Any) -> None:
    assert torch.autograd.gradcheck(loss, drawn(5, 3).requires_grad_())


@each_case
def test_autocast_computes_in_float32(loss: Any, naive: Any) -> None:
    z = drawn(5, 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(z)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(z.float()))


def test_known_values_and_ranges() -> None:
    sure = 100 * torch.eye(3)
    assert dispersion(sure) == 0  # three different answers
    assert dispersion(sure[[0, 0, 0, 0]]).item() == pytest.approx(3)  # four equal ones
    assert dispersion(sure[:1]) == 0
    assert neighbour_agreement(sure, sure.softmax(1)[:, None]).item() == pytest.approx(-1)
    assert abs(neighbour_agreement(sure, sure.softmax(1)[[1, 2, 0], None])) < 1e-30
    assert neighbour_agreement(torch.zeros(2, 4), torch.full((2, 5, 4), 0.25)).item() == pytest.approx(-5 / 4)
    z, order = drawn(5, 3), torch.tensor([3, 0, 4, 1, 2])
    assert -4 <= neighbour_agreement(z, Q) <= 0
    assert 0 <= dispersion(z) <= 4
    torch.testing.assert_close(dispersion(z[order]), dispersion(z))
    torch.testing.assert_close(
        neighbour_agreement(z[order], Q[order], W[order]), neighbour_agreement(z, Q, W)
    )


def test_nothing_flows_into_the_memory() -> None:
    q = Q.clone().requires_grad_()
    neighbour_agreement(drawn(5, 3).requires_grad_(), q, W).backward()
    assert q.grad is None


def test_attraction_and_dispersion_lead_where_they_say() -> None:
    """Down their gradients, predictions become those of their neighbours, and unlike each other."""
    z = 0.1 * drawn(6, 3)
    q = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 1, 2, 0, 1, 2]), None]
    for loss, same in ((lambda z: neighbour_agreement(z, q), [0, 1, 2, 0, 1, 2]), (dispersion, None)):
        x = z.clone().requires_grad_()
        for _ in range(400):
            (gradient,) = torch.autograd.grad(loss(x), x)
            x = (x - 5 * gradient).detach().requires_grad_()
        found = x.softmax(1).argmax(1).tolist()
        assert found == same if same else sorted(found) == [0, 0, 1, 1, 2, 2]


# Memory


def test_memory_is_filled_once_and_updated_by_row() -> None:
    method = build(AaD)
    memory = Memory(method.model, method.info)
    memory.fill(lambda role: whole())
    torch.testing.assert_close(memory.features, whole().features / whole().features.norm(dim=1, keepdim=True))
    torch.testing.assert_close(memory.predictions, whole().logits.softmax(1))
    memory.fill(never)
    before = memory.predictions.clone()
    row, f, p = torch.tensor([4, 2]), torch.ones(2, 6), torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    memory.update(row, f, p, momentum=0.25)
    torch.testing.assert_close(memory.predictions[4], 0.25 * p[0] + 0.75 * before[4])
    memory.update(row, f, p)
    assert torch.equal(memory.predictions[row], p)
    assert torch.equal(memory.features[row], f)
    kept = [i for i in range(30) if i not in (2, 4)]
    assert torch.equal(memory.predictions[kept], before[kept])
    assert {"features", "predictions", "filled"} == set(memory.state_dict())


# NRC and AaD


def remembered(method: Any, batch: dict[str, Batch]) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """The memory as it is once the batch has entered it, and the batch's logits."""
    out, row = method(batch)["target"], batch["target"].row
    features, predictions = whole().features.clone(), whole().logits.softmax(1)
    features[row], predictions[row] = out.features.detach(), out.logits.detach().softmax(1)
    return F.normalize(features, dim=1).numpy(), predictions.numpy(), out.logits


def nearest(features: np.ndarray, i: int, count: int) -> list[int]:
    others = [j for j in range(len(features)) if j != i]
    return sorted(others, key=lambda j: -float(features[i] @ features[j]))[:count]


def dot(p: Tensor, q: np.ndarray) -> Tensor:
    return sum(a * float(b) for a, b in zip(p, q, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize(("neighbours", "further"), [(3, 2), (4, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_nrc_weights_mutual_neighbours(seed: int, neighbours: int, further: int) -> None:
    weights = {"weight": 0.1, "own": 0.7, "balance": 0.4}
    method, batch = (
        build(NRC, model=SHOT_NECK, neighbours=neighbours, further=further, **weights),
        target(seed),
    )
    method.begin_epoch(lambda role: whole())
    features, q, z = remembered(method, batch)
    near, beyond, own, mutual = (torch.zeros(()) for _ in range(4))
    p = [softmax(row) for row in z]
    for n, i in enumerate(batch["target"].row.tolist()):
        own = own - 0.7 * dot(p[n], q[i])
        for j in nearest(features, i, neighbours):
            theirs = nearest(features, j, further)
            mutual = mutual + (i in theirs)
            near = near - (1.0 if i in theirs else 0.1) * dot(p[n], q[j])
            for k in theirs:
                beyond = beyond - 0.1 * dot(p[n], q[k])
    assert 0 < mutual < len(p) * neighbours  # both weights are seen
    mean = torch.stack([torch.stack(row) for row in p]).mean(0)
    expected = {
        "neighbours": near / len(p),
        "beyond": beyond / len(p),
        "own": own / len(p),
        "balance": 0.4 * (mean * mean.log()).sum(),
    }
    losses = method.losses(method(batch), batch, 0.0)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, msg=name)
        gradients = [
            torch.autograd.grad(v, list(method.parameters()), retain_graph=True)
            for v in (losses[name], value)
        ]
        for found, wanted in zip(*gradients, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("progress", "decay"), [(0.0, 1.0), (0.5, 0.0), (0.5, 1.0), (0.9, 5.0)])
def test_aad_attracts_neighbours_and_disperses_the_batch(progress: float, decay: float) -> None:
    method, batch = build(AaD, model=SHOT_NECK, neighbours=4, weight=0.8, decay=decay), target()
    method.begin_epoch(lambda role: whole())
    features, q, z = remembered(method, batch)
    p = [softmax(row) for row in z]
    near = torch.zeros(())
    for n, i in enumerate(batch["target"].row.tolist()):
        near = near - sum(dot(p[n], q[j]) for j in nearest(features, i, 4))
    losses = method.losses(method(batch), batch, progress)
    assert set(losses) == {"neighbours", "dispersion"}
    torch.testing.assert_close(losses["neighbours"], near / len(p))
    share = 0.8 / (1 + 10 * progress) ** decay
    torch.testing.assert_close(losses["dispersion"], share * naive_dispersion(z))


@pytest.mark.parametrize("kind", [NRC, AaD])
def test_neighbour_methods_train_all_parts(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head too, as in the authors' code; and what they remember is of before the update."""
    method: Any = build(kind)
    method.begin_epoch(lambda role: whole())
    module, before = runner(method, monkeypatch), snapshot(method)
    said = method(target())["target"].logits.softmax(1)
    for step in method.steps(target(), 0.0):
        module.update(step)
    assert {name.split(".")[1] for name in changed(method, before)} == {"backbone", "neck", "head"}
    torch.testing.assert_close(method.memory.predictions[target()["target"].row], said.detach())


@pytest.mark.parametrize("kind", [NRC, AaD])
def test_few_samples_have_fewer_neighbours(kind: Any) -> None:
    """More neighbours than samples are all of them."""
    method: Any = build(kind, neighbours=50)
    method.begin_epoch(lambda role: whole())
    assert all(v.isfinite() for v in method.losses(method(target()), target(), 0.0).values())
    rows = nearest_rows(method.memory.features, torch.arange(30), method.memory.features, 50)
    assert rows.shape == (30, 29)
    assert all(i not in r for i, r in enumerate(rows.tolist()))
