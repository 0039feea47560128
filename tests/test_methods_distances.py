"""Methods of distances, transport, spectra and norms: what they minimise and what they change."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from test_losses_distances import (
    naive_balance,
    naive_cmd,
    naive_deepjdot,
    naive_hard,
    naive_joint_mmd,
    naive_local_mmd,
    naive_nuclear,
    naive_spectral,
)
from test_methods import INFO, batches, build, changed, own_domain_loss, runner, snapshot
from torch import Tensor
from torch.nn import functional as F

from tl_runner.errors import UserError
from tl_runner.methods.afn import AFN
from tl_runner.methods.base import Method
from tl_runner.methods.bnm import BNM
from tl_runner.methods.bsp import BSP
from tl_runner.methods.cdan import CDAN
from tl_runner.methods.cmd import CMD
from tl_runner.methods.combined import Combined, Extra
from tl_runner.methods.dann import DANN
from tl_runner.methods.deepjdot import DeepJDOT
from tl_runner.methods.dsan import DSAN
from tl_runner.methods.jan import JAN
from tl_runner.methods.mcd import MCD
from tl_runner.methods.source_only import SourceOnly
from tl_runner.methods.swd import SWD
from tl_runner.nn import Model, backbones
from tl_runner.types import HIDDEN, Outputs

SIMPLE: list[Any] = [JAN, DSAN, CMD, DeepJDOT, AFN, BNM, BSP]
PROGRESS = 0.3


def outputs(d: int = 6, k: int = 3) -> dict[str, Outputs]:
    """Unlike the tiny model's, they fill their space."""
    g = torch.Generator().manual_seed(4)

    def one(n: int) -> Outputs:
        f, z = torch.randn(n, d, generator=g), 2 * torch.randn(n, k, generator=g)
        return Outputs(f.relu().requires_grad_(), z.requires_grad_())

    return {"source": one(7), "target": one(5)}


def double(out: dict[str, Outputs]) -> tuple[Tensor, ...]:
    return tuple(x.double() for role in ("source", "target") for x in (out[role].features, out[role].logits))


def expected(kind: Any, out: dict[str, Outputs], y: Tensor) -> dict[str, Any]:
    """Each method's losses at its default settings, from the papers' formulas."""
    f_s, z_s, f_t, z_t = double(out)
    if kind is JAN:
        return {"joint_mmd": naive_joint_mmd(f_s, f_t, z_s, z_t)}
    if kind is DSAN:
        ramp = 2 / (1 + math.exp(-10 * PROGRESS)) - 1
        return {"local_mmd": 0.5 * ramp * naive_local_mmd(f_s, f_t, z_t, y)}
    if kind is CMD:
        return {"cmd": naive_cmd(f_s.sigmoid(), f_t.sigmoid())}
    if kind is DeepJDOT:
        return {"transport": naive_deepjdot(f_s, f_t, z_t, y, 0.01, 0.1, paper=True)}
    if kind is AFN:
        return {"norm": torch.tensor(0.01 * 2.0)}
    assert kind is BNM
    return {"nuclear": naive_nuclear(z_t, "rows")}


@pytest.mark.parametrize("kind", [k for k in SIMPLE if k is not BSP], ids=lambda k: k.__name__)
def test_losses_are_those_of_the_paper(kind: Any) -> None:
    out, batch = outputs(), batches()
    found = build(kind).losses(out, batch, PROGRESS)
    own = expected(kind, out, batch["source"].y)
    assert list(found) == ["source", *own]
    torch.testing.assert_close(found["source"], F.cross_entropy(out["source"].logits, batch["source"].y))
    for name, value in own.items():
        torch.testing.assert_close(found[name].double(), value.double(), rtol=1e-4, atol=1e-5)


