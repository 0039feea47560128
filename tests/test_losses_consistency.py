"""Consistency and pseudo-label losses against the papers' formulas in plain loops, in value and in gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_losses import agree, with_gradient
from torch import Tensor

from tl_runner.losses import (
    adversarial_direction,
    balanced_labels,
    balanced_sharpening,
    class_balance,
    class_thresholds,
    divergence,
    neighbour_labels,
    pseudo_label,
    softmax_mse,
    weighted_cross_entropy,
)


def probabilities(row: Tensor) -> list[Tensor]:
    e = [torch.exp(z - row.max().detach()) for z in row]
    return [x / sum(e) for x in e]


def constants(row: Tensor) -> list[float]:
    return [float(p) for p in probabilities(row.detach())]


def naive_mse(z: Tensor, r: Tensor, confidence: float = 0.0) -> Tensor:
    n, k = z.shape
    total = torch.zeros((), dtype=z.dtype)
    for i in range(n):
        q = constants(r[i])
        if max(q) > confidence:
            total = total + sum((p - c) ** 2 for p, c in zip(probabilities(z[i]), q, strict=True)) / k
    return total / n


def naive_balance(z: Tensor) -> Tensor:
    n, k = z.shape
    rows = [probabilities(row) for row in z]
    total = torch.zeros((), dtype=z.dtype)
    for c in range(k):
        m = sum(p[c] for p in rows) / n
        total = total - torch.log(m + 1e-6) / k - (1 - 1 / k) * torch.log(1 - m + 1e-6)
    return total


def naive_divergence(z: Tensor, r: Tensor) -> Tensor:
    total = torch.zeros((), dtype=z.dtype)
    for a, b in zip(z, r, strict=True):
        for p, q in zip(probabilities(a), constants(b), strict=True):
            total = total + q * (math.log(q) - torch.log(p))
    return total / len(z)


def naive_pseudo(z: Tensor, r: Tensor, confidence: float = 0.95) -> Tensor:
    total = torch.zeros((), dtype=z.dtype)
    for a, b in zip(z, r, strict=True):
        q = constants(b)
        if max(q) >= confidence:
            total = total - torch.log(probabilities(a)[q.index(max(q))])
    return total / len(z)


def naive_weighted(z: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    kept = [i for i in range(len(z)) if labels[i] >= 0]
    total = sum(float(weights[i]) * -torch.log(probabilities(z[i])[int(labels[i])]) for i in kept)
    return total / sum(float(weights[i]) for i in kept)


def drawn(count: int, n: int = 6, k: int = 4, scale: float = 2.0) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(2)
    return tuple((scale * torch.randn(n, k, generator=g)).double() for _ in range(count))


LABELS, WEIGHTS = torch.tensor([0, 3, -1, 1, 1, 2]), torch.tensor([0.5, 1.0, 0.7, 0.0, 0.2, 0.9])
Z, R = drawn(2)
# name: loss, reference, what is learnt from, what is given, options
CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], Tensor, tuple[Tensor, ...], Any]] = {
    "mse": (softmax_mse, naive_mse, Z, (R,), {}),
    "mse-confident": (softmax_mse, naive_mse, Z, (R,), {"confidence": 0.7}),
    "balance": (class_balance, naive_balance, Z, (), {}),
    "divergence": (divergence, naive_divergence, Z, (R,), {}),
    "pseudo": (pseudo_label, naive_pseudo, Z, (R,), {"confidence": 0.7}),
    "pseudo-all": (pseudo_label, naive_pseudo, Z, (R,), {"confidence": 0.0}),
    "weighted": (weighted_cross_entropy, naive_weighted, Z, (LABELS, WEIGHTS), {}),
}
each_case = pytest.mark.parametrize(("loss", "naive", "z", "given", "options"), CASES.values(), ids=CASES)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@each_case
def test_value_and_gradient_are_those_of_the_formula(
    loss: Any, naive: Any, z: Tensor, given: Any, options: Any, dtype: torch.dtype, tolerance: float
) -> None:
    def alone(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda z: f(z, *(g.to(z.dtype) if g.is_floating_point() else g for g in given), **options)

    agree(alone(loss), alone(naive), (z,), {}, dtype, tolerance)


@each_case
def test_the_gradient_is_that_of_finite_differences(
    loss: Any, naive: Any, z: Tensor, given: Any, options: Any
) -> None:
    assert torch.autograd.gradcheck(lambda x: loss(x, *given, **options), z.clone().requires_grad_())


@pytest.mark.parametrize("given_dtype", [torch.bfloat16, torch.float32])
@each_case
def test_autocast_computes_in_float32(
    loss: Any, naive: Any, z: Tensor, given: Any, options: Any, given_dtype: torch.dtype
) -> None:
    half = [t.bfloat16().to(given_dtype) if t.is_floating_point() else t for t in (z, *given)]
    expected = loss(*(t.float() if t.is_floating_point() else t for t in half), **options)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(*half, **options)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("loss", [softmax_mse, divergence, pseudo_label])
def test_nothing_flows_into_the_reference(loss: Callable[..., Tensor]) -> None:
    z, r = (t.clone().requires_grad_() for t in drawn(2, scale=9.0))
    loss(z, r).backward()
    assert z.grad is not None
    assert z.grad.abs().max() > 0
    assert r.grad is None


def saturated(n: int, k: int = 4) -> Tensor:
    z = torch.full((n, k), -1e4)
    z[:, 1] = 1e4
    return z


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "loss",
    [
        softmax_mse,
        divergence,
        pseudo_label,
        lambda z, r: class_balance(z),
        lambda z, r: weighted_cross_entropy(z, r.argmax(1), r.softmax(1).amax(1)),
        lambda z, r: weighted_cross_entropy(z, torch.full((len(z),), -1), torch.ones(len(z))),
        lambda z, r: weighted_cross_entropy(z, r.argmax(1), torch.zeros(len(z))),
        lambda z, r: balanced_sharpening(z).square().sum(),
    ],
)
def test_degenerate_batches_are_finite(loss: Any, dtype: torch.dtype, n: int) -> None:
    z = saturated(n).to(dtype)
    for logits in (z, torch.zeros_like(z), -z, z[:, :1]):
        for reference in (z, torch.zeros_like(z), -z):
            given = reference[:, : logits.shape[1]]
            for part in with_gradient(lambda z, given=given: loss(z, given), (logits,), {}):
                assert part.isfinite().all()


def test_known_values() -> None:
    z = drawn(1)[0]
    one, other = torch.tensor([[50.0, 0.0, 0.0]]), torch.tensor([[0.0, 50.0, 0.0]])
    assert softmax_mse(z, z) == 0
    assert softmax_mse(one, other).item() == pytest.approx(2 / 3)
    assert softmax_mse(one, torch.zeros(1, 3), confidence=0.5) == 0
    assert divergence(z, z) == 0
    assert divergence(torch.zeros(1, 3), one).item() == pytest.approx(math.log(3))
    assert pseudo_label(one, torch.zeros(1, 3)) == 0
    assert weighted_cross_entropy(z, torch.full((6,), -1), torch.ones(6)) == 0
    uniform = class_balance(torch.zeros(5, 3)).item()
    assert uniform == pytest.approx(math.log(3) + 2 * math.log(1.5), abs=1e-4)
    assert class_balance(50 * torch.eye(3)).item() == pytest.approx(uniform, abs=1e-4)
    assert class_balance(one) > uniform + 1


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_ranges_and_order(scale: float) -> None:
    z, r = drawn(2, n=40, k=5, scale=scale)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert 0 <= softmax_mse(z, r) <= 2 / 5
    assert divergence(z, r) >= 0
    assert divergence(z, r, reduction="none").shape == (40,)
    for loss in (softmax_mse, divergence, pseudo_label):
        torch.testing.assert_close(loss(z[order], r[order]), loss(z, r))
    assert pseudo_label(z, r, 0.9) <= pseudo_label(z, r, 0.0)
    assert softmax_mse(z, r, 0.9) <= softmax_mse(z, r)


def test_weights_count_as_shares() -> None:
    z, w = drawn(1)[0], WEIGHTS.double()
    value = weighted_cross_entropy(z, LABELS, w)
    torch.testing.assert_close(weighted_cross_entropy(z, LABELS, 1e-30 * w), value)
    torch.testing.assert_close(
        weighted_cross_entropy(z[:2], LABELS[:2], torch.ones(2).double()).exp().log(),
        torch.nn.functional.cross_entropy(z[:2], LABELS[:2]),
    )
    w.requires_grad_()
    leaf = z.clone().requires_grad_()
    weighted_cross_entropy(leaf, LABELS, w).backward()
    assert w.grad is None


# Labels


@pytest.mark.parametrize("seed", range(3))
def test_sharpening_squares_and_balances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(7, 3)) * 2
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    expected = [[p[i, c] ** 2 / sum(p[j, c] ** 2 for j in range(7)) for c in range(3)] for i in range(7)]
    found = balanced_sharpening(torch.tensor(z))
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(found.sum(0), 1)
    improbable = balanced_sharpening(torch.tensor([[0.0, -200.0], [0.0, -201.0]]))
    assert improbable[0, 1] == pytest.approx(1 / (1 + math.exp(-2)))


@pytest.mark.parametrize("neighbours", [1, 3, 50])
def test_neighbours_are_the_nearest_others(neighbours: int) -> None:
    rng = np.random.default_rng(0)
    bank, labels = rng.normal(size=(12, 4)), rng.uniform(size=(12, 3))
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    row = np.array([3, 7, 3])
    features = bank[row] + 0.3 * rng.normal(size=(3, 4))
    expected = []
    for f, own in zip(features, row, strict=True):
        others = sorted((i for i in range(12) if i != own), key=lambda i: -float(f @ bank[i]))
        expected.append(labels[others[:neighbours]].mean(0))
    given = [torch.tensor(a) for a in (features, row, bank, labels)]
    found = neighbour_labels(*given, neighbours=neighbours)
    np.testing.assert_allclose(found, expected)
    far = neighbour_labels(100 * given[0], *given[1:], neighbours=neighbours)
    torch.testing.assert_close(far, found)  # the length of a feature does not matter


def test_neighbours_need_another_row() -> None:
    one = torch.ones(1, 2)
    with pytest.raises(ValueError, match="at least 2 rows, this one has 1"):
        neighbour_labels(one, torch.tensor([0]), one, one)


def loop_thresholds(p: np.ndarray, portion: float) -> list[float]:
    """Sort each class's confidences, go down to the share asked for."""
    found = []
    for c in range(p.shape[1]):
        own = sorted((q[c] for q in p if np.argmax(q) == c), reverse=True)
        found.append(own[max(1, math.floor(portion * len(own))) - 1] if own else 1.0)
    return found


