"""What trains, how fast, and when; and that a model is plain again after it was adapted."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS, Tlrun, composed, result_folder, walk
from test_configs import needs
from test_resume import assert_same
from torch import nn

from tl_runner.errors import UserError
from tl_runner.methods.base import Method
from tl_runner.module import TransferModule
from tl_runner.nn import Model, backbones
from tl_runner.nn.blocks import _found, _known, blocks
from tl_runner.optim import Optim
from tl_runner.run import run
from tl_runner.tuning import (
    BiasOnly,
    Frozen,
    Gradual,
    LastN,
    LayerwiseLR,
    LinearProbe,
    LoRA,
    NormOnly,
    Tuning,
    parameter_table,
    shown,
)
from tl_runner.types import DataInfo

INFO = DataInfo(("a", "b", "c"), (3, 16, 16))


def model(backbone: Any = None, shape: tuple[int, ...] = (3, 16, 16), **options: Any) -> Model:
    torch.manual_seed(0)
    built = {"neck_features": 6, "dropout": 0.5} | options
    return Model(DataInfo(INFO.classes, shape), backbone or partial(backbones.tiny, width=4), **built)


def names(net: nn.Module) -> set[str]:
    return {name for name, _ in net.named_parameters()}


def training(net: nn.Module) -> set[str]:
    return {name for name, p in net.named_parameters() if p.requires_grad}


NETS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "tiny": (partial(backbones.tiny, width=4), (3, 16, 16)),
    "dtn": (backbones.dtn, (3, 32, 32)),
    "lenet": (backbones.lenet, (1, 28, 28)),
    "mlp": (backbones.mlp, (2,)),
    "resnet18": (partial(backbones.timm, "resnet18", "none"), (3, 32, 32)),
    "vit_tiny": (partial(backbones.timm, "vit_tiny_patch16_224", "none"), (3, 32, 32)),
    "efficientnet_lite0": (partial(backbones.timm, "efficientnet_lite0", "none"), (3, 32, 32)),
    "resnet18-torchvision": (partial(backbones.torchvision, "resnet18", "none"), (3, 32, 32)),
    "mobilenet_v3-torchvision": (partial(backbones.torchvision, "mobilenet_v3_small", "none"), (3, 32, 32)),
    "regnet-torchvision": (partial(backbones.torchvision, "regnet_y_400mf", "none"), (3, 32, 32)),
    "googlenet-torchvision": (partial(backbones.torchvision, "googlenet", "none"), (3, 64, 64)),
    "convnext": (partial(backbones.timm, "test_convnext", "none"), (3, 64, 64)),
}


# Blocks


@pytest.mark.parametrize("name", NETS)
def test_blocks_hold_every_parameter_once(name: str) -> None:
    build, shape = NETS[name]
    net = build(shape=shape)
    for found in (blocks(net), _found(net)):
        assert sum(len(block) for block in found) == len(names(net))
        assert {n for block in found for n in block} == names(net)
        own = dict(net.named_parameters())
        assert all(p is own[n] for block in found for n, p in block.items())
        assert len(found) > 1


@pytest.mark.parametrize("name", NETS)
def test_blocks_are_in_the_order_of_the_forward_pass(name: str) -> None:
    """Told by hooks: no layer of a block runs before the block ahead of it has begun."""
    build, shape = NETS[name]
    net = build(shape=shape).eval()
    ran: list[str] = []
    for module_name, module in net.named_modules():
        if list(module.parameters(recurse=False)) and not list(module.children()):
            module.register_forward_hook(lambda *_, n=module_name: ran.append(n))  # type: ignore[misc]
    net(torch.randn(2, *shape))
    for found in (blocks(net), _found(net)):
        layers = [{n.rpartition(".")[0] for n in block} for block in found]
        spans = [[ran.index(n) for n in names if n in ran] for names in layers]
        for before, after in pairwise([span for span in spans if span]):
            assert max(before) < min(after)
        assert len(ran) > 1


EXPECTED = {
    "tiny": [("net.0.", "net.1."), ("net.4.", "net.5."), ("net.8.", "net.9.")],
    "lenet": [("net.0.",), ("net.3.",), ("net.8.",)],
    "dtn": [("net.0.", "net.1."), ("net.4.", "net.5."), ("net.8.", "net.9."), ("net.13.", "net.14.")],
    "mlp": [("net.1.",), ("net.3.",)],
    "resnet18": [("net.conv1.", "net.bn1."), *[(f"net.layer{i}.{j}.",) for i in range(1, 5) for j in (0, 1)]],
    "vit_tiny": [
        ("net.cls_token", "net.pos_embed", "net.patch_embed."),
        *[(f"net.blocks.{i}.",) for i in range(11)],
        ("net.blocks.11.", "net.norm."),
    ],
}
EXPECTED["resnet18-torchvision"] = EXPECTED["resnet18"]


@pytest.mark.parametrize("name", EXPECTED)
def test_known_networks_have_the_blocks_one_expects(name: str) -> None:
    build, shape = NETS[name]
    net = build(shape=shape)
    for found in (blocks(net), _found(net)):
        assert [set(block) for block in found] == [
            {n for n in names(net) if n.startswith(prefixes)} for prefixes in EXPECTED[name]
        ]


@pytest.mark.parametrize(
    "name",
    ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_100", "repvgg_a0", "gmlp_ti16_224", "vgg11"],
)
def test_without_timm_one_finds_what_timm_says(name: str) -> None:
    import timm

    net = timm.create_model(name, num_classes=0)
    known = _known(net)
    assert known
    assert [set(b) for b in _found(net)] == [set(b) for b in known]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm, self.out = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(4))
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.last = nn.LayerNorm(4)


class Own(nn.Module):
    """As someone else would write it: an embedding, an encoder in a class of its own, a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(4))
        self.embed = nn.Linear(4, 4)
        self.encoder = Encoder()
        self.project = nn.Linear(4, 4, bias=False)


