"""Methods made of methods: extra losses, and sharpness-aware minimisation around one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS, KINDS, Tlrun, composed, method_class, walk
from test_configs import needs
from test_methods import INFO, batches, build, runner
from torch import nn
from torch.nn import functional as F

from tl_runner.errors import UserError
from tl_runner.losses import mcc
from tl_runner.methods.adda import ADDA
from tl_runner.methods.base import is_loss
from tl_runner.methods.builders import classes
from tl_runner.methods.combined import Combined, Extra
from tl_runner.methods.dann import DANN
from tl_runner.methods.deepjdot import DeepJDOT
from tl_runner.methods.dsan import DSAN
from tl_runner.methods.entropy import Entropy
from tl_runner.methods.fixmatch import FixMatch
from tl_runner.methods.gvb import GVB
from tl_runner.methods.mcc import MCC
from tl_runner.methods.mcd import MCD
from tl_runner.methods.mdd import MDD
from tl_runner.methods.mmd import MMD
from tl_runner.methods.mstn import MSTN
from tl_runner.methods.sdat import SDAT
from tl_runner.methods.shot import SHOT
from tl_runner.methods.shot_im import SHOTIM
from tl_runner.methods.source_only import SourceOnly
from tl_runner.methods.symnets import SymNets
from tl_runner.methods.toalign import ToAlign
from tl_runner.optim import Optim
from tl_runner.parts import check_names, expand
from tl_runner.run import run
from tl_runner.schedules import ramp

small_dann = partial(DANN, hidden=8)


def a_loss(name: str) -> bool:
    """Whether a method can be added to another."""
    return "target" in method_class(name).roles and is_loss(method_class(name))


# Extras


def test_an_extra_adds_its_losses_on_the_same_outputs() -> None:
    method = build(Combined, method=small_dann, extra={"mcc": Extra(partial(MCC, weight=0.5))})
    (step,) = method.steps(batches(), 0.3)
    assert list(step.losses) == ["source", "domain", "mcc.confusion"]
    torch.testing.assert_close(step.losses["mcc.confusion"], 0.5 * mcc(step.out["target"].logits, 2.5))
    alone = build(small_dann)
    alone.load_state_dict(
        {k.removeprefix("method."): v for k, v in method.state_dict().items() if k[0] == "m"}
    )
    (own,) = alone.steps(batches(), 0.3)
    for name, loss in own.losses.items():
        torch.testing.assert_close(step.losses[name], loss)


@pytest.mark.parametrize(
    ("schedule", "start", "progress", "factor"),
    [
        ("constant", 0.0, 0.7, 1.0),
        ("linear", 0.0, 0.7, 0.7),
        ("ramp", 0.0, 0.1, ramp(0.1)),
        ("linear", 0.5, 0.75, 0.5),
        ("constant", 0.5, 0.4, None),
    ],
)
def test_the_schedule_of_an_extra(schedule: Any, start: float, progress: float, factor: float | None) -> None:
    method = build(Combined, method=SourceOnly, extra={"mcc": Extra(MCC, schedule, start)})
    assert method.roles == ("source", "target")
    (step,) = method.steps(batches(), progress)
    if factor is None:
        assert set(step.losses) == {"source"}
    else:
        torch.testing.assert_close(
            step.losses["mcc.confusion"], torch.as_tensor(factor) * mcc(step.out["target"].logits, 2.5)
        )


def test_an_extra_joins_the_first_update_and_learns_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(Combined, method=partial(MCD, generator_steps=1), extra={"dann": Extra(small_dann)})
    steps = list(method.steps(batches(), 0.5))
    assert ["dann.domain" in s.losses for s in steps] == [True, False, False]

    class Restricted(SourceOnly):
        def steps(self, batch: Any, progress: float) -> Any:
            for step in super().steps(batch, progress):
                step.updates = [self.model.head]
                yield step

    method = build(Combined, method=Restricted, extra={"dann": Extra(small_dann)})
    module = runner(method, monkeypatch)
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    for step in method.steps(batches(), 0.5):
        module.update(step)
    moved = {
        n.split(".")[0] + "." + n.split(".")[1]
        for n, p in method.named_parameters()
        if not torch.equal(p, before[n])
    }
    assert moved == {"model.head", "extra.dann"}


def test_an_extra_with_parameters_may_start_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its momentum starts when the others' is there."""
    method = build(Combined, method=SourceOnly, extra={"dann": Extra(small_dann, start=0.5)})
    fused = Optim(partial(torch.optim.SGD, momentum=0.9, nesterov=True), lr=0.1)
    module = runner(method, monkeypatch, fused)
    before = {n: p.detach().clone() for n, p in method.extra.named_parameters() if "discriminator" in n}
    for progress in (0.0, 0.2, 0.6):
        for step in method.steps(batches(), progress):
            module.update(step)
    assert any(not torch.equal(p, before[n]) for n, p in method.extra.named_parameters() if n in before)


