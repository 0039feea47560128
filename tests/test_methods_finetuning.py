"""Regularised fine-tuning, each method against the paper's formula in plain loops."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from test_losses import probabilities
from test_losses_consistency import constants
from test_losses_finetuning import naive_contrast, naive_maps
from test_methods import changed, runner, snapshot
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F

from tl_runner.errors import DataError, UserError
from tl_runner.losses import category_relationship
from tl_runner.methods.base import Collect, Method, is_loss
from tl_runner.methods.bi_tuning import BiTuning
from tl_runner.methods.bss import BSS
from tl_runner.methods.co_tuning import CoTuning
from tl_runner.methods.delta import DELTA
from tl_runner.methods.distill import Distill
from tl_runner.methods.ewc import EWC
from tl_runner.methods.finetune import Finetune
from tl_runner.methods.l2_sp import L2SP
from tl_runner.methods.lwf import LwF
from tl_runner.methods.memory import Queues
from tl_runner.methods.replay import Replay
from tl_runner.methods.stochnorm import StochNorm
from tl_runner.nn import Model, backbones
from tl_runner.nn.layers import HeadName
from tl_runner.nn.maps import loss_increases
from tl_runner.tuning import Frozen, NormOnly
from tl_runner.types import Batch, DataInfo

SIZES = {"source": 40, "labeled": 12}
INFO = DataInfo(
    ("a", "b", "c"),
    (3, 8, 8),
    SIZES,
    {"source": ("s",), "labeled": ("t",)},
    {"source": (14, 13, 13), "labeled": (4, 4, 4)},
)
ALL = frozenset({"backbone", "neck", "head"})


def model(trained: frozenset[str] = ALL, seed: int = 0, info: DataInfo = INFO, **options: Any) -> Model:
    torch.manual_seed(seed)
    given = {"neck_features": 6, "dropout": 0.0} | options
    built = Model(info, partial(backbones.tiny, width=4), **given)
    # Statistics of batch-norm that are not those of a fresh one, as earlier training leaves them.
    for m in built.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
    built.trained = set(trained)
    return built


def build(kind: Any, trained: frozenset[str] = ALL, network: Model | None = None, **options: Any) -> Any:
    return kind(network or model(trained), INFO, **options).train()


def rows(role: str, which: Tensor, seed: int = 0) -> Batch:
    """Chosen samples of a role, the same whenever they are asked for; the second view is another image."""
    g = torch.Generator().manual_seed(seed + len(role))
    x, other = (
        torch.randint(0, 256, (SIZES[role], 3, 8, 8), dtype=torch.uint8, generator=g) for _ in range(2)
    )
    y = torch.arange(SIZES[role]) % 3
    return Batch((x[which], other[which]), y[which], torch.zeros(len(which), dtype=torch.long), which)


def batches() -> dict[str, Batch]:
    return {
        "labeled": rows("labeled", torch.tensor([3, 0, 7, 5, 11])),
        "source": rows("source", torch.arange(4)),
    }


def collect(method: Method) -> Collect:
    """Whole roles, in batches of unequal size."""
    loaders = {
        role: [rows(role, torch.arange(size)[i : i + 7]) for i in range(0, size, 7)]
        for role, size in SIZES.items()
    }
    return Collect(method, loaders)


def losses(method: Any) -> dict[str, Tensor]:
    batch = {role: b for role, b in batches().items() if role in method.roles}
    return method.losses(method(batch), batch, 0.3)  # type: ignore[no-any-return]


def disturb(network: nn.Module, by: float = 0.1) -> None:
    with torch.no_grad():
        for p in network.parameters():
            p += by * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    return sum(-torch.log(probabilities(row)[k]) for row, k in zip(z, y, strict=True)) / len(y)


REGULARISERS = {
    L2SP: {},
    DELTA: {"attention": False},
    BSS: {},
    StochNorm: {},
    CoTuning: {},
    BiTuning: {"queue": 4, "projection": 5},
    LwF: {},
    EWC: {},
    Replay: {},
}


@pytest.mark.parametrize(("kind", "options"), REGULARISERS.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_each_adds_to_the_cross_entropy_of_fine_tuning(kind: Any, options: dict[str, Any]) -> None:
    method = build(kind, label_smoothing=0.1, **options)
    method.begin_epoch(collect(method))
    method.train()
    same = copy.deepcopy(method)
    torch.manual_seed(1)
    found = losses(method)
    batch = batches()["labeled"]
    torch.manual_seed(1)
    z = same({role: b for role, b in batches().items() if role in method.roles})["labeled"].logits
    torch.testing.assert_close(found["labeled"], F.cross_entropy(z, batch.y, label_smoothing=0.1))
    assert len(found) > 1 or kind is StochNorm
    assert all(loss.ndim == 0 and loss.isfinite() for loss in found.values())


# L2-SP


@pytest.mark.parametrize("trained", [ALL, frozenset({"backbone"}), frozenset()])
def test_l2_sp_pulls_to_the_start_and_what_is_new_to_zero(trained: frozenset[str]) -> None:
    method = build(L2SP, trained, alpha=0.3, beta=0.7)
    start = copy.deepcopy(method.model)
    old, fresh = ("backbone.", "neck.") if trained == ALL else ("backbone.",), ("head.",)
    fresh = fresh if trained == ALL else ("neck.", "head.")

    def expected() -> tuple[float, float]:
        pairs = zip(method.model.named_parameters(), start.parameters(), strict=True)
        found = [
            (name, float((w - w0).double().square().sum()), float(w.double().square().sum()))
            for (name, w), w0 in pairs
        ]
        distance = sum(d for name, d, _ in found if name.startswith(old))
        return 0.15 * distance, 0.35 * sum(n for name, _, n in found if name.startswith(fresh))

    first = losses(method)
    assert first["start"] == 0
    assert first["decay"].item() == pytest.approx(expected()[1], rel=1e-5)
    disturb(method.model)
    second = losses(method)
    assert second["start"].item() == pytest.approx(expected()[0], rel=1e-5)
    assert second["decay"].item() == pytest.approx(expected()[1], rel=1e-5)
    (second["start"] + second["decay"]).backward()
    for (name, w), w0 in zip(method.model.named_parameters(), start.parameters(), strict=True):
        gradient = 0.3 * (w - w0) if name.startswith(old) else 0.7 * w
        torch.testing.assert_close(w.grad, gradient.detach())
    assert not any("start" in name for name in method.state_dict())


def test_l2_sp_leaves_frozen_weights_out() -> None:
    network = model()
    NormOnly(head=False).apply(network)
    method = build(L2SP, network=network)
    disturb(method.model)
    trains = [p for p in method.model.parameters() if p.requires_grad]
    found = losses(method)
    assert found["decay"] == 0
    start = model()
    by_name = dict(start.named_parameters())
    expected = sum(
        float((p - by_name[n]).square().sum()) / 2
        for n, p in method.model.named_parameters()
        if p.requires_grad
    )
    assert found["start"].item() == pytest.approx(0.1 * expected, rel=1e-5)
    assert set(torch.autograd.grad(found["start"], trains)) != {None}


# EWC


def brute_force(network: Model, batch: Batch, labels: str) -> dict[str, Tensor]:
    """Mean over samples of the squared gradient of log p(y | x), by whole Jacobians in float64."""
    network = copy.deepcopy(network).double().eval()
    network.requires_grad_(True)
    params = {n: p.detach() for n, p in network.named_parameters()}
    backbone = network.backbone
    total = {n: torch.zeros_like(p) for n, p in params.items()}
    for x, y in zip(batch.x, batch.y, strict=True):
        floats = ((x.double() - backbone.mean[0]) / backbone.std[0]).unsqueeze(0)

        def log_p(weights: dict[str, Tensor], floats: Tensor = floats) -> Tensor:
            return torch.log_softmax(functional_call(network, weights, (floats,)).logits, 1)[0]

        jacobian = jacrev(log_p)(params)
        if labels == "drawn":
            y = log_p(params).exp().float().unsqueeze(0).multinomial(1)[0, 0]
        for name, rows_of in jacobian.items():
            total[name] += rows_of[y].square() / len(batch)
    return total


@pytest.mark.parametrize("labels", ["true", "drawn"])
@pytest.mark.parametrize(
    ("data", "samples", "which"), [("source", 6, [0, 8, 16, 23, 31, 39]), ("labeled", 500, range(12))]
)
def test_the_fisher_information_is_brute_force(data: Any, labels: Any, samples: int, which: Any) -> None:
    method = build(EWC, data=data, labels=labels, samples=samples, weight=3.0)
    assert method.collects == (() if data == "labeled" else ("source",))
    chosen = rows(data, torch.tensor([*which]))
    torch.manual_seed(7)
    expected = brute_force(method.model, chosen, labels)
    torch.manual_seed(7)
    method.begin_epoch(collect(method))
    method.train()
    found = torch.split(method.fisher, [p.numel() for p in method.model.parameters()])
    for f, e in zip(found, expected.values(), strict=True):
        torch.testing.assert_close(f.double().view(e.shape), e, rtol=1e-3, atol=1e-7)
    assert losses(method)["elastic"] == 0
    disturb(method.model)
    start = model()
    distance = sum(
        float((expected[n] * (p - q).double().square()).sum())
        for (n, p), q in zip(method.model.named_parameters(), start.parameters(), strict=True)
    )
    elastic = losses(method)["elastic"]
    assert elastic.item() == pytest.approx(1.5 * distance, rel=1e-3)
    grads = torch.autograd.grad(elastic, [*method.model.parameters()])
    for g, e, p, q in zip(
        grads, expected.values(), method.model.parameters(), start.parameters(), strict=True
    ):
        torch.testing.assert_close(g.double(), (3 * e * (p - q)).detach(), rtol=1e-3, atol=1e-6)


def test_the_fisher_information_is_computed_once_and_kept() -> None:
    method = build(EWC, samples=4)
    method.begin_epoch(collect(method))
    fisher = method.fisher.clone()
    assert fisher.sum() > 0
    disturb(method.model)
    method.begin_epoch(collect(method))
    assert torch.equal(method.fisher, fisher)
    other = build(EWC, samples=4)
    other.load_state_dict(method.state_dict())
    other.begin_epoch(collect(other))
    assert torch.equal(other.fisher, fisher)
    torch.testing.assert_close(losses(other)["elastic"], losses(method)["elastic"])


def test_the_fisher_information_knows_what_is_frozen_for_now() -> None:
    network = model()
    Frozen().apply(network)
    method = build(EWC, network=network, labels="true", samples=5)
    flags = [p.requires_grad for p in network.parameters()]
    method.begin_epoch(collect(method))
    assert [p.requires_grad for p in network.parameters()] == flags
    whole = build(EWC, labels="true", samples=5)
    whole.begin_epoch(collect(whole))
    assert torch.equal(method.fisher, whole.fisher)


# What was known before: LwF


def naive_kept(z: Tensor, old: Tensor, temperature: float) -> Tensor:
    """The paper's softened cross-entropy, less the constant entropy of what was answered."""
    total = 0
    for a, b in zip(z, old, strict=True):
        soft = np.array(constants(b)) ** (1 / temperature)
        soft = soft / soft.sum()
        p = probabilities(a) ** (1 / temperature)
        p = p / p.sum()
        total = total + sum(float(q) * (math.log(q) - torch.log(r)) for q, r in zip(soft, p, strict=True))
    return total / len(z)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_lwf_keeps_what_the_model_answered(temperature: float) -> None:
    method = build(LwF, weight=0.6, temperature=temperature)
    batch = {"labeled": batches()["labeled"]}
    start = model().eval()
    disturb(method.model)
    out = method(batch)
    found = method.losses(out, batch, 0.0)
    expected = 0.6 * naive_kept(out["labeled"].logits, start(batch["labeled"].x).logits, temperature)
    torch.testing.assert_close(found["old"], expected, rtol=1e-4, atol=1e-6)
    weights = [*method.model.parameters()]
    for a, b in zip(
        torch.autograd.grad(found["old"], weights, retain_graph=True),
        torch.autograd.grad(expected, weights),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert not any("before" in name for name in method.state_dict())


def test_an_unchanged_model_forgets_nothing() -> None:
    method = build(LwF).eval()
    assert losses(method)["old"].abs() < 1e-6


def earlier_run(folder: Path, classes: int, **options: Any) -> tuple[Model, Path]:
    """A model of other classes, and the checkpoint that its run left."""
    info = DataInfo(tuple(f"old {i}" for i in range(classes)), INFO.shape)
    theirs = model(seed=5, info=info, **options)
    file = folder / "last.ckpt"
    torch.save({"state_dict": {f"method.model.{k}": v for k, v in theirs.state_dict().items()}}, file)
    return theirs, file


@pytest.mark.parametrize("head", get_args(HeadName))
@pytest.mark.parametrize("kind", [LwF, CoTuning])
def test_a_head_of_other_classes_goes_on_beside_the_new_one(kind: Any, head: str, tmp_path: Path) -> None:
    theirs, file = earlier_run(tmp_path, 5, head=head)
    ours = model(frozenset({"backbone", "neck"}), head=head)
    for part in ("backbone", "neck"):
        getattr(ours, part).load_state_dict(getattr(theirs, part).state_dict())
    ours.past = {"init_from": file}
    method = build(kind, network=ours, weight=1.0)
    x = batches()["labeled"].x
    theirs.eval()
    method.eval()
    torch.testing.assert_close(method.earlier_head(method.model.features(x)), theirs(x).logits)
    assert method.model.head(method.model.features(x)).shape == (5, 3)
    assert any(name.startswith("earlier_head.") for name, _ in method.named_parameters())
    method.begin_epoch(collect(method))
    if kind is LwF:
        assert losses(method)["old"].abs() < 1e-6
    else:
        assert method.relation.shape == (3, 5)
        torch.testing.assert_close(method.relation.sum(1), torch.ones(3))


class Pretrained(nn.Module):
    """A backbone with the classifier that it came with."""

    def __init__(self, shape: tuple[int, ...], classifier: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.num_features = 4
        self.classifier = lambda: classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.float() / 255)  # type: ignore[no-any-return]


def test_the_pretrained_classifier_reads_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    classifier = nn.Linear(4, 9)
    network = Model(INFO, partial(Pretrained, classifier=classifier), neck_features=6)
    x = batches()["labeled"].x
    for kind in (LwF, CoTuning, partial(EWC, data="labeled")):
        method = kind(copy.deepcopy(network), INFO).train()
        method.begin_epoch(collect(method))
        method.train()
        batch = {"labeled": batches()["labeled"]}
        found = method.losses(method(batch), batch, 0.0)
        assert all(v.isfinite() for v in found.values())
        if isinstance(method, EWC):
            sizes = [p.numel() for p in method.model.parameters()]
            names = [n for n, _ in method.model.named_parameters()]
            shares = dict(zip(names, torch.split(method.fisher, sizes), strict=True))
            # The new neck and head had no part in what the backbone was trained for.
            assert all((f.sum() > 0) == name.startswith("backbone.") for name, f in shares.items())
            continue
        inside = method.inside["backbone"]["labeled"]
        torch.testing.assert_close(inside, method.model.backbone(x))
        if isinstance(method, LwF):
            assert found["old"].abs() < 1e-6  # no batch-norm, no dropout before the classifier
        before = snapshot(method)
        module = runner(method, monkeypatch)
        for step in method.steps(batch, 0.0):
            module.update(step)
        assert {"earlier_head.weight", "model.head.weight"} <= changed(method, before)


@pytest.mark.parametrize("kind", [LwF, EWC, CoTuning])
def test_without_an_earlier_classifier_there_is_nothing_to_keep(kind: Any) -> None:
    with pytest.raises(UserError, match=r"needs the classifier of an earlier task.*init_from=RUN_DIR"):
        build(kind, frozenset())
    network = Model(INFO, partial(Pretrained, classifier=nn.Linear(4, 9)), neck_features=6)
    Frozen().apply(network)
    with pytest.raises(UserError, match=r"if that trains \(tuning=full\)"):
        kind(network, INFO)


def test_a_head_of_another_kind_does_not_fit(tmp_path: Path) -> None:
    _, file = earlier_run(tmp_path, 5, head="weight_norm")
    ours = model(frozenset({"backbone", "neck"}))
    ours.past = {"init_from": file}
    with pytest.raises(DataError, match=r"its head does not fit model\.head=linear; missing: weight"):
        build(LwF, network=ours)
    ours.past = {"init_from": earlier_run(tmp_path, 5)[1]}
    with pytest.raises(UserError, match=r"labels=true: the earlier classifier knows other classes"):
        build(EWC, network=ours, labels="true")


# Replay


def test_replay_rehearses_the_source() -> None:
    method = build(Replay, weight=0.4)
    batch = batches()
    out = method(batch)
    found = method.losses(out, batch, 0.0)
    torch.testing.assert_close(found["source"], 0.4 * cross_entropy(out["source"].logits, batch["source"].y))
    torch.testing.assert_close(found["labeled"], cross_entropy(out["labeled"].logits, batch["labeled"].y))


# Distillation


def test_distillation_from_a_teacher_with_classes_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = model(seed=3, info=DataInfo(("c", "a", "b"), INFO.shape))
    method = build(
        Distill, network=model(frozenset()), teacher=teacher, role="labeled", weight=0.5, temperature=3.0
    )
    assert method.roles == ("labeled",)
    batch = {"labeled": batches()["labeled"]}
    answers = copy.deepcopy(teacher).eval()(batch["labeled"].x).logits[:, [1, 2, 0]]
    out = method(batch)
    expected = 0.5 * 9 * naive_kept(out["labeled"].logits, answers, 3.0)
    torch.testing.assert_close(method.losses(out, batch, 0.0)["teacher"], expected, rtol=1e-4, atol=1e-6)
    before, state = snapshot(method), copy.deepcopy(teacher.state_dict())
    module = runner(method, monkeypatch)
    method.train()
    for _ in range(3):
        for step in method.steps(batch, 0.0):
            module.update(step)
    assert changed(method, before)
    for name, value in method.teacher.network.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert not any("teacher" in name for name in method.state_dict())


def test_the_model_itself_as_its_teacher() -> None:
    method = build(Distill, teacher=None, role="labeled").eval()
    assert losses(method)["teacher"] == 0
    disturb(method.model)
    assert losses(method)["teacher"] > 0
    with pytest.raises(UserError, match=r"needs a teacher.*method\.teacher\.run=RUN_DIR"):
        build(Distill, frozenset(), teacher=None)


def test_a_teacher_of_larger_images_sees_them_larger() -> None:
    teacher = model(seed=3, info=DataInfo(INFO.classes, (3, 16, 16)))
    method = build(Distill, teacher=teacher, role="labeled")
    x = batches()["labeled"].x
    assert method.seen(x).shape == (5, 3, 16, 16)
    assert method.seen(x).dtype == torch.uint8
    assert losses(method)["teacher"].isfinite()


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (
            DataInfo(("a", "b", "d"), INFO.shape),
            "the teacher knows the classes a, b, d, and this data has a, b, c",
        ),
        (DataInfo(INFO.classes, (1, 8, 8)), r"samples of shape \(1, 8, 8\), this data has \(3, 8, 8\)"),
    ],
)
def test_a_teacher_that_does_not_fit(info: DataInfo, says: str) -> None:
    with pytest.raises(UserError, match=says):
        build(Distill, teacher=model(info=info), role="labeled")