def test_blocks_of_a_network_of_ones_own() -> None:
    layer = {f"{m}.{p}" for m in ("attention", "norm", "out") for p in ("weight", "bias")}
    for net, prefix in ((Own(), ""), (nn.Sequential(Own()), "0."), (backbones.Backbone(Own(), 4), "net.")):
        found = [{n.removeprefix(prefix) for n in block} for block in blocks(net)]
        assert found == [
            {"token", "embed.weight", "embed.bias", "encoder.position"},
            *[{f"encoder.layers.{i}.{n}" for n in layer} for i in (0, 1)],
            {f"encoder.layers.2.{n}" for n in layer} | {"encoder.last.weight", "encoder.last.bias"},
            {"project.weight"},
        ]
    assert blocks(nn.ReLU()) == []
    assert [list(b) for b in blocks(nn.Linear(2, 2))] == [["weight", "bias"]]


# Who trains

B = "backbone.net."
NECK_AND_HEAD = {f"{n}.{p}" for n in ("neck.0", "neck.1", "head") for p in ("weight", "bias")}


def last_blocks(*numbers: int) -> set[str]:
    return {f"{B}{i}.weight" for i in numbers} | {
        f"{B}{i + 1}.{p}" for i in numbers for p in ("weight", "bias")
    }


WHO: dict[str, tuple[Tuning, set[str]]] = {
    "bias_only": (BiasOnly(), {f"{B}{i}.bias" for i in (1, 5, 9)}),
    "last_1": (LastN(), last_blocks(8)),
    "last_2": (LastN(2), last_blocks(4, 8)),
    "last_3": (LastN(3), last_blocks(0, 4, 8)),
    "layerwise_lr": (LayerwiseLR(), last_blocks(0, 4, 8)),
    "gradual": (Gradual(), last_blocks(0, 4, 8)),
}


