"""Methods that learn from their own target predictions, step by step."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from test_methods import INFO, SGD, batches, build, changed, runner, snapshot
from torch import Tensor, nn
from torch.nn import functional as F

from tl_runner.errors import UserError
from tl_runner.methods.adabn import AdaBN
from tl_runner.methods.atdoc import ATDOC
from tl_runner.methods.base import Method
from tl_runner.methods.combined import Combined, Extra
from tl_runner.methods.dann import DANN
from tl_runner.methods.dirt_t import DIRTT
from tl_runner.methods.entropy import Entropy
from tl_runner.methods.fixmatch import FixMatch
from tl_runner.methods.im import IM
from tl_runner.methods.mean_teacher import MeanTeacher
from tl_runner.methods.self_training import SelfTraining
from tl_runner.methods.source_only import SourceOnly
from tl_runner.methods.vada import VADA, as_floats, roughness
from tl_runner.nn import Model, backbones
from tl_runner.types import HIDDEN, Batch, Collected

PER_DOMAIN = {"bn": "per_domain"}
ADDED = [Entropy, IM, ATDOC, MeanTeacher, FixMatch, SelfTraining, VADA]


def two_views(seed: int = 0) -> dict[str, Batch]:
    batch = batches(seed)
    other = batches(seed + 1)["target"].x
    batch["target"].views = (batch["target"].x, other)
    return batch


def whole(seed: int = 0, scale: float = 1.0) -> Collected:
    """What a model might say of all target rows."""
    g = torch.Generator().manual_seed(seed)
    return Collected(
        torch.randn(30, 6, generator=g),
        scale * torch.randn(30, 3, generator=g),
        torch.full((30,), HIDDEN),
        torch.zeros(30),
        torch.arange(30),
    )


def never(role: str) -> Collected:
    raise AssertionError(f"{role} need not be collected")


def train(method: Method, monkeypatch: pytest.MonkeyPatch, batch: Any, progress: float = 0.5) -> set[str]:
    """What one set of batches changes."""
    module, before = runner(method, monkeypatch), snapshot(method)
    for step in method.steps(batch, progress):
        module.update(step)
    return changed(method, before)


def supervised(out: Any, batch: Any) -> Tensor:
    return F.cross_entropy(out["source"].logits, batch["source"].y)


# Entropy and information maximisation


@pytest.mark.parametrize("kind", [Entropy, IM])
def test_confidence_losses(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = build(kind, weight=0.3), batches()
    out = method(batch)
    p = out["target"].logits.softmax(1)
    expected = -(p * p.log()).sum(1).mean()
    if kind is IM:
        expected = expected + (p.mean(0) * p.mean(0).log()).sum()
    losses = method.losses(out, batch, 0.0)
    assert list(losses) == ["source", "im" if kind is IM else "entropy"]
    torch.testing.assert_close(losses["source"], supervised(out, batch))
    torch.testing.assert_close([*losses.values()][1], 0.3 * expected)
    assert train(method, monkeypatch, batch) == set(snapshot(method))


# ATDOC


def test_atdoc_fills_its_memory_once() -> None:
    method = build(ATDOC)
    method.begin_epoch(lambda role: whole() if role == "target" else never(role))
    torch.testing.assert_close(method.memory.features, F.normalize(whole().features, dim=1))
    torch.testing.assert_close(method.memory.predictions, whole().logits.softmax(1))
    method.begin_epoch(never)
    resumed = build(ATDOC, seed=1)
    resumed.load_state_dict(method.state_dict())
    resumed.begin_epoch(never)
    assert torch.equal(resumed.memory.features, method.memory.features)


@pytest.mark.parametrize("momentum", [1.0, 0.3])
def test_atdoc_learns_what_its_neighbours_say(momentum: float) -> None:
    method, batch = build(ATDOC, weight=0.5, neighbours=3, momentum=momentum), batches()
    method.begin_epoch(lambda role: whole())
    bank, labels = method.memory.features.clone(), method.memory.predictions.clone()
    out = method(batch)
    found = method.losses(out, batch, 0.4)
    f, z, rows = out["target"].features.detach(), out["target"].logits, batch["target"].row.tolist()
    total, weights = torch.zeros(()), 0.0
    for i, row in enumerate(rows):
        others = sorted((j for j in range(30) if j != row), key=lambda j: -float(f[i] @ bank[j]))
        mean = labels[others[:3]].mean(0)
        confidence, y = float(mean.max()), int(mean.argmax())
        total, weights = total - confidence * z[i].log_softmax(0)[y], weights + confidence
    assert set(found) == {"source", "neighbours"}
    torch.testing.assert_close(found["neighbours"], 0.5 * 0.4 * total / weights)
    torch.testing.assert_close(found["source"], supervised(out, batch))
    # The memory then holds the batch: unit features, squared and balanced predictions.
    square = z.detach().softmax(1).square()
    new = {row: (f[i] / f[i].norm(), square[i] / square.sum(0)) for i, row in enumerate(rows)}
    for row in range(30):
        one, two = new.get(row, (bank[row], labels[row]))
        torch.testing.assert_close(method.memory.features[row], momentum * one + (1 - momentum) * bank[row])
        torch.testing.assert_close(
            method.memory.predictions[row], momentum * two + (1 - momentum) * labels[row]
        )


# Mean teacher


def test_the_teacher_is_the_moving_average(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = build(MeanTeacher, momentum=0.8), two_views()
    module = runner(method, monkeypatch)
    students = [copy.deepcopy(dict(method.model.named_parameters()))]
    for _ in range(3):
        for step in method.steps(batch, 0.5):
            module.update(step)
        students.append(copy.deepcopy(dict(method.model.named_parameters())))
    # It sees what the previous update left: after three steps, two updates.
    for name, p in method.teacher.copy.named_parameters():
        expected = students[0][name]
        for student in students[1:3]:
            expected = 0.8 * expected + 0.2 * student[name]
        torch.testing.assert_close(p, expected)
        assert not p.requires_grad
    assert not torch.equal(students[0]["head.weight"], students[1]["head.weight"])


def test_nothing_but_the_student_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(MeanTeacher)
    optimised = {
        id(p) for group in runner(method, monkeypatch).optimizer.param_groups for p in group["params"]
    }
    assert optimised == {id(p) for p in method.model.parameters()}
    assert train(method, monkeypatch, two_views()) == {
        f"model.{n}" for n, _ in method.model.named_parameters()
    }


@pytest.mark.parametrize("confidence", [0.0, 0.6, 1.0])
def test_the_losses_of_the_mean_teacher(confidence: float) -> None:
    options = {"weight": 2.0, "confidence": confidence, "balance": 0.1}
    method, batch = build(MeanTeacher, **options), two_views()
    with torch.no_grad():
        for p in method.teacher.copy.parameters():
            p.mul_(1.3)
    out = method(batch)
    assert {role: len(o.logits) for role, o in out.items()} == {"source": 7, "target": 5, "target_2": 5}
    losses = method.losses(out, batch, 0.0)
    q = method.teacher.copy(batch["target"].x).logits.softmax(1)  # batch-norm of the batch, as in training
    p = out["target_2"].logits.softmax(1)
    sure = [float(row.max()) > confidence for row in q]
    expected = sum(((p[i] - q[i]) ** 2).sum() / 3 for i in range(5) if sure[i]) / 5
    balance = F.binary_cross_entropy(p.mean(0), torch.full((3,), 1 / 3), reduction="sum")
    assert set(losses) == {"source", "consistency", "balance"}
    torch.testing.assert_close(losses["consistency"], torch.as_tensor(2.0 * expected))
    torch.testing.assert_close(losses["balance"], 2.0 * 0.1 * sum(sure) / 5 * balance, rtol=1e-4, atol=1e-6)
    assert 0 < sum(sure) < 5 or confidence != 0.6


def test_the_teacher_is_in_the_students_mode() -> None:
    method = build(MeanTeacher, model={"dropout": 0.5})
    method.model.backbone.requires_grad_(False)
    method.train()
    assert not method.teacher.copy.neck.training  # Method.train() rests what is not trained
    method.losses(method(two_views()), two_views(), 0.0)
    modes = [m.training for m in method.model.modules()]
    assert [m.training for m in method.teacher.copy.modules()] == modes
    assert {m.training for m in method.teacher.copy.backbone.modules()} == {False}
    assert method.teacher.copy.neck.training


def test_a_teacher_of_a_compiled_model_with_a_weight_norm_head() -> None:
    model = {"head": "weight_norm", "compile": True}
    method = build(MeanTeacher, model=model)
    method.teacher.follow(method.model, 0.5)
    for a, b in zip(method.teacher.copy.parameters(), method.model.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()


# FixMatch


@pytest.mark.parametrize("confidence", [0.0, 0.45, 1.0])
def test_the_strong_view_learns_the_weak_ones_label(
    confidence: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, batch = build(FixMatch, weight=0.7, confidence=confidence, align=False), two_views()
    out = method(batch)
    losses = method.losses(out, batch, 0.0)
    weak, strong = out["target"].logits.softmax(1), out["target_2"].logits.softmax(1)
    kept = [i for i in range(5) if float(weak[i].max().detach()) >= confidence]
    total = sum(-torch.log(strong[i, int(weak[i].argmax())]) for i in kept)
    torch.testing.assert_close(losses["pseudo"], torch.as_tensor(0.7 * total / 5))
    torch.testing.assert_close(losses["source"], supervised(out, batch))
    if kept:
        (grad,) = torch.autograd.grad(losses["pseudo"], out["target"].logits, allow_unused=True)
        assert grad is None
    assert train(method, monkeypatch, batch)


def test_labels_are_aligned_with_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(FixMatch, confidence=0.5)
    g = torch.Generator().manual_seed(0)
    # The source knows three classes alike; the target says `0` too often.
    source = 6 * F.one_hot(torch.arange(60) % 3, 3).float()
    target = torch.randn(60, 3, generator=g) + torch.tensor([3.0, 0.0, 0.0])
    assert torch.bincount(target.argmax(1), minlength=3)[0] > 50
    means = [[1 / 3] * 3, [1 / 3] * 3]
    for _ in range(40):
        found = method.aligned(source, target)
        for mean, z in zip(means, (source, target), strict=True):
            for c in range(3):
                mean[c] += 0.1 * (float(z.softmax(1)[:, c].mean()) - mean[c])
    torch.testing.assert_close(method.means, torch.tensor(means), rtol=1e-4, atol=1e-6)
    q = target.softmax(1) * torch.tensor(means[0]) / torch.tensor(means[1])
    torch.testing.assert_close(found.softmax(1), q / q.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)
    assert torch.bincount(found.argmax(1), minlength=3).min() > 10
    assert "means" in method.state_dict()

    method, batch = build(FixMatch, confidence=0.0, weight=1.0), two_views()
    out = method(batch)
    own = copy.deepcopy(method).aligned(out["source"].logits, out["target"].logits).argmax(1)
    expected = F.cross_entropy(out["target_2"].logits, own)
    torch.testing.assert_close(method.losses(out, batch, 0.0)["pseudo"], expected)
    assert train(method, monkeypatch, batch)


# Self-training


def test_self_training_waits_and_then_labels_a_growing_share() -> None:
    method, batch = build(SelfTraining, portion=(0.2, 0.6), warm_up=0.25), batches()
    method.begin_epoch(never)
    losses = method.losses(method(batch), batch, 0.2)
    assert losses["pseudo"] == 0
    method.begin_epoch(never)
    shares = []
    for progress in (0.25, 0.625, 0.9999):
        method.losses(method(batch), batch, progress)
        resumed = build(SelfTraining, portion=(0.2, 0.6), warm_up=0.25)
        resumed.load_state_dict(method.state_dict())
        for m in (method, resumed):
            m.begin_epoch(lambda role: whole(scale=5.0))
        assert torch.equal(resumed.pseudo, method.pseudo)
        predicted = whole().logits.argmax(1)
        known = method.pseudo >= 0
        shares.append([int((known & (predicted == c)).sum()) for c in range(3)])
    sizes = torch.bincount(whole().logits.argmax(1), minlength=3)
    for share, portion in zip(shares, (0.2, 0.4, 0.6), strict=True):
        for found, size in zip(share, sizes.tolist(), strict=True):
            assert abs(found - portion * size) <= 2.0
    assert sum(shares[0]) < sum(shares[1]) < sum(shares[2])


def test_self_training_learns_the_labels_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = build(SelfTraining, weight=0.5), batches()
    row = batch["target"].row
    method.pseudo[row] = torch.tensor([1, HIDDEN, 0, HIDDEN, 2])
    out = method(batch)
    z = out["target"].logits.log_softmax(1)
    expected = -0.5 * (z[0, 1] + z[2, 0] + z[4, 2]) / 5
    torch.testing.assert_close(method.losses(out, batch, 0.5)["pseudo"], expected)
    assert train(method, monkeypatch, batch) == set(snapshot(method))


# AdaBN


def norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_adabn_keeps_the_targets_statistics_and_learns_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = build(AdaBN), batches()
    alone = copy.deepcopy(method.model)
    alone(batch["target"].x)
    plain = build(SourceOnly)
    both = [train(method, monkeypatch, batch), train(plain, monkeypatch, {"source": batch["source"]})]
    assert both[0] == both[1] == set(snapshot(plain))
    # The same update as with the source alone …
    for a, b in zip(method.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    # … and the statistics of the target alone.
    assert len(norms(method.model)) == 4
    for own, target, source in zip(norms(method.model), norms(alone), norms(plain.model), strict=True):
        torch.testing.assert_close(own.running_mean, target.running_mean)
        torch.testing.assert_close(own.running_var, target.running_var)
        assert not torch.allclose(own.running_mean, source.running_mean, atol=1e-4)
        assert own.track_running_stats


def test_adabn_goes_on_tracking_after_an_error() -> None:
    method = build(AdaBN)
    with pytest.raises(RuntimeError):
        method.outputs({"source": torch.zeros(2, 5)})
    assert all(norm.track_running_stats for norm in norms(method.model))


def test_adabn_needs_batch_norm() -> None:
    info = replace(INFO, shape=(3, 28, 28))
    with pytest.raises(UserError, match="adabn needs batch-norm layers that train"):
        AdaBN(Model(info, backbones.lenet, neck="none"), info)
    still = Model(INFO, partial(backbones.tiny, width=4), neck="none", bn="frozen")
    with pytest.raises(UserError, match=r"adabn needs batch-norm layers that train.* or model\.bn=joint"):
        AdaBN(still, INFO)
    AdaBN(Model(INFO, partial(backbones.tiny, width=4), bn="frozen"), INFO)  # the neck's own trains
    model = build(Method).model
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    with pytest.raises(UserError, match="adabn needs batch-norm layers that train"):
        AdaBN(model, INFO)
    next(norm for norm in norms(model)).bias.requires_grad_(True)
    AdaBN(model, INFO)  # with its shift alone it trains, as by tuning=bias_only


def test_adabn_takes_extras() -> None:
    method = Combined(build(Method).model, INFO, AdaBN, {"entropy": Extra(Entropy)}).train()
    (step,) = method.steps(batches(), 0.5)
    assert set(step.losses) == {"source", "entropy.entropy"}
    grads = torch.autograd.grad(step.losses["entropy.entropy"], [*method.model.head.parameters()])
    assert all(g.abs().max() > 0 for g in grads)


# VADA and DIRT-T


def by_hand(model: Model, x: Tensor, z: Tensor, d: Tensor, length: float) -> Tensor:
    q = z.detach().softmax(1)
    p = model(x + length * d).logits.softmax(1)
    return sum((q[i] * (q[i] / p[i]).log()).sum() for i in range(len(x))) / len(x)


def test_roughness_is_the_divergence_at_the_perturbed_input() -> None:
    method, batch = build(VADA, model=PER_DOMAIN), batches()
    x = {role: b.x for role, b in batch.items()}
    out = method(batch)
    statistics = [norm.running_mean.clone() for norm in norms(method.model)]
    torch.manual_seed(3)
    found = roughness(method, x, out, 0.1)
    for a, b in zip(statistics, norms(method.model), strict=True):
        assert torch.equal(a, b.running_mean)  # perturbed inputs leave no trace

    torch.manual_seed(3)
    floats = {role: v.float() / 127.5 - 1 for role, v in x.items()}
    joint = torch.cat([floats["source"], floats["target"]])
    length = 0.1 * float(joint.std())

    def unit(v: Tensor) -> Tensor:
        return torch.stack([row / row.square().mean().sqrt() for row in v])

    trial = (0.1 * length * unit(torch.randn_like(joint))).requires_grad_()
    total, start = torch.zeros(()), 0
    parts = {}
    for role, v in floats.items():
        parts[role] = slice(start, start + len(v))
        q = out[role].logits.detach().softmax(1)
        p = method.model(v + trial[parts[role]]).logits.softmax(1)
        total, start = total + (q * (q / p).log()).sum(), start + len(v)
    d = unit(torch.autograd.grad(total, trial)[0])
    for role, v in floats.items():
        expected = by_hand(method.model, v, out[role].logits, d[parts[role]], length)
        torch.testing.assert_close(found[role], expected, rtol=1e-2, atol=1e-6)
        assert expected > 0


@pytest.mark.parametrize("source_weight", [0.0, 2.0])
def test_the_losses_of_vada(source_weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"domain_weight": 0.2, "target_weight": 0.5, "source_weight": source_weight, "hidden": 8}
    method, batch = build(VADA, **options), batches()
    out = method(batch)
    losses = method.losses(out, batch, 0.0)
    assert set(losses) == {"source", "domain", "entropy", "target_smoothness"} | (
        {"source_smoothness"} if source_weight else set()
    )
    torch.testing.assert_close(losses["source"], supervised(out, batch))
    p = out["target"].logits.softmax(1)
    torch.testing.assert_close(losses["entropy"], -0.5 * (p * p.log()).sum(1).mean())
    f = torch.cat([out["source"].features, out["target"].features]).detach().requires_grad_()
    score = method.discriminator(f).flatten()
    domain = (F.softplus(-score[:7]).mean() + F.softplus(score[7:]).mean()) / 2
    torch.testing.assert_close(losses["domain"], domain)
    # The discriminator learns at full strength, the features against a fifth of it.
    (own,) = torch.autograd.grad(domain, f)
    given = [out["source"].features, out["target"].features]
    found = torch.cat(torch.autograd.grad(losses["domain"], given, retain_graph=True))
    torch.testing.assert_close(found, -0.2 * own)
    assert train(method, monkeypatch, batch) == set(snapshot(method))


def test_vectors_and_bytes_become_what_the_network_sees() -> None:
    model = build(Method).model
    x = batches()["source"].x
    torch.testing.assert_close(as_floats(model, x), x.float() / 127.5 - 1)
    v = torch.randn(3, 4)
    assert as_floats(model, v) is v
    model.eval()
    torch.testing.assert_close(model(as_floats(model, x)).logits, model(x).logits)


@pytest.mark.parametrize("interval", [1, 2])
def test_dirt_t_renews_its_teacher(interval: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(DIRTT, interval=interval)
    batch = {"target": batches()["target"]}
    module = runner(method, monkeypatch)
    for epoch in range(4):
        before = copy.deepcopy(method.teacher.state_dict())
        resumed = build(DIRTT, interval=interval, seed=1)
        resumed.load_state_dict(method.state_dict())
        for m in (method, resumed):
            m.begin_epoch(never)
            m.train()
        expected = method.model.state_dict() if epoch % interval == 0 else None
        for name, p in method.teacher.copy.state_dict().items():
            assert torch.equal(p, expected[name] if expected else before[f"copy.{name}"])
            assert torch.equal(resumed.teacher.copy.state_dict()[name], p)
        assert not any(m.training for m in method.teacher.modules())
        weights = snapshot(method)
        for step in method.steps(batch, 0.5):
            module.update(step)
        assert changed(method, weights) == {f"model.{n}" for n, _ in method.model.named_parameters()}


def test_the_losses_of_dirt_t() -> None:
    method = build(DIRTT, weight=0.4, target_weight=0.3)
    batch = {"target": batches()["target"]}
    with torch.no_grad():
        for p in method.teacher.copy.parameters():
            p.mul_(1.3)
    out = method(batch)
    losses = method.losses(out, batch, 0.0)
    q = method.teacher.copy(batch["target"].x).logits.softmax(1)
    p = out["target"].logits.softmax(1)
    torch.testing.assert_close(losses["teacher"], 0.4 * (q * (q / p).log()).sum(1).mean())
    torch.testing.assert_close(losses["entropy"], -0.3 * (p * p.log()).sum(1).mean())
    assert losses["target_smoothness"] > 0
    assert set(losses) == {"teacher", "entropy", "target_smoothness"}


# All


@pytest.mark.parametrize("main", [DANN, SourceOnly])
@pytest.mark.parametrize("kind", ADDED, ids=lambda k: k.__name__)
def test_each_joins_another_method(kind: Any, main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    method = Combined(build(Method).model, INFO, main, {"more": Extra(kind)}).train()
    method.begin_epoch(lambda role: whole())
    assert method.two_views == kind.two_views
    (step,) = method.steps(two_views(), 0.5)
    own = {k for k in build(kind).losses(build(kind)(two_views()), two_views(), 0.5) if k != "source"}
    assert {k for k in step.losses if k.startswith("more.")} == {f"more.{k}" for k in own}
    module = runner(method, monkeypatch)
    module.update(step)
    assert all(v.isfinite() for v in step.losses.values())


@pytest.mark.parametrize("kind", [AdaBN, DIRTT])
def test_what_is_more_than_a_loss_is_refused(kind: Any) -> None:
    with pytest.raises(UserError, match="more than a loss"):
        Combined(build(Method).model, INFO, DANN, {"more": Extra(kind)})


@pytest.mark.parametrize("kind", [*ADDED, AdaBN, DIRTT], ids=lambda k: k.__name__)
def test_none_looks_at_target_labels(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for labels in (torch.full((5,), HIDDEN), torch.tensor([0, 1, 2, 0, 1])):
        method, batch = build(kind), two_views()
        batch = {role: batch[role] for role in kind.roles}
        batch["target"].y = labels
        method.begin_epoch(lambda role: whole())
        module = runner(method, monkeypatch, SGD)
        torch.manual_seed(0)
        for step in method.steps(batch, 0.5):
            module.update(step)
        results.append(snapshot(method))
    assert all(torch.equal(results[1][name], p) for name, p in results[0].items())