# Batch spectral shrinkage


@pytest.mark.parametrize("k", [1, 3])
def test_bss_shrinks_the_smallest_singular_values(k: int) -> None:
    method = build(BSS, weight=0.2, k=k)
    batch = {"labeled": batches()["labeled"]}
    out = method(batch)
    s = np.sort(np.linalg.svd(out["labeled"].features.detach().double().numpy(), compute_uv=False))
    found = method.losses(out, batch, 0.0)["shrinkage"]
    assert found.item() == pytest.approx(0.2 * (s[:k] ** 2).sum(), rel=1e-3, abs=1e-5)


# Stochastic normalisation


def norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("moving", [0.0, 1.0])
def test_stochnorm_at_the_ends_is_batch_norm_in_training_and_at_rest(moving: float) -> None:
    method, plain = build(StochNorm, moving=moving), build(Finetune)
    batch = {"labeled": batches()["labeled"]}
    out = method(batch)["labeled"]
    at_rest = copy.deepcopy(plain).eval()(batch)["labeled"]
    in_training = plain(batch)["labeled"]
    torch.testing.assert_close(out.logits, (at_rest if moving else in_training).logits)
    # Either way the batch moves the averages, once.
    first, other = norms(method.model)[0], norms(plain.model)[0]
    torch.testing.assert_close(first.running_mean, other.running_mean)
    assert [n.num_batches_tracked.item() for n in norms(method.model)] == [1] * len(norms(method.model))


