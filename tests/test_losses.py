"""Every loss against the paper's formula in plain loops, in value and in gradient."""

from __future__ import annotations

import doctest
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_runner.errors
import tl_runner.losses
import tl_runner.schedules
from tl_runner.losses import (
    classifier_discrepancy,
    coral,
    domain_adversarial,
    entropy,
    information_maximization,
    mcc,
    mmd,
)

ALPHAS = (0.125, 0.25, 0.5, 1.0, 2.0)
ESTIMATORS = ("unbiased", "biased", "linear")


def probabilities(z: Tensor) -> Tensor:
    e = torch.exp(z - z.max().detach())
    return e / e.sum()


def row_entropy(p: Tensor) -> Tensor:
    return -sum(q * torch.log(q) for q in p)


def naive_mmd(
    s: Tensor, t: Tensor, alphas: tuple[float, ...] = ALPHAS, estimator: str = "unbiased"
) -> Tensor:
    if estimator == "linear":
        n = min(len(s), len(t))
        s, t = s[:n], t[:n]

    def squared(a: Tensor, b: Tensor) -> Tensor:
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

    joint = [*s, *t]
    width = sum(float(squared(a, b).detach()) for a in joint for b in joint) / len(joint) ** 2

    def k(a: Tensor, b: Tensor) -> Tensor:
        return sum(torch.exp(-squared(a, b) / (2 * alpha * width)) for alpha in alphas)

    n, m = len(s), len(t)
    if estimator == "linear":
        terms = []
        for i in range(n):
            j = (i + 1) % n
            terms.append(k(s[i], s[j]) + k(t[i], t[j]) - k(s[i], t[j]) - k(s[j], t[i]))
        return sum(terms) / n
    cross = sum(k(a, b) for a in s for b in t) / (n * m)
    own = estimator == "biased"
    ss = sum(k(s[i], s[j]) for i in range(n) for j in range(n) if own or i != j)
    tt = sum(k(t[i], t[j]) for i in range(m) for j in range(m) if own or i != j)
    return ss / (n * (n if own else n - 1)) + tt / (m * (m if own else m - 1)) - 2 * cross


def naive_coral(s: Tensor, t: Tensor) -> Tensor:
    d = s.shape[1]

    def covariance(x: Tensor, a: int, b: int) -> Tensor:
        n = len(x)
        mean_a, mean_b = sum(x[i, a] for i in range(n)) / n, sum(x[i, b] for i in range(n)) / n
        return sum((x[i, a] - mean_a) * (x[i, b] - mean_b) for i in range(n)) / (n - 1)

    return sum((covariance(s, a, b) - covariance(t, a, b)) ** 2 for a in range(d) for b in range(d)) / (
        4 * d**2
    )


def naive_mcc(z: Tensor, temperature: float = 2.5) -> Tensor:
    n, k = z.shape
    p = [probabilities(row / temperature) for row in z]
    w = [1 + math.exp(-float(row_entropy(q.detach()))) for q in p]
    w = [n * v / sum(w) for v in w]
    c = [[sum(w[i] * p[i][a] * p[i][b] for i in range(n)) for b in range(k)] for a in range(k)]
    return sum(c[a][b] / sum(c[a]) for a in range(k) for b in range(k) if a != b) / k


def naive_entropy(z: Tensor) -> Tensor:
    return sum(row_entropy(probabilities(row)) for row in z) / len(z)


def naive_im(z: Tensor) -> Tensor:
    mean = sum(probabilities(row) for row in z) / len(z)
    return naive_entropy(z) - row_entropy(mean)


def naive_discrepancy(a: Tensor, b: Tensor) -> Tensor:
    n, k = a.shape
    p, q = [probabilities(r) for r in a], [probabilities(r) for r in b]
    return sum(abs(p[i][j] - q[i][j]) for i in range(n) for j in range(k)) / (n * k)


def naive_adversarial(scores: Tensor, num_source: int, weights: Tensor | None = None) -> Tensor:
    s = scores.reshape(-1)
    w = [1.0] * len(s) if weights is None else weights.tolist()
    total = 0
    for rows, sign in ((range(num_source), -1), (range(num_source, len(s)), 1)):
        mean = sum(w[i] * torch.log(1 + torch.exp(sign * s[i])) for i in rows) / sum(w[i] for i in rows)
        total = total + mean / 2
    return total