def test_a_method_keeps_its_own_forward_pass() -> None:
    """GVB takes its bridge off the logits: with an extra inside sdat too."""
    method = build(SDAT, method=partial(Combined, method=partial(GVB, hidden=8), extra={"mcc": Extra(MCC)}))
    inner = method.method.method
    with torch.no_grad():
        inner.bridge.bias += 1.0
    out, plain = method.method(batches())["source"], inner.model(torch.cat([b.x for b in batches().values()]))
    bridged = plain.logits - inner.bridge(plain.features)
    torch.testing.assert_close(out.logits, bridged[:7])


@pytest.mark.parametrize("kind", [MCD, SHOT])
def test_what_is_more_than_a_loss_cannot_be_added(kind: Any) -> None:
    with pytest.raises(UserError, match=r"method\.extra\.it: it is more than a loss"):
        build(Combined, method=small_dann, extra={"it": Extra(kind)})


@pytest.mark.parametrize("extra", walk([name for name in CONFIGS["method"] if a_loss(name)], (*KINDS, "mcc")))
def test_every_loss_can_be_added(extra: str, tmp_path: Path) -> None:
    overrides = needs(extra)
    config = composed("trainer=smoke", "method=cdan", f"+method.extra=[{extra}]", *overrides)
    stage = run(config, tmp_path)["stages"]["adapt"]
    assert stage["method"] == f"cdan+{extra}"
    assert {"source", "domain"} < set(stage["losses"])
    assert any(name.startswith(f"{extra}.") for name in stage["losses"])


def test_an_extra_does_without_a_source_that_the_method_does_not_read() -> None:
    method = build(Combined, method=SHOTIM, extra={"mcc": Extra(MCC), "entropy": Extra(Entropy)})
    assert method.roles == ("target",)
    batch = {"target": batches()["target"]}
    out = method(batch)
    losses = method.losses(out, batch, 0.5)
    assert set(losses) == {"im", "mcc.confusion", "entropy.entropy"}
    torch.testing.assert_close(losses["mcc.confusion"], mcc(out["target"].logits, 2.5))
    also = build(Combined, method=SHOTIM, extra={"mcc": Extra(MCC), "mmd": Extra(MMD)})
    assert set(also.roles) == {"source", "target"}  # which one that is added needs
    for align in (True, False):
        fixmatch = Extra(partial(FixMatch, align=align))
        assert ("source" in build(Combined, method=SHOTIM, extra={"fixmatch": fixmatch}).roles) == align


@pytest.mark.parametrize(
    "extra", [name for name in CONFIGS["method"] if a_loss(name) and method_class(name).source_optional]
)
def test_without_a_source_what_does_without_it_is_semi_supervised(extra: str, tmp_path: Path) -> None:
    added = f"+method.extra.{extra}.{'align=false' if extra == 'fixmatch' else 'weight=0.5'}"
    overrides = ["data.source=null", "data.labeled_per_class=2", *needs(extra)]
    config = composed("trainer=smoke", "method=finetune", added, *overrides)
    losses = run(config, tmp_path)["stages"]["adapt"]["losses"]
    assert set(losses) > {"labeled"}
    assert not any("source" in name for name in losses)