def test_each_channel_is_normalised_one_way_or_the_other() -> None:
    method = build(StochNorm, moving=0.5)
    norm = norms(method.model)[0]
    seen: list[tuple[Tensor, Tensor]] = []
    shares = []
    for seed in range(40):
        before = copy.deepcopy(norm)
        handle = norm.register_forward_hook(lambda m, i, o: seen.append((i[0].detach(), o.detach())))
        torch.manual_seed(seed)
        method({"labeled": batches()["labeled"]})
        handle.remove()
        x, y = seen[-1]
        by_batch, by_average = (copy.deepcopy(before).train(mode)(x) for mode in (True, False))
        for c in range(y.shape[1]):
            of_batch, of_average = (
                torch.allclose(y[:, c], z[:, c], atol=1e-5) for z in (by_batch, by_average)
            )
            assert of_batch != of_average
            shares.append(of_average)
    assert 0.35 < sum(shares) / len(shares) < 0.65


def test_stochnorm_leaves_the_model_as_it_is() -> None:
    network = model()
    keys, types = [*network.state_dict()], [type(m) for m in network.modules()]
    method = build(StochNorm, network=network)
    losses(method)
    assert [*network.state_dict()] == keys
    assert [type(m) for m in network.modules()] == types
    assert not any("forward" in vars(m) for m in network.modules())
    model().load_state_dict(network.state_dict())
    method.eval()
    x = batches()["labeled"].x
    torch.testing.assert_close(method.predict(x).logits, network(x).logits)


