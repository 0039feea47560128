"""Distances against closed forms, and what must not change them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tl_runner.diagnosis.distances import coral_of_rows, distances, mmd_of_rows, sliced_wasserstein_of_rows
from tl_runner.diagnosis.estimate import Estimate, half_width, of_errors
from tl_runner.distances import a_distance, domain_errors, proxy_a_distance, sliced_wasserstein, symmetric_kl
from tl_runner.losses import coral, mmd
from tl_runner.probe import Features, out_of_fold

Distance = Callable[[Features, Features], float]


def normal(n: int, d: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> Features:
    return mean + scale * np.random.default_rng(seed).normal(size=(n, d))


def test_a_distance_of_one_distribution_and_of_two_apart() -> None:
    same = normal(300, 5, 0), normal(300, 5, 1)
    assert proxy_a_distance(*same) < 0.3
    assert proxy_a_distance(normal(100, 5, 0), normal(40, 5, 1, mean=10)) == 2.0
    # The very same rows: a classifier can only have learned them with the wrong domain.
    assert proxy_a_distance(same[0], same[0]) == 0.0


def test_a_distance_of_two_gaussians_is_that_of_the_best_classifier() -> None:
    """N(0, 1) and N(δ, 1): the best threshold errs with probability Φ(−δ / 2), whatever the shares of rows."""
    phi = 0.15865525  # Φ(−1), for δ = 2
    found = proxy_a_distance(normal(8000, 1, 0), normal(1000, 1, 1, mean=2))
    assert found == pytest.approx(2 * (1 - 2 * phi), abs=0.04)


def test_a_distance_counts_both_domains_the_same() -> None:
    assert a_distance(np.zeros(900), np.ones(100)) == 0.0
    assert a_distance(np.zeros(900), np.repeat([0.0, 1.0], 50)) == pytest.approx(1.0)
    assert a_distance(np.ones(5), np.ones(5)) == 0.0


def test_symmetric_kl_of_known_gaussians() -> None:
    """N(0, A) and N(δ, B) in closed form, by the one-sided divergences with their log-determinants."""
    a = np.array([[2.0, 0.5], [0.5, 1.0]])
    b = np.array([[1.0, -0.3], [-0.3, 0.5]])
    gap = np.array([0.7, -0.4])

    def kl(p: Features, q: Features) -> float:
        inverse = np.linalg.inv(q)
        logs = np.log(np.linalg.det(q) / np.linalg.det(p))
        return float(np.trace(inverse @ p) + gap @ inverse @ gap - 2 + logs) / 2

    s = normal(200_000, 2, 0) @ np.linalg.cholesky(a).T
    t = normal(200_000, 2, 1) @ np.linalg.cholesky(b).T + gap
    assert symmetric_kl(s, t) == pytest.approx(kl(a, b) + kl(b, a), rel=0.02)


def test_symmetric_kl_with_fewer_rows_than_features() -> None:
    s, t = normal(10, 50, 0), normal(12, 50, 1)
    assert 0 < symmetric_kl(s, t) < symmetric_kl(s, t + 3) < np.inf
    with pytest.raises(ValueError, match="all the same"):
        symmetric_kl(s, np.ones((5, 50)))


@pytest.mark.parametrize("d", [2, 30])
def test_sliced_wasserstein_of_a_shift(d: int) -> None:
    """A shift by δ moves every projection by δ·θ, and E (δ·θ)² = ‖δ‖² / D."""
    s, delta = normal(50, d, 0), np.random.default_rng(1).normal(size=d)
    found = sliced_wasserstein(s, s + delta, projections=20_000)
    assert found == pytest.approx(np.linalg.norm(delta) / np.sqrt(d), rel=0.02)


def test_sliced_wasserstein_in_one_dimension_is_wasserstein() -> None:
    """Equally many rows on a line: match them in order."""
    s, t = normal(40, 1, 0), normal(40, 1, 1, scale=3)
    matched = np.sqrt(np.mean((np.sort(s[:, 0]) - np.sort(t[:, 0])) ** 2))
    assert sliced_wasserstein(s, t) == pytest.approx(matched)


ALL: dict[str, Distance] = {
    "a_distance": proxy_a_distance,
    "symmetric_kl": symmetric_kl,
    "sliced_wasserstein": sliced_wasserstein,
}


@pytest.mark.parametrize("distance", ALL.values(), ids=ALL)
def test_properties(distance: Distance) -> None:
    s, t = normal(60, 4, 0), normal(80, 4, 1, mean=0.8, scale=1.5)
    order = np.random.default_rng(2).permutation(60)
    found = distance(s, t)
    assert distance(s, s) == pytest.approx(0, abs=1e-9)
    assert found > 0
    # The folds of a classifier depend on the order of rows: it agrees up to some of them.
    about = pytest.approx(found, abs=0.2) if distance is proxy_a_distance else pytest.approx(found, rel=1e-6)
    assert distance(t, s) == about
    assert distance(s[order], t) == about
    assert distance(s + 7, t + 7) == about
    scaled = distance(3 * s, 3 * t)
    assert scaled == (pytest.approx(3 * found) if distance is sliced_wasserstein else about)


@pytest.mark.parametrize("distance", [proxy_a_distance, symmetric_kl])
def test_a_row_is_too_few(distance: Distance) -> None:
    with pytest.raises(ValueError, match="at least 2 rows of each domain, got 1 and 9"):
        distance(normal(1, 3, 0), normal(9, 3, 1))


def test_distances_of_rows_are_the_losses() -> None:
    s, t = normal(30, 6, 0).astype(np.float32), normal(20, 6, 1, mean=1, scale=2).astype(np.float32)
    i, j = np.array([3, 3, 9, 0, 17, 21]), np.array([1, 5, 5, 19])
    some_s, some_t = torch.from_numpy(s[i]), torch.from_numpy(t[j])
    everything = np.arange(30), np.arange(20)
    assert coral_of_rows(s, t)(i, j) == pytest.approx(coral(some_s, some_t).item(), rel=1e-5)
    assert sliced_wasserstein_of_rows(s, t)(i, j) == pytest.approx(sliced_wasserstein(s[i], t[j]), rel=1e-5)
    assert mmd_of_rows(s, t)(*everything) == pytest.approx(
        mmd(torch.from_numpy(s), torch.from_numpy(t)).item(), rel=1e-5
    )


def test_intervals_are_as_wide_as_fresh_samples_vary() -> None:
    """The bootstrap's spread from one sample against that of the estimate over forty samples."""

    def found(seed: int, repeats: int) -> dict[str, Estimate]:
        s = normal(150, 3, 2 * seed).astype(np.float32)
        t = normal(120, 3, 2 * seed + 1, mean=0.6, scale=1.3).astype(np.float32)
        return distances(s, t, domain_errors(s, t), np.eye(3, dtype=np.float32), repeats, seed)

    fresh = [found(seed, 2) for seed in range(40)]
    resampled = [found(seed, 60) for seed in range(4)]
    assert fresh[0].keys() == {"a_distance", "mmd", "sliced_wasserstein", "symmetric_kl", "coral"}
    for name in fresh[0]:
        half = np.mean([(e[name].high - e[name].low) / 2 for e in resampled])
        assert 0.6 < half / (1.96 * np.std([e[name].value for e in fresh])) < 1.6, name


def test_intervals_stay_in_range_and_are_never_certain() -> None:
    perfect = of_errors(a_distance, np.zeros(20), np.zeros(20), 100, 0, most=2.0)
    assert perfect.value == perfect.high == 2.0
    assert 1.5 < perfect.low < 1.95
    assert half_width(lambda i, j: 1.0, 5, 5, 10, 0) == 0.0
    assert Estimate.around(0.1, 0.3) == Estimate(0.1, 0.0, 0.4)


def test_held_out_rows_are_not_trained_on() -> None:
    """Labels without any relation to the features cannot be guessed, however many features there are."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 500)), rng.integers(2, size=200)
    found = out_of_fold(x, y, 2)
    assert found.sum(1) == pytest.approx(np.ones(200))
    assert 0.35 < (found.argmax(1) == y).mean() < 0.65


def test_rare_classes_are_no_obstacle() -> None:
    x = normal(13, 3, 0)
    y = np.array([0] * 6 + [2] * 6 + [4])
    found = out_of_fold(x, y, 6)
    assert found.shape == (13, 6)
    assert not found[:, [1, 3, 5]].any()
    with pytest.raises(ValueError, match="two classes"):
        out_of_fold(x, np.zeros(13, dtype=int), 2)