@pytest.mark.parametrize("kind", [DSAN, MSTN, DeepJDOT, ToAlign, SymNets])
def test_blended_samples_are_refused_by_what_needs_one_class_each(kind: Any) -> None:
    method, extra = partial(SourceOnly, mixup=0.2), {"it": Extra(kind)}
    with pytest.raises(UserError, match=r"method\.extra\.it: .* set method\.mixup=0 method\.cutmix=0"):
        build(Combined, method=method, extra=extra)
    assert build(Combined, method=SourceOnly, extra=extra).mixing == {}


def test_a_wrapped_method_keeps_its_own_modes() -> None:
    """ADDA's frozen copy drops features out like the model, or its discriminator would look for dropout."""
    method = build(Combined, method=partial(ADDA, hidden=8), extra={"mcc": Extra(MCC)})
    method.train()
    assert [m.training for m in method.method.source.modules() if isinstance(m, nn.Dropout)] == [True]
    assert not any(
        m.training for m in method.method.source.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)
    )


def test_classes_sees_through_wrappers() -> None:
    inner = partial(Combined, method=small_dann, extra={"mcc": Extra(MCC)})
    assert classes(partial(SDAT, method=inner, rho=0.1)) == [SDAT, DANN, MCC]
    assert classes(SHOT) == [SHOT]


# Names in configs


def test_names_expand_to_whole_configs() -> None:
    shapes: list[Any] = ["mcc", ["mcc"], {"mcc": None}, [{"mcc": {"weight": 2}}, "bnm"]]
    library = {"mcc": {"_target_": "M", "weight": 1}, "bnm": {"_target_": "B"}, "cdan": {"_target_": "C"}}
    found = [
        expand({"method": {"_target_": "D", "extra": s}}, library.__getitem__)["method"]["extra"]
        for s in shapes
    ]
    assert found[0] == found[1] == found[2] == {"mcc": {"_target_": "M", "weight": 1}}
    assert found[3] == {"mcc": {"_target_": "M", "weight": 2}, "bnm": {"_target_": "B"}}
    wrapped = {"_target_": "S", "method": "cdan", "extra": ["mcc"]}
    stages = {"recipe": {"stages": {"a": {"method": wrapped}, "b": {"method": None}, "c": None}}}
    assert expand(stages, library.__getitem__)["recipe"]["stages"] == {
        "a": {"method": {"_target_": "S", "method": {"_target_": "C", "extra": {"mcc": library["mcc"]}}}},
        "b": {"method": None},
        "c": None,
    }


def test_wrong_names_are_problems() -> None:
    def problems(**node: Any) -> list[str]:
        return check_names({"method": node}, {"mcc": 0, "bnm": 0})

    assert problems(extra=["mcc", "bnn"]) == ["method.extra: there is no method 'bnn'; did you mean 'bnm'?"]
    assert problems(extra=3) == ["method.extra: expected names of methods, got 3"]
    assert problems(method=["mcc", "bnm"]) == ["method.method: expected one method, got mcc, bnm"]
    assert problems(method="mcc", extra={"bnm": {"weight": 1}}) == []


def test_the_command_line(tlrun: Tlrun) -> None:
    done = tlrun(
        "trainer=smoke",
        "method=sdat",
        "method.method=dann",
        "+method.extra.mcc.weight=0.5",
        "+method.extra.mcc.start=0.1",
    )
    assert "sdat(dann+mcc): clean -> photo" in done.stdout
    done = tlrun("method=dann", "+method.extra.mcc.wieght=1", "+method.extra.mcc.schedule=rmp", check=False)
    assert done.returncode == 2
    assert "method.extra.mcc.wieght: MCC has no argument 'wieght'; did you mean 'weight'?" in done.stderr
    assert "method.extra.mcc.schedule: input should be 'constant', 'linear' or 'ramp'" in done.stderr


