"""Validators against references written from the formulas, and what they do where formulas break down."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIGS, composed
from scipy.special import entr, log_softmax, softmax
from scipy.stats import entropy, hypergeom, norm, spearmanr
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from tl_runner.building import build
from tl_runner.types import Collected
from tl_runner.validators import class_share, density, snd
from tl_runner.validators.bnm import NuclearNorm
from tl_runner.validators.circular import Circular
from tl_runner.validators.class_ami import ClassAMI
from tl_runner.validators.density import density_ratio
from tl_runner.validators.dev import DeepEmbedded, risk
from tl_runner.validators.entropy import Entropy
from tl_runner.validators.im import InformationMaximization
from tl_runner.validators.iwv import ImportanceWeighted
from tl_runner.validators.mano import MaNo
from tl_runner.validators.mixval import MixVal
from tl_runner.validators.rank_ensemble import RankEnsemble
from tl_runner.validators.snd import SoftNeighborhoodDensity

Sets = dict[str, Collected]
K, D = 5, 7
CENTRES = torch.randn(K, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def made(
    n: int, seed: int, shift: float = 0.0, labels: bool = False, dtype: Any = torch.float64
) -> Collected:
    """n rows around the classes' centres, and a model that knows the centres."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(K, (n,), generator=g)
    features = CENTRES[y] + 0.7 * torch.randn(n, D, generator=g, dtype=torch.float64) + shift
    logits = features @ CENTRES.T
    shown = y if labels else torch.full((n,), -1)
    return Collected(features.to(dtype), logits.to(dtype), shown, torch.zeros(n).long(), torch.arange(n))


def sets(dtype: Any = torch.float64, n: int = 60) -> Sets:
    mixed = made(40, 3, shift=0.2, dtype=dtype)
    mixed.row = torch.randperm(n, generator=torch.Generator().manual_seed(4))[:40]
    mixed = Collected(
        *(getattr(mixed, f)[: len(mixed.row)] for f in ("features", "logits", "y", "domain")), mixed.row
    )
    return {
        "target": made(n, 0, shift=0.2, dtype=dtype),
        "source_val": made(30, 1, labels=True, dtype=dtype),
        "source:1000": made(80, 2, labels=True, dtype=dtype),
        "target:1024:0.55": mixed,
    }


def every() -> dict[str, Callable[[Sets], float]]:
    found = build(composed("validators=all")["validators"])
    return {name: v for name, v in found.items() if not isinstance(v, RankEnsemble)}


EVERY = every()


def arrays(of: Collected) -> tuple[Any, Any, Any]:
    return of.features.double().numpy(), of.logits.double().numpy(), of.y.numpy()


def permuted(of: Collected, order: Tensor) -> Collected:
    return Collected(*(getattr(of, name)[order] for name in ("features", "logits", "y", "domain", "row")))


# References


def naive_snd(z: Any, temperature: float = 0.05) -> float:
    p = softmax(z, 1)
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    rows = [softmax(np.delete(p @ p[i], i) / temperature) for i in range(len(p))]
    return float(np.mean([entropy(q) for q in rows]))


def naive_mano(z: Any, threshold: float = 5.0) -> float:
    if -log_softmax(z, 1).mean() > threshold:
        q = softmax(z, 1)
    else:
        v = 1 + z + z**2 / 2
        q = v / v.sum(1, keepdims=True)
    return float(np.linalg.norm(q.ravel(), 4) / q.size**0.25)


def naive_ami(a: Any, b: Any) -> float:
    """(MI − E MI) / (mean of the entropies − E MI), E under the hypergeometric model of randomness."""
    n = len(a)
    table = np.array([[((a == i) & (b == j)).sum() for j in np.unique(b)] for i in np.unique(a)])
    rows, columns = table.sum(1), table.sum(0)

    def term(count: Any, r: int, c: int) -> Any:
        return np.where(count > 0, count / n * np.log(np.maximum(n * count, 1) / (r * c)), 0.0)

    found = sum(float(term(table[i, j], r, c)) for i, r in enumerate(rows) for j, c in enumerate(columns))
    counts = np.arange(n + 1)
    expected = sum(
        float((hypergeom(n, r, c).pmf(counts) * term(counts, r, c)).sum()) for r in rows for c in columns
    )
    return float((found - expected) / ((entropy(rows) + entropy(columns)) / 2 - expected))