@pytest.mark.parametrize("portion", [0.01, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_thresholds_and_labels_are_those_of_cbst(seed: int, portion: float) -> None:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(50, 4)) + np.array([1.0, 0.0, 0.5, -50.0])  # the last class is never predicted
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    expected = loop_thresholds(p, portion)
    found = class_thresholds(torch.tensor(z), portion)
    np.testing.assert_allclose(found, expected)
    labels = []
    for q in p:
        ratio = [q[c] / expected[c] for c in range(4)]
        labels.append(int(np.argmax(ratio)) if max(ratio) >= 1 - 1e-12 else -1)
    got = balanced_labels(torch.tensor(z), found)
    # A row whose ratio is 1 itself may round either way.
    border = [abs(max(q / np.array(expected)) - 1) < 1e-12 for q in p]
    assert [g for g, b in zip(got.tolist(), border, strict=True) if not b] == [
        e for e, b in zip(labels, border, strict=True) if not b
    ]
    assert (got >= 0).any()
    if portion < 1:
        assert (got < 0).any()


@pytest.mark.parametrize("portion", [0.2, 0.5])
def test_every_class_gets_its_share(portion: float) -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(4).repeat_interleave(torch.tensor([200, 100, 50, 10]))
    z = torch.randn(360, 4, generator=g) + 8 * torch.nn.functional.one_hot(y, 4)
    labels = balanced_labels(z, class_thresholds(z, portion))
    assert (labels[labels >= 0] == y[labels >= 0]).all()
    counts = torch.bincount(labels[labels >= 0], minlength=4)
    torch.testing.assert_close(counts.float(), portion * torch.bincount(y).float(), rtol=0.1, atol=1.0)


def test_saturated_predictions_have_labels() -> None:
    z = saturated(5)
    assert class_thresholds(z, 0.2).tolist() == [1.0] * 4
    assert balanced_labels(z, class_thresholds(z, 0.2)).tolist() == [1] * 5


# Virtual adversarial training


def test_the_adversarial_direction_is_the_worst_one() -> None:
    """Of the softmax of a linear map, KL ≈ ½ rᵀHr: the power iteration finds H's first eigenvector."""
    torch.manual_seed(0)
    weight = torch.randn(3, 6).double()
    x = torch.randn(4, 6).double()
    logits = x @ weight.T
    d = adversarial_direction(lambda v: v @ weight.T, x, logits, 1e-3, iterations=60)
    assert d.dtype == torch.float64
    torch.testing.assert_close(d.square().mean(1), torch.ones(4).double())
    for row, p in zip(d, logits.softmax(1), strict=True):
        fisher = weight.T @ (torch.diag(p) - torch.outer(p, p)) @ weight
        worst = torch.linalg.eigh(fisher).eigenvectors[:, -1]
        assert abs(float(row @ worst)) / float(row.norm()) > 0.999


def test_one_iteration_beats_chance() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Tanh(), torch.nn.Linear(30, 4))
    x = torch.randn(64, 20)
    logits = net(x)
    change = [
        divergence(net(x + 0.3 * adversarial_direction(net, x, logits, 0.03, n)), logits).item()
        for n in (0, 1)
    ]
    assert change[1] > 2 * change[0] > 0
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("scale", [1.0, 1e-20])
def test_directions_of_flat_and_steep_predictions_are_finite(scale: float) -> None:
    x = torch.randn(3, 2, 4, 4)
    d = adversarial_direction(lambda v: scale * v.flatten(1), x, torch.randn(3, 32), 0.1)
    assert d.shape == x.shape
    torch.testing.assert_close(d.square().mean((1, 2, 3)), torch.ones(3))
    flat = adversarial_direction(lambda v: 0 * v.flatten(1), x, torch.zeros(3, 32), 0.1)
    assert torch.equal(flat, torch.zeros_like(x))