def test_stochnorm_keeps_what_a_layer_does_after_normalising() -> None:
    """timm's batch-norm includes the activation."""
    network = Model(
        INFO, partial(backbones.timm, "mobilenetv3_small_050", "none"), neck_features=6, dropout=0.0
    )
    method = StochNorm(network, INFO, moving=0.0).train()
    plain = Finetune(copy.deepcopy(network), INFO).train()
    batch = {"labeled": batches()["labeled"]}
    torch.testing.assert_close(method(batch)["labeled"].logits, plain(batch)["labeled"].logits)


def test_stochnorm_needs_batch_norm_that_trains() -> None:
    network = model(neck="none")
    Frozen().apply(network)
    with pytest.raises(UserError, match="batch-norm layers that train"):
        build(StochNorm, network=network)
    network = model()
    Frozen().apply(network)
    method = build(StochNorm, network=network, moving=1.0)  # the neck's own trains
    assert losses(method)["labeled"].isfinite()


# DELTA


def test_equal_networks_have_equal_feature_maps() -> None:
    method = build(DELTA, attention=False).eval()
    assert losses(method)["maps"] == 0
    disturb(method.model)
    assert losses(method)["maps"] > 0
    assert not any(name.startswith("before") for name in method.state_dict())


def test_delta_is_the_weighted_distance_of_the_stages() -> None:
    method = build(DELTA, alpha=0.3, beta=0.2, attention=True, samples=7)
    start = model().eval()
    assert [*method.widths] == ["net.2", "net.6", "net.12"]
    assert [*method.widths.values()] == [4, 8, 16]
    method.begin_epoch(collect(method))
    method.train()
    disturb(method.model)
    x = batches()["labeled"].x

    def maps(network: Model) -> Iterator[Tensor]:
        out = (x.float() - network.backbone.mean) / network.backbone.std
        for i, layer in enumerate(network.backbone.net):
            out = layer(out)
            if i in (2, 6, 12):
                yield out

    shares = torch.split(method.shares, [4, 8, 16])
    expected = sum(
        naive_maps(now, old, share)
        for now, old, share in zip(maps(copy.deepcopy(method.model)), maps(start), shares, strict=True)
    )
    found = losses(method)
    torch.testing.assert_close(found["maps"], 0.3 * expected, rtol=1e-4, atol=1e-5)
    decay = sum(p.square().sum() for p in method.model.head.parameters()) / 2
    torch.testing.assert_close(found["decay"], 0.2 * decay)
    grads = torch.autograd.grad(found["maps"], [*method.model.backbone.parameters()])
    assert all(g.abs().max() > 0 for g in grads)