# SDAT


def by_hand(method: Any, batch: Any, progress: float, rho: float, task: list[str], original: bool) -> Any:
    """SAM on the weights themselves: move, differentiate, move back."""
    params = dict(method.named_parameters())
    mine = {n: p for n, p in params.items() if n.startswith("model.")}

    def gradients(names: list[str]) -> dict[str, Any]:
        losses = method.losses(method(batch), batch, progress)
        total = sum(losses[n] for n in names)
        return dict(
            zip(params, torch.autograd.grad(total, [*params.values()], allow_unused=True), strict=True)
        )

    ascent = gradients(task)
    every = [g for n, g in ascent.items() if n in mine and g is not None]
    length = sum(float(g.square().sum()) for g in every) ** 0.5
    saved = {n: p.detach().clone() for n, p in mine.items()}
    rest = gradients(["domain"]) if original else {}
    with torch.no_grad():
        for n, p in mine.items():
            if ascent[n] is not None:
                p.add_(rho / length * ascent[n])
    found = gradients(task if original else [*task, "domain"])
    with torch.no_grad():
        for n, p in mine.items():
            p.copy_(saved[n])
    parts = [found, rest]
    return {n: sum(g[n] for g in parts if g.get(n) is not None) for n in params}


@pytest.mark.parametrize("where", ["moved", "original"])
def test_sdat_equals_sam_by_hand(where: Any) -> None:
    inner = partial(Combined, method=small_dann, extra={"mcc": Extra(MCC)})
    method = build(SDAT, method=inner, rho=0.5, domain_at=where).double()
    batch = batches()
    (step,) = method.steps(batch, 0.6)
    assert set(step.losses) == {"source", "domain", "mcc.confusion"}
    names, params = zip(*method.method.named_parameters(), strict=True)
    grads = torch.autograd.grad(sum(step.losses.values()), params, allow_unused=True)
    expected = by_hand(method.method, batch, 0.6, 0.5, ["source", "mcc.confusion"], where == "original")
    plain = by_hand(method.method, batch, 0.6, 0.0, ["source", "mcc.confusion"], False)
    for name, g in zip(names, grads, strict=True):
        if g is not None:
            torch.testing.assert_close(g, expected[name], rtol=1e-6, atol=1e-9)
    assert any(
        float((plain[n] - expected[n]).abs().max()) > 1e-3
        for n, g in zip(names, grads, strict=True)
        if g is not None
    )


def test_sdat_leaves_the_weights_where_they_are() -> None:
    method = build(SDAT, method=small_dann)
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    list(method.steps(batches(), 0.5))
    for n, p in method.named_parameters():
        assert p.is_leaf
        assert torch.equal(p, before[n])


def test_without_an_ascent_sdat_is_what_it_wraps() -> None:
    method = build(SDAT, method=small_dann, rho=0.0)
    (step,) = method.steps(batches(), 0.5)
    out = method.method(batches())
    torch.testing.assert_close(
        step.losses["source"], F.cross_entropy(out["source"].logits, batches()["source"].y)
    )
    assert INFO.num_classes == 3


def test_sdat_refuses_methods_of_several_updates() -> None:
    with pytest.raises(UserError, match="one update per batch, and MCD has several"):
        build(SDAT, method=MCD)


def test_sdat_has_to_know_the_adversarial_loss() -> None:
    with pytest.raises(UserError, match=r"losses of MDD are source, .*disparity.*method\.adversarial=\[\]"):
        list(build(SDAT, method=MDD).steps(batches(), 0.3))
    for names in ((), ("disparity",)):
        (step,) = build(SDAT, method=MDD, adversarial=names).steps(batches(), 0.3)
        assert "disparity" in step.losses