def features(n: int = 5, m: int = 7, d: int = 4) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, d, generator=g).double(), (torch.randn(m, d, generator=g) * 1.5 + 0.7).double()


def logits(count: int = 1, n: int = 6, k: int = 4) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(2)
    return tuple((2 * torch.randn(n, k, generator=g)).double() for _ in range(count))


def scores() -> tuple[Tensor, ...]:
    return (3 * torch.randn(8, 1, generator=torch.Generator().manual_seed(3)).double(),)


WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 1.5, 1.0, 0.0, 2.0, 1.2])

Case = tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...], dict[str, Any]]
CASES: dict[str, Case] = {
    **{f"mmd-{e}": (mmd, naive_mmd, features(), {"estimator": e}) for e in ESTIMATORS},
    "mmd-default": (mmd, naive_mmd, features(), {}),
    "mmd-one-kernel": (mmd, naive_mmd, features(6, 4), {"alphas": (0.7,)}),
    "mmd-same-size": (mmd, naive_mmd, features(4, 4), {"estimator": "linear"}),
    "coral": (coral, naive_coral, features(), {}),
    "mcc": (mcc, naive_mcc, logits(), {}),
    "mcc-t1": (mcc, naive_mcc, logits(), {"temperature": 1.0}),
    "entropy": (entropy, naive_entropy, logits(), {}),
    "im": (information_maximization, naive_im, logits(), {}),
    "discrepancy": (classifier_discrepancy, naive_discrepancy, logits(2), {}),
    "adversarial": (domain_adversarial, naive_adversarial, scores(), {"num_source": 3}),
    "adversarial-weights": (
        domain_adversarial,
        naive_adversarial,
        scores(),
        {"num_source": 3, "weights": WEIGHTS},
    ),
}

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def with_gradient(
    f: Callable[..., Tensor], args: tuple[Tensor, ...], options: dict[str, Any]
) -> tuple[Tensor, ...]:
    leaves = [a.detach().clone().requires_grad_() for a in args]
    value = f(*leaves, **options)
    return value.detach(), *torch.autograd.grad(value, leaves)


def agree(
    loss: Callable[..., Tensor],
    naive: Callable[..., Tensor],
    args: tuple[Tensor, ...],
    options: dict[str, Any],
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    """A loss in `dtype`, its value and gradients, is that of the naive formula in float64."""
    rounded = tuple(a.to(dtype) for a in args)
    found = with_gradient(loss, rounded, options)
    expected = with_gradient(naive, tuple(a.double() for a in rounded), options)
    assert found[0].ndim == 0
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        assert b.abs().max() > 1e-4  # or the comparison says nothing
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@each_case
def test_value_and_gradient_are_those_of_the_formula(
    case: Case, dtype: torch.dtype, tolerance: float
) -> None:
    agree(*case, dtype, tolerance)


@pytest.mark.parametrize("given", [torch.bfloat16, torch.float32])
@each_case
def test_autocast_computes_in_float32(case: Case, given: torch.dtype) -> None:
    loss, _, args, options = case
    half = tuple(a.to(torch.bfloat16).to(given) for a in args)
    expected = loss(*(a.float() for a in half), **options)
    with torch.autocast("cpu", torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        found = loss(*half, **options)
        assert torch.is_autocast_enabled("cpu")
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@each_case
def test_half_precision_without_autocast_is_raised(case: Case) -> None:
    loss, _, args, options = case
    half = tuple(a.to(torch.bfloat16).requires_grad_() for a in args)
    found = loss(*half, **options)
    found.backward()
    assert found.dtype == torch.float32
    assert all(a.grad is not None and a.grad.isfinite().all() for a in half)


def one_class(n: int = 6, k: int = 4) -> Tensor:
    z = torch.zeros(n, k)
    z[:, 1] = 1000.0
    return z


X = features()[0].float()
SAME = X[:1].expand(5, 4).clone()
DEGENERATE: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...], dict[str, Any]]] = {
    **{f"mmd-{e}-identical": (mmd, (X, X), {"estimator": e}) for e in ESTIMATORS},
    **{f"mmd-{e}-constant": (mmd, (SAME, SAME), {"estimator": e}) for e in ESTIMATORS},
    **{f"mmd-{e}-zero": (mmd, (0 * X, 0 * X), {"estimator": e}) for e in ESTIMATORS},
    **{f"mmd-{e}-half-constant": (mmd, (SAME, X), {"estimator": e}) for e in ESTIMATORS},
    **{f"mmd-{e}-far": (mmd, (X, X + 1e6), {"estimator": e}) for e in ESTIMATORS},
    "coral-identical": (coral, (X, X), {}),
    "coral-constant": (coral, (SAME, SAME), {}),
    "coral-two-rows": (coral, (X[:2], X[2:4]), {}),
    "mcc-one-class": (mcc, (one_class(),), {}),
    "mcc-one-row": (mcc, (one_class(1),), {}),
    "mcc-uniform": (mcc, (torch.zeros(3, 4),), {}),
    "entropy-one-class": (entropy, (one_class(),), {}),
    "im-one-class": (information_maximization, (one_class(),), {}),
    "im-one-row": (information_maximization, (torch.zeros(1, 4),), {}),
    "discrepancy-same": (classifier_discrepancy, (X, X), {}),
    "discrepancy-one-class": (classifier_discrepancy, (one_class(), -one_class()), {}),
    "adversarial-right": (domain_adversarial, (torch.tensor([1000.0, -1000.0]),), {"num_source": 1}),
    "adversarial-wrong": (domain_adversarial, (torch.tensor([-1000.0, 1000.0]),), {"num_source": 1}),
}