@pytest.mark.parametrize(("tuning", "backbone"), WHO.values(), ids=WHO)
def test_who_trains(tuning: Tuning, backbone: set[str]) -> None:
    net = model()
    LinearProbe().apply(net)  # what an earlier stage froze is free again
    tuning.apply(net)
    assert training(net) == backbone | NECK_AND_HEAD
    assert tuning.cache_features is False
    tuning.finish(net)
    assert training(net) == backbone | NECK_AND_HEAD


def test_biases_under_other_names() -> None:
    net = model(partial(backbones.torchvision, "vit_b_32", "none"), (3, 224, 224))
    BiasOnly().apply(net)
    trained = {n for n in training(net) if n.startswith("backbone.")}
    assert any(n.endswith("self_attention.in_proj_bias") for n in trained)
    assert trained == {n for n in names(net.backbone.net) and names(net) if n.startswith(B) and "bias" in n}


def test_more_blocks_than_there_are() -> None:
    with pytest.raises(UserError, match=r"tuning.n=4: this backbone has 3 blocks: net.0, net.4, net.8"):
        LastN(4).apply(model())


@pytest.mark.parametrize("n", [1, 4, 17])
def test_the_last_blocks_of_an_efficientnet(n: int) -> None:
    net = model(NETS["efficientnet_lite0"][0], (3, 32, 32))
    LastN(n).apply(net)
    found = blocks(net.backbone)
    assert len(found) == 17
    assert {x for x in training(net) if x.startswith("backbone.")} == {
        f"backbone.{name}" for block in found[-n:] for name in block
    }
    assert "backbone.net.conv_head.weight" in training(net)
    assert ("backbone.net.conv_stem.weight" in training(net)) == (n == 17)


# How fast


@pytest.mark.parametrize("backbone_lr", [1.0, 0.1])
@pytest.mark.parametrize("decay_norm_bias", [True, False])
@pytest.mark.parametrize("tuning", [LayerwiseLR(0.5), Gradual(decay=0.5)], ids=["layerwise_lr", "gradual"])
def test_rates_per_block(tuning: Tuning, backbone_lr: float, decay_norm_bias: bool) -> None:
    method = Method(model(), INFO)
    method.discriminator = nn.Linear(6, 1)
    tuning.apply(method.model)
    optim = Optim(torch.optim.SGD, 0.8, backbone_lr, weight_decay=0.1, decay_norm_bias=decay_norm_bias)
    scaled = optim.scaled(tuning.lr_factors(method.model))
    optimizer = scaled.build(method, method.model.backbone.parameters())
    found = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    depth = {0: 3, 1: 3, 4: 2, 5: 2, 8: 1, 9: 1}  # layer of the network -> blocks from the head
    assert len(found) == len(names(method))
    for name, p in method.named_parameters():
        expected = 0.8
        if name.startswith("model.backbone."):
            expected *= backbone_lr * 0.5 ** depth[int(name.split(".")[3])]
        assert found[id(p)] == pytest.approx(expected), name
    assert len(optimizer.param_groups) == 4 * (1 if decay_norm_bias else 2)
    scaled.schedule_lr(optimizer, 0.0, 0)
    assert {g["lr"] for g in optimizer.param_groups} == set(found.values())
    # The optim itself, which other stages share, is left as it was.
    assert optim.factors == {}
    assert len(optim.build(method, []).param_groups) == (1 if decay_norm_bias else 2)


@pytest.mark.parametrize(
    "tuning", [Tuning(), Frozen(), BiasOnly(), LastN(), Gradual()], ids=lambda t: type(t).__name__
)
def test_other_tunings_leave_the_rates_alone(tuning: Tuning) -> None:
    net = model()
    tuning.apply(net)
    optimizer = (
        Optim(torch.optim.SGD, 0.3).scaled(tuning.lr_factors(net)).build(net, net.backbone.parameters())
    )
    assert {g["lr"] for g in optimizer.param_groups} == {0.3}