REFERENCES: dict[str, Callable[[Any, Any], float]] = {
    "entropy": lambda f, z: -float(entr(softmax(z, 1)).sum(1).mean()),
    "im": lambda f, z: float(entr(softmax(z, 1).mean(0)).sum() - entr(softmax(z, 1)).sum(1).mean()),
    "bnm": lambda f, z: float(np.linalg.svd(softmax(z, 1), compute_uv=False).sum() / len(z)),
    "snd": lambda f, z: naive_snd(z),
    "mano": lambda f, z: naive_mano(z),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("name", REFERENCES)
def test_functions_of_the_predictions(name: str, scale: float, dtype: torch.dtype) -> None:
    collected = sets(dtype)
    collected["target"].logits *= scale
    features, logits, _ = arrays(collected["target"])
    tolerance = 1e-4 if dtype == torch.float32 else 1e-7
    assert EVERY[name](collected) == pytest.approx(
        REFERENCES[name](features, logits), rel=tolerance, abs=tolerance
    )


def test_both_branches_of_mano_are_taken() -> None:
    z = sets()["target"].logits.numpy()
    assert -log_softmax(0.1 * z, 1).mean() < 5 < -log_softmax(30 * z, 1).mean()
    assert naive_mano(30 * z) == pytest.approx(naive_mano(30 * z, 0))
    assert naive_mano(0.1 * z) != pytest.approx(naive_mano(0.1 * z, 0))


@pytest.mark.parametrize("cells", [1, 10**6])
def test_density_in_chunks(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snd, "_CELLS", cells)
    z = made(150, 5).logits
    assert float(SoftNeighborhoodDensity().density(z)) == pytest.approx(naive_snd(z.numpy()))
    some = SoftNeighborhoodDensity(rows=75).density(z)
    assert float(some) == pytest.approx(naive_snd(z.numpy()), rel=0.1)
    assert float(some) != pytest.approx(naive_snd(z.numpy()), rel=1e-9)


def test_density_of_a_low_temperature_does_not_underflow() -> None:
    z = torch.tensor([[9.0, 0], [8, 0], [0, 9], [1, 0]]).double()
    found = float(SoftNeighborhoodDensity(temperature=1e-4).density(z))
    assert found == pytest.approx(naive_snd(z.numpy(), 1e-4))
    assert found > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_circular(dtype: torch.dtype) -> None:
    collected = sets(dtype)
    collected["source_val"].features += 0.8  # so that the reverse classifier errs
    features, logits, _ = arrays(collected["target"])
    held, _, y = arrays(collected["source_val"])
    scaler = StandardScaler().fit(features)
    classifier = RidgeClassifier(alpha=1.0).fit(scaler.transform(features), logits.argmax(1))
    expected = float((classifier.predict(scaler.transform(held)) == y).mean())
    assert 0.2 < expected < 1
    assert Circular()(collected) == pytest.approx(expected)


def test_class_ami_of_clear_clusters() -> None:
    """k-means finds them, so that the score is that of the formula with the true clusters."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(200) % K
    clusters = 20 * torch.eye(K, D)[y] + torch.randn(200, D, generator=g)
    logits = 5 * torch.eye(K)[torch.where(torch.arange(200) % 7 == 0, (y + 1) % K, y)]
    collected = {"target": Collected(clusters, logits, -torch.ones(200).long(), y, torch.arange(200))}
    expected = naive_ami(logits.argmax(1).numpy(), y.numpy())
    assert 0.5 < expected < 0.9
    assert ClassAMI()(collected) == pytest.approx(expected)


def test_density_ratio_of_two_gaussians() -> None:
    """exp(x − ½) between N(0, 1) and N(1, 1): the classifier's model is right there."""
    g = torch.Generator().manual_seed(0)
    at = torch.linspace(-2, 3, 50)[:, None]
    found = density_ratio(torch.randn(3000, 1, generator=g), 1 + torch.randn(2000, 1, generator=g), at)
    truth = norm(1).pdf(at[:, 0]) / norm(0).pdf(at[:, 0])
    np.testing.assert_allclose(np.log(found), np.log(truth), atol=0.15)
    assert spearmanr(found, truth).statistic == pytest.approx(1)


def test_importance_weighted_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    collected = sets()
    _, logits, y = arrays(collected["source_val"])
    logits[::4] *= -1
    collected["source_val"].logits = torch.from_numpy(logits)
    w = np.random.default_rng(0).gamma(1.0, size=30)
    for module in ("iwv", "dev"):
        monkeypatch.setattr(f"tl_runner.validators.{module}.density_ratio", lambda *_: torch.from_numpy(w))
    right = logits.argmax(1) == y
    assert 0.3 < right.mean() < 1
    assert ImportanceWeighted()(collected) == pytest.approx(w[right].sum() / w.sum())
    loss = ~right
    eta = -np.cov(w * loss, w)[0, 1] / np.var(w, ddof=1)
    assert DeepEmbedded()(collected) == pytest.approx(1 - (np.mean(w * loss) + eta * np.mean(w) - eta))


def test_control_variate_lowers_the_variance_and_keeps_the_mean() -> None:
    """DEV's promise, on weights and losses whose expected product is known: E[wℓ] = ½."""
    rng = np.random.default_rng(0)
    plain, controlled = [], []
    for _ in range(400):
        w = rng.gamma(2, 0.5, size=200)
        loss = rng.random(200) < 0.5
        plain.append((w * loss).mean())
        controlled.append(float(risk(torch.from_numpy(w), torch.from_numpy(loss).double())))
    assert np.mean(controlled) == pytest.approx(0.5, abs=0.01)
    assert np.var(controlled) < 0.8 * np.var(plain)


def test_equal_weights_are_no_weights() -> None:
    loss = torch.tensor([0.0, 1, 1, 0, 1]).double()
    assert float(risk(torch.full((5,), 2.0).double(), loss)) == pytest.approx(1.2)
    assert float(risk(torch.ones(5).double(), loss)) == pytest.approx(0.6)


def test_mixval() -> None:
    collected = sets()
    predicted = collected["target"].logits.argmax(1).tolist()
    mixed = collected["target:1024:0.55"]
    rows, said = mixed.row.tolist(), mixed.logits.argmax(1).tolist()
    pairs = list(zip(rows, rows[1:] + rows[:1], said, strict=True))
    asked = [(a, z) for a, b, z in pairs if predicted[a] != predicted[b]]
    assert 10 < len(asked) < len(pairs)
    expected = sum(predicted[a] == z for a, z in asked) / len(asked)
    assert MixVal()(collected) == pytest.approx(expected)
    # Where mixtures are predicted as their larger part always is:
    mixed.logits = torch.eye(K).double()[torch.tensor([predicted[a] for a in rows])]
    assert MixVal()(collected) == 1


# Properties of all


@pytest.mark.parametrize("name", EVERY)
def test_order_of_rows_does_not_matter(name: str) -> None:
    collected = sets()
    before = EVERY[name](collected)
    g = torch.Generator().manual_seed(0)
    for key in ("target", "source_val", "source:1000"):
        collected[key] = permuted(collected[key], torch.randperm(len(collected[key].row), generator=g))
    # k-means starts elsewhere, and the domain classifier's penalty is chosen on other rows.
    loose = {"class_ami": 0.15, "iwv": 0.05, "dev": 0.05}
    assert EVERY[name](collected) == pytest.approx(before, abs=loose.get(name, 1e-9))


@pytest.mark.parametrize("name", EVERY)
def test_names_of_classes_do_not_matter(name: str) -> None:
    collected = sets()
    before = EVERY[name](collected)
    order = torch.tensor([3, 0, 4, 2, 1])
    for key, c in collected.items():
        y = torch.where(c.y >= 0, order.argsort()[c.y.clamp_min(0)], c.y)
        collected[key] = Collected(c.features, c.logits[:, order], y, c.domain, c.row)
    assert EVERY[name](collected) == pytest.approx(before, abs=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_precision_of_the_outputs(name: str) -> None:
    single, double = EVERY[name](sets(torch.float32)), EVERY[name](sets(torch.float64))
    assert isinstance(single, float)
    assert single == pytest.approx(double, abs=1e-3)


@pytest.mark.parametrize("name", ["circular", "snd"])
def test_half_precision_is_left_before_anything_is_summed(name: str) -> None:
    half = {"target": made(400, 0), "source_val": made(1000, 1, shift=0.8, labels=True)}
    for c in half.values():
        c.features, c.logits = (c.features + 50).bfloat16(), c.logits.bfloat16()
    wide = {k: Collected(c.features.float(), c.logits.float(), c.y, c.domain, c.row) for k, c in half.items()}
    assert EVERY[name](half) == EVERY[name](wide)


@pytest.mark.parametrize("name", EVERY)
def test_the_same_twice(name: str) -> None:
    assert EVERY[name](sets()) == EVERY[name](sets())


def one_class(collected: Sets) -> None:
    for c in collected.values():
        c.logits[:, 0] += 100


def identical(collected: Sets) -> None:
    for c in collected.values():
        c.features[:], c.logits[:] = c.features[0].clone(), c.logits[0].clone()


@pytest.mark.parametrize("n", [60, 3], ids=["", "fewer-rows-than-classes"])
@pytest.mark.parametrize("broken", [one_class, identical])
@pytest.mark.parametrize("name", EVERY)
def test_a_collapsed_model_gets_a_finite_score(name: str, broken: Callable[[Sets], None], n: int) -> None:
    collected = sets(n=n)
    healthy = EVERY[name](collected)
    broken(collected)
    score = EVERY[name](collected)
    assert math.isfinite(score)
    if name in ("im", "bnm", "class_ami", "circular", "mixval") and n == 60:
        assert score < healthy
    if name in ("im", "class_ami", "mixval"):
        assert score == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_one_row_of_each_set(name: str) -> None:
    collected = {k: permuted(c, torch.tensor([0])) for k, c in sets().items()}
    collected["target:1024:0.55"].row[:] = 0
    assert math.isfinite(EVERY[name](collected))


@pytest.mark.parametrize("name", ["class_ami", "iwv", "dev"])
def test_features_that_are_not_finite_have_no_score(name: str) -> None:
    collected = sets()
    collected["target"].features[3, 1] = math.inf
    assert math.isnan(EVERY[name](collected))


RANGES = {
    "entropy": (-math.log(K), 0),
    "im": (0, math.log(K)),
    "bnm": (0, math.sqrt(K / 60)),
    "snd": (0, math.log(59)),
    "mano": (0, K**-0.25),
    "class_ami": (-0.1, 1),
    "circular": (0, 1),
    "iwv": (0, 1),
    "mixval": (0, 1),
}


@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("name", RANGES)
def test_range(name: str, scale: float) -> None:
    collected = sets()
    for c in collected.values():
        c.logits *= scale
    low, high = RANGES[name]
    assert low - 1e-6 <= EVERY[name](collected) <= high + 1e-6


def test_share_of_classes() -> None:
    z = made(60, 0).logits
    q = np.bincount(z.argmax(1).numpy(), minlength=K) / 60
    assert class_share(z) == pytest.approx(math.exp(entropy(q)) / K)
    assert class_share(torch.eye(4)) == pytest.approx(1)
    assert class_share(torch.eye(4)[[0, 0, 0]]) == pytest.approx(1 / 4)
    # Tags of words: nearly all are O, and who knows that has not collapsed.
    tags = torch.tensor([0] * 90 + [1] * 4 + [2] * 3 + [3] * 3)
    r = np.bincount(tags.numpy(), minlength=4) / len(tags)
    assert class_share(torch.eye(4)[tags]) == pytest.approx(math.exp(entropy(r)) / 4)
    assert class_share(torch.eye(4)[tags], tags) == class_share(torch.eye(4), tags) == 1
    assert class_share(torch.eye(4)[[0, 0]], tags) == pytest.approx(math.exp(-entropy(r)))


# The rank ensemble


def rows(share: tuple[float, ...] = (1, 1, 1), **scores: tuple[float, ...]) -> list[dict[str, float]]:
    return [
        {f"val/{k}": v[i] for k, v in scores.items()} | {"target/classes": share[i]}
        for i in range(len(share))
    ]


def test_mean_ranks() -> None:
    table = rows(a=(0.1, 0.3, 0.2), b=(5, 5, 9), source_val=(9, 1, 1))
    assert RankEnsemble()(table) == pytest.approx([(1 + 1.5) / 2, (3 + 1.5) / 2, (2 + 3) / 2])
    assert RankEnsemble(["a"])(table) == pytest.approx([1, 3, 2])


def test_collapsed_and_unscored_epochs_rank_last() -> None:
    table = rows(share=(1, 0.1, 0.9), a=(1, 99, 2), b=(1, 99, 2))
    assert np.argsort(RankEnsemble()(table)).tolist() == [1, 0, 2]
    assert np.argsort(RankEnsemble(least=0.0)(table)).tolist() == [0, 2, 1]
    assert RankEnsemble()(rows(a=(math.nan, 1, 2))) == pytest.approx([1, 2, 3])


def test_ranks_ignore_units() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(6), rng.random(6)
    one = RankEnsemble()(rows((1,) * 6, a=tuple(a), b=tuple(b)))
    other = RankEnsemble()(rows((1,) * 6, a=tuple(np.exp(50 * a)), b=tuple(b - 7)))
    assert one == pytest.approx(other)


# Size


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_memory_of_a_large_target(name: str) -> None:
    """100 000 target rows, 345 classes, 256 features in 2 GB, the outputs themselves and torch included."""
    script = (
        "import sys, time, torch; sys.path.insert(0, 'tests');"
        "import test_validators as t; from tl_runner.environment import peak_memory; torch.set_num_threads(1);"
        "n, k, d = 100_000, 345, 256;"
        "c = lambda n: t.Collected(torch.randn(n, d), torch.randn(n, k), torch.arange(n) % k, torch.zeros(n).long(),"
        " torch.arange(n));"
        "s = {'target': c(n), 'source_val': c(10_000), 'source:1000': c(1000), 'target:1024:0.55': c(1024)};"
        f"start = time.perf_counter(); t.EVERY['{name}'](s);"
        "print(peak_memory() / 2**30, time.perf_counter() - start)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    gigabytes, seconds = map(float, done.stdout.split())
    print(f"{name}: {gigabytes:.2f} GB, {seconds:.1f} s")
    assert gigabytes < 2


def test_options_of_the_group() -> None:
    assert set(CONFIGS["validators"]) == {"all", "default", "fast"}
    assert composed()["validators"].keys() <= composed("validators=all")["validators"].keys()
    fast = composed("validators=fast")["validators"]
    assert fast.items() <= composed()["validators"].items()
    assert density.density_ratio is density_ratio
    assert {Entropy, InformationMaximization, NuclearNorm, MaNo} <= {type(v) for v in EVERY.values()}