@pytest.mark.parametrize(("loss", "args", "options"), DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_batches_are_finite(
    loss: Callable[..., Tensor], args: tuple[Tensor, ...], options: dict[str, Any]
) -> None:
    for part in with_gradient(loss, args, options):
        assert part.isfinite().all()


@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_mmd_of_collapsed_features_is_zero_and_does_not_push(estimator: str, width: int) -> None:
    # All differences are zero, so is the distance: rounding divided by rounding is not.
    for seed in range(10):
        row = torch.randn(1, width, generator=torch.Generator().manual_seed(seed))
        same = row.expand(16, width).clone()
        value, *gradients = with_gradient(mmd, (same, same), {"estimator": estimator})
        assert abs(value.item()) < 1e-3
        for g in gradients:
            assert g.abs().max() < 1.0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_biased_mmd_of_a_batch_with_itself_is_zero(scale: float) -> None:
    x = scale * torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    assert abs(mmd(x, x, estimator="biased").item()) < 1e-5
    assert mmd(x, x + 0.5 * scale, estimator="biased").item() > 0.05


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_mmd_is_symmetric_and_does_not_see_the_order(estimator: str) -> None:
    s, t = features(9, 6)
    value = mmd(s, t, estimator=estimator)
    g = torch.Generator().manual_seed(5)
    shuffled = mmd(s[torch.randperm(9, generator=g)], t[torch.randperm(6, generator=g)], estimator=estimator)
    torch.testing.assert_close(shuffled, value)
    torch.testing.assert_close(mmd(t, s, estimator=estimator), value)
    assert value <= 2 * len(ALPHAS)


def test_unbiased_mmd_averages_to_zero_for_one_distribution() -> None:
    g = torch.Generator().manual_seed(0)
    values = [mmd(torch.randn(16, 4, generator=g), torch.randn(16, 4, generator=g)) for _ in range(200)]
    assert abs(torch.stack(values).mean()) < 0.02
    assert min(values) < 0  # as documented


@pytest.mark.parametrize("loss", [mmd, coral])
def test_a_common_offset_changes_nothing(loss: Callable[..., Tensor]) -> None:
    g = torch.Generator().manual_seed(0)
    s, t = torch.randn(16, 64, generator=g), torch.randn(16, 64, generator=g) + 0.3
    value, *gradients = with_gradient(loss, (s, t), {})
    moved, *moved_gradients = with_gradient(loss, (s + 100, t + 100), {})
    torch.testing.assert_close(moved, value, rtol=1e-3, atol=1e-5)
    for a, b in zip(moved_gradients, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2 * float(b.abs().max()))


def test_coral_ignores_means_and_sees_scales() -> None:
    s, t = features()
    torch.testing.assert_close(coral(s + 5, t - 3), coral(s, t))
    assert coral(s, s + 7) < 1e-20
    assert coral(s, 2 * s) > 1e-2


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 10.0, 300.0])
@pytest.mark.parametrize("k", [2, 5])
def test_ranges(scale: float, k: int) -> None:
    g = torch.Generator().manual_seed(k)
    z, other = (scale * torch.randn(40, k, generator=g) for _ in range(2))
    slack = 1e-5
    assert -slack <= mcc(z) <= 1 - 1 / k + slack
    assert -slack <= entropy(z) <= math.log(k) + slack
    assert entropy(z, reduction="none").shape == (40,)
    assert -math.log(k) - slack <= information_maximization(z) <= slack
    assert 0 <= classifier_discrepancy(z, other) <= 2 / k + slack
    assert classifier_discrepancy(z, z) == 0
    torch.testing.assert_close(classifier_discrepancy(z, other), classifier_discrepancy(other, z))
    for loss in (mcc, entropy, information_maximization):
        torch.testing.assert_close(loss(z.flip(0)), loss(z))