# Gradual


@pytest.mark.parametrize(
    ("options", "count", "epochs", "joined"),
    [
        ({}, 5, 10, [0, 1, 2, 3, 4, 5, 5, 5, 5, 5]),
        ({}, 3, 4, [0, 1, 3, 3]),
        ({}, 17, 4, [0, 8, 17, 17]),
        ({"until": 0.7}, 7, 10, [0, 1, 2, 3, 4, 5, 6, 7, 7, 7]),
        ({"until": 1.0}, 2, 4, [0, 0, 1, 1]),
        ({"until": 0.0}, 3, 3, [3, 3, 3]),
        ({"every": 1}, 3, 6, [0, 1, 2, 3, 3, 3]),
        ({"every": 2}, 3, 6, [0, 0, 1, 1, 2, 2]),
        ({}, 3, 1, [0]),
    ],
)
def test_when_blocks_join(options: dict[str, Any], count: int, epochs: int, joined: list[int]) -> None:
    tuning = Gradual(**options)
    assert [tuning.joined(count, epoch, epochs) for epoch in range(epochs)] == joined


@pytest.mark.parametrize("until", [0.1 * i for i in range(11)])
def test_blocks_never_leave_and_all_have_joined_in_time(until: float) -> None:
    tuning = Gradual(until)
    for count in (1, 3, 17):
        for epochs in (1, 2, 7, 10, 30):
            found = [tuning.joined(count, epoch, epochs) for epoch in range(epochs)]
            assert found == sorted(found)
            assert all(0 <= n <= count for n in found)
            assert all(n == count for e, n in enumerate(found) if e >= round(until * epochs, 6))


def test_gradual_epoch_by_epoch(caplog: pytest.LogCaptureFixture) -> None:
    net = model()
    tuning = Gradual(every=1)
    tuning.apply(net)
    with caplog.at_level("INFO"):
        for epoch, backbone in enumerate([set(), last_blocks(8), last_blocks(4, 8), last_blocks(0, 4, 8)]):
            tuning.begin_epoch(net, epoch, 4)
            assert training(net) == backbone | NECK_AND_HEAD
    assert [r.message for r in caplog.records] == [
        "gradual: 0 of the backbone's 3 blocks train; 3 in the last epoch",
        "epoch 2: 1 of 3 blocks train, now also net.8",
        "epoch 3: 2 of 3 blocks train, now also net.4",
        "epoch 4: 3 of 3 blocks train, now also net.0",
    ]
    # Where a run goes on depends on the epoch alone.
    other = model()
    tuning.apply(other)
    tuning.begin_epoch(other, 2, 4)
    assert training(other) == last_blocks(4, 8) | NECK_AND_HEAD
    # A head that the method has frozen stays so.
    other.head.requires_grad_(False)
    tuning.begin_epoch(other, 3, 4)
    assert not training(other) & {"head.weight", "head.bias"}


def test_blocks_that_never_train_are_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    Gradual(every=2).begin_epoch(model(), 0, 3)
    assert "gradual: the first 2 blocks never train in 3 epochs" in caplog.text


