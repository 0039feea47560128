"""Losses that regularise fine-tuning, against the papers' formulas in plain loops, in value and in gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from test_losses import agree, probabilities, with_gradient
from test_losses_consistency import constants
from torch import Tensor

from tl_runner.losses import (
    categorical_contrast,
    category_relationship,
    channel_attention,
    distillation,
    feature_map_distance,
    spectral_penalty,
    spectral_shrinkage,
    starting_point,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


# References


def naive_shrinkage(f: Tensor, k: int = 1) -> Tensor:
    """By the singular vectors of numpy's own decomposition: σ = uᵀ F v, so that torch differentiates it."""
    u, s, vt = np.linalg.svd(f.detach().numpy(), full_matrices=False)
    order = np.argsort(s)[:k]
    return sum(((torch.from_numpy(u[:, i].copy()) @ f) @ torch.from_numpy(vt[i].copy())) ** 2 for i in order)


def naive_maps(maps: Tensor, reference: Tensor, attention: Tensor | None = None) -> Tensor:
    n, c = maps.shape[:2]
    weights = [1 / c] * c if attention is None else attention.tolist()
    total = 0
    for i in range(n):
        for j in range(c):
            now, old = maps[i, j].reshape(-1), reference[i, j].detach().reshape(-1)
            total = total + c * weights[j] * sum((a - b) ** 2 for a, b in zip(now, old, strict=True)) / len(
                now
            )
    return total / (2 * n)


def naive_distillation(z: Tensor, r: Tensor, temperature: float = 2.0) -> Tensor:
    """Cross-entropy with the softened reference, less the reference's own entropy."""
    total = 0
    for a, b in zip(z, r, strict=True):
        q, p = constants(b / temperature), probabilities(a / temperature)
        total = total + sum(-y * torch.log(x) + y * math.log(y) for x, y in zip(p, q, strict=True))
    return temperature**2 * total / len(z)


def naive_contrast(
    queries: Tensor, keys: Tensor, bank: Tensor, labels: Tensor, temperature: float = 0.07
) -> Tensor:
    size = bank.shape[1]
    total = 0
    for q, k, y in zip(queries, keys, labels.tolist(), strict=True):
        positives = [torch.exp(q @ k / temperature)] + [torch.exp(q @ b / temperature) for b in bank[y]]
        negatives = [torch.exp(q @ b / temperature) for c in range(len(bank)) if c != y for b in bank[c]]
        every = sum(positives) + sum(negatives)
        for p in positives:
            total = total + (math.log(1 / (size + 1)) - torch.log(p / every)) / (size + 1)
    return total / len(queries)


def naive_moved(
    w: Tensor, v: Tensor, start: tuple[Tensor, Tensor], importance: tuple[Tensor, Tensor]
) -> Tensor:
    total = 0
    for now, old, share in zip((w, v), start, importance, strict=True):
        for a, b, f in zip(now.reshape(-1), old.reshape(-1), share.reshape(-1), strict=True):
            total = total + float(f) * (a - float(b)) ** 2 / 2
    return total


def moved(w: Tensor, v: Tensor, start: tuple[Tensor, Tensor], importance: tuple[Tensor, Tensor]) -> Tensor:
    return starting_point([w, v], [s.to(w.dtype) for s in start], [f.to(w.dtype) for f in importance])


F, MAPS, OLD = drawn(5, 7), drawn(3, 4, 2, 5), drawn(3, 4, 2, 5, seed=1)
ATTENTION = torch.tensor([0.1, 0.5, 0.0, 0.4]).double()
Q, KEYS, BANK = unit(drawn(5, 6)), unit(drawn(5, 6, seed=1)), unit(drawn(3, 4, 6, seed=2))
Y = torch.tensor([0, 2, 2, 1, 0])
START = {
    "start": (drawn(3, 2, seed=3), drawn(4, seed=4)),
    "importance": (drawn(3, 2, seed=5).square(), drawn(4, seed=6).square()),
}
Case = tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...], dict[str, Any]]
CASES: dict[str, Case] = {
    "shrinkage": (spectral_shrinkage, naive_shrinkage, (F,), {}),
    "shrinkage-3": (spectral_shrinkage, naive_shrinkage, (F,), {"k": 3}),
    "shrinkage-tall": (spectral_shrinkage, naive_shrinkage, (F.T,), {"k": 2}),
    "shrinkage-all": (spectral_shrinkage, naive_shrinkage, (F,), {"k": 9}),
    "moved": (moved, naive_moved, (drawn(3, 2), drawn(4, seed=1)), START),
}
for name, options in {"even": {}, "attention": {"attention": ATTENTION}}.items():
    CASES[f"maps-{name}"] = (
        lambda m, **o: feature_map_distance(m, OLD.to(m.dtype), **o),
        lambda m, **o: naive_maps(m, OLD, **o),
        (MAPS,),
        options,
    )