def test_channels_count_by_what_their_removal_costs() -> None:
    network = model().eval().backbone
    batch = rows("labeled", torch.arange(12))
    found = loss_increases(network, {"net.2": 4, "net.12": 16}, [batch.x[:5], batch.x[5:]], batch.y)

    def features(layer: int, channel: int | None) -> np.ndarray:
        out = (batch.x.float() - network.mean) / network.std
        for i, part in enumerate(network.net):
            out = part(out)
            if i == layer and channel is not None:
                keep = torch.ones(out.shape[1])
                keep[channel] = 0
                out = out * keep.view(-1, 1, 1)
        return out.detach().numpy()

    judge = LogisticRegression(max_iter=1000).fit(features(0, None), batch.y.numpy())

    def cost(layer: int, channel: int | None) -> float:
        p = judge.predict_proba(features(layer, channel))
        return float(-np.log(p[np.arange(12), batch.y.numpy()]).mean())

    for layer, width, increases in ((2, 4, found[0]), (12, 16, found[1])):
        expected = [cost(layer, c) - cost(0, None) for c in range(width)]
        np.testing.assert_allclose(increases.numpy(), expected, rtol=1e-3, atol=1e-5)
    assert found[0].std() > 1e-4


def test_attention_is_computed_once_and_kept() -> None:
    method = build(DELTA, samples=6)
    even = method.shares.clone()
    method.begin_epoch(collect(method))
    assert not torch.allclose(method.shares, even)
    torch.testing.assert_close(method.shares.sum(), torch.tensor(3.0))
    other = build(DELTA, samples=6)
    other.load_state_dict(method.state_dict())
    other.begin_epoch(None)  # type: ignore[arg-type]
    assert torch.equal(other.shares, method.shares)
    alike = build(DELTA, attention=False)
    alike.begin_epoch(None)
    assert torch.equal(alike.shares, even)


