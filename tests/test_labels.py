"""What is made of given labels: weights, smoothing, mixing, balance, and how few may be given."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import composed
from test_data import SIZES, Given, divided, ids, labelled, many, names_of
from test_loader import loader, make_rows
from torch import Tensor

from tl_runner.data.loader import StageLoader, balanced_order
from tl_runner.data.mixing import mixed
from tl_runner.errors import DataError, UserError
from tl_runner.methods.finetune import Finetune
from tl_runner.methods.source_only import SourceOnly
from tl_runner.nn import Model, backbones
from tl_runner.run import run
from tl_runner.types import Batch, DataInfo, Mixing, Outputs

# The labelled loss

COUNTS = (6, 3, 1)
INFO = DataInfo(("a", "b", "c"), (2,), counts={"labeled": COUNTS, "source": COUNTS[::-1]})


def method(kind: type[Finetune] = Finetune, **options: Any) -> Finetune:
    return kind(Model(INFO, partial(backbones.mlp, hidden=4, layers=1), neck="none"), INFO, **options)


def batch_of(y: Tensor) -> dict[str, Batch]:
    n = torch.zeros(len(y), dtype=torch.long)
    return {role: Batch((torch.zeros(len(y), 2),), y, n, n) for role in ("labeled", "source")}


def by_hand(z: np.ndarray, y: np.ndarray, weights: list[float], smoothing: float) -> tuple[float, np.ndarray]:
    """Value and gradient of the weighted, smoothed cross-entropy, one sample and class at a time."""
    n, k = z.shape
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    soft = y.ndim == 2
    share = y if soft else np.eye(k)[y]
    total = n if soft else sum(weights[label] for label in y)
    value, gradient = 0.0, np.zeros_like(z)
    for i in range(n):
        for c in range(k):
            t = weights[c] * ((1 - smoothing) * share[i, c] + smoothing / k) / total
            value -= t * np.log(p[i, c])
            gradient[i] += t * (p[i] - np.eye(k)[c])
    return value, gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, "balanced", {"c": 4.0}])
@pytest.mark.parametrize("mixing", [False, True])
def test_the_labelled_loss(dtype: torch.dtype, smoothing: float, weights: Any, mixing: bool) -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(7, 3, generator=g, dtype=dtype).requires_grad_()
    y: Tensor = torch.tensor([0, 1, 2, 0, 0, 1, 0])
    if mixing:
        y = torch.eye(3, dtype=dtype)[y] * 0.7 + torch.eye(3, dtype=dtype)[y.roll(1)] * 0.3
    built = method(label_smoothing=smoothing, class_weights=weights).to(dtype)
    losses = built.losses({"labeled": Outputs(z, z)}, batch_of(y), 0.0)
    # Weights whose mean over the ten labels is 1: 10/(3·6), 10/(3·3), 10/(3·1), and (1, 1, 4)·10/13.
    numbers = [1.0, 1.0, 1.0]
    if weights:
        numbers = [10 / 18, 10 / 9, 10 / 3] if weights == "balanced" else [10 / 13, 10 / 13, 40 / 13]
    value, gradient = by_hand(
        z.detach().double().numpy(), y.double().numpy() if mixing else y.numpy(), numbers, smoothing
    )
    assert set(losses) == {"labeled"}
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-6, "atol": 1e-7}
    torch.testing.assert_close(losses["labeled"], torch.tensor(value, dtype=dtype), **tolerance)
    [found] = torch.autograd.grad(losses["labeled"], z)
    torch.testing.assert_close(found, torch.tensor(gradient, dtype=dtype), **tolerance)


def test_balanced_weights_make_every_class_count_the_same() -> None:
    weights = method(class_weights="balanced").weights
    assert weights is not None
    torch.testing.assert_close(weights * torch.tensor(COUNTS), torch.full((3,), 10 / 3))
    source = method(SourceOnly, class_weights="balanced").weights
    torch.testing.assert_close(source, weights.flip(0))  # of the source's labels
    assert "weights" not in method(class_weights="balanced").state_dict()


def test_a_class_without_labels_has_no_weight() -> None:
    info = DataInfo(INFO.classes, (2,), counts={"labeled": (4, 0, 4)})
    built = Finetune(Model(info, backbones.mlp, neck="none"), info, class_weights="balanced")
    assert built.weights is not None
    assert built.weights.tolist() == [1.0, 0.0, 1.0]


def test_a_weight_for_no_class() -> None:
    with pytest.raises(UserError, match=r"class_weights: no class 'aa'; did you mean 'a'"):
        method(class_weights={"aa": 2.0})


def test_class_names_that_look_like_numbers() -> None:
    info = DataInfo(("0", "1"), (2,), counts={"labeled": (2, 2)})
    built = Finetune(Model(info, backbones.mlp, neck="none"), info, class_weights={1: 3.0})  # type: ignore[dict-item]
    assert built.weights is not None
    assert built.weights.tolist() == [0.5, 1.5]


# Mixing


def images(n: int = 9, views: int = 1, side: int = 12) -> Batch:
    g = torch.Generator().manual_seed(n)
    x = tuple(torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=g) for _ in range(views))
    return Batch(x, torch.arange(n) % 4, torch.zeros(n, dtype=torch.long), torch.arange(n))


def share_of(y: Tensor, label: Tensor) -> float:
    """The first sample's share of itself; its label and its partner's differ."""
    return float(y[1, label[1]])


@pytest.mark.parametrize("seed", range(6))
def test_mixup_blends_samples_and_labels_alike(seed: int) -> None:
    batch = images(views=2)
    found = mixed(batch, Mixing(4, mixup=1.0), np.random.default_rng(seed))
    share = share_of(found.y, batch.y)
    assert 0 <= share <= 1
    for before, after in zip(batch.views, found.views, strict=True):
        assert after.dtype == torch.uint8
        for i in range(len(batch)):
            blend = share * before[i].double() + (1 - share) * before[i - 1].double()
            assert float((after[i].double() - blend).abs().max()) <= 0.5 + 1e-3
    for i in range(len(batch)):
        expected = torch.zeros(4)
        expected[batch.y[i]] += share
        expected[batch.y[i - 1]] += 1 - share
        torch.testing.assert_close(found.y[i], expected)
    assert torch.equal(found.row, batch.row)
    assert torch.equal(batch.x, images(views=2).x)  # the batch itself is left alone


@pytest.mark.parametrize("seed", range(12))
def test_cutmix_pastes_one_rectangle_and_its_area_is_the_share(seed: int) -> None:
    batch = images(views=2)
    found = mixed(batch, Mixing(4, cutmix=1.0), np.random.default_rng(seed))
    share = share_of(found.y, batch.y)
    masks = []
    for before, after in zip(batch.views, found.views, strict=True):
        partner = torch.stack([before[i - 1] for i in range(len(before))])
        other = (after != before).any(1).any(0)
        masks.append(other)
        assert torch.equal(after, torch.where(other, partner, before))
        rows, columns = other.any(1), other.any(0)
        assert torch.equal(other, rows[:, None] & columns[None])
        for line in (rows, columns):  # in one piece
            assert sum(a != b for a, b in pairwise([False, *line.tolist(), False])) in (0, 2)
    assert torch.equal(*masks)
    assert 1 - share == pytest.approx(float(masks[0].float().mean()), abs=1e-6)
    torch.testing.assert_close(found.y.sum(1), torch.ones(len(batch)))


def test_vectors_are_blended_without_rounding() -> None:
    g = torch.Generator().manual_seed(0)
    batch = Batch((torch.randn(5, 7, generator=g),), torch.arange(5), torch.zeros(5), torch.arange(5))
    found = mixed(batch, Mixing(5, mixup=0.5), np.random.default_rng(0))
    share = float(found.y[2, 2])
    torch.testing.assert_close(found.x[2], share * batch.x[2] + (1 - share) * batch.x[1])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_come_from_a_beta_distribution(alpha: float) -> None:
    batch, rng = images(2, side=2), np.random.default_rng(0)
    shares = [share_of(mixed(batch, Mixing(4, mixup=alpha), rng).y, batch.y) for _ in range(4000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_both_take_turns() -> None:
    batch, kinds = images(), Counter[bool]()
    for seed in range(200):
        found = mixed(batch, Mixing(4, mixup=1.0, cutmix=1.0), np.random.default_rng(seed))
        whole = (found.x == batch.x) | (found.x == batch.x.roll(1, 0))
        kinds[bool(whole.all())] += 1
    assert 70 < kinds[True] < 130


def both_labelled(**options: Any) -> StageLoader:
    """Batches of two roles that have the same rows."""
    rows = options.pop("rows", make_rows()[0])
    return loader(roles={"source": rows, "labeled": rows}, batch_size={"source": 4, "labeled": 4}, **options)


def test_a_mixed_role_is_a_function_of_seed_stage_epoch_and_step() -> None:
    mixing = {"labeled": Mixing(3, 1.0, 1.0)}
    torch.manual_seed(0)
    first = list(both_labelled(mixing=mixing))
    torch.manual_seed(1)
    again = list(both_labelled(mixing=mixing, workers=2))
    plain = list(both_labelled())
    for a, b, c in zip(first, again, plain, strict=True):
        assert torch.equal(a["labeled"].x, b["labeled"].x)
        assert torch.equal(a["labeled"].y, b["labeled"].y)
        assert torch.equal(a["labeled"].row, c["labeled"].row)
        assert a["labeled"].y.shape == (4, 3)
        assert torch.equal(a["source"].x, c["source"].x)
        assert torch.equal(a["source"].y, c["source"].y)
    shares = {round(float(s), 6) for b in first for s in b["labeled"].y.amax(1)}
    assert len(shares) > 3
    for other in (both_labelled(epoch=1, mixing=mixing), both_labelled(seed=1, mixing=mixing)):
        assert not torch.equal(next(iter(other))["labeled"].y, first[0]["labeled"].y)


def test_only_methods_that_know_how_are_given_mixed_labels(tmp_path: Path) -> None:
    """A run with everything on; a method of whole labels has no such argument (see test_cli)."""
    options = (
        "method.mixup=0.4",
        "method.cutmix=1.0",
        "method.label_smoothing=0.1",
        "method.class_weights=balanced",
    )
    few = ("data.labeled_per_class=3", "trainer.balanced=[labeled]")
    whole = run(composed("trainer=smoke", "method=finetune", *few, *options), tmp_path / "a")
    plain = run(composed("trainer=smoke", "method=finetune", *few), tmp_path / "b")
    assert whole["stages"]["adapt"]["losses"] != plain["stages"]["adapt"]["losses"]
    with pytest.raises(UserError, match="MMD has no argument 'mixup'"):
        run(composed("trainer=smoke", "method=mmd", "+method.mixup=0.4"), tmp_path / "c")
    with pytest.raises(UserError, match=r"method.cutmix pastes pieces of images.*cache_features=false"):
        run(
            composed("trainer=smoke", "method=source_only", "tuning=frozen", "method.cutmix=1.0"),
            tmp_path / "d",
        )


def test_a_wrapper_passes_mixed_labels_on(tmp_path: Path) -> None:
    plain = ("method=sdat", "method.adversarial=[]")
    config = composed("trainer=smoke", *plain, "method.method={source_only: {mixup: 0.5}}")
    other = composed("trainer=smoke", *plain, "method.method=source_only")
    one, two = (run(c, tmp_path / str(i))["stages"]["adapt"]["losses"] for i, c in enumerate((config, other)))
    assert one["source"] != two["source"]
    extra = composed("trainer=smoke", "method=source_only", "method.mixup=0.5", "+method.extra=[mcc]")
    assert run(extra, tmp_path / "2")["stages"]["adapt"]["losses"]["source"] != two["source"]


# Balance

Y = torch.tensor([0] * 20 + [1] * 5 + [3] * 2)


@pytest.mark.parametrize("count", [3, 30, 31])
def test_a_balanced_order_has_every_class_in_every_round(count: int) -> None:
    rows = balanced_order(Y, count, "key")
    assert len(rows) == count
    y = Y[rows]
    for start in range(0, count - 2, 3):
        assert sorted(y[start : start + 3].tolist()) == [0, 1, 3]
    for k in (0, 1, 3):  # within a class, whole permutations: no row twice before each was there once
        own = rows[y == k].tolist()
        size = int((k == Y).sum())
        for start in range(0, len(own), size):
            part = own[start : start + size]
            assert len(set(part)) == len(part)
    torch.manual_seed(0)
    assert torch.equal(balanced_order(Y, count, "key"), rows)
    if count > 3:
        assert not torch.equal(balanced_order(Y, count, "other"), rows)


def test_only_the_roles_asked_for_are_balanced() -> None:
    rows, _ = make_rows((12,))
    rows.y = torch.tensor([0] * 9 + [1] * 3)

    def seen(*balanced: str) -> dict[str, Counter[int]]:
        found: dict[str, Counter[int]] = {"source": Counter(), "labeled": Counter()}
        for batches in both_labelled(rows=rows, balanced=balanced):
            for role, batch in batches.items():
                found[role] += Counter(batch.y.tolist())
        return found

    assert seen() == {"source": Counter({0: 27, 1: 9}), "labeled": Counter({0: 27, 1: 9})}
    assert seen("labeled") == {"source": Counter({0: 27, 1: 9}), "labeled": Counter({0: 18, 1: 18})}


def test_the_target_cannot_be_balanced(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer\.balanced: input should be 'source' or 'labeled', got"):
        run(composed("trainer=smoke", "trainer.balanced=[target]"), tmp_path)


# Few labels


@pytest.mark.parametrize("protocol", ["transductive", "split"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5])
def test_a_share_of_each_class(protocol: str, share: float) -> None:
    options: dict[str, Any] = {"protocol": protocol, "target_test": 0.2}
    everything = divided(**options)
    training = Counter(many(1)[i] for i in ids(everything, "target"))
    data = divided(**options, label_fraction=share)
    known = ids(data, "labeled")
    given = Counter(names_of(data, data.roles["labeled"].y))
    assert given == {name: max(1, round(share * n)) for name, n in training.items()}
    assert names_of(data, data.roles["labeled"].y) == [many(1)[i] for i in known]
    assert not set(known) & {*ids(data, "target"), *ids(data, "target", evaluation=True)}
    assert sorted(known + ids(data, "target")) == ids(everything, "target")
    assert data.info.counts["labeled"] == tuple(given[name] for name in data.info.classes)
    assert data.info.counts["source"] == tuple(
        Counter(names_of(data, data.roles["source"].y))[name] for name in data.info.classes
    )
    assert "target" not in data.info.counts


def test_draws_are_nested_and_depend_on_the_seed() -> None:
    """One, three or ten per class and every share: each holds the smaller ones. Other seeds draw others."""
    asked: list[dict[str, Any]] = [{"labeled_per_class": n} for n in (1, 3, 7)]
    asked += [{"label_fraction": share} for share in (0.7, 0.9)]
    for seed in range(3):
        draws = [set(ids(divided(seed=seed, **options), "labeled")) for options in asked]
        for small, large in pairwise(draws):
            assert small < large
    first, second = (set(ids(divided(seed=seed, labeled_per_class=3), "labeled")) for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize("recipe", ["method=finetune", "method=replay", "recipe=pretrain_adapt_finetune"])
def test_every_method_is_given_the_same_labels(
    recipe: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Tensor] = []
    original = StageLoader.__init__

    def spy(self: StageLoader, roles: Any, *rest: Any, **options: Any) -> None:
        if "labeled" in roles:
            seen.append(roles["labeled"].index)
        original(self, roles, *rest, **options)

    monkeypatch.setattr(StageLoader, "__init__", spy)
    run(composed("trainer=smoke", recipe, "data.label_fraction=0.05"), tmp_path)
    from tl_runner.building import build

    drawn = build(composed("data.label_fraction=0.05")["data"]).prepare().roles["labeled"].index
    assert len(seen) == 1
    assert torch.equal(seen[0], drawn)


def test_wrong_numbers_of_labels() -> None:
    with pytest.raises(UserError, match=r"labeled_per_class=3 and data.label_fraction=0.1 both.*set one"):
        divided(labeled_per_class=3, label_fraction=0.1)
    with pytest.raises(DataError, match=r"label_fraction=1\.0 leaves nothing to test on"):
        divided(label_fraction=1.0)
    assert "target" not in divided(label_fraction=1.0, protocol="split").roles
    with pytest.raises(DataError, match=r"data.label_fraction=0.1: domain 't' has no labels"):
        divided(Given(s=labelled("s", many(0)), t=labelled("t", None, 9)), label_fraction=0.1)


@pytest.mark.parametrize(
    "asked", [{"labeled_per_class": "all"}, {"labeled_per_class": 1}, {"label_fraction": 0.1}]
)
def test_a_class_without_labels_is_named(asked: dict[str, Any]) -> None:
    def with_split() -> Given:
        target = labelled("t", ["a"] * 8 + ["b"] * 8 + ["c"] * 2)
        target.split = np.array(["train"] * 16 + ["test"] * 2)
        return Given(s=labelled("s", many(0)), t=target)

    with pytest.raises(DataError, match="domain 't' has no training samples of class 'c'"):
        divided(with_split(), protocol="split", **asked)
    data = divided(with_split(), protocol="split", label_set="partial", **asked)
    assert data.info.counts["labeled"][2] == 0


def test_a_class_that_the_source_only_validates_on_is_named() -> None:
    source = labelled("s", ["a"] * 8 + ["b"] * 8 + ["c"] * 2)
    source.split = np.array(["train"] * 16 + ["val"] * 2)
    with pytest.raises(DataError, match="source s has no training samples of class 'c': all are held out"):
        divided(Given(s=source, t=labelled("t", many(1))))
    with pytest.raises(DataError, match="source s has no training samples of class 'a'"):
        divided(source_val=1.0)
    assert set(SIZES) == set("abc")
