"""The losses of adversarial methods against their papers' formulas in plain loops, in value and in gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_losses import agree, naive_adversarial, one_class, probabilities, row_entropy
from torch import Tensor

from tl_runner.losses import (
    category_confusion,
    centroid_distance,
    class_means,
    domain_adversarial,
    domain_confusion,
    gradient_penalty,
    margin_disparity,
    merged_entropy,
    symmetric_domain,
)

G = torch.Generator().manual_seed(0)
Z_S, Z_T = 2 * torch.randn(6, 4, generator=G).double(), 2 * torch.randn(5, 4, generator=G).double()
ADV_S, ADV_T = 2 * torch.randn(6, 4, generator=G).double(), 2 * torch.randn(5, 4, generator=G).double()
Y = torch.tensor([0, 1, 1, 0, 0, 1])
X_S, X_T = torch.randn(6, 3, generator=G).double(), torch.randn(4, 3, generator=G).double() + 1
W1, W2 = torch.randn(5, 3, generator=G).double(), torch.randn(5, generator=G).double()
SHARE = torch.rand(4, generator=G).double()
SCORES, WEIGHTS = torch.randn(7, generator=G).double(), torch.rand(7, generator=G).double() + 0.1
CENTROIDS = torch.randn(4, 3, generator=G).double(), torch.randn(4, 3, generator=G).double()
PRESENT = torch.tensor([True, False, True, True])


def winner(row: Tensor) -> int:
    return max(range(len(row)), key=lambda k: float(row[k].detach()))


def naive_disparity(adv_s: Tensor, adv_t: Tensor, margin: float = 4.0) -> Tensor:
    agree = [-torch.log(probabilities(a)[winner(z)]) for a, z in zip(adv_s, Z_S, strict=True)]
    differ = [-torch.log(1 - probabilities(a)[winner(z)]) for a, z in zip(adv_t, Z_T, strict=True)]
    return margin * sum(agree) / len(agree) + sum(differ) / len(differ)


def disparity(adv_s: Tensor, adv_t: Tensor, margin: float = 4.0) -> Tensor:
    return margin_disparity(adv_s, Z_S.to(adv_s), adv_t, Z_T.to(adv_t), margin)


def naive_penalty(w1: Tensor, w2: Tensor) -> Tensor:
    """The slope of w2 · tanh(w1 x), derived by hand."""
    between = [a * s + (1 - a) * t for a, s, t in zip(SHARE, X_S, X_T, strict=False)]
    terms = []
    for x in [*X_S, *X_T, *between]:
        slope = [sum(w2[h] * (1 - torch.tanh(w1[h] @ x) ** 2) * w1[h, d] for h in range(5)) for d in range(3)]
        terms.append((torch.sqrt(sum(g**2 for g in slope)) - 1) ** 2)
    return sum(terms) / len(terms)


def penalty(w1: Tensor, w2: Tensor) -> Tensor:
    return gradient_penalty(
        lambda x: torch.tanh(x @ w1.T) @ w2, X_S.to(w1), X_T.to(w1), share=SHARE.to(w1.dtype)
    )


def naive_symmetric(s: Tensor, t: Tensor) -> Tensor:
    k = s.shape[1] // 2
    first = [-torch.log(sum(probabilities(row)[:k])) for row in s]
    second = [-torch.log(sum(probabilities(row)[k:])) for row in t]
    return sum(first) / len(first) + sum(second) / len(second)


def naive_category(z: Tensor) -> Tensor:
    k = z.shape[1] // 2
    total = 0
    for row, y in zip(z, Y.tolist(), strict=True):
        p = probabilities(row)
        total = total - 0.5 * torch.log(p[y]) - 0.5 * torch.log(p[y + k])
    return total / len(z)


def naive_domain(z: Tensor) -> Tensor:
    k = z.shape[1] // 2
    each = [-0.5 * sum(torch.log(sum(part)) for part in probabilities(row).split(k)) for row in z]
    return sum(each) / len(each)


def naive_merged(z: Tensor) -> Tensor:
    k = z.shape[1] // 2
    each = []
    for row in z:
        p = probabilities(row)
        each.append(row_entropy(torch.stack([p[j] + p[j + k] for j in range(k)])))
    return sum(each) / len(each)


def naive_centroids(s: Tensor, t: Tensor, reduction: str = "mean") -> Tensor:
    total = sum((s[k, d] - t[k, d]) ** 2 for k in range(4) if PRESENT[k] for d in range(3))
    return total / 12 if reduction == "mean" else total


def naive_means(x: Tensor) -> Tensor:
    """A scalar that sees every entry of the class means."""
    total = 0
    for k in range(3):
        rows = [x[i] for i in range(len(x)) if Y[i] == k]
        mean = sum(rows) / len(rows) if rows else torch.zeros(3, dtype=x.dtype)
        total = total + sum((k + 1) * (d + 1) * mean[d] ** 2 for d in range(3))
    return total


def means(x: Tensor) -> Tensor:
    scale = torch.outer(torch.arange(1.0, 4.0), torch.arange(1.0, 4.0)).to(x.dtype)
    return (scale * class_means(x, Y, 3) ** 2).sum()


def naive_through(scores: Tensor, weights: Tensor) -> Tensor:
    total = 0
    for rows, sign in ((range(3), -1), (range(3, 7), 1)):
        norm = float(sum(weights[i].detach() for i in rows))
        total = (
            total + 0.5 * sum(weights[i] * torch.log(1 + torch.exp(sign * scores[i])) for i in rows) / norm
        )
    return total


Case = tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...], dict[str, Any]]
CASES: dict[str, Case] = {
    "disparity": (disparity, naive_disparity, (ADV_S, ADV_T), {}),
    "disparity-margin": (disparity, naive_disparity, (ADV_S, ADV_T), {"margin": 1.5}),
    "penalty": (penalty, naive_penalty, (W1, W2), {}),
    "symmetric": (symmetric_domain, naive_symmetric, (Z_S, Z_T), {}),
    "category": (lambda z: category_confusion(z, Y), naive_category, (Z_S,), {}),
    "domain": (domain_confusion, naive_domain, (Z_T,), {}),
    "merged": (merged_entropy, naive_merged, (Z_T,), {}),
    "centroids-mean": (
        lambda s, t: centroid_distance(s, t, PRESENT),
        naive_centroids,
        CENTROIDS,
        {},
    ),
    "centroids-sum": (
        lambda s, t, reduction: centroid_distance(s, t, PRESENT, reduction),
        naive_centroids,
        CENTROIDS,
        {"reduction": "sum"},
    ),
    "means": (means, naive_means, (X_S,), {}),
    "through-weights": (
        lambda s, w: domain_adversarial(s, 3, w, through_weights=True),
        naive_through,
        (SCORES, WEIGHTS),
        {},
    ),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 3e-5)])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_value_and_gradient_are_those_of_the_formula(
    case: Case, dtype: torch.dtype, tolerance: float
) -> None:
    agree(*case, dtype, tolerance)


@pytest.mark.parametrize("loss", [penalty, disparity])
def test_gradients_against_finite_differences(loss: Callable[..., Tensor]) -> None:
    args = (W1, W2) if loss is penalty else (ADV_S, ADV_T)
    assert torch.autograd.gradcheck(loss, tuple(a.clone().requires_grad_() for a in args))


FEW = torch.zeros(3, 2)
DEGENERATE: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "disparity-agrees": (lambda a: margin_disparity(a, a.detach(), a, a.detach()), (one_class() * 10,)),
    "disparity-differs": (lambda a: margin_disparity(a, -a.detach(), a, -a.detach()), (one_class() * 10,)),
    "disparity-two-classes": (lambda a: margin_disparity(a, FEW, a, FEW), (torch.tensor([[1e4, -1e4]] * 3),)),
    "symmetric-wrong": (symmetric_domain, (-one_class() * 10, one_class() * 10)),
    "symmetric-one-class": (symmetric_domain, (FEW, 1e4 * torch.ones(1, 2))),
    "category": (lambda z: category_confusion(z, Y), (one_class() * 10,)),
    "domain": (domain_confusion, (one_class() * 10,)),
    "domain-one-row": (domain_confusion, (one_class(1),)),
    "merged": (merged_entropy, (one_class() * 10,)),
    "merged-one-class": (merged_entropy, (FEW,)),
    "centroids": (centroid_distance, (torch.zeros(4, 3), torch.zeros(4, 3))),
    "centroids-absent": (
        lambda s, t: centroid_distance(s, t, torch.zeros(4, dtype=torch.bool)),
        (torch.zeros(4, 3), torch.full((4, 3), 1e30)),
    ),
    "means": (means, (torch.zeros(6, 3),)),
    "flat-critic": (penalty, (W1.float(), torch.zeros(5))),
    "zero-critic": (penalty, (torch.zeros(5, 3), torch.zeros(5))),
    "dead-critic": (
        lambda w: gradient_penalty(lambda x: torch.relu(x @ w - 1e6), X_S.float(), X_T.float()),
        (torch.ones(3),),
    ),
    "no-weights": (lambda s, w: domain_adversarial(s, 3, w, True), (SCORES.float(), torch.zeros(7))),
}


@pytest.mark.parametrize(("loss", "args"), DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_batches_are_finite(loss: Callable[..., Tensor], args: tuple[Tensor, ...]) -> None:
    leaves = [a.detach().clone().requires_grad_() for a in args]
    value = loss(*leaves)
    assert value.isfinite()
    for g in torch.autograd.grad(value, leaves, allow_unused=True):
        assert g is None or g.isfinite().all()


def test_a_saturated_adversary_is_still_moved() -> None:
    """Where a clamped logarithm has no gradient left."""
    sure = torch.tensor([[1e4, 0.0, 0.0]], requires_grad=True)
    margin_disparity(sure.detach(), sure.detach(), sure, sure.detach()).backward()
    assert sure.grad is not None
    torch.testing.assert_close(sure.grad, torch.tensor([[1.0, -0.5, -0.5]]))


@pytest.mark.parametrize("part", [slice(0, 3), slice(3, 7)])
@pytest.mark.parametrize("through", [False, True])
def test_a_domain_without_weight_adds_nothing(part: slice, through: bool) -> None:
    weights = WEIGHTS.clone()
    weights[part] = 0
    scores = SCORES.clone().requires_grad_()
    value = domain_adversarial(scores, 3, weights, through)
    value.backward()
    other = slice(3, 7) if part.start == 0 else slice(0, 3)
    sign = 1 if part.start == 0 else -1
    expected = 0.5 * (weights[other] * torch.nn.functional.softplus(sign * SCORES[other])).sum()
    torch.testing.assert_close(value.detach(), expected / weights[other].sum())
    assert scores.grad is not None
    assert not scores.grad[part].any()
    assert scores.grad[other].all()


def test_weights_without_a_gradient_are_the_plain_weights() -> None:
    plain = domain_adversarial(SCORES, 3, WEIGHTS)
    torch.testing.assert_close(domain_adversarial(SCORES, 3, WEIGHTS, through_weights=True), plain)
    torch.testing.assert_close(naive_adversarial(SCORES, 3, WEIGHTS), plain)


def test_known_values_and_ranges() -> None:
    zero = torch.zeros(3, 8)
    assert symmetric_domain(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert domain_confusion(zero).item() == pytest.approx(math.log(2))
    assert category_confusion(zero, Y[:3]).item() == pytest.approx(math.log(8))
    assert merged_entropy(zero).item() == pytest.approx(math.log(4))
    assert merged_entropy(one_class(2)).item() == pytest.approx(0, abs=1e-6)
    for scale in (0.1, 1.0, 10.0, 1000.0):
        z = scale * Z_S
        assert domain_confusion(z) >= math.log(2) - 1e-9
        assert category_confusion(z, Y) >= math.log(2) - 1e-9
        assert 0 <= merged_entropy(z) <= math.log(2) + 1e-9
        assert symmetric_domain(z, Z_T) >= 0
        assert disparity(scale * ADV_S, scale * ADV_T) >= 0
        for loss in (domain_confusion, merged_entropy):
            torch.testing.assert_close(loss(z.flip(0)), loss(z))
        swapped = torch.cat([z[:, 2:], z[:, :2]], dim=1)  # It does not matter which classifier is which.
        torch.testing.assert_close(domain_confusion(swapped), domain_confusion(z))
        torch.testing.assert_close(category_confusion(swapped, Y), category_confusion(z, Y))
        torch.testing.assert_close(merged_entropy(swapped), merged_entropy(z))


def test_the_penalty_is_of_the_slope_alone() -> None:
    direction = torch.tensor([0.6, 0.8, 0.0])

    def linear(slope: float) -> float:
        return gradient_penalty(lambda x: slope * x @ direction + 7, X_S.float(), X_T.float()).item()

    assert linear(1.0) == pytest.approx(0, abs=1e-6)
    assert linear(0.0) == pytest.approx(1)
    assert linear(3.0) == pytest.approx(4, rel=1e-5)


def test_the_penalty_draws_its_points_and_leaves_the_features_alone() -> None:
    def critic(x: Tensor) -> Tensor:
        return (x**3).sum(1)

    s = X_S.clone().requires_grad_()
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(gradient_penalty(critic, s, X_T))
    assert values[0] == values[1] != values[2]
    values[0].backward()
    assert s.grad is None
    with torch.no_grad():
        assert gradient_penalty(critic, s, X_T, SHARE).isfinite()


def test_gradient_penalty_in_autocast() -> None:
    critic = torch.nn.Linear(3, 1)
    expected = gradient_penalty(critic, X_S.float(), X_T.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = gradient_penalty(critic, X_S.float(), X_T.float())
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_class_means_leave_absent_classes_at_zero() -> None:
    found = class_means(X_S, Y, 4)
    torch.testing.assert_close(found[0], X_S[Y == 0].mean(0))
    assert not found[2:].any()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(class_means(X_S[order], Y[order], 4), found)


def test_centroid_distance_ignores_what_does_not_count() -> None:
    s, t = CENTROIDS
    assert centroid_distance(s, s) == 0
    moved = t.clone()
    moved[1] += 100
    torch.testing.assert_close(centroid_distance(s, moved, PRESENT), centroid_distance(s, t, PRESENT))
    assert centroid_distance(s, moved) > centroid_distance(s, t)
    torch.testing.assert_close(centroid_distance(t, s), centroid_distance(s, t))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: margin_disparity(*[torch.zeros(2, 1)] * 4), r"at least 2 classes.*\(2, 1\)"),
        (lambda: gradient_penalty(torch.sum, torch.zeros(2, 3), torch.zeros(2, 4)), r"\(2, 4\)"),
        (lambda: gradient_penalty(torch.sum, torch.zeros(0, 3), torch.zeros(2, 3)), "at least 1"),
        (lambda: centroid_distance(torch.zeros(3, 2), torch.zeros(4, 2)), "3 and 4"),
    ],
)
def test_impossible_inputs_are_refused(call: Callable[[], Tensor], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