def test_the_layers_of_delta_can_be_chosen() -> None:
    assert [*build(DELTA, layers=("6", "net.3"), attention=False).widths.items()] == [
        ("net.6", 8),
        ("net.3", 4),
    ]
    with pytest.raises(UserError, match=r"method\.layers: the backbone has no module 'layer9'"):
        build(DELTA, layers=("layer9",))
    network = model()
    Frozen().apply(network)
    with pytest.raises(
        UserError, match=r"delta compares the feature maps of a backbone that trains.*tuning=full"
    ):
        build(DELTA, network=network)


# Co-Tuning


@pytest.mark.parametrize("relationship", ["reverse", "direct"])
def test_co_tuning_teaches_the_earlier_head_what_classes_resemble(relationship: Any) -> None:
    method = build(CoTuning, weight=1.7, relationship=relationship, temperature=2.0)
    assert method.relation.shape == (3, 3)
    start = model().eval()
    whole = rows("labeled", torch.arange(12))
    expected = category_relationship(start(whole.x).logits / 2, whole.y, 3, relationship)
    method.begin_epoch(collect(method))
    method.train()
    torch.testing.assert_close(method.relation, expected, rtol=1e-4, atol=1e-5)
    disturb(method.earlier_head)
    batch = {"labeled": batches()["labeled"]}
    out = method(batch)
    found = method.losses(out, batch, 0.0)
    z = method.earlier_head(out["labeled"].features)
    own = 0
    for row, y in zip(z, batch["labeled"].y, strict=True):
        own = own - sum(float(q) * torch.log(p) for q, p in zip(expected[y], probabilities(row), strict=True))
    torch.testing.assert_close(found["earlier"], 1.7 * own / 5, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["labeled"], cross_entropy(out["labeled"].logits, batch["labeled"].y))
    # Two heads: what one learns, the other need not.
    grads = torch.autograd.grad(found["earlier"], [*method.model.head.parameters()], allow_unused=True)
    assert all(g is None for g in grads)


