"""Methods step by step, and their parts against loops."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tl_runner.methods.base import Method
from tl_runner.methods.cdan import CDAN
from tl_runner.methods.coral import CORAL
from tl_runner.methods.dann import DANN
from tl_runner.methods.mcc import MCC
from tl_runner.methods.mcd import MCD
from tl_runner.methods.mmd import MMD
from tl_runner.methods.shot import SHOT
from tl_runner.methods.source_only import SourceOnly
from tl_runner.module import TransferModule
from tl_runner.nn import Model, backbones
from tl_runner.nn.layers import HeadName
from tl_runner.optim import Optim
from tl_runner.schedules import ramp
from tl_runner.types import HIDDEN, Batch, Collected, DataInfo, Step

INFO = DataInfo(
    ("a", "b", "c"), (3, 8, 8), {"source": 40, "target": 30}, {"source": ("s",), "target": ("t",)}
)


def build(kind: Any = Method, seed: int = 0, model: dict[str, Any] | None = None, **options: Any) -> Any:
    torch.manual_seed(seed)
    built = {"neck_features": 6, "dropout": 0.0} | (model or {})
    return kind(Model(INFO, partial(backbones.tiny, width=4), **built), INFO, **options).train()


def batches(seed: int = 0, n: int = 7, m: int = 5) -> dict[str, Batch]:
    g = torch.Generator().manual_seed(seed)

    def one(count: int, size: int, y: Tensor) -> Batch:
        x = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=g)
        return Batch((x,), y, torch.zeros(count, dtype=torch.long), torch.randperm(size, generator=g)[:count])

    return {"source": one(n, 40, torch.arange(n) % 3), "target": one(m, 30, torch.full((m,), HIDDEN))}


SGD = Optim(partial(torch.optim.SGD, momentum=0.9), lr=0.1, weight_decay=0.01)


def runner(method: Method, monkeypatch: pytest.MonkeyPatch, optim: Optim = SGD) -> TransferModule:
    """The real update, without a trainer."""
    module = TransferModule(method, optim, 1, 1, 0, "adapt", {}, lambda collected: {}, ())
    module.optimizer = module.configure_optimizers()
    monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())
    return module


def snapshot(method: Method) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in method.named_parameters()}


def changed(method: Method, before: dict[str, Tensor]) -> set[str]:
    return {name for name, p in method.named_parameters() if not torch.equal(p, before[name])}


# MCD

HEADS = ("model.head.", "second.")
GENERATOR = ("model.backbone.", "model.neck.")


@pytest.mark.parametrize("generator_steps", [1, 3])
@pytest.mark.parametrize("head", get_args(HeadName))
def test_each_phase_of_mcd_changes_only_its_modules(
    head: Any, generator_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = build(MCD, model={"head": head}, generator_steps=generator_steps)
    module = runner(method, monkeypatch)
    parts: list[set[str]] = []
    for _ in range(2):  # in the second round momentum could move what the step may not
        before = snapshot(method)
        for step in method.steps(batches(), 0.0):
            module.update(step)
            parts.append(
                {
                    prefix
                    for prefix in (*HEADS, *GENERATOR)
                    for n in changed(method, before)
                    if n.startswith(prefix)
                }
            )
            before = snapshot(method)
    assert parts == 2 * [{*HEADS, *GENERATOR}, {*HEADS}, *[{*GENERATOR}] * generator_steps]


@pytest.mark.parametrize("head", get_args(HeadName))
def test_the_second_head_of_mcd_is_another_head(head: Any) -> None:
    method = build(MCD, model={"head": head})
    first, second = (
        {n: p for n, p in h.named_parameters() if p.ndim > 1} for h in (method.model.head, method.second)
    )
    assert first.keys() == second.keys()
    assert all(first[n].shape == second[n].shape for n in first)
    assert not any(torch.allclose(first[n], second[n], atol=1e-3) for n in first if len(first[n]) > 1)
    assert not {p.data_ptr() for p in method.model.head.parameters()} & {
        p.data_ptr() for p in method.second.parameters()
    }
    out = method.predict(batches()["target"].x)
    one, two = method.both(out.features)
    assert not torch.allclose(one, two, atol=1e-3)
    torch.testing.assert_close(out.logits, (one + two) / 2)


def difference(method: Any, features: Tensor) -> Tensor:
    p, q = (torch.softmax(head(features), 1) for head in (method.model.head, method.second))
    return (p - q).abs().sum() / p.numel()


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_the_losses_of_mcd(weight: float) -> None:
    # bn=per_domain, so that the target's features are those of the target alone.
    method = build(MCD, model={"bn": "per_domain"}, weight=weight, generator_steps=2)
    batch = batches()
    source, target = (method.model.features(batch[role].x) for role in ("source", "target"))
    supervised = [
        F.cross_entropy(head(source), batch["source"].y) for head in (method.model.head, method.second)
    ]
    steps = list(method.steps(batch, 0.0))
    assert [set(s.losses) for s in steps] == [
        {"source", "source_second"},
        {"source", "source_second", "heads"},
        {"discrepancy"},
        {"discrepancy"},
    ]
    for step in steps[:2]:
        torch.testing.assert_close(step.losses["source"], supervised[0])
        torch.testing.assert_close(step.losses["source_second"], supervised[1])
    torch.testing.assert_close(steps[1].losses["heads"], -weight * difference(method, target))
    torch.testing.assert_close(steps[2].losses["discrepancy"], weight * difference(method, target))
    generator = [p for part in (method.model.backbone, method.model.neck) for p in part.parameters()]
    found = torch.autograd.grad(sum(steps[1].losses.values()), generator, allow_unused=True)
    assert all(g is None for g in found)


def test_mcd_heads_part_and_the_generator_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(MCD, generator_steps=1, model={"bn": "per_domain"})
    # A small step: the bottleneck's first weights are tiny, and batch-norm makes their gradients large.
    module = runner(method, monkeypatch, Optim(torch.optim.SGD, lr=1e-5))
    batch = batches()

    def apart() -> float:
        copy_ = copy.deepcopy(method).double()
        return float(difference(copy_, copy_.model.features(batch["target"].x)).detach())

    gains = {}
    for step in method.steps(batch, 0.0):
        for name in {"heads", "discrepancy"} & set(step.losses):
            before = apart()
            module.update(Step({name: step.losses[name]}, step.updates))
            gains[name] = apart() - before
    assert gains["heads"] > 0
    assert gains["discrepancy"] < 0


# CDAN


def own_domain_loss(method: Any, f: Tensor, z: Tensor, n: int, conditioned: bool) -> Tensor:
    """Discriminator on f ⊗ p formed row by row; p carries no gradient; CDAN+E weights by hand."""
    p = torch.softmax(z.detach(), 1)
    joint = torch.stack([torch.outer(q, row).flatten() for row, q in zip(f, p, strict=True)])
    score = method.discriminator(joint).flatten()
    total = torch.zeros(())
    for rows, sign in ((range(n), -1), (range(n, len(f)), 1)):
        w = [1 + math.exp(float((p[i] * p[i].log()).sum())) if conditioned else 1.0 for i in rows]
        each = [F.softplus(sign * score[i]) for i in rows]
        total = total + 0.5 * sum(a * b for a, b in zip(w, each, strict=True)) / sum(w)
    return total


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("progress", [0.0, 0.2, 0.9])
def test_cdan_equals_its_own_outer_product(conditioned: bool, progress: float) -> None:
    method = build(CDAN, weight=0.7, hidden=8, entropy=conditioned)
    assert method.map is None
    batch = batches()
    out = method(batch)
    f = torch.cat([out["source"].features, out["target"].features])
    z = torch.cat([out["source"].logits, out["target"].logits])
    expected = 0.7 * own_domain_loss(method, f, z, 7, conditioned)
    supervised = F.cross_entropy(out["source"].logits, batch["source"].y)
    losses = method.losses(method(batch), batch, progress)
    assert set(losses) == {"source", "domain"}
    torch.testing.assert_close(losses["domain"], expected)
    torch.testing.assert_close(losses["source"], supervised)

    names, params = zip(*method.named_parameters(), strict=True)
    found = torch.autograd.grad(losses["domain"], params, allow_unused=True)
    own = torch.autograd.grad(expected, params, allow_unused=True)
    for name, a, b in zip(names, found, own, strict=True):
        if name.startswith("model.head."):
            assert a is None  # nothing flows through p
        else:
            sign = 1.0 if name.startswith("discriminator.") else -ramp(progress)
            torch.testing.assert_close(a, sign * b, rtol=1e-3, atol=1e-5)
    assert any(
        float(b.abs().max()) > 1e-3 for n, b in zip(names, own, strict=True) if n.startswith("model.neck.")
    )


@pytest.mark.parametrize(("exact", "randomised"), [(18, False), (17, True)])
def test_cdan_projects_only_what_is_too_large(exact: int, randomised: bool) -> None:
    method = build(CDAN, exact=exact, projection=11, hidden=8)
    assert (method.map is not None) == randomised
    assert method.discriminator[0].in_features == (11 if randomised else 18)
    losses = method.losses(method(batches()), batches(), 0.5)
    assert all(v.isfinite() for v in losses.values())
    if method.map is not None:
        out = method(batches())
        f = torch.cat([out["source"].features, out["target"].features])
        p = torch.cat([out["source"].logits, out["target"].logits]).softmax(1)
        joint = (f @ method.map.R_f) * (p @ method.map.R_p) / math.sqrt(11)
        score = method.discriminator(joint).flatten()
        expected = 0.5 * F.softplus(-score[:7]).mean() + 0.5 * F.softplus(score[7:]).mean()
        torch.testing.assert_close(losses["domain"], expected)


# All


METHODS = [DANN, CDAN, CORAL, MMD, MCC, MCD, SHOT, SourceOnly]


@pytest.mark.parametrize("kind", METHODS, ids=lambda k: k.__name__)
def test_no_method_looks_at_target_labels(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for labels in (torch.full((5,), HIDDEN), torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2, 2, 2, 1, 1])):
        method = build(kind)
        module = runner(method, monkeypatch)
        method.begin_epoch(
            lambda role: Collected(
                torch.linspace(-1, 1, 180).view(30, 6).sin(),
                torch.linspace(0, 9, 90).view(30, 3).cos(),
                torch.full((30,), HIDDEN),
                torch.zeros(30),
                torch.arange(30),
            )
        )
        batch = {role: b for role, b in batches().items() if role in kind.roles}
        if "target" in batch:
            batch["target"].y = labels
        before = snapshot(method)
        torch.manual_seed(0)
        for step in method.steps(batch, 0.5):
            module.update(step)
        assert changed(method, before)
        results.append(snapshot(method))
    for other in results[1:]:
        assert all(torch.equal(other[name], p) for name, p in results[0].items())


@pytest.mark.parametrize("bn", ["joint", "per_domain"])
def test_one_forward_pass_or_one_per_domain(bn: Any) -> None:
    method = build(model={"bn": bn})
    sizes: list[int] = []
    method.model.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    batch = batches()
    out = method(batch)
    assert sizes == ([12] if bn == "joint" else [7, 5])
    assert {role: len(o.logits) for role, o in out.items()} == {"source": 7, "target": 5}
    parts = [batch["source"].x, batch["target"].x]
    expected = (
        method.model(torch.cat(parts)).logits.split([7, 5])
        if bn == "joint"
        else [method.model(x).logits for x in parts]
    )
    for role, logits in zip(("source", "target"), expected, strict=True):
        torch.testing.assert_close(out[role].logits, logits)


def test_a_method_without_losses_says_so() -> None:
    class Empty(Method):
        pass

    with pytest.raises(TypeError, match=r"Empty must define losses\(\) or steps\(\)"):
        next(iter(build(Empty).steps(batches(), 0.0)))
    assert isinstance(build(Empty).predict(batches()["target"].x).logits, Tensor)
    assert isinstance(build(Empty), nn.Module)
