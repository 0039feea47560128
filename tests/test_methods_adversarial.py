"""Adversarial methods step by step: their losses by hand, and what each update may change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, get_args

import pytest
import torch
from test_methods import INFO, batches, build, changed, runner, snapshot
from torch import Tensor
from torch.nn import functional as F

from tl_runner.errors import UserError
from tl_runner.losses import gradient_penalty
from tl_runner.methods.adda import ADDA
from tl_runner.methods.base import Method
from tl_runner.methods.combined import Combined, Extra
from tl_runner.methods.dann import DANN
from tl_runner.methods.gvb import GVB
from tl_runner.methods.mcc import MCC
from tl_runner.methods.mdd import MDD
from tl_runner.methods.mstn import MSTN
from tl_runner.methods.symnets import SymNets
from tl_runner.methods.toalign import ToAlign, task_oriented
from tl_runner.methods.wdgrl import WDGRL
from tl_runner.nn.layers import HeadName
from tl_runner.schedules import ramp
from tl_runner.types import Collected, DataInfo, Outputs, Step

HEADS = get_args(HeadName)
LINEAR = [head for head in HEADS if head != "mlp"]  # without layers, and batch-norm, of its own
ONE_UPDATE = [MDD, GVB, ToAlign, SymNets, MSTN]
ALL = [*ONE_UPDATE, ADDA, WDGRL]
SMALL: dict[Any, dict[str, Any]] = {
    MDD: {},
    SymNets: {},
    GVB: {"hidden": 8},
    ToAlign: {"hidden": 8},
    MSTN: {"hidden": 8},
    ADDA: {"hidden": 8},
    WDGRL: {"hidden": 8, "critic_steps": 2},
}


def small(kind: Any, **options: Any) -> Any:
    return build(kind, **(SMALL[kind] | options))


def gradients(method: Any, loss: Tensor) -> dict[str, Tensor | None]:
    names, params = zip(*((n, p) for n, p in method.named_parameters() if p.requires_grad), strict=True)
    return dict(
        zip(names, torch.autograd.grad(loss, params, allow_unused=True, retain_graph=True), strict=True)
    )


def noise(of: Mapping[str, Tensor | None]) -> float:
    """What float32 leaves of terms as large as the largest gradient: a bias before a batch-norm, whose gradient is
    zero, has nothing else."""
    return max(1e-5, 1e-6 * max((float(g.abs().max()) for g in of.values() if g is not None), default=0.0))


def parts(names: set[str]) -> set[str]:
    """First two words of parameter names within the model, the first elsewhere."""
    return {".".join(n.split(".")[:2]) if n.startswith("model.") else n.split(".")[0] for n in names}


def moved(method: Any, batch: Any, progress: float, monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """What each update of one batch changes."""
    module, found = runner(method, monkeypatch), []
    before = snapshot(method)
    for step in method.steps(batch, progress):
        module.update(step)
        found.append(parts(changed(method, before)))
        before = snapshot(method)
    return found


def softened(scores: Tensor, n: int, w: Tensor | None = None) -> Tensor:
    """Domain loss by hand, both domains one half."""
    w = torch.ones(len(scores)) if w is None else w
    s, t = F.softplus(-scores[:n]), F.softplus(scores[n:])
    return 0.5 * (w[:n] @ s / w[:n].sum() + w[n:] @ t / w[n:].sum())


def certainty(z: Tensor) -> Tensor:
    p = z.softmax(1)
    return torch.exp((p * p.log()).sum(1)).detach()


# MDD


@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.parametrize("progress", [0.0, 0.3])
def test_the_losses_of_mdd(hidden: int, progress: float) -> None:
    method = small(MDD, weight=0.7, margin=3.0, strength=0.2, hidden=hidden)
    batch = batches()
    out = method(batch)
    losses = method.losses(out, batch, progress)
    assert set(losses) == {"source", "disparity"}
    torch.testing.assert_close(losses["source"], F.cross_entropy(out["source"].logits, batch["source"].y))
    f = torch.cat([out["source"].features, out["target"].features])
    p = method.adversary(f).softmax(1)
    z = torch.cat([out["source"].logits, out["target"].logits]).argmax(1)
    chosen = p[torch.arange(12), z]
    expected = 0.7 * (3 * -chosen[:7].log().mean() - (1 - chosen[7:]).log().mean())
    torch.testing.assert_close(losses["disparity"], expected)
    found, plain = gradients(method, losses["disparity"]), gradients(method, expected)
    for name, g in found.items():
        if name.startswith("model.head."):
            assert g is None  # the classifier's answers are only copied
        else:
            sign = 1.0 if name.startswith("adversary.") else -0.2 * ramp(progress)
            torch.testing.assert_close(g, sign * plain[name], rtol=1e-3, atol=noise(plain))


@pytest.mark.parametrize("head", HEADS)
def test_the_adversary_of_mdd_is_another_head(head: Any) -> None:
    method = small(MDD, model={"head": head})
    assert type(method.adversary).__name__ == type(method.model.head).__name__
    theirs, ours = (
        [*h.parameters()][-1 if head == "cosine" else -2] for h in (method.adversary, method.model.head)
    )
    assert not torch.allclose(theirs, ours, atol=1e-3)


# GVB


@pytest.mark.parametrize("progress", [0.0, 0.3])
def test_the_losses_of_gvb(progress: float) -> None:
    method = small(GVB, weight=0.7, generator_bridge=0.3, discriminator_bridge=0.2)
    batch = batches()
    out = method(batch)
    raw = method.model(torch.cat([batch["source"].x, batch["target"].x]))
    bridge = raw.features @ method.bridge.weight.T + method.bridge.bias
    z = raw.logits - bridge
    torch.testing.assert_close(torch.cat([out["source"].logits, out["target"].logits]), z)
    scores = method.discriminator(z.softmax(1))
    losses = method.losses(out, batch, progress)
    expected = {
        "source": F.cross_entropy(z[:7], batch["source"].y),
        "domain": 0.7 * softened(scores[:, 0] - scores[:, 1], 7, certainty(z)),
        "generator_bridge": 0.3 * bridge.abs().mean(),
        "discriminator_bridge": 0.2 * scores[:, 1].abs().mean(),
    }
    assert set(losses) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    g = gradients(method, losses["domain"])
    assert any(v is not None and v.abs().max() > 0 for n, v in g.items() if n.startswith("discriminator."))
    reversed_ = [v for n, v in g.items() if n.startswith(("bridge.", "model.head."))]
    assert all(bool(v.abs().max() > 0) == (progress > 0) for v in reversed_ if v is not None)


def test_the_gradient_of_gvb_is_that_of_a_game() -> None:
    """Everything before the discriminator climbs, also through the weights of the rows."""
    method = small(GVB)
    batch = batches()
    found = gradients(method, method.losses(method(batch), batch, 0.3)["domain"])
    out = method(batch)
    z = torch.cat([out["source"].logits, out["target"].logits])
    p = z.softmax(1)
    w = torch.exp((p * p.log()).sum(1))
    w = torch.cat([w[:7] / w[:7].sum().detach(), w[7:] / w[7:].sum().detach()])
    d = method.discriminator(p)
    score = d[:, 0] - d[:, 1]
    each = torch.cat([F.softplus(-score[:7]), F.softplus(score[7:])])
    plain = gradients(method, 0.5 * w @ each)
    for name, g in found.items():
        sign = 1.0 if name.startswith("discriminator.") else -ramp(0.3)
        torch.testing.assert_close(g, sign * plain[name], rtol=1e-3, atol=noise(plain))


def test_gvb_predicts_what_it_trains() -> None:
    method = small(GVB).eval()
    x = batches()["target"].x
    out, raw = method.predict(x), method.model(x)
    torch.testing.assert_close(out.logits, raw.logits - method.bridge(raw.features))
    torch.testing.assert_close(method.outputs({"target": x})["target"].logits, out.logits)
    assert not torch.allclose(out.logits, raw.logits, atol=1e-3)


# ToAlign


def test_task_oriented_features() -> None:
    g = torch.Generator().manual_seed(0)
    f, w = torch.randn(5, 6, generator=g), torch.randn(5, 6, generator=g)
    found = task_oriented(f, w)
    for row, a, b in zip(found, f, w, strict=True):
        product = [float(x * y) for x, y in zip(a, b, strict=True)]
        scale = math.sqrt(float((a**2).sum())) / math.sqrt(sum(v * v for v in product))
        torch.testing.assert_close(row, torch.tensor([scale * v for v in product]))
    torch.testing.assert_close(found.norm(dim=1), f.norm(dim=1))
    torch.testing.assert_close(task_oriented(f, 7 * w), found)
    zero = torch.zeros(2, 6, requires_grad=True)
    task_oriented(zero, w[:2]).sum().backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()
    assert task_oriented(f[:2], torch.zeros(2, 6)).isfinite().all()


@pytest.mark.parametrize("sees", ["predictions", "features"])
@pytest.mark.parametrize("head", LINEAR)
def test_the_losses_of_toalign(head: Any, sees: Any) -> None:
    method = small(ToAlign, model={"head": head}, weight=0.7, sees=sees)
    batch = batches()
    out = method(batch)
    losses = method.losses(out, batch, 0.3)
    y = batch["source"].y
    w = torch.stack([method.model.head.weight[c] for c in y.tolist()])
    product = out["source"].features * w
    scale = out["source"].features.norm(dim=1) / product.norm(dim=1)
    positive = product * scale.nan_to_num(0)[:, None]  # Rows that are all zero stay so.
    assert positive.any()
    if sees == "features":
        seen, weights = torch.cat([positive, out["target"].features]), None
    else:
        z = torch.cat([method.model.head(positive), out["target"].logits])
        seen, weights = z.softmax(1), certainty(z)
    scores = method.discriminator(seen).flatten()
    torch.testing.assert_close(losses["domain"], 0.7 * softened(scores, 7, weights))
    torch.testing.assert_close(losses["source"], F.cross_entropy(out["source"].logits, y))
    assert set(losses) == {"source", "domain"}


def test_toalign_refuses_a_head_with_hidden_layers() -> None:
    with pytest.raises(UserError, match=r"method=toalign reads .* model\.head=mlp .* set model\.head=linear"):
        small(ToAlign, model={"head": "mlp"})


# SymNets


@pytest.mark.parametrize("head", LINEAR)
@pytest.mark.parametrize("progress", [0.0, 0.3])
def test_the_losses_of_symnets(head: Any, progress: float) -> None:
    method = small(SymNets, model={"head": head}, weight=0.7, domain=0.4, entropy=0.2)
    batch = batches()
    out = method(batch)
    losses = method.losses(out, batch, progress)
    y, rows = batch["source"].y, torch.arange(7)
    s, t = (
        torch.cat([method.source_head(o.features), method.model.head(o.features)], 1).softmax(1)
        for o in (out["source"], out["target"])
    )
    lam = ramp(progress)
    q = t[:, :3] + t[:, 3:]
    expected = {
        "source": F.cross_entropy(out["source"].logits, y),
        "source_head": F.cross_entropy(method.source_head(out["source"].features), y),
        "domain": -0.4 * lam * (s[:, :3].sum(1).log().mean() + t[:, 3:].sum(1).log().mean()),
        "category_confusion": -0.5 * (s[rows, y].log() + s[rows, y + 3].log()).mean(),
        "domain_confusion": -0.35 * lam * (t[:, :3].sum(1).log() + t[:, 3:].sum(1).log()).mean(),
        "entropy": -0.2 * lam * (q * q.log()).sum(1).mean(),
    }
    assert set(losses) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6)
        found, plain = gradients(method, losses[name]), gradients(method, value)
        heads = {n for n in found if n.startswith(("model.head.", "source_head."))}
        players = heads if name in ("source", "source_head", "domain") else set(found) - heads
        assert {n for n, g in found.items() if g is not None} <= players
        for n in players:
            a, b = (torch.zeros(()) if g[n] is None else g[n] for g in (found, plain))
            assert a.shape == b.shape or not (a.any() or b.any())
            if a.shape == b.shape:
                torch.testing.assert_close(a, b, rtol=1e-3, atol=noise(plain))


# MSTN


def test_the_losses_and_centroids_of_mstn() -> None:
    method = small(MSTN, weight=0.7, semantic=2.0, reduction="sum", decay=0.6)
    centroids: list[dict[int, Tensor]] = [{}, {}]
    for seed in range(4):
        batch = batches(seed)
        batch["source"].y = torch.tensor([[0, 0, 0, 1, 1, 1, 0], [2, 2, 2, 2, 2, 2, 2]][seed % 2])
        out = method(batch)
        losses = method.losses(out, batch, 0.3)
        labels = (batch["source"].y.tolist(), [int(row.argmax()) for row in out["target"].logits])
        for domain, role in enumerate(("source", "target")):
            for c in set(labels[domain]):
                rows = [i for i, label in enumerate(labels[domain]) if label == c]
                mean = sum(out[role].features[i] for i in rows) / len(rows)
                old = centroids[domain].get(c)
                centroids[domain][c] = mean if old is None else 0.6 * old.detach() + 0.4 * mean
        both = set(centroids[0]) & set(centroids[1])
        distance = sum(((centroids[0][c] - centroids[1][c]) ** 2).sum() for c in both)
        torch.testing.assert_close(losses["semantic"], 2 * ramp(0.3) * torch.as_tensor(distance).float())
        f = torch.cat([out["source"].features, out["target"].features])
        torch.testing.assert_close(losses["domain"], 0.7 * softened(method.discriminator(f).flatten(), 7))
        torch.testing.assert_close(losses["source"], F.cross_entropy(out["source"].logits, batch["source"].y))
        own = gradients(method, torch.as_tensor(2 * ramp(0.3) * distance)) if both else {}
        for name, g in gradients(method, losses["semantic"]).items():
            if own.get(name) is not None:
                torch.testing.assert_close(g, own[name], rtol=1e-3, atol=noise(own))
        centroids = [{c: v.detach() for c, v in known.items()} for known in centroids]
    assert both
    for domain in (0, 1):
        for c in range(3):
            assert bool(method.seen[domain, c]) == (c in centroids[domain])
            if c in centroids[domain]:
                torch.testing.assert_close(method.centroids[domain, c], centroids[domain][c].detach())


def test_mstn_keeps_its_centroids_in_the_checkpoint() -> None:
    method, batch = small(MSTN), batches()
    method.losses(method(batch), batch, 0.5)
    other = small(MSTN)
    other.load_state_dict(method.state_dict())
    assert other.centroids.abs().sum() > 0
    assert torch.equal(other.centroids, method.centroids)
    assert torch.equal(other.seen, method.seen)
    assert not method.centroids.requires_grad


# WDGRL


@pytest.mark.parametrize("critic_steps", [1, 3])
def test_each_update_of_wdgrl(critic_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method = small(WDGRL, critic_steps=critic_steps)
    found = moved(method, batches(), 0.3, monkeypatch)
    assert found == [{"critic"}] * critic_steps + [{"model.backbone", "model.neck", "model.head"}]


def test_the_losses_of_wdgrl() -> None:
    method = small(WDGRL, weight=0.7, penalty=3.0, rate=0.5, critic_steps=2)
    batch = batches()
    out = method(batch)
    s, t = out["source"].features.detach(), out["target"].features.detach()
    torch.manual_seed(0)
    gap = (method.critic(s).mean() - method.critic(t).mean()).detach()
    slopes = gradient_penalty(method.critic, s, t)
    torch.manual_seed(0)
    steps = list(method.steps(batch, 0.3))
    assert [set(step.losses) for step in steps] == [{"critic", "slopes"}] * 2 + [{"source", "wasserstein"}]
    torch.testing.assert_close(steps[0].losses["critic"].detach(), -0.5 * gap)
    torch.testing.assert_close(steps[0].losses["slopes"], 1.5 * slopes)
    torch.testing.assert_close(steps[2].losses["wasserstein"].detach(), 0.7 * gap)
    assert steps[2].out is not None
    assert all(step.out is None for step in steps[:2])


def test_the_critic_of_wdgrl_widens_the_gap_and_the_features_close_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = small(WDGRL, critic_steps=1, penalty=0.0, model={"bn": "per_domain"})
    module, batch = runner(method, monkeypatch), batches()
    for group in module.optimizer.param_groups:
        group["lr"] = 1e-4

    def gap() -> float:
        with torch.no_grad():
            return float(method.distance(*(method.model.features(batch[r].x) for r in ("source", "target"))))

    gaps = [gap()]
    for step in method.steps(batch, 0.3):
        module.update(Step({n: v for n, v in step.losses.items() if n != "source"}, step.updates))
        gaps.append(gap())
    assert gaps[1] > gaps[0]
    assert gaps[2] < gaps[1]


# ADDA

ENCODER = {"model.backbone", "model.neck"}


@pytest.mark.parametrize("variant", ["grl", "alternating"])
def test_each_update_of_adda(variant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method = small(ADDA, variant=variant, warm_up=0.5)
    assert moved(method, batches(), 0.4, monkeypatch) == [{*ENCODER, "model.head"}]
    assert not method.fixed
    head = method.model.head.weight.clone()
    for _ in range(2):  # Momentum must not move what is fixed.
        found = moved(method, batches(), 0.6, monkeypatch)
        assert found[0] - {"source"} == {"discriminator"}
        assert found[1] == ENCODER
    assert method.fixed
    assert torch.equal(method.model.head.weight, head)


def test_adda_copies_the_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    method = small(ADDA, warm_up=0.5)
    first = {n: p.clone() for n, p in method.source.state_dict().items()}
    moved(method, batches(), 0.4, monkeypatch)
    trained = {n: p.clone() for n, p in method.model.state_dict().items()}
    assert all(torch.equal(p, first[n]) for n, p in method.source.state_dict().items())
    moved(method, batches(), 0.5, monkeypatch)
    moved(method, batches(), 0.6, monkeypatch)
    for name, p in method.source.state_dict().items():
        assert torch.equal(p, trained[name])  # batch-norm's averages included
    resumed = small(ADDA, warm_up=0.5)
    resumed.load_state_dict(method.state_dict())
    resumed.begin_epoch(lambda role: pytest.fail("nothing to collect"))
    moved(resumed, batches(), 0.7, monkeypatch)
    assert all(torch.equal(p, trained[n]) for n, p in resumed.source.state_dict().items())


@pytest.mark.parametrize("variant", ["grl", "alternating"])
def test_the_losses_of_adda(variant: Any) -> None:
    method = small(ADDA, variant=variant, warm_up=0.5, weight=0.7)
    batch = batches()
    warm = next(iter(method.steps(batch, 0.0)))
    logits = method.model(batch["source"].x).logits
    torch.testing.assert_close(warm.losses["source"], F.cross_entropy(logits, batch["source"].y))
    assert warm.out is None  # The target has not been looked at.
    steps = list(method.steps(batch, 0.6))
    assert [set(step.losses) for step in steps] == [{"domain"}, {"encoder"}]
    f_s = method.source(batch["source"].x).features
    f_t = method.model(batch["target"].x).features
    scores = method.discriminator(torch.cat([f_s, f_t])).flatten()
    torch.testing.assert_close(steps[0].losses["domain"], softened(scores, 7), rtol=1e-4, atol=1e-5)
    lost = -0.5 * F.softplus(scores[7:]) if variant == "grl" else F.softplus(-scores[7:])
    strength = 0.7 * ramp(0.2)
    torch.testing.assert_close(steps[1].losses["encoder"], strength * lost.mean(), rtol=1e-4, atol=1e-5)
    assert steps[1].out is not None
    assert not steps[1].out["source"].features.requires_grad


def test_the_source_encoder_of_adda_keeps_its_statistics_but_drops_as_the_target_does() -> None:
    method = small(ADDA, model={"dropout": 0.5})
    dropout = [m for m in method.source.modules() if isinstance(m, torch.nn.Dropout)]
    norms = [m for m in method.source.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert dropout
    assert norms
    method.train()
    assert all(m.training for m in dropout)
    assert not any(m.training for m in norms)
    method.eval()
    assert not any(m.training for m in dropout)


# All


@pytest.mark.parametrize("kind", ONE_UPDATE, ids=lambda k: k.__name__)
def test_one_update_changes_everything(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method = small(kind)
    everything = parts({n for n, _ in method.named_parameters()})
    assert moved(method, batches(), 0.5, monkeypatch) == [everything]


@pytest.mark.parametrize("kind", ALL, ids=lambda k: k.__name__)
def test_no_label_of_the_target_is_read(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for labels in (torch.full((5,), -1), torch.tensor([2, 1, 2, 0, 1])):
        method, batch = small(kind), batches()
        batch["target"].y = labels
        torch.manual_seed(0)
        for progress in (0.1, 0.7):
            assert moved(method, batch, progress, monkeypatch)
        results.append(snapshot(method))
    assert all(torch.equal(results[1][name], p) for name, p in results[0].items())


@pytest.mark.parametrize("kind", ALL, ids=lambda k: k.__name__)
def test_the_losses_of_another_method_join_once(kind: Any) -> None:
    method = build(Combined, method=partial(kind, **SMALL[kind]), extra={"mcc": Extra(MCC)})
    steps = [set(step.losses) for step in method.steps(batches(), 0.7)]
    assert sum("mcc.confusion" in names for names in steps) == 1
    assert "mcc.confusion" in steps[-1]


@pytest.mark.parametrize("kind", ALL, ids=lambda k: k.__name__)
def test_what_can_be_added_to_another_method(kind: Any) -> None:
    def combined() -> Any:
        return build(
            Combined,
            method=partial(DANN, hidden=8),
            extra={"added": Extra(partial(kind, **SMALL[kind]))},
        )

    if kind in (ADDA, WDGRL, GVB):  # They have updates, or predictions, of their own.
        with pytest.raises(UserError, match="more than a loss"):
            combined()
        return
    batch = batches()
    own = set(small(kind).losses(small(kind)(batch), batch, 0.5)) - {"source"}
    (step,) = combined().steps(batch, 0.5)
    assert set(step.losses) == {"source", "domain"} | {f"added.{name}" for name in own}
    assert all(v.isfinite() for v in step.losses.values())


@pytest.mark.parametrize("kind", ALL, ids=lambda k: k.__name__)
def test_two_views_reach_an_extra(kind: Any) -> None:
    class Consistency(Method):
        two_views = ("target",)

        def losses(self, out: Any, batch: Any, progress: float) -> Any:
            return {"apart": (out["target"].logits - out["target_2"].logits).square().mean()}

    method = build(Combined, method=partial(kind, **SMALL[kind]), extra={"two": Extra(Consistency)})
    batch = batches()
    batch["target"].views = (batch["target"].x, batch["target"].x.flip(3))
    losses = [step.losses for step in method.steps(batch, 0.7)]
    assert losses[-1]["two.apart"] > 0


@pytest.mark.parametrize("kind", ALL, ids=lambda k: k.__name__)
def test_bfloat16(kind: Any) -> None:
    method = small(kind)
    with torch.autocast("cpu", torch.bfloat16):
        for step in method.steps(batches(), 0.7):
            for value in step.losses.values():
                assert value.isfinite()
                assert value.dtype == torch.float32


def test_one_class_is_not_enough_for_mdd() -> None:
    info = DataInfo(("only",), INFO.shape, INFO.sizes, INFO.domains)
    z = Outputs(torch.zeros(2, 6), torch.zeros(2, 1))
    method = small(MDD)
    method.info, method.adversary = info, torch.nn.Linear(6, 1)
    with pytest.raises(ValueError, match="at least 2 classes"):
        method.losses({"source": z, "target": z}, batches(n=2, m=2), 0.5)


def test_collected_is_not_asked_for() -> None:
    def never(role: str) -> Collected:
        raise AssertionError(role)

    for kind in ALL:
        small(kind).begin_epoch(never)
