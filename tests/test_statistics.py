"""The arithmetic of comparisons against scipy, statsmodels and a pencil."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tl_runner.report.statistics import (
    averages,
    friedman,
    holm,
    interval,
    paired,
    pairwise,
    ranks,
    smallest_p,
    transfers_against,
)

NAN = float("nan")


def scores(transfers: str = "ab", seeds: int = 3, **columns: list[float]) -> pd.DataFrame:
    """One column a method; the seeds of the first transfer come first."""
    places = [(t, str(s)) for t in transfers for s in range(seeds)]
    return pd.DataFrame(columns, pd.MultiIndex.from_tuples(places, names=["transfer", "seed"]), dtype=float)


def test_averages_are_over_the_same_transfers() -> None:
    found = averages(scores(x=[1, 2, 3, 5, 6, 7], y=[1, NAN, 3, 5, 6, NAN]))
    assert found["x"].tolist() == [3, 4, 5]
    assert found["y"].tolist()[0] == 3
    assert found["y"].isna().tolist() == [False, True, True]


def test_a_seed_that_lacks_a_transfer_altogether_has_no_average() -> None:
    found = averages(scores(x=[1, 2, 3, 5, 6, 7]).drop(("b", "1")))
    assert found["x"].isna().tolist() == [False, True, False]


def test_ranks() -> None:
    found, n = ranks(scores(x=[9, 9, 9, 9, 9, 9], y=[8, 8, 9, 10, 8, NAN], z=[1, 1, 1, 1, 1, 1]))
    assert n == 5
    assert found.to_dict() == pytest.approx(
        {"x": (1 + 1 + 1.5 + 2 + 1) / 5, "y": (2 + 2 + 1.5 + 1 + 2) / 5, "z": 3}
    )


def test_interval() -> None:
    values = pd.Series([80.0, 82.0, 81.0, 85.0, NAN, 79.0])
    low, high = interval(values) or (0, 0)
    expected = stats.bootstrap(
        (values.dropna(),), np.mean, n_resamples=20000, method="percentile", random_state=1
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.3)
    assert interval(values) == (low, high), "the same every time"
    assert interval(pd.Series([3.0, 3.0])) == (3, 3)
    assert interval(pd.Series([3.0, NAN])) is None


@pytest.mark.parametrize("n", [1, 2, 5, 9, 18, 40])
def test_wilcoxon_without_ties(n: int) -> None:
    rng = np.random.default_rng(n)
    for shift in (0.0, 0.5, -2.0):
        a, b = (pd.Series(rng.normal(m, 1, n)).round(4) for m in (shift, 0))
        expected = stats.wilcoxon(a, b, method="exact").pvalue
        assert paired(a, b).p == pytest.approx(expected, rel=1e-12)
        assert paired(b, a).p == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_wilcoxon_with_ties(seed: int) -> None:
    differences = np.random.default_rng(seed).choice([-2.0, -1.0, 1.0, 2.0, 3.0], 7)
    expected = stats.wilcoxon(differences, method=stats.PermutationMethod(n_resamples=2**7)).pvalue
    assert paired(pd.Series(differences), pd.Series(np.zeros(7))).p == pytest.approx(expected, rel=1e-12)


def test_wilcoxon_of_many() -> None:
    differences = np.random.default_rng(0).normal(0.2, 1, 150).round(4)
    found = paired(pd.Series(differences), pd.Series(np.zeros(150)))
    assert found.p == pytest.approx(stats.wilcoxon(differences).pvalue)


def test_pairs() -> None:
    found = paired(pd.Series([1.0, 2.0, 3.0, NAN, 5.0]), pd.Series([0.0, 2.0, 4.0, 1.0, NAN]))
    assert (found.n, found.difference, found.wins, found.losses) == (3, 0, 1, 1)
    none = paired(pd.Series([1.0]), pd.Series([NAN]))
    assert none.n == 0
    assert np.isnan([none.difference, none.p]).all()
    assert paired(pd.Series([1.0, 2.0]), pd.Series([1.0, 2.0])).p == 1
    # 0.3 - 0.1 and 0.2 - 0.0 differ in floating point.
    assert paired(pd.Series([0.3, 0.0]), pd.Series([0.1, 0.2])).p == 1


@pytest.mark.parametrize("n", [1, 4, 6, 12])
def test_no_p_is_smaller_than_the_smallest(n: int) -> None:
    assert paired(pd.Series(np.arange(1.0, n + 1)), pd.Series(np.zeros(n))).p == smallest_p(n)


def test_holm() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 30):
        p = rng.uniform(size=n) ** 3
        np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])
    np.testing.assert_allclose(holm([0.04, NAN, 0.01]), [0.04, NAN, 0.02])
    assert holm([]).tolist() == []


def test_pairwise() -> None:
    rng = np.random.default_rng(1)
    table = scores("abcd", x=rng.normal(3, 1, 12), y=rng.normal(0, 1, 12), z=rng.normal(0, 1, 12))
    found = pairwise(table)
    expected = holm([paired(table[a], table[b]).p for a, b in ("xy", "xz", "yz")])
    assert [found.loc["x", "y"], found.loc["x", "z"], found.loc["y", "z"]] == list(expected)
    np.testing.assert_array_equal(found, found.T)
    assert np.diag(found).tolist() == [1, 1, 1]


def test_friedman() -> None:
    table = scores(x=[3, 3, 3, 2, 3, 3], y=[2, 1, 2, 3, 2, 2], z=[1, 2, 1, 1, 1, 1])
    assert friedman(table) == stats.friedmanchisquare(table["x"], table["y"], table["z"]).pvalue
    assert friedman(table[["x", "y"]]) is None
    assert friedman(table.iloc[:1]) is None
    assert friedman(table.assign(y=table["x"], z=table["x"])) == 1


def test_a_loss_is_told_from_chance() -> None:
    x = scores("abc", x=[50, 51, 50, 70, 72, 71, 80, 79, 80])["x"]
    base = scores("abc", x=[60, 61.5, 60, 70, 71, 73, 80, 79, 80])["x"]
    found = transfers_against(x, base)
    assert found["difference"].tolist() == pytest.approx([-30.5 / 3, -1 / 3, 0])
    raw = [stats.ttest_rel(x[t], base[t], alternative="less").pvalue for t in "ab"]
    np.testing.assert_allclose(found["p"], holm([*raw, 1.0]))
    assert found["p"]["a"] < 0.05 < found["p"]["b"]


def test_few_seeds_tell_nothing() -> None:
    x, base = scores(x=[1, 2, NAN, 4, 5, 6])["x"], scores(x=[2, 3, 4, NAN, NAN, NAN])["x"]
    found = transfers_against(x, base)
    assert found["n"].tolist()[0] == 2
    assert found["difference"].tolist()[0] == -1
    assert found["p"].isna().all()
    assert found.loc["b"].isna().all()


def test_a_loss_without_spread() -> None:
    x, base = scores(x=[1, 2, 3, 5, 6, 7])["x"], scores(x=[2, 3, 4, 4, 5, 6])["x"]
    assert transfers_against(x, base)["p"].tolist() == [0, 1]
