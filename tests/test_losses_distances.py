"""Distances, transport, spectra and norms against the papers' formulas in loops, in value and in gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog
from test_losses import ALPHAS, ESTIMATORS, agree, features, logits, naive_mmd, probabilities, with_gradient
from torch import Tensor

from tl_runner.losses import (
    balance_cross_entropy,
    batch_nuclear_norm,
    cmd,
    deepjdot,
    hard_norm,
    joint_mmd,
    local_mmd,
    mmd,
    sliced_wasserstein,
    spectral_penalty,
    stepwise_norm,
    transport_plan,
)


def squared(a: Tensor, b: Tensor) -> Tensor:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def naive_kernel(rows: list[Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    width = sum(float(squared(a, b).detach()) for a in rows for b in rows) / len(rows) ** 2
    return lambda a, b: sum(torch.exp(-squared(a, b) / (2 * alpha * width)) for alpha in ALPHAS)


def naive_joint_mmd(
    s: Tensor, t: Tensor, z_s: Tensor, z_t: Tensor, sigma: float = 0.92, estimator: str = "unbiased"
) -> Tensor:
    if estimator == "linear":
        n = min(len(s), len(t))
        s, t, z_s, z_t = s[:n], t[:n], z_s[:n], z_t[:n]
    k = naive_kernel([*s, *t])
    rows_s = [(f, probabilities(z)) for f, z in zip(s, z_s, strict=True)]
    rows_t = [(f, probabilities(z)) for f, z in zip(t, z_t, strict=True)]

    def joint(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
        return k(a[0], b[0]) * torch.exp(-squared(a[1], b[1]) / (2 * sigma**2))

    n = len(s)
    if estimator == "linear":
        return (
            sum(
                joint(rows_s[i - 1], rows_s[i])
                + joint(rows_t[i - 1], rows_t[i])
                - joint(rows_s[i - 1], rows_t[i])
                - joint(rows_s[i], rows_t[i - 1])
                for i in range(n)
            )
            / n
        )

    def mean(a: list[Any], b: list[Any], same: bool) -> Tensor:
        skip = same and estimator == "unbiased"
        terms = [joint(x, y) for i, x in enumerate(a) for j, y in enumerate(b) if not (skip and i == j)]
        return sum(terms) / len(terms)

    return mean(rows_s, rows_s, True) + mean(rows_t, rows_t, True) - 2 * mean(rows_s, rows_t, False)


def naive_local_mmd(s: Tensor, t: Tensor, z: Tensor, y: Tensor, predicted_only: bool = True) -> Tensor:
    """One squared distance of weighted means per class, summed over the classes that count."""
    k = naive_kernel([*s, *t])
    p = [probabilities(row).tolist() for row in z.detach()]
    guessed = {row.index(max(row)) for row in p}
    present = [c for c in range(z.shape[1]) if c in y.tolist() and (c in guessed or not predicted_only)]
    total: Any = 0
    for c in present:
        members = [row for row, label in zip(s, y.tolist(), strict=True) if label == c]
        mass = sum(row[c] for row in p)
        weighted = [(1 / len(members), row) for row in members]
        weighted += [(-q[c] / mass, row) for q, row in zip(p, t, strict=True)]
        total = total + sum(v * w * k(a, b) for v, a in weighted for w, b in weighted)
    return total / len(present)


def naive_cmd(s: Tensor, t: Tensor, moments: int = 5, span: float = 1.0) -> Tensor:
    def moment(x: Tensor, d: int, order: int) -> Tensor:
        column = [row[d] for row in x]
        mean = sum(column) / len(column)
        return mean if order == 1 else sum((v - mean) ** order for v in column) / len(column)

    return sum(
        torch.sqrt(sum((moment(s, d, k) - moment(t, d, k)) ** 2 for d in range(s.shape[1]))) / span**k
        for k in range(1, moments + 1)
    )


def length(row: Tensor) -> Tensor:
    return torch.sqrt(sum(v * v for v in row))


def naive_stepwise(f: Tensor, step: float = 1.0) -> Tensor:
    return sum((length(row) - float(length(row.detach())) - step) ** 2 for row in f) / len(f)


def naive_hard(f: Tensor, radius: float = 25.0) -> Tensor:
    return (sum(length(row) for row in f) / len(f) - radius) ** 2


def naive_nuclear(z: Tensor, divisor: str = "rows") -> Tensor:
    """tr √(P Pᵀ), the smaller way round."""
    p = torch.stack([probabilities(row) for row in z])
    gram = p.T @ p if len(p) >= p.shape[1] else p @ p.T
    return -torch.sqrt(torch.linalg.eigh(gram).eigenvalues).sum() / (
        len(p) if divisor == "rows" else min(p.shape)
    )


def naive_balance(z: Tensor) -> Tensor:
    p = [probabilities(row) for row in z]
    return -sum(torch.log(sum(q[k] for q in p) / len(p) + 1e-6) for k in range(z.shape[1])) / z.shape[1]


def naive_spectral(f: Tensor, k: int = 1) -> Tensor:
    """Σ (u_iᵀ F v_i)², whose gradient is that with u and v held still."""
    u, _, v = torch.linalg.svd(f.detach(), full_matrices=False)
    return sum((u[:, i] @ f @ v[i]) ** 2 for i in range(min(k, len(v))))


def programme(cost: np.ndarray) -> np.ndarray:
    """The transport plan as a linear programme with the marginals written out."""
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    found = linprog(
        cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.r_[np.full(n, 1 / n), np.full(m, 1 / m)]
    )
    return found.x.reshape(n, m)


def naive_deepjdot(
    s: Tensor, t: Tensor, z: Tensor, y: Tensor, alpha: float = 0.01, weight: float = 1.0, paper: bool = False
) -> Tensor:
    p = [probabilities(row) for row in z]
    distance = [[squared(a, b) for b in t] for a in s]
    cross = [[-torch.log(q[c]) for q in p] for c in y.tolist()]
    one_hot = torch.eye(z.shape[1], dtype=z.dtype)
    label = cross if paper else [[squared(one_hot[c], q) for q in p] for c in y.tolist()]
    pairs = [(i, j) for i in range(len(s)) for j in range(len(t))]
    priced = np.zeros((len(s), len(t)))
    for i, j in pairs:
        priced[i, j] = float(alpha * distance[i][j].detach() + weight * label[i][j].detach())
    plan = programme(priced)
    return sum(plan[i, j] * (alpha * distance[i][j] + weight * cross[i][j]) for i, j in pairs)


Z_S, Z_T = logits(1, 5)[0], -logits(1, 7)[0]
Y = torch.tensor([0, 2, 2, 1, 0])


def local(s: Tensor, t: Tensor, z: Tensor, **options: Any) -> Tensor:
    return local_mmd(s, t, Y[: len(s)], z, **options)


def naive_local(s: Tensor, t: Tensor, z: Tensor, **options: Any) -> Tensor:
    # No gradient flows through the predictions: a zero keeps them in the graph.
    return naive_local_mmd(s, t, z, Y[: len(s)], **options) + 0 * z.sum()


def transported(s: Tensor, t: Tensor, z: Tensor, **options: Any) -> Tensor:
    return deepjdot(s, t, Y[: len(s)], z, **options)


def naive_transported(s: Tensor, t: Tensor, z: Tensor, **options: Any) -> Tensor:
    naming = {"label_weight": "weight"}
    renamed = {naming.get(k, k): v for k, v in options.items() if k != "label_cost"}
    return naive_deepjdot(s, t, z, Y[: len(s)], paper=options.get("label_cost") == "cross_entropy", **renamed)


Case = tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...], dict[str, Any]]
F_S, F_T = features()
CASES: dict[str, Case] = {
    **{
        f"joint-{e}": (joint_mmd, naive_joint_mmd, (F_S, F_T, Z_S, Z_T), {"estimator": e}) for e in ESTIMATORS
    },
    "joint-sigma": (joint_mmd, naive_joint_mmd, (F_S, F_T, Z_S, Z_T), {"sigma": 0.3}),
    "cmd": (cmd, naive_cmd, (F_S, F_T), {}),
    "cmd-span": (cmd, naive_cmd, (F_S, F_T), {"moments": 3, "span": 2.0}),
    "cmd-means": (cmd, naive_cmd, (F_S, F_T), {"moments": 1}),
    "stepwise": (stepwise_norm, naive_stepwise, (F_S,), {}),
    "stepwise-step": (stepwise_norm, naive_stepwise, (F_T,), {"step": 0.3}),
    "hard": (hard_norm, naive_hard, (F_S,), {}),
    "hard-radius": (hard_norm, naive_hard, (F_S,), {"radius": 0.5}),
    "nuclear": (batch_nuclear_norm, naive_nuclear, (Z_T,), {}),
    "nuclear-rank": (batch_nuclear_norm, naive_nuclear, (Z_T,), {"divisor": "rank"}),
    "nuclear-wide": (batch_nuclear_norm, naive_nuclear, (Z_T[:3],), {"divisor": "rank"}),
    "balance": (balance_cross_entropy, naive_balance, (Z_T,), {}),
    "spectral": (spectral_penalty, naive_spectral, (F_S,), {}),
    "spectral-3": (spectral_penalty, naive_spectral, (F_T,), {"k": 3}),
    "spectral-wide": (spectral_penalty, naive_spectral, (F_T.T,), {"k": 2}),
    "spectral-all": (spectral_penalty, naive_spectral, (F_T,), {"k": 9}),
    "deepjdot": (transported, naive_transported, (F_S, F_T, Z_T), {}),
    "deepjdot-paper": (transported, naive_transported, (F_S, F_T, Z_T), {"label_cost": "cross_entropy"}),
    "deepjdot-weights": (
        transported,
        naive_transported,
        (F_S, F_T, Z_T),
        {"alpha": 0.2, "label_weight": 0.5},
    ),
}
# Their third argument takes no gradient.
LOCAL: dict[str, Case] = {
    "local": (local, naive_local, (F_S, F_T, Z_T), {}),
    "local-paper": (local, naive_local, (F_S, F_T, Z_T), {"predicted_only": False}),
    "local-few": (local, naive_local, (F_S, F_T[:2], Z_T[:2]), {}),
}

TOLERANCES = [(torch.float64, 1e-9), (torch.float32, 5e-5)]


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_value_and_gradient_are_those_of_the_formula(
    case: Case, dtype: torch.dtype, tolerance: float
) -> None:
    agree(*case, dtype, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("case", LOCAL.values(), ids=LOCAL)
def test_local_mmd_is_a_distance_per_class(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    loss, naive, (s, t, z), options = case
    z = z.detach().to(dtype, copy=True).requires_grad_()
    found = with_gradient(lambda a, b: loss(a, b, z, **options), (s.to(dtype), t.to(dtype)), {})
    expected = with_gradient(lambda a, b: naive(a, b, z.double(), **options), (s, t), {})
    assert z.grad is None
    for a, b in zip(found, expected, strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


def test_the_classes_that_count_differ() -> None:
    guessed = set(Z_T[:2].argmax(1).tolist())
    assert guessed & set(Y.tolist()) != set(Y.tolist())  # some class of the source is not predicted
    assert not torch.isclose(local(F_S, F_T[:2], Z_T[:2]), local(F_S, F_T[:2], Z_T[:2], predicted_only=False))


@pytest.mark.parametrize(
    ("loss", "args"),
    [
        (cmd, (F_S, F_T)),
        (lambda f: hard_norm(f), (F_S,)),
        (lambda z: batch_nuclear_norm(z), (Z_T,)),
        (lambda f: spectral_penalty(f, 2), (F_S,)),
    ],
    ids=["cmd", "hard", "nuclear", "spectral"],
)
def test_gradients_are_finite_differences(loss: Callable[..., Tensor], args: tuple[Tensor, ...]) -> None:
    leaves = tuple(a.clone().requires_grad_() for a in args)
    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("case", {**CASES, **LOCAL}.values(), ids={**CASES, **LOCAL})
def test_autocast_and_half_precision_compute_in_float32(case: Case) -> None:
    loss, _, args, options = case
    half = tuple(a.to(torch.bfloat16) for a in args)
    expected = loss(*(a.float() for a in half), **options)
    assert torch.equal(loss(*half, **options), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(*half, **options)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


X = F_S.float()
SAME = X[:1].expand(5, 4).clone()
ZERO = 0 * X
SURE = 1e4 * torch.eye(4)[[0, 1, 2, 3, 0]]
ONE = 1e4 * torch.eye(4)[[1, 1, 1, 1, 1]]
EVEN = torch.zeros(5, 4)
CONSTANT = torch.zeros(5, 1)  # one class
DEGENERATE: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...], dict[str, Any]]] = {}
for e in ESTIMATORS:
    for name, (a, b) in {
        "same": (X, X),
        "constant": (SAME, SAME),
        "zero": (ZERO, ZERO),
        "far": (X, X + 1e6),
        "half": (SAME, X),
    }.items():
        for kind, (p, q) in {"sure": (SURE, ONE), "one": (ONE, ONE), "even": (EVEN, -SURE)}.items():
            DEGENERATE[f"joint-{e}-{name}-{kind}"] = (joint_mmd, (a, b, p, q), {"estimator": e})
for name, (a, b) in {
    "same": (X, X),
    "constant": (SAME, SAME),
    "zero": (ZERO, ZERO),
    "half": (ZERO, X),
}.items():
    DEGENERATE[f"cmd-{name}"] = (cmd, (a, b), {})
    DEGENERATE[f"cmd-{name}-one-row"] = (cmd, (a[:1], b), {})
    for kind, z in {"sure": SURE, "one": ONE, "even": EVEN, "minus": -SURE}.items():
        DEGENERATE[f"local-{name}-{kind}"] = (lambda s, t, z: local(s, t, z) + 0 * z.sum(), (a, b, z), {})
        DEGENERATE[f"deepjdot-{name}-{kind}"] = (transported, (a, b, z), {})
        DEGENERATE[f"deepjdot-sinkhorn-{name}-{kind}"] = (transported, (a, b, z), {"solver": "sinkhorn"})
for name, f in {
    "zero": ZERO,
    "constant": SAME,
    "one-row": X[:1],
    "large": 1e6 * X,
    "tiny": 1e-20 * X,
}.items():
    DEGENERATE[f"stepwise-{name}"] = (stepwise_norm, (f,), {})
    DEGENERATE[f"hard-{name}"] = (hard_norm, (f,), {})
    DEGENERATE[f"spectral-{name}"] = (spectral_penalty, (f,), {"k": 3})
    DEGENERATE[f"spectral-wide-{name}"] = (spectral_penalty, (f.T,), {"k": 3})
for name, z in {
    "sure": SURE,
    "one": ONE,
    "even": EVEN,
    "minus": -SURE,
    "row": SURE[:1],
    "k1": CONSTANT,
}.items():
    DEGENERATE[f"nuclear-{name}"] = (batch_nuclear_norm, (z,), {})
    DEGENERATE[f"balance-{name}"] = (balance_cross_entropy, (z,), {})
    DEGENERATE[f"sliced-{name}"] = (sliced_wasserstein, (z, z.flip(0)), {})


@pytest.mark.parametrize(("loss", "args", "options"), DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_batches_are_finite(
    loss: Callable[..., Tensor], args: tuple[Tensor, ...], options: dict[str, Any]
) -> None:
    for part in with_gradient(loss, args, options):
        assert part.isfinite().all()


# Joint MMD


def test_joint_mmd_with_a_constant_kernel_is_mmd() -> None:
    one_class = torch.zeros(5, 1).double(), torch.zeros(7, 1).double()
    for estimator in ESTIMATORS:
        expected = naive_mmd(F_S, F_T, ALPHAS, estimator)
        torch.testing.assert_close(joint_mmd(F_S, F_T, *one_class, estimator=estimator), expected)
        torch.testing.assert_close(mmd(F_S, F_T, ALPHAS, estimator), expected)
    assert joint_mmd(F_S, F_S, Z_S, Z_S, estimator="biased").item() == pytest.approx(0, abs=1e-12)
    # The same features with other predictions are another joint distribution.
    assert joint_mmd(F_S, F_S, Z_S, Z_S.flip(0), estimator="biased") > 0.01


def test_joint_mmd_does_not_see_the_order() -> None:
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(joint_mmd(F_S[order], F_T, Z_S[order], Z_T), joint_mmd(F_S, F_T, Z_S, Z_T))


# Local MMD


def test_local_mmd_is_zero_for_equal_classes_and_sees_swapped_ones() -> None:
    y = torch.tensor([0, 0, 1, 1])
    f = torch.tensor([[0.0, 0.0], [1.0, 0.0], [8.0, 9.0], [9.0, 9.0]])
    z = 100 * torch.eye(3)[y]
    assert local_mmd(f, f.flip(0), y, z.flip(0)).item() == pytest.approx(0, abs=1e-6)
    # The domains as wholes are equal, their classes are not.
    assert mmd(f, f.flip(0), estimator="biased").item() == pytest.approx(0, abs=1e-6)
    assert local_mmd(f, f.flip(0), y, z).item() > 1.0
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        s, t = torch.randn(6, 3, generator=g), torch.randn(9, 3, generator=g)
        labels, guess = torch.randint(0, 3, (6,), generator=g), torch.randn(9, 3, generator=g)
        assert 0 <= local_mmd(s, t, labels, guess) <= 2 * len(ALPHAS)


def test_local_mmd_of_no_common_class_is_zero_without_a_push() -> None:
    z = 1e4 * torch.eye(4)[[3, 3]]
    value, *gradients = with_gradient(lambda s, t: local_mmd(s, t, Y, z), (F_S, F_T[:2]), {})
    assert value == 0
    assert all((g == 0).all() for g in gradients)


# CMD


def test_cmd_of_equal_moments_is_zero_and_does_not_push() -> None:
    value, *gradients = with_gradient(cmd, (F_S, F_S), {})
    assert value == 0
    assert all((g == 0).all() for g in gradients)
    torch.testing.assert_close(cmd(F_S, F_T), cmd(F_T, F_S.flip(0)))
    # A shift changes the means alone.
    torch.testing.assert_close(cmd(F_S, F_S + 2), torch.tensor(2 * 2.0).double())


@pytest.mark.parametrize("d", [1, 5])
def test_cmd_of_bounded_features_is_bounded(d: int) -> None:
    s, t = torch.zeros(2, d), torch.ones(3, d)
    torch.testing.assert_close(cmd(s, t), torch.tensor(math.sqrt(d)))
    bound = math.sqrt(d) * (1 + sum(2.0 ** (1 - k) for k in range(2, 6)))
    g = torch.Generator().manual_seed(0)
    for _ in range(50):
        a, b = torch.bernoulli(torch.rand(4, d, generator=g)), torch.bernoulli(torch.rand(3, d, generator=g))
        assert cmd(a, b) <= bound


# Norms


def test_stepwise_norm_pulls_every_row_outwards_alike() -> None:
    value, gradient = with_gradient(stepwise_norm, (F_S,), {"step": 0.7})
    torch.testing.assert_close(value, torch.tensor(0.49).double())
    expected = np.stack([-2 * 0.7 / 5 * f / np.linalg.norm(f) for f in F_S.numpy()])
    np.testing.assert_allclose(gradient.numpy(), expected)
    rows = with_gradient(stepwise_norm, (torch.tensor([[0.0, 0.0], [0.0, 3.0]]),), {})[1]
    assert rows[0].tolist() == [0, 0]  # no direction
    assert hard_norm(torch.tensor([[3.0, 4.0], [0.0, 5.0]]), 5.0) == 0


# Spectra


def test_nuclear_norm_knows_the_best_and_the_worst_batch() -> None:
    sure = 1e3 * torch.eye(3).repeat(4, 1)  # four rows of each class: σ = 2, 2, 2
    assert batch_nuclear_norm(sure).item() == pytest.approx(-6 / 12)
    assert batch_nuclear_norm(sure, "rank").item() == pytest.approx(-2)
    one = torch.zeros(12, 3)
    one[:, 1] = 1e3  # all of one class: σ = √12
    assert batch_nuclear_norm(one).item() == pytest.approx(-math.sqrt(12) / 12)
    even = torch.zeros(12, 3)
    assert batch_nuclear_norm(even).item() == pytest.approx(-math.sqrt(12 / 3) / 12)
    z = logits(1, 9)[0]
    torch.testing.assert_close(batch_nuclear_norm(z.flip(0)), batch_nuclear_norm(z))
    for _ in range(20):
        z = 5 * torch.randn(8, 4)
        assert -math.sqrt(8 * 4) / 8 <= batch_nuclear_norm(z) < 0


@pytest.mark.parametrize("n", [3, 40])
def test_nuclear_norm_of_equal_rows_has_no_arbitrary_gradient(n: int) -> None:
    """Rank one: the gradient is that of √N ‖p‖, alike for all rows; the null space adds nothing."""
    row = torch.randn(1, 6, generator=torch.Generator().manual_seed(0))
    z = row.expand(n, 6).clone()
    gradient = with_gradient(batch_nuclear_norm, (z,), {})[1]
    leaf = row.double().requires_grad_()
    (-math.sqrt(n) * length(probabilities(leaf[0])) / n).backward()
    assert leaf.grad is not None
    torch.testing.assert_close(gradient, (leaf.grad / n).float().expand(n, 6), rtol=1e-4, atol=1e-6)


def test_spectral_penalty_of_all_values_is_the_squared_norm() -> None:
    torch.testing.assert_close(spectral_penalty(F_S, 4), F_S.square().sum())
    torch.testing.assert_close(spectral_penalty(F_S, 3) + 0, spectral_penalty(F_S.flip(0), 3))
    assert spectral_penalty(F_S) < spectral_penalty(F_S, 2) < spectral_penalty(F_S, 9)
    # Values that are equal have no own vectors, but their sum has a gradient.
    gradient = with_gradient(spectral_penalty, (torch.eye(3),), {"k": 3})[1]
    torch.testing.assert_close(gradient, 2 * torch.eye(3))
    with pytest.raises(ValueError, match="at least 1 singular value"):
        spectral_penalty(F_S, 0)


# Transport


def test_sliced_wasserstein_is_the_best_matching_along_each_direction() -> None:
    a, b = logits(2, 4, 3)
    torch.manual_seed(3)
    found = with_gradient(sliced_wasserstein, (a, b), {"projections": 6})
    torch.manual_seed(3)
    directions = torch.randn(3, 6, dtype=torch.float64)

    def naive(x: Tensor, y: Tensor) -> Tensor:
        p, q = [probabilities(r) for r in x], [probabilities(r) for r in y]
        total: Any = 0
        for r in range(6):
            theta = directions[:, r] / length(directions[:, r])
            matchings = [
                sum((p[i] @ theta - q[j] @ theta) ** 2 for i, j in enumerate(o))
                for o in permutations(range(4))
            ]
            total = total + min(matchings)
        return total / 24

    for x, y in zip(found, with_gradient(naive, (a, b), {}), strict=True):
        torch.testing.assert_close(x, y)


def test_sliced_wasserstein_properties() -> None:
    a, b = logits(2, 6, 4)
    assert sliced_wasserstein(a, a[torch.randperm(6)]).item() == pytest.approx(0, abs=1e-20)
    assert sliced_wasserstein(a[:, :1], b[:, :1]) == 0  # one class
    torch.manual_seed(0)
    once = sliced_wasserstein(a, b)
    assert sliced_wasserstein(a, b) != once  # other directions
    torch.manual_seed(0)
    assert sliced_wasserstein(a, b) == once
    assert sliced_wasserstein(1e4 * torch.eye(2)[[0]], 1e4 * torch.eye(2)[[1]]) <= 2
    with pytest.raises(ValueError, match="equally many"):
        sliced_wasserstein(a, b[:3])


@pytest.mark.parametrize(("n", "m"), [(6, 6), (5, 8), (8, 3), (1, 4), (1, 1)])
def test_the_exact_plan_is_the_linear_programmes(n: int, m: int) -> None:
    cost = torch.rand(n, m, generator=torch.Generator().manual_seed(n + m), requires_grad=True)
    plan = transport_plan(cost)
    assert plan.dtype == torch.float32
    assert not plan.requires_grad
    np.testing.assert_allclose(plan.numpy(), programme(cost.detach().double().numpy()), atol=1e-7)
    if n == m:
        rows, columns = linear_sum_assignment(cost.detach().numpy())
        assert {(i, j) for i, j in plan.nonzero().tolist()} == set(zip(rows, columns, strict=True))


@pytest.mark.parametrize("regularization", [0.05, 0.5])
def test_the_entropic_plan_is_sinkhorns(regularization: float) -> None:
    cost = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)).double()
    c = cost.numpy() - cost.numpy().min()
    k = np.exp(-c / (regularization * c.mean()))
    u, v = np.ones(5), np.ones(7)
    for _ in range(5000):
        u = 1 / 5 / (k @ v)
        v = 1 / 7 / (k.T @ u)
    found = transport_plan(cost, "sinkhorn", regularization)
    np.testing.assert_allclose(found.numpy(), u[:, None] * k * v, atol=1e-4)
    exact = transport_plan(cost)
    assert (found * cost).sum() > (exact * cost).sum()
    for plan in (found, exact):
        np.testing.assert_allclose(plan.sum(1), np.full(5, 1 / 5), atol=1e-3)
        np.testing.assert_allclose(plan.sum(0), np.full(7, 1 / 7), atol=1e-3)


def test_deepjdot_is_zero_for_a_permuted_copy() -> None:
    f = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(6) % 3
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    assert deepjdot(f, f[order], y, 1e4 * torch.eye(3)[y[order]]).item() == pytest.approx(0, abs=1e-5)
    assert deepjdot(f, f[order], y, 1e4 * torch.eye(3)[y], alpha=1.0).item() > 0.5


# Balance


def test_class_balance_is_least_for_even_predictions() -> None:
    assert balance_cross_entropy(1e4 * torch.eye(4)).item() == pytest.approx(math.log(4), abs=1e-4)
    assert balance_cross_entropy(torch.zeros(3, 4)).item() == pytest.approx(math.log(4), abs=1e-4)
    assert balance_cross_entropy(ONE).item() == pytest.approx(0.75 * math.log(1e6), abs=1e-4)
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        value = balance_cross_entropy(5 * torch.randn(6, 4, generator=g)).item()
        assert math.log(4) - 1e-4 <= value <= math.log(1e6)


# Shapes


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda: joint_mmd(F_S[:1], F_T, Z_S[:1], Z_T), "at least 2"),
        (lambda: joint_mmd(F_S, F_T, Z_S[:3], Z_T), "3 and 7 logits"),
        (lambda: joint_mmd(F_S, F_T, Z_S, Z_T[:, :2]), r"\(7, 2\)"),
        (lambda: local_mmd(F_S, F_T, Y[:2], Z_T), "2 labels"),
        (lambda: local_mmd(F_S, F_T[:, :2], Y, Z_T), r"\(7, 2\)"),
        (lambda: cmd(F_S, F_T[:, :2]), r"\(7, 2\)"),
        (lambda: cmd(F_S, F_T, 0), "at least 1 moment"),
        (lambda: deepjdot(F_S, F_T, Y, Z_T[:2]), "2 logits"),
    ],
)
def test_impossible_batches_are_refused(loss: Callable[[], Tensor], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        loss()