def test_known_values() -> None:
    confident = 100 * torch.eye(4)
    assert mcc(confident).item() == pytest.approx(0, abs=1e-6)
    assert mcc(torch.zeros(3, 4)).item() == pytest.approx(0.75)
    assert entropy(torch.zeros(2, 4)).item() == pytest.approx(math.log(4))
    assert information_maximization(confident).item() == pytest.approx(-math.log(4))
    assert information_maximization(torch.zeros(3, 4)).item() == pytest.approx(0, abs=1e-6)
    assert domain_adversarial(torch.zeros(5, 1), 2).item() == pytest.approx(math.log(2))


def test_domains_count_one_half_each_whatever_their_sizes() -> None:
    s, t = torch.tensor([0.3, -1.0]), torch.tensor([2.0])
    once, often = torch.cat([s, t]), torch.cat([s, t, t, t])
    torch.testing.assert_close(domain_adversarial(often, 2), domain_adversarial(once, 2))


def test_no_gradient_through_the_weights_of_rows() -> None:
    w = torch.ones(4, requires_grad=True)
    s = torch.zeros(4, requires_grad=True)
    domain_adversarial(s, 2, w).backward()
    assert w.grad is None
    assert s.grad is not None


@pytest.mark.parametrize("loss", [mmd, coral])
@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ((1, 3), (4, 3), "at least 2"),
        ((4, 3), (1, 3), "at least 2"),
        ((4, 3), (4, 2), r"\(4, 2\)"),
        ((4,), (4,), "N, D"),
    ],
)
def test_impossible_batches_are_refused(
    loss: Callable[..., Tensor], source: tuple[int, ...], target: tuple[int, ...], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        loss(torch.ones(source), torch.ones(target))


@pytest.mark.parametrize("num_source", [0, 4])
def test_a_missing_domain_is_refused(num_source: int) -> None:
    with pytest.raises(ValueError, match=f"{num_source} of 4"):
        domain_adversarial(torch.zeros(4), num_source)


LOSSES = {name: getattr(tl_runner.losses, name) for name in tl_runner.losses.__all__}


def run_examples(obj: object, name: str, module: Any) -> int:
    failed = attempted = 0
    for test in doctest.DocTestFinder(recurse=False).find(obj, name, module=False, globs=dict(vars(module))):
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
        failed, attempted = failed + result.failed, attempted + result.attempted
    assert failed == 0
    return attempted


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_has_an_example_that_runs(name: str) -> None:
    # The decorator hides the examples from doctest's own search: unwrap.
    loss = inspect.unwrap(LOSSES[name])
    assert run_examples(loss, name, importlib.import_module(loss.__module__)) > 0


def test_every_public_loss_is_exported() -> None:
    for info in pkgutil.iter_modules(tl_runner.losses.__path__):
        module = importlib.import_module(f"tl_runner.losses.{info.name}")
        own = {
            n for n, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__
        }
        own = {name for name in own if not name.startswith("_")}
        if info.name != "precision":
            assert own <= set(tl_runner.losses.__all__)


@pytest.mark.parametrize(
    ("function", "module"),
    [(tl_runner.errors.nearest, tl_runner.errors), (tl_runner.schedules.ramp, tl_runner.schedules)],
)
def test_other_examples_run(function: Callable[..., Any], module: Any) -> None:
    assert run_examples(function, function.__name__, module) > 0