OPTIONS: dict[str, tuple[Any, dict[str, Any], str, Any]] = {
    "jan": (
        JAN,
        {"weight": 2.0, "sigma": 0.4, "estimator": "linear"},
        "joint_mmd",
        lambda f, z, g, q, y: 2 * naive_joint_mmd(f, g, z, q, 0.4, "linear"),
    ),
    "dsan": (
        DSAN,
        {"weight": 2.0, "gamma": 0.0, "predicted_only": False},
        "local_mmd",
        lambda f, z, g, q, y: 0 * f.sum(),
    ),
    "dsan-all": (
        DSAN,
        {"weight": 2.0, "gamma": 1e9, "predicted_only": False},
        "local_mmd",
        lambda f, z, g, q, y: 2 * naive_local_mmd(f, g, q, y, predicted_only=False),
    ),
    "cmd": (
        CMD,
        {"weight": 0.5, "moments": 3, "bound": "tanh"},
        "cmd",
        lambda f, z, g, q, y: 0.5 * naive_cmd(f.tanh(), g.tanh(), 3),
    ),
    "deepjdot": (
        DeepJDOT,
        {"weight": 3.0, "alpha": 0.1, "label_weight": 0.2, "label_cost": "squared"},
        "transport",
        lambda f, z, g, q, y: 3 * naive_deepjdot(f, g, q, y, 0.1, 0.2),
    ),
    "afn-hard": (
        AFN,
        {"weight": 0.3, "variant": "hard", "radius": 9.0},
        "norm",
        lambda f, z, g, q, y: 0.3 * (naive_hard(f, 9.0) + naive_hard(g, 9.0)),
    ),
    "afn-step": (
        AFN,
        {"weight": 0.3, "step": 0.5},
        "norm",
        lambda f, z, g, q, y: torch.tensor(0.3 * 2 * 0.25),
    ),
    "afn-entropy": (
        AFN,
        {"entropy": 0.3},
        "entropy",
        lambda f, z, g, q, y: -0.3 * (q.softmax(1) * q.softmax(1).log()).sum(1).mean(),
    ),
    "bnm": (
        BNM,
        {"weight": 2.0, "divisor": "rank"},
        "nuclear",
        lambda f, z, g, q, y: 2 * naive_nuclear(q, "rank"),
    ),
    "bsp": (
        BSP,
        {"penalty": 0.1, "k": 2, "hidden": 8},
        "spectral",
        lambda f, z, g, q, y: 0.1 * (naive_spectral(f, 2) + naive_spectral(g, 2)),
    ),
}