def test_co_tuning_of_mixed_samples_mixes_what_they_resemble() -> None:
    method = build(CoTuning, mixup=0.2)
    method.begin_epoch(collect(method))
    method.eval()
    batch = {"labeled": batches()["labeled"]}
    hard = losses(method)["earlier"]
    batch["labeled"].y = F.one_hot(batch["labeled"].y, 3).float()
    torch.testing.assert_close(method.losses(method(batch), batch, 0.0)["earlier"], hard)


# Bi-Tuning


def test_bi_tuning_is_two_contrasts() -> None:
    method = build(BiTuning, weight=0.8, queue=4, momentum=0.9, temperature=0.5, projection=5)
    batch = {"labeled": batches()["labeled"]}
    y, queue = batch["labeled"].y, 4
    feature_keys, projected_keys = method.feature_keys.keys.clone(), method.projected_keys.keys.clone()
    old = copy.deepcopy(method)
    disturb(method.model)
    disturb(method.projector)
    with torch.no_grad():  # the moving average of what was and what is
        for name in ("model", "projector"):
            for k, q in zip(getattr(old, name).parameters(), getattr(method, name).parameters(), strict=True):
                k.copy_(0.9 * k + 0.1 * q)
    old.train()

    def unit(v: Tensor) -> Tensor:
        return v / v.norm(dim=1, keepdim=True)

    def with_one(v: Tensor) -> Tensor:
        return unit(torch.cat([v, torch.ones(len(v), 1)], 1))

    out = method(batch)
    features = out["labeled"].features
    keys = old.model(batch["labeled"].views[1]).features.detach()
    projected = unit(old.projector(keys)).detach()
    in_projection = naive_contrast(unit(method.projector(features)), projected, projected_keys, y, 0.5)
    place = [0, 0, 0]
    for i, c in enumerate(y.tolist()):  # oldest keys leave
        feature_keys[c, place[c]] = with_one(keys)[i]
        projected_keys[c, place[c]] = projected[i]
        place[c] = (place[c] + 1) % queue
    head = method.model.head
    weights = unit(torch.cat([head.weight, head.bias.unsqueeze(1)], 1)).detach()
    in_classifier = naive_contrast(weights[y], with_one(features), feature_keys, y, 0.5)

    found = method.losses(out, batch, 0.0)
    torch.testing.assert_close(found["projection"], 0.8 * in_projection, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["contrast"], 0.8 * in_classifier, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(method.feature_keys.keys, feature_keys)
    torch.testing.assert_close(method.projected_keys.keys, projected_keys)
    assert method.feature_keys.filled.tolist() == place
    grads = torch.autograd.grad(found["contrast"], [*head.parameters()], allow_unused=True)
    assert all(g is None for g in grads)
    assert {f"{q}_keys.{b}" for q in ("feature", "projected") for b in ("keys", "filled")} <= set(
        method.state_dict()
    )


def test_the_oldest_keys_leave_first() -> None:
    queues = Queues(3, 3, 2)
    for start in (0, 6):
        labels = torch.tensor([0, 0, 1, 0, 0, 0])
        values = torch.arange(start, start + 6).float()
        queues.push(values.unsqueeze(1).expand(6, 2), labels)
        # Of five of class 0 the last three fit; class 2 never comes.
        assert sorted(queues.keys[0, :, 0].tolist()) == [start + 3, start + 4, start + 5]
    assert {2.0, 8.0} < set(queues.keys[1, :, 0].tolist())
    assert queues.filled.tolist() == [1, 2, 0]


def test_only_the_first_view_is_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(BiTuning, queue=4, projection=5)
    sizes: list[int] = []
    handle = method.model.backbone.register_forward_pre_hook(lambda _, i: sizes.append(len(i[0])))
    batch = {"labeled": batches()["labeled"]}
    out = method(batch)
    handle.remove()
    assert sizes == [5]
    assert [*out] == ["labeled"]
    keys = {n: p.detach().clone() for n, p in method.key_model.named_parameters()}
    module = runner(method, monkeypatch)
    for step in method.steps(batch, 0.0):
        module.update(step)
    # The step moves the model; the keys' network follows at the next one.
    assert all(torch.equal(keys[n], p) for n, p in method.key_model.named_parameters())
    losses(method)
    moved = [n for n, p in method.key_model.named_parameters() if not torch.equal(keys[n], p)]
    assert moved
    with pytest.raises(UserError, match=r"one class each: set method\.mixup=0"):
        build(BiTuning, mixup=0.3)
    with pytest.raises(UserError, match=r"method=bi_tuning reads .* set model\.head=linear"):
        build(BiTuning, network=model(head="mlp"))


def test_which_regularisers_can_be_added_to_another_method() -> None:
    assert [kind.__name__ for kind in REGULARISERS if is_loss(kind)] == ["L2SP", "BSS", "EWC", "Replay"]