CASES["maps-vectors"] = (
    lambda m: feature_map_distance(m, OLD[:, :, 0, 0].to(m.dtype)),
    lambda m: naive_maps(m, OLD[:, :, 0, 0]),
    (MAPS[:, :, 0, 0],),
    {},
)
for t in (1.0, 2.0, 5.0):
    CASES[f"distillation-{t}"] = (
        lambda z, temperature: distillation(z, 3 * drawn(6, 4, seed=9).to(z.dtype), temperature),
        lambda z, temperature: naive_distillation(z, 3 * drawn(6, 4, seed=9), temperature),
        (2 * drawn(6, 4),),
        {"temperature": t},
    )
for t in (0.07, 1.0):
    CASES[f"contrast-{t}"] = (
        lambda q, k, **o: categorical_contrast(q, k, BANK.to(q.dtype), Y, **o),
        lambda q, k, **o: naive_contrast(q, k, BANK, Y, **o),
        (Q, KEYS),
        {"temperature": t},
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 5e-5)])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_value_and_gradient_are_those_of_the_formula(
    case: Case, dtype: torch.dtype, tolerance: float
) -> None:
    agree(*case, dtype, tolerance)


@pytest.mark.parametrize(
    "case", [c for n, c in CASES.items() if n != "moved"], ids=[n for n in CASES if n != "moved"]
)
def test_half_precision_and_autocast_compute_in_float32(case: Case) -> None:
    loss, _, args, options = case
    half = tuple(a.to(torch.bfloat16) for a in args)
    expected = loss(*(a.float() for a in half), **options)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(*(a.float() for a in half), **options)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    for part in with_gradient(loss, half, options):
        assert part.isfinite().all()