def watch(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What trains and what has moved, in each epoch of the runs to come."""
    seen: list[dict[str, Any]] = []
    begin, end = TransferModule.on_train_epoch_start, TransferModule.on_train_epoch_end

    def start(self: TransferModule) -> None:
        begin(self)
        net = self.method.model
        seen.append(
            {
                "training": training(net),
                "modes": {n: m.training for n, m in net.named_modules()},
                "state": {n: t.clone() for n, t in net.state_dict().items()},
                "epoch": self.current_epoch,
            }
        )

    def stop(self: TransferModule) -> None:
        before, after = seen[-1]["state"], self.method.model.state_dict()
        seen[-1]["moved"] = {n for n, t in after.items() if not torch.equal(t, before[n])}
        end(self)

    monkeypatch.setattr(TransferModule, "on_train_epoch_start", start)
    monkeypatch.setattr(TransferModule, "on_train_epoch_end", stop)
    return seen


@pytest.mark.parametrize("optim", ["sgd", "adamw"])
def test_a_gradual_run_moves_what_has_joined_and_nothing_else(
    optim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, and the statistics of batch-norm, which a frozen layer keeps."""
    seen = watch(monkeypatch)
    config = composed(
        "trainer=smoke", "trainer.epochs=4", "tuning=gradual", "tuning.every=1", f"optim={optim}"
    )
    run(config, tmp_path)
    assert len(seen) == 4
    layers = [(), (8,), (4, 8), (0, 4, 8)]
    for epoch, joined in zip(seen, layers, strict=True):
        assert epoch["training"] == last_blocks(*joined) | NECK_AND_HEAD
        norms = [f"{B}{i + 1}." for i in joined] + ["neck.1."]
        statistics = {
            f"{n}{s}" for n in norms for s in ("running_mean", "running_var", "num_batches_tracked")
        }
        assert epoch["moved"] == epoch["training"] | statistics
        for i in (0, 4, 8):
            assert epoch["modes"][f"{B}{i + 1}"] == (i in joined)
        assert epoch["modes"]["neck.3"]


# Frozen parts are in eval mode: batch-norm and dropout

TUNINGS: dict[str, Callable[[], Tuning]] = {
    "full": Tuning,
    "frozen": Frozen,
    "linear_probe": LinearProbe,
    "norm_only": NormOnly,
    "bias_only": BiasOnly,
    "last_n": LastN,
    "layerwise_lr": LayerwiseLR,
    "gradual": Gradual,
    "lora": partial(LoRA, rank=2),
}


def test_every_tuning_is_here() -> None:
    assert set(TUNINGS) == set(CONFIGS["tuning"])


@pytest.mark.parametrize("name", ["full", "gradual", "lora"])
def test_statistics_of_a_backbone_can_be_kept_whatever_trains(name: str) -> None:
    built = model(NETS["dtn"][0], NETS["dtn"][1], bn="frozen")
    tuning = TUNINGS[name]()
    tuning.apply(built)
    tuning.begin_epoch(built, 9, 10)
    Method(built, INFO).train()
    before = {n: b.clone() for n, b in built.named_buffers()}
    x = 5 + torch.randn(8, *NETS["dtn"][1])
    built(x).logits.square().mean().backward()
    moved = {n.partition(".")[0] for n, b in built.named_buffers() if not torch.equal(b, before[n])}
    assert moved == {"neck"}
    # Their scale and shift train where the others do, and everything else is in training mode.
    norms = [m for m in built.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all((m.weight.grad is not None) == (name != "lora") for m in norms)
    dropouts = [m for m in built.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    assert any(m.training for m in dropouts[:-1]) == (name != "lora")
    # One sample alone passes as it does among others: nothing is normalised by the batch.
    built.eval()
    whole = built.backbone(x)
    built.train()
    for dropout in dropouts:
        dropout.train(False)
    torch.testing.assert_close(built.backbone(x[:1]), whole[:1])


@pytest.mark.parametrize("name", TUNINGS)
@pytest.mark.parametrize("net", ["dtn", "vit_tiny", "mobilenet_v3-torchvision"])
def test_statistics_move_only_where_something_trains(name: str, net: str) -> None:
    build, shape = NETS[net]
    built = model(build, shape)
    tuning = TUNINGS[name]()
    tuning.apply(built)
    tuning.begin_epoch(built, 0, 10)
    method = Method(built, INFO).train()
    before = {n: b.clone() for n, b in built.named_buffers()}
    built(5 + torch.randn(8, *shape))
    moved = {
        n.rpartition(".")[0]
        for n, b in built.named_buffers()
        if "running" in n and not torch.equal(b, before[n])
    }
    assert moved == {
        n
        for n, m in built.named_modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and any(p.requires_grad for p in m.parameters())
    }
    assert not any(m.training for m in method.eval().modules())


@pytest.mark.parametrize(
    ("name", "drops"),
    [
        ("full", {3, 7, 12}),
        ("frozen", set()),
        ("linear_probe", set()),
        ("norm_only", {3, 7, 12}),
        ("last_n", {12}),
        ("gradual", set()),
        ("lora", set()),
    ],
)
def test_the_dropout_of_frozen_layers_is_off(name: str, drops: set[int]) -> None:
    """Layers of a flat network: dropout belongs to the layer that it follows."""
    net = model(partial(flat_with_dropout), (3, 16, 16), neck="none")
    tuning = TUNINGS[name]()
    tuning.apply(net)
    tuning.begin_epoch(net, 0, 10)
    Method(net, INFO).train()
    modules = dict(net.backbone.net.named_children())
    found = {int(i) for i, m in modules.items() if isinstance(m, nn.Dropout) and m.training}
    assert found == {{3: 2, 7: 5, 12: 8}[i] for i in drops}
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(net.backbone(x), net.backbone(x)) == (not drops and name != "norm_only")


def flat_with_dropout(shape: tuple[int, ...]) -> backbones.Backbone:
    layers = [
        m
        for i, o in ((3, 4), (4, 4), (4, 4))
        for m in (nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.Dropout(0.5))
    ]
    return backbones.Backbone(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 4)


# Runs


def dies_at(patch: pytest.MonkeyPatch, stage: str, epoch: int) -> None:
    original = TransferModule.on_train_epoch_start

    def die(self: TransferModule) -> None:
        if self.stage == stage and self.current_epoch == epoch:
            raise InterruptedError("killed")
        original(self)

    patch.setattr(TransferModule, "on_train_epoch_start", die)


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize(
    "overrides",
    [
        ("tuning=gradual", "tuning.every=1", "tuning.decay=0.5", "method=source_only"),
        ("tuning=gradual", "tuning.every=1", "optim=adamw", "method=mcd"),
        ("tuning=gradual", "tuning.every=1", "optim=rmsprop", "method=mean_teacher", "augment=weak_strong"),
    ],
    ids=["gradual-sgd", "gradual-adamw", "gradual-rmsprop"],
)
def test_resumed_in_any_epoch(
    overrides: tuple[str, ...], epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after a block has joined: weights and optimiser state are those of the run that went through."""
    config = composed("trainer=smoke", "trainer.epochs=4", *overrides)
    run(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        dies_at(patch, "adapt", epoch)
        with pytest.raises(InterruptedError):
            run(config, tmp_path / "killed")
    run(config, tmp_path / "killed", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("tuning", CONFIGS["tuning"])
@pytest.mark.parametrize("method", walk(["mcd", "mean_teacher", "sdat", "ewc"], ["mcd"]))
def test_every_tuning_goes_with_any_method(
    tuning: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several updates, a moving copy, sharpness, Fisher information: only what trains moves."""
    seen = watch(monkeypatch)
    epochs = "trainer.epochs=3" if tuning == "gradual" else "trainer.epochs=2"
    few = ["method.samples=20"] if method == "ewc" else []
    overrides = ("trainer=smoke", epochs, f"tuning={tuning}", f"method={method}", *needs(method), *few)
    stage = run(composed(*overrides), tmp_path)["stages"]["adapt"]
    for epoch in seen:
        moved = {n for n in epoch["moved"] if "running" not in n and "num_batches" not in n}
        assert moved
        assert moved <= epoch["training"]
    train, every = stage["parameters"]["backbone"]
    frozen = tuning in ("frozen", "linear_probe")
    assert (train == 0) == frozen
    assert train <= every
    # A frozen backbone is replaced by its features.
    assert any(n.startswith(B) for n in seen[0]["state"]) == (not frozen)


@pytest.mark.parametrize("tuning", ["full", "frozen"])
def test_what_the_method_freezes_is_told_as_frozen(tuning: str, tmp_path: Path) -> None:
    """SHOT freezes the head; a frozen backbone is its cached features by then, and counts all the same."""
    config = composed("trainer=smoke", "method=shot", "recipe=source_free", f"tuning={tuning}", "report=none")
    pretrain, adapt = (stage["parameters"] for stage in run(config, tmp_path)["stages"].values())
    assert pretrain["head"][0] == pretrain["head"][1] == adapt["head"][1] > 0
    assert adapt["head"][0] == 0
    assert adapt["backbone"] == [93_472 if tuning == "full" else 0, 93_472]


def test_what_updates_nothing_trains_nothing(tmp_path: Path) -> None:
    config = composed("trainer=smoke", "method=svm", "method.role=source", "model.neck=none")
    table = run(config, tmp_path)["stages"]["adapt"]["parameters"]
    assert [train for train, _ in table.values()] == [0, 0, 0]
    assert table["backbone"][1] > 0


def test_few_updates_are_worth_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Thirty labels are one batch: an epoch is one step, and ten do not even move batch-norm's averages."""
    few = (
        "method=finetune",
        "data.source=null",
        "data.labeled_per_class=3",
        "trainer.epochs=2",
        "model=tiny",
    )
    run(composed(*few, "validators=fast", "report=none", "trainer.accelerator=cpu"), tmp_path / "few")
    assert "stage adapt: 2 epochs of 1 steps are 2 updates in all; trainer.steps_per_epoch=100" in caplog.text
    caplog.clear()
    run(composed("trainer=smoke", *few[:3]), tmp_path / "told")  # it says how many steps
    assert "updates in all" not in caplog.text


def test_nothing_left_to_train(tmp_path: Path) -> None:
    """SHOT freezes the head."""
    config = composed("trainer=smoke", "method=shot", "recipe=source_free", "tuning=linear_probe")
    with pytest.raises(UserError, match="no parameter trains: the tuning and the method"):
        run(config, tmp_path)


def test_the_numbers_on_the_page() -> None:
    page = (Path(__file__).parent.parent / "docs" / "tuning.md").read_text()
    rows = {c[1].strip(" `"): c[3] for c in (line.split("|") for line in page.splitlines()) if len(c) == 5}
    backbone = composed("model=efficientnet_lite0")["model"]["backbone"]["name"]
    for name in CONFIGS["tuning"]:
        net = model(partial(backbones.timm, backbone, "none"), (3, 32, 32), neck="none")
        tuning = TUNINGS[name]() if name != "lora" else LoRA()
        tuning.apply(net)
        [(_, train, every), *_] = parameter_table(net)
        assert f"{train:,}" in rows[name], name
        assert f"{every:,}" in page


def test_the_table_of_what_trains() -> None:
    text = shown([("backbone", 8920, 102392), ("neck", 0, 0), ("head", 10, 10)])
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert lines == [
        ["backbone", "8,920", "102,392", "8.71"],
        ["neck", "0", "0", "-"],
        ["head", "10", "10", "100.00"],
        ["model", "8,930", "102,402", "8.72"],
    ]


def test_from_the_command_line(tlrun: Tlrun) -> None:
    done = tlrun("trainer=smoke", "tuning=gradual", "tuning.until=0.5", "method=source_only")
    folder = result_folder(done)
    for printed in (done.stdout, (folder.parent / folder / "run.log").read_text()):
        assert "│ backbone │    93,472 │  93,472 │  100.00 │" in printed
        assert "gradual: 0 of the backbone's 3 blocks train; 3 in the last epoch" in printed
        assert "epoch 2: 3 of 3 blocks train, now also net.0, net.4, net.8" in printed
    results = json.loads((folder / "results.json").read_text())
    assert results["stages"]["adapt"]["parameters"]["backbone"] == [93_472, 93_472]
