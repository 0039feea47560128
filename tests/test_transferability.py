"""Scores of transferability and class priors, against the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from tl_runner.label_shift import bbse, priors_of, total_variation
from tl_runner.probe import Features, Labels
from tl_runner.transferability import h_score, leep, logme, nce


def task(n: int, d: int, k: int, noise: float, seed: int = 0) -> tuple[Features, Labels]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    return rng.normal(size=(k, d))[y] + noise * rng.normal(size=(n, d)), y


@pytest.mark.parametrize(("n", "d"), [(40, 5), (25, 60)])
def test_logme_is_the_maximum_of_the_evidence(n: int, d: int) -> None:
    """The evidence as the density of the labels under N(0, I/β + F Fᵀ/α), maximised by a general optimiser."""
    f, y = task(n, d, 3, 1.5)
    best = []
    for k in range(3):
        indicator = (y == k).astype(float)

        def negative(logs: Features, indicator: Features = indicator) -> float:
            alpha, beta = np.exp(logs)
            covariance = np.eye(n) / beta + f @ f.T / alpha
            return -float(multivariate_normal(np.zeros(n), covariance).logpdf(indicator))

        starts = [minimize(negative, s, method="Nelder-Mead").fun for s in ([0.0, 0.0], [3.0, 2.0])]
        best.append(-min(starts))
    assert logme(f, y) == pytest.approx(np.mean(best) / n, abs=1e-3)


def test_h_score_by_hand() -> None:
    """One feature 0, 2 | 4, 6: variance of the means 4, of the feature 5."""
    f, y = np.array([[0.0], [2.0], [4.0], [6.0]]), np.array([0, 0, 1, 1])
    assert h_score(f, y, shrink=False) == pytest.approx(4 / 5)
    # With shrinkage a of one feature the covariance stays, and the other factor is (1 − a) as large.
    assert 0 < h_score(f, y) <= 4 / 5 + 1e-12


def test_h_score_of_classes_that_do_not_spread() -> None:
    f = np.eye(4).repeat(30, 0)
    assert h_score(f, np.arange(120) // 30, shrink=False) == pytest.approx(3)


def test_shrinkage_keeps_h_score_meaningful_with_few_rows() -> None:
    """With fewer rows than features any labels look perfect to the plain score."""
    noise, y = np.random.default_rng(0).normal(size=(40, 200)), np.arange(40) % 4
    good, _ = task(40, 200, 4, 0.5)
    assert h_score(noise, y, shrink=False) == pytest.approx(3)
    assert h_score(noise, y) < 0.5 * h_score(good, y)


def test_leep_by_hand() -> None:
    """Two rows, two classes of the source task.

    p(y, z): [[.45, .05], [.1, .4]]; p(z) = (.55, .45). Row 0: .9·(.45/.55) + .1·(.05/.45); row 1:
    .2·(.1/.55) + .8·(.4/.45).
    """
    p, y = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1])
    rows = [0.9 * 0.45 / 0.55 + 0.1 * 0.05 / 0.45, 0.2 * 0.1 / 0.55 + 0.8 * 0.4 / 0.45]
    assert leep(p, y) == pytest.approx(np.log(rows).mean())


def test_nce_by_hand() -> None:
    """z 0 0 0 1, y 0 0 1 1: −¾ H(1/3)."""
    z, y = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert nce(z, y) == pytest.approx(0.75 * (2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)))
    assert nce(y, y) == pytest.approx(0)
    assert nce(1 - y, y) == pytest.approx(0), "names of classes do not matter"
    assert nce(np.zeros(4, dtype=int), y) == pytest.approx(-np.log(2))


@pytest.mark.parametrize("score", [logme, h_score])
def test_better_features_score_higher_whatever_their_basis_and_names(score: object) -> None:
    assert callable(score)
    f, y = task(90, 6, 3, 0.5)
    worse, _ = task(90, 6, 3, 3.0)
    found = score(f, y)
    assert found > score(worse, y)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    order = np.random.default_rng(2).permutation(90)
    about = pytest.approx(found, rel=1e-3)
    assert score(f @ rotation, y) == about
    assert score(10 * f, y) == about
    assert score(f[order], y[order]) == about
    assert score(f, (y + 1) % 3) == about
    assert score(f, 5 * y) == about, "numbers of classes that do not occur do not matter"
    with pytest.raises(ValueError, match="two classes"):
        score(f, np.zeros(90, dtype=int))


def test_logme_survives_labels_that_the_features_give_away() -> None:
    f, y = np.eye(3).repeat(20, 0), np.arange(60) // 20
    assert np.isfinite(logme(f, y))
    assert logme(f, y) > logme(f + 0.5 * np.random.default_rng(0).normal(size=f.shape), y)


def shifted(priors: list[float], n: int, seed: int) -> tuple[Labels, Labels]:
    """Labels and a classifier's predictions: right in 70 %, else the next class."""
    rng = np.random.default_rng(seed)
    y = rng.choice(len(priors), size=n, p=priors)
    return y, np.where(rng.uniform(size=n) < 0.7, y, (y + 1) % len(priors))


def test_bbse_recovers_known_priors() -> None:
    y, predicted = shifted([0.5, 0.3, 0.2], 20_000, 0)
    _, on_target = shifted([0.1, 0.2, 0.7], 20_000, 1)
    assert bbse(y, predicted, on_target, 3) == pytest.approx([0.1, 0.2, 0.7], abs=0.02)
    # Far from what is predicted: the estimate is no mere count.
    assert np.abs(priors_of(on_target, 3) - [0.1, 0.2, 0.7]).max() > 0.1


def test_bbse_without_a_shift_and_of_classes_that_are_missing() -> None:
    y, predicted = shifted([0.5, 0.5], 1000, 0)
    assert bbse(y, predicted, predicted, 2) == pytest.approx(priors_of(y, 2))
    found = bbse(y, predicted, predicted, 4)
    assert found[2:] == pytest.approx([0, 0])
    assert found.sum() == pytest.approx(1)
    # A class that is never predicted, though the target is full of it.
    assert bbse(np.array([0, 0, 1]), np.array([0, 0, 0]), np.array([1, 1]), 2) == pytest.approx(
        [2 / 3, 1 / 3]
    )


def test_total_variation() -> None:
    assert total_variation(np.array([0.5, 0.5]), np.array([0.9, 0.1])) == pytest.approx(0.4)
    assert total_variation(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0