@pytest.mark.parametrize(("kind", "options", "name", "formula"), OPTIONS.values(), ids=OPTIONS)
def test_every_option_reaches_its_loss(kind: Any, options: dict[str, Any], name: str, formula: Any) -> None:
    out, batch = outputs(), batches()
    found = build(kind, **options).losses(out, batch, PROGRESS)[name]
    value = formula(*double(out), batch["source"].y)
    torch.testing.assert_close(found.double(), value.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", SIMPLE, ids=lambda k: k.__name__)
@pytest.mark.parametrize("bn", ["joint", "per_domain"])
def test_one_update_changes_everything_that_trains(
    kind: Any, bn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = build(kind, model={"bn": bn}, **({"hidden": 8} if kind is BSP else {}))
    module = runner(method, monkeypatch)
    steps = 0
    for step in method.steps(batches(), 0.5):
        assert step.updates is None
        assert step.out is not None
        before = snapshot(method)
        module.update(step)
        assert changed(method, before) == set(before)
        steps += 1
    assert steps == 1
    assert all(p.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("kind", [*SIMPLE, SWD, MCD], ids=lambda k: k.__name__)
def test_target_labels_are_not_looked_at(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for labels in (torch.full((5,), HIDDEN), torch.tensor([2, 2, 0, 1, 1])):
        method = build(kind)
        module, batch = runner(method, monkeypatch), batches()
        batch["target"].y = labels
        torch.manual_seed(0)
        for step in method.steps(batch, 0.5):
            module.update(step)
        results.append(snapshot(method))
    assert all(torch.equal(results[1][name], p) for name, p in results[0].items())


@pytest.mark.parametrize("kind", SIMPLE, ids=lambda k: k.__name__)
def test_each_can_be_an_extra(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Model(INFO, partial(backbones.tiny, width=4), neck_features=6, dropout=0.0)
    method = Combined(model, INFO, SourceOnly, {"added": Extra(kind)}).train()
    module, before = runner(method, monkeypatch), snapshot(method)
    (step,) = method.steps(batches(), 0.5)
    names = set(step.losses) - {"source"}
    assert names
    assert all(name.startswith("added.") for name in names)
    assert not names & {"added.source", "added.labeled"}
    module.update(step)
    assert changed(method, before) == set(before)


@pytest.mark.parametrize("kind", [MCD, SWD], ids=lambda k: k.__name__)
def test_two_heads_are_no_extra_but_take_one(kind: Any) -> None:
    torch.manual_seed(0)
    model = Model(INFO, partial(backbones.tiny, width=4), neck_features=6, dropout=0.0)
    with pytest.raises(UserError, match="more than a loss"):
        Combined(model, INFO, SourceOnly, {"added": Extra(kind)})
    method = Combined(model, INFO, kind, {"bnm": Extra(BNM)})
    steps = list(method.steps(batches(), 0.5))
    assert [("bnm.nuclear" in step.losses) for step in steps] == [True] + [False] * (len(steps) - 1)


# AFN


def test_afn_counts_every_role() -> None:
    out = outputs()
    out["target_2"] = Outputs(out["target"].features * 2, out["target"].logits)
    losses = build(AFN, variant="hard").losses(out, batches(), 0.0)
    f, _, g, _ = double(out)
    value = 0.01 * (naive_hard(f) + naive_hard(g) + naive_hard(2 * g))
    torch.testing.assert_close(losses["norm"].double(), value.double(), rtol=1e-4, atol=1e-5)


def test_afn_makes_features_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(AFN, weight=1.0, entropy=0.0)
    module, batch = runner(method, monkeypatch), batches()

    def norm() -> float:
        return float(torch.cat([o.features for o in method(batch).values()]).detach().norm(dim=1).mean())

    before = norm()
    for _ in range(3):
        (step,) = method.steps(batch, 0.0)
        module.update(type(step)({"norm": step.losses["norm"]}))
    assert norm() > before + 0.1


# BSP


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("entropy", [True, False])
def test_bsp_is_its_adversary_and_a_penalty(conditional: bool, entropy: bool) -> None:
    options = {"weight": 0.7, "hidden": 8, "gamma": 5.0}
    method = build(BSP, conditional=conditional, entropy=entropy, **options)
    out, batch = outputs(), batches()
    losses = method.losses(out, batch, PROGRESS)
    assert list(losses) == ["source", "domain", "spectral"]
    features = torch.cat([out["source"].features, out["target"].features])
    if conditional:
        logits = torch.cat([out["source"].logits, out["target"].logits])
        value = 0.7 * own_domain_loss(method.adversary, features, logits, 7, entropy)
    else:
        score = method.adversary.discriminator(features).flatten()
        value = 0.7 * (F.softplus(-score[:7]).mean() + F.softplus(score[7:]).mean()) / 2
    torch.testing.assert_close(losses["domain"], value)
    assert isinstance(method.adversary, CDAN if conditional else DANN)
    assert method.adversary.gamma == 5.0


def test_bsp_passes_sizes_on() -> None:
    method = build(BSP, hidden=8, exact=17, projection=11)
    assert method.adversary.map is not None
    assert method.adversary.discriminator[0].in_features == 11
    assert sum(p.numel() for p in method.parameters()) == sum(
        p.numel() for p in {*method.model.parameters(), *method.adversary.discriminator.parameters()}
    )


# SWD


def test_swd_is_mcd_with_another_distance() -> None:
    method = build(SWD, model={"bn": "per_domain"}, weight=2.0, generator_steps=2, projections=5)
    batch = batches()
    features = method.model.features(batch["target"].x)
    p, q = (torch.softmax(head(features), 1) for head in (method.model.head, method.second))
    torch.manual_seed(7)
    values = []
    for _ in range(3):
        theta = torch.randn(3, 5)
        total = 0.0
        for r in range(5):
            unit = theta[:, r] / theta[:, r].norm()
            cost = ((p @ unit)[:, None] - (q @ unit)[None, :]).square()
            total += float(cost.detach().numpy()[linear_sum_assignment(cost.detach().numpy())].sum())
        values.append(2.0 * total / (5 * len(p)))
    torch.manual_seed(7)
    steps = list(method.steps(batch, 0.0))
    assert [set(s.losses) - {"source", "source_second"} for s in steps] == [
        set(),
        {"heads"},
        {"discrepancy"},
        {"discrepancy"},
    ]
    found = [-steps[1].losses["heads"], steps[2].losses["discrepancy"], steps[3].losses["discrepancy"]]
    assert values[0] > 1e-4
    for a, b in zip(found, values, strict=True):
        assert a.item() == pytest.approx(b, rel=1e-3)


@pytest.mark.parametrize("kind", [MCD, SWD], ids=lambda k: k.__name__)
@pytest.mark.parametrize("bn", ["joint", "per_domain"])
def test_each_domain_passes_on_its_own(kind: Any, bn: Any) -> None:
    method = build(kind, model={"bn": bn}, generator_steps=2)
    sizes: list[int] = []
    method.model.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    list(method.steps(batches(), 0.0))
    assert sizes == [7, 5, 7, 5, 5, 5]


@pytest.mark.parametrize("kind", [MCD, SWD], ids=lambda k: k.__name__)
def test_balance_joins_the_updates_that_train_the_heads(kind: Any) -> None:
    method = build(kind, model={"bn": "per_domain"}, balance=0.3, generator_steps=2)
    batch = batches()
    features = method.model.features(batch["target"].x)
    value = 0.3 * (naive_balance(method.model.head(features)) + naive_balance(method.second(features)))
    steps = list(method.steps(batch, 0.0))
    assert [("balance" in step.losses) for step in steps] == [True, True, False, False]
    for step in steps[:2]:
        torch.testing.assert_close(step.losses["balance"], value)


HEADS, GENERATOR = {"model.head", "second"}, {"model.backbone", "model.neck"}


def test_each_phase_of_swd_changes_only_its_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(SWD, generator_steps=2)
    module = runner(method, monkeypatch)
    parts = []
    for step in method.steps(batches(), 0.0):
        before = snapshot(method)
        module.update(step)
        moved = changed(method, before)
        parts.append({p for p in HEADS | GENERATOR for name in moved if name.startswith(p + ".")})
    assert parts == [HEADS | GENERATOR, HEADS, GENERATOR, GENERATOR]


def test_methods_are_declared_as_losses_alone() -> None:
    for kind in SIMPLE:
        assert kind.steps is Method.steps
        assert kind.predict is Method.predict
        assert kind.begin_epoch is Method.begin_epoch
