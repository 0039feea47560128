"""Schedules, parameter groups, and what trains."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from tl_runner.methods.base import Method
from tl_runner.nn import Model, backbones
from tl_runner.optim import Optim
from tl_runner.schedules import Constant, Cosine, Drops, InverseDecay, Schedule, WarmUp, ramp
from tl_runner.tuning import Frozen, LinearProbe, NormOnly, Tuning, parameter_table
from tl_runner.types import DataInfo

# Schedules

POINTS: dict[str, tuple[Schedule, Callable[[float, int], float]]] = {
    "constant": (Constant(), lambda p, s: 1.0),
    "inverse": (InverseDecay(), lambda p, s: 1 / (1 + 10 * p) ** 0.75),
    "inverse-steps": (InverseDecay(0.001, 0.75, per="step"), lambda p, s: 1 / (1 + 0.001 * s) ** 0.75),
    "cosine": (Cosine(), lambda p, s: (1 + math.cos(math.pi * p)) / 2),
    "cosine-floor": (Cosine(0.2), lambda p, s: 0.2 + 0.8 * (1 + math.cos(math.pi * p)) / 2),
    "drops": (Drops(), lambda p, s: 1.0 if p < 0.5 else 0.1 if p < 0.75 else 0.01),
    "warm-up": (WarmUp(Constant(), 0.2), lambda p, s: min(1, max(0.01, p / 0.2))),
    "warm-up-cosine": (
        WarmUp(Cosine(), 0.2),
        lambda p, s: min(1, max(0.01, p / 0.2)) * (1 + math.cos(math.pi * p)) / 2,
    ),
    "no-warm-up": (WarmUp(Constant(), 0.0), lambda p, s: 1.0),
    "ramp": (lambda progress, step: ramp(progress), lambda p, s: 2 / (1 + math.exp(-10 * p)) - 1),
    "ramp-slow": (lambda progress, step: ramp(progress, 1.0), lambda p, s: math.tanh(p / 2)),
}


@pytest.mark.parametrize(("schedule", "formula"), POINTS.values(), ids=POINTS)
def test_schedules_follow_their_formula(schedule: Schedule, formula: Callable[[float, int], float]) -> None:
    for step in range(200):
        progress = step / 200
        assert schedule(progress, step) == pytest.approx(formula(progress, step), rel=1e-12)
        assert 0 <= schedule(progress, step) <= 1


def test_a_milestone_counts_from_its_own_step_on() -> None:
    drops = Drops((0.5, 0.9), 0.5)
    assert [drops(p, 0) for p in (0.49, 0.5, 0.89, 0.9, 1.0)] == [1, 0.5, 0.5, 0.25, 0.25]


def test_the_ends() -> None:
    assert Cosine()(1.0, 0) == pytest.approx(0)
    assert Cosine()(1.5, 0) == pytest.approx(0)  # past the end it does not rise again
    assert Cosine(0.1)(1.0, 0) == pytest.approx(0.1)
    assert WarmUp(Constant())(0.0, 0) == 0.01
    assert WarmUp(Constant(), 0.1)(0.1, 5) == 1.0
    assert ramp(0.0) == 0.0


# Parameter groups

INFO = DataInfo(("a", "b", "c"), (3, 16, 16))


def model(**options: Any) -> Model:
    return Model(INFO, partial(backbones.tiny, width=4), neck_features=6, **options)


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[int, tuple[float, float]]:
    return {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


@pytest.mark.parametrize("backbone_lr", [1.0, 0.1, 0.0])
@pytest.mark.parametrize("decay_norm_bias", [True, False])
def test_each_parameter_gets_its_rate_and_decay(backbone_lr: float, decay_norm_bias: bool) -> None:
    method = Method(model(), INFO)
    method.discriminator = nn.Linear(6, 1)
    optim = Optim(
        partial(torch.optim.SGD, momentum=0.9),
        lr=0.02,
        backbone_lr=backbone_lr,
        weight_decay=0.3,
        decay_norm_bias=decay_norm_bias,
    )
    optimizer = optim.build(method, method.model.backbone.parameters())
    found = learning_rates(optimizer)
    assert len(found) == len(list(method.parameters()))
    for name, p in method.named_parameters():
        lr = 0.02 * (backbone_lr if name.startswith("model.backbone.") else 1)
        decayed = decay_norm_bias or p.ndim > 1
        assert found[id(p)] == (pytest.approx(lr), 0.3 if decayed else 0.0), name
    assert all(g["momentum"] == 0.9 for g in optimizer.param_groups)


def test_norms_and_biases_are_the_undecayed_ones() -> None:
    net = model()
    optimizer = Optim(torch.optim.SGD, weight_decay=0.3, decay_norm_bias=False).build(net, [])
    found = learning_rates(optimizer)
    undecayed = {name for name, p in net.named_parameters() if found[id(p)][1] == 0}
    norms = {n for n, m in net.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert undecayed == {
        n for n, _ in net.named_parameters() if n.endswith(".bias") or n.rpartition(".")[0] in norms
    }
    assert 0 < len(undecayed) < len(found)


def test_frozen_parameters_are_left_out() -> None:
    net = model()
    Frozen().apply(net)
    optimizer = Optim(torch.optim.SGD).build(net, net.backbone.parameters())
    assert set(learning_rates(optimizer)) == {
        id(p) for part in (net.neck, net.head) for p in part.parameters()
    }


def test_no_parameter_is_in_two_groups_even_if_it_is_used_twice() -> None:
    net = model()
    net.again = net.head
    optimizer = Optim(torch.optim.SGD).build(net, net.backbone.parameters())
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(net.parameters()))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_optimisers_build_and_step(kind: Any) -> None:
    net = model()
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = Optim(partial(kind), lr=0.1).build(net, net.backbone.parameters())
    net(torch.randn(8, 3, 16, 16)).logits.square().sum().backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_the_schedule_scales_each_group_from_its_first_rate() -> None:
    net = model()
    optim = Optim(torch.optim.SGD, lr=0.5, backbone_lr=0.1, schedule=Drops((0.5,), 0.1))
    optimizer = optim.build(net, net.backbone.parameters())
    for progress, factor in ((0.0, 1.0), (0.6, 0.1), (0.7, 0.1), (0.2, 1.0)):
        optim.schedule_lr(optimizer, progress, 0)
        assert sorted(g["lr"] for g in optimizer.param_groups) == pytest.approx([0.05 * factor, 0.5 * factor])


def test_the_schedule_is_told_progress_and_step() -> None:
    told: list[tuple[float, int]] = []

    def schedule(progress: float, step: int) -> float:
        told.append((progress, step))
        return 0.5

    optim = Optim(torch.optim.SGD, lr=1.0, schedule=schedule)
    optimizer = optim.build(nn.Linear(2, 2), [])
    optim.schedule_lr(optimizer, 0.25, 7)
    assert told == [(0.25, 7)]
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_rate_of_zero_for_the_backbone_keeps_it_as_it_is() -> None:
    net = model()
    before = [p.detach().clone() for p in net.backbone.parameters()]
    optim = Optim(partial(torch.optim.SGD, momentum=0.9), lr=0.5, backbone_lr=0.0, weight_decay=0.1)
    optimizer = optim.build(net, net.backbone.parameters())
    net(torch.randn(8, 3, 16, 16)).logits.square().sum().backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, net.backbone.parameters(), strict=True))


# Tuning

NORMS = {"backbone.net.1", "backbone.net.5", "backbone.net.9", "neck.1"}


def is_norm(name: str) -> bool:
    return name.rpartition(".")[0] in NORMS


TUNINGS: dict[str, tuple[Tuning, Callable[[str], bool]]] = {
    "full": (Tuning(), lambda n: True),
    "frozen": (Frozen(), lambda n: not n.startswith("backbone.")),
    "linear_probe": (LinearProbe(), lambda n: n.startswith("head.")),
    "norm_only": (NormOnly(), lambda n: n.startswith("head.") or is_norm(n)),
    "norm_only-no-head": (NormOnly(head=False), is_norm),
}


@pytest.mark.parametrize(("tuning", "trains"), TUNINGS.values(), ids=TUNINGS)
@pytest.mark.parametrize("head", ["linear", "weight_norm"])
def test_who_trains(tuning: Tuning, trains: Callable[[str], bool], head: Any) -> None:
    net = model(head=head)
    assert {n for n, m in net.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)} == NORMS
    LinearProbe().apply(net)  # what an earlier stage froze is free again
    tuning.apply(net)
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {
        n for n, _ in net.named_parameters() if trains(n)
    }
    for part, trainable, total in parameter_table(net):
        own = [p for n, p in net.named_parameters() if n.startswith(f"{part}.")]
        assert total == sum(p.numel() for p in own)
        assert trainable == sum(p.numel() for p in own if p.requires_grad)
    assert [part for part, _, _ in parameter_table(net)] == ["backbone", "neck", "head"]


@pytest.mark.parametrize(
    ("tuning", "cached"),
    [
        (Tuning(), False),
        (Frozen(), True),
        (Frozen(False), False),
        (LinearProbe(False), False),
        (NormOnly(), False),
    ],
)
def test_features_may_be_cached_only_where_the_backbone_is_frozen(tuning: Tuning, cached: bool) -> None:
    assert tuning.cache_features is cached


@pytest.mark.parametrize(
    ("tuning", "training"),
    [
        (Tuning(), {"backbone", "neck", "head"}),
        (Frozen(), {"neck", "head"}),
        (LinearProbe(), {"head"}),
        (NormOnly(), {"backbone", "neck", "head"}),
    ],
    ids=["full", "frozen", "linear_probe", "norm_only"],
)
def test_what_is_frozen_stays_in_eval(tuning: Tuning, training: set[str]) -> None:
    net = model()
    tuning.apply(net)
    method = Method(net, INFO)
    for _ in range(2):
        assert method.eval().train() is method
        for name, part in net.named_children():
            for module in part.modules():
                # A frozen layer inside a part that trains is in eval too: look at whole parts and norms.
                if module is part or isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.Dropout)):
                    assert module.training == (name in training), (name, module)
    method.eval()
    assert not any(m.training for m in method.modules())


@pytest.mark.parametrize(
    "tuning", [Tuning(), Frozen(), LinearProbe(), NormOnly()], ids=lambda t: type(t).__name__
)
def test_statistics_of_frozen_norms_do_not_move(tuning: Tuning) -> None:
    net = model()
    tuning.apply(net)
    method = Method(net, INFO)
    method.train()
    before = {n: b.clone() for n, b in net.named_buffers() if "running" in n}
    method.model(5 + torch.randn(8, 3, 16, 16))
    moved = {
        n.split(".running")[0]
        for n, b in net.named_buffers()
        if n in before and not torch.equal(b, before[n])
    }
    trains = {
        n for n, m in net.named_modules() if n in NORMS and any(p.requires_grad for p in m.parameters())
    }
    assert moved == trains
    assert before


@pytest.mark.parametrize("tuning", [Frozen(), LinearProbe()], ids=lambda t: type(t).__name__)
def test_a_frozen_part_has_no_dropout(tuning: Tuning) -> None:
    net = Model(INFO, backbones.lenet, neck="bottleneck", neck_features=6, dropout=0.5)
    tuning.apply(net)
    Method(net, INFO).train()
    x = torch.randn(4, 3, 16, 16)
    first, second = net.backbone(x), net.backbone(x)
    assert torch.equal(first, second)
    assert torch.equal(net.neck(first), net.neck(first)) == isinstance(tuning, LinearProbe)