# The smallest singular values


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (1, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shrinkage_is_numpys(shape: tuple[int, int], dtype: torch.dtype) -> None:
    f = drawn(*shape)
    s = np.sort(np.linalg.svd(f.numpy(), compute_uv=False)) ** 2
    for k in range(1, len(s) + 2):
        found = spectral_shrinkage(f.to(dtype), k)
        assert found.item() == pytest.approx(s[:k].sum(), rel=1e-5, abs=1e-6)


def test_shrinkage_and_penalty_share_the_spectrum() -> None:
    torch.testing.assert_close(spectral_shrinkage(F, 2) + spectral_penalty(F, 3), F.square().sum())
    torch.testing.assert_close(spectral_shrinkage(F.flip(0), 2), spectral_shrinkage(F, 2))
    with pytest.raises(ValueError, match="at least 1 singular value"):
        spectral_shrinkage(F, 0)


@pytest.mark.parametrize("f", [torch.zeros(4, 3), torch.ones(4, 3), torch.eye(4), 1e6 * drawn(4, 3).float()])
def test_degenerate_spectra_are_finite(f: Tensor) -> None:
    for part in with_gradient(spectral_shrinkage, (f,), {"k": 3}):
        assert part.isfinite().all()


# Feature maps


def test_equal_maps_cost_nothing_and_the_reference_gets_no_gradient() -> None:
    old = OLD.clone().requires_grad_()
    assert feature_map_distance(OLD, old) == 0
    loss = feature_map_distance(MAPS.clone().requires_grad_(), old)
    loss.backward()
    assert loss > 0
    assert old.grad is None


def test_a_channel_without_attention_may_change() -> None:
    maps = OLD.clone()
    maps[:, 2] += 100
    assert feature_map_distance(maps, OLD, ATTENTION) == 0
    assert feature_map_distance(maps, OLD) > 0


def test_attention() -> None:
    increases = drawn(6).float()
    x = increases.double().numpy()
    for standardize, e in ((True, np.exp((x - x.mean()) / x.std() / 5)), (False, np.exp(x))):
        found = channel_attention(increases, standardize)
        np.testing.assert_allclose(found.numpy(), e / e.sum(), rtol=1e-5)
    torch.testing.assert_close(channel_attention(1e-6 * increases), channel_attention(increases))
    torch.testing.assert_close(channel_attention(torch.full((4,), 0.3)), torch.full((4,), 0.25))


# Weights


def test_the_start_costs_nothing() -> None:
    w = [drawn(3, 2), drawn(4)]
    assert starting_point(w, w) == 0
    assert starting_point(w) == (w[0].square().sum() + w[1].square().sum()) / 2
    assert starting_point([]) == 0
    assert starting_point(w, [0 * v for v in w], [0 * v for v in w]) == 0


# Contrast


def test_the_contrast_is_least_when_a_class_is_one_point_apart_from_others() -> None:
    bank = torch.eye(3).unsqueeze(1).expand(3, 4, 3).contiguous()
    own = torch.eye(3)[Y]
    least = categorical_contrast(own, own, bank, Y)
    assert 0 <= least < 1e-4
    assert categorical_contrast(own, own, bank, (Y + 1) % 3) > 1
    for seed in range(5):
        q, k = unit(drawn(5, 3, seed=seed)).float(), unit(drawn(5, 3, seed=seed + 50)).float()
        assert categorical_contrast(q, k, bank, Y) >= 0


# Relationship


def answers(n: int, k: int, s: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits in `s` earlier classes of `n` samples of `k` classes, each of which resembles some of them."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    centres = rng.normal(size=(k, s))
    return torch.from_numpy(centres[y] + rng.normal(size=(n, s))), torch.from_numpy(y)


def test_the_direct_relationship_is_the_mean_prediction() -> None:
    z, y = answers(24, 3, 5)
    found = category_relationship(z, y, 3, "direct")
    for k in range(3):
        rows = [probabilities(z[i]) for i in range(24) if y[i] == k]
        torch.testing.assert_close(found[k], sum(rows) / len(rows))


@pytest.mark.parametrize(("n", "k", "s"), [(24, 3, 5), (40, 2, 4), (60, 4, 4)])
def test_the_reverse_relationship_is_bayes_rule(n: int, k: int, s: int) -> None:
    """p(s | y) ∝ p(y | s) p(s) where p(y | s) is a softmax over y of weights: any strength and temperature
    leave what the formula says of the ratio of rows."""
    z, y = answers(n, k, s)
    found = category_relationship(z, y, k)
    torch.testing.assert_close(found.sum(1), torch.ones(k).double())
    p = torch.softmax(z, 1)
    # Undo Bayes' rule: with rows scaled by some p(y), the columns divided by p(s) are distributions over y.
    shares = found / p.mean(0)
    scale = torch.linalg.lstsq(shares.T, torch.ones(s).double()).solution
    torch.testing.assert_close(shares.T @ scale, torch.ones(s).double())
    assert (scale > 0).all()
    # And these are a softmax of a logistic regression's weights: their logarithms differ by a multiple of them.
    logs = torch.log(shares.T * scale)
    logs = logs - logs.mean(1, keepdim=True)
    fits = []
    for c in 10.0 ** np.arange(-4, 5):
        w = LogisticRegression(C=c, fit_intercept=False, max_iter=1000).fit(p.numpy(), y.numpy()).coef_
        w = torch.from_numpy(w if len(w) > 1 else np.concatenate([-w, w]))
        w = (w - w.mean(0)).T
        fits.append(float((w * logs).sum() / (w.norm() * logs.norm())))
    assert max(fits) == pytest.approx(1, abs=1e-6)


def test_the_same_classes_are_found_to_be_the_same() -> None:
    z, y = 6 * torch.eye(4)[torch.arange(40) % 4] + drawn(40, 4).float(), torch.arange(40) % 4
    for approach in ("reverse", "direct"):
        found = category_relationship(z, y, 4, approach)
        assert found.dtype == torch.float32
        assert found.argmax(1).tolist() == [0, 1, 2, 3]
        assert found.diagonal().min() > 0.8


def test_a_class_of_one_sample_and_a_class_of_none() -> None:
    z, _ = answers(9, 3, 5)
    labels = torch.tensor([0, 0, 0, 1, 1, 3])
    found = category_relationship(z[:6], labels, 5)
    torch.testing.assert_close(found.sum(1), torch.ones(5).double())
    torch.testing.assert_close(found[2], torch.full((5,), 0.2).double())
    torch.testing.assert_close(found[4], found[2])
    assert not torch.allclose(found[3], found[2])
    alone = category_relationship(z[:3], torch.zeros(3).long(), 1)
    torch.testing.assert_close(alone[0], torch.softmax(z[:3], 1).mean(0))
