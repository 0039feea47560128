"""Low-rank adapters: what they add, what can be adapted, and that nothing is left of them in the end."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import composed
from hydra.utils import instantiate
from test_resume import assert_same
from test_tuning import NETS, B, dies_at, model, names, training, watch
from torch import Tensor, nn

from tl_runner.building import build
from tl_runner.data.loader import EvalLoader
from tl_runner.errors import UserError
from tl_runner.nn import Model, backbones, lora
from tl_runner.nn.weights import of_checkpoint
from tl_runner.run import run
from tl_runner.trained import load
from tl_runner.tuning import LoRA, Tuning, parameter_table
from tl_runner.types import DataInfo

ADAPTED = ["tiny", "resnet18", "vit_tiny", "efficientnet_lite0", "mlp"]


def adapted(name: str, moved: bool = True, **options: Any) -> tuple[Model, LoRA]:
    """A model with adapters that do something."""
    build, shape = NETS[name]
    net = model(build, shape)
    tuning = LoRA(**({"rank": 3, "alpha": 6.0} | options))
    tuning.apply(net)
    if moved:
        g = torch.Generator().manual_seed(0)
        for n, p in net.named_parameters():
            if "lora_B" in n:
                p.data = 0.05 * torch.randn(p.shape, generator=g)
    return net, tuning


def samples(name: str) -> Tensor:
    return torch.randn(3, *NETS[name][1], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_start_at_nothing_and_alone_train(name: str) -> None:
    build, shape = NETS[name]
    plain = model(build, shape).eval()
    net, _ = adapted(name, moved=False)
    net.eval()
    assert torch.equal(net(samples(name)).logits, plain(samples(name)).logits)
    trained = {n for n in training(net) if n.startswith("backbone.")}
    assert trained == {n for n in names(net) if ".lora_" in n}
    assert training(net) - trained == {n for n in names(plain) if not n.startswith("backbone.")}
    expected = 0
    for n, m in plain.backbone.named_modules():
        if type(m) is nn.Linear or (type(m) is nn.Conv2d and m.groups == 1):
            assert f"backbone.{n}.lora_A.default.weight" in trained
            o, i, *kernel = m.weight.shape
            expected += 3 * (i * int(torch.tensor(kernel).prod()) + o)
    rows = {part: (train, every) for part, train, every in parameter_table(net)}
    whole = sum(p.numel() for p in plain.backbone.parameters())
    assert rows["backbone"] == (expected, whole + expected)


@pytest.mark.parametrize("name", ADAPTED)
def test_a_merged_model_is_plain_and_computes_the_same(name: str) -> None:
    build, shape = NETS[name]
    plain = model(build, shape)
    net, tuning = adapted(name)
    net.eval()
    before = net(samples(name)).logits
    state = lora.merged(net.state_dict())
    tuning.finish(net)
    assert list(net.state_dict()) == list(plain.state_dict())
    assert [type(m) for m in net.modules()] == [type(m) for m in plain.modules()]
    assert all(torch.equal(t, state[n]) for n, t in net.state_dict().items())
    after = net(samples(name)).logits
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after, plain.eval()(samples(name)).logits, rtol=1e-3, atol=1e-4)
    # Into another plain model, and on with anything.
    plain.load_state_dict(state)
    assert torch.equal(plain(samples(name)).logits, after)
    Tuning().apply(net)
    assert training(net) == names(net)
    tuning.apply(net)
    assert any(".lora_" in n for n in training(net))


@pytest.mark.parametrize("name", ["tiny", "resnet18", "vit_tiny"])
def test_merging_adds_what_peft_would_add(name: str) -> None:
    net, _ = adapted(name, rank=2, alpha=5.0)
    state = lora.merged(net.backbone.state_dict())
    count = 0
    for n, m in net.backbone.named_modules():
        if hasattr(m, "get_delta_weight"):
            added = m.get_delta_weight("default").detach()
            torch.testing.assert_close(state[f"{n}.weight"], m.base_layer.weight.detach() + added)
            assert float(added.abs().max()) > 1e-3
            count += 1
    assert count == len(lora.candidates(model(*NETS[name]).backbone))


def test_a_state_without_adapters_is_left_as_it_is() -> None:
    state = model().state_dict()
    assert lora.merged(state) == state
    assert lora.beneath(state) == state
    net, _ = adapted("tiny")
    beneath = lora.beneath(net.state_dict())
    assert beneath.keys() == model().state_dict().keys()
    assert all(torch.equal(t, beneath[n]) for n, t in model().state_dict().items())


class Odd(nn.Module):
    num_features = 4

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.plain, self.one = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.depthwise, self.grouped = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=2)
        self.dilated = nn.Conv2d(8, 8, 3, dilation=2)
        self.mirrored = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.attention = nn.MultiheadAttention(8, 2)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.one(self.plain(x)).mean((2, 3)))


def test_what_can_be_adapted() -> None:
    net = Odd((3, 16, 16))
    assert lora.candidates(net) == ["plain", "one", "linear"]
    built = model(Odd)
    LoRA().apply(built)
    assert {n.split(".")[1] for n in training(built) if n.startswith("backbone.")} == {
        "plain",
        "one",
        "linear",
    }
    built(torch.randn(2, 3, 16, 16)).logits.sum().backward()


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (["qkv"], 12),
        (["qkv", "proj"], 25),  # patch_embed.proj is one of them
        (["attn"], 24),
        (["attn.proj"], 12),
        (["blocks.1*.mlp.*"], 2 * 3),
        (["net.blocks.3"], 4),
        (["fc?"], 24),
        (["*"], 49),
    ],
)
def test_targets(targets: list[str], count: int) -> None:
    net, _ = adapted("vit_tiny", targets=tuple(targets))
    assert sum(n.endswith("lora_A.default.weight") for n in names(net)) == count


def test_a_target_is_not_part_of_a_name() -> None:
    net, _ = adapted("resnet18", targets=("conv1",))
    found = {n.removesuffix(".lora_A.default.weight") for n in names(net) if "lora_A" in n}
    assert found == {"backbone.net.conv1", *[f"{B}layer{i}.{j}.conv1" for i in range(1, 5) for j in (0, 1)]}
    with pytest.raises(UserError, match="'conv' matches no"):
        adapted("resnet18", targets=("conv",))


def test_targets_that_match_nothing_list_what_there_is() -> None:
    with pytest.raises(
        UserError,
        match=r"tuning.targets: 'q_proj' matches no .* of the backbone, which has 49: net.patch_embed.proj, .*"
        r"last parts of their names: fc1, fc2, proj, qkv$",
    ):
        adapted("vit_tiny", targets=("qkv", "q_proj"))
    with pytest.raises(UserError, match=r"'depthwise' matches no linear layer or ungrouped convolution"):
        LoRA(targets=("depthwise",)).apply(model(Odd))
    with pytest.raises(UserError, match="no linear layer or ungrouped convolution to adapt"):
        LoRA().apply(model(lambda shape: backbones._sequential(shape, nn.Flatten())))


def test_without_peft(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "peft" else original(n, *a))
    with pytest.raises(UserError, match=r"tuning=lora needs peft.*pip install 'tl-runner\[lora\]'"):
        run(composed("trainer=smoke", "tuning=lora"), tmp_path)
    assert not (tmp_path / "data.json").exists()  # found before any data is read


def test_copies_of_an_adapted_model_are_its_equals() -> None:
    net, tuning = adapted("tiny", dropout=0.5)
    other = copy.deepcopy(net).eval()
    net.eval()
    assert torch.equal(other(samples("tiny")).logits, net(samples("tiny")).logits)
    net.backbone.train()
    first, second = net.backbone(samples("tiny")), net.backbone(samples("tiny"))
    assert not torch.equal(first, second)  # the dropout of the adapters
    tuning.finish(other)
    assert any(".lora_" in n for n in names(net))


RUN = ("trainer=smoke", "trainer.eval_rows=null", "tuning.rank=2")


def test_checkpoints_of_adapters_are_those_of_a_plain_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pick loads into a plain model that scores what the run said; runs start from it."""
    source = run(composed(*RUN, "tuning=lora", "method=source_only", "optim.lr=0.1"), tmp_path / "a")
    folder = tmp_path / "a" / "checkpoints" / "adapt"
    raw = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    assert any(".lora_A." in n for n in raw)
    config = composed(*RUN[:2])
    data = build(config["data"]).prepare()
    info = DataInfo(data.info.classes, (3, 32, 32))
    picks = source["stages"]["adapt"]["picks"]
    for pick in ("last", "source_val", "oracle"):
        net: Model = instantiate(config["model"], _partial_=True, _convert_="all")(info=info)
        load(net, folder / f"{pick}.ckpt")
        assert not any("lora" in n for n in of_checkpoint(folder / f"{pick}.ckpt"))
        net.eval()
        rows = EvalLoader(data.evaluation["target"], 256, build(config["augment"]), torch.device("cpu"))
        with torch.no_grad():
            predicted = torch.cat([net(b.x).logits.argmax(1) for b in rows])
        assert data.truth is not None
        accuracy = float((predicted == data.truth).float().mean())
        assert accuracy == pytest.approx(picks[pick]["target"]["accuracy"], abs=2e-3)
    later = run(
        composed(*RUN[:2], "method=mmd", "tuning=full", f"init_from={tmp_path / 'a'}"), tmp_path / "b"
    )
    kept = later["source_accuracy"]["init_from"]
    assert kept == pytest.approx(source["source_accuracy"]["adapt"], abs=0.02)
    run(composed(*RUN, "tuning=lora", f"init_from={folder / 'oracle.ckpt'}"), tmp_path / "c")


STAGES = (
    "recipe=pretrain_adapt_finetune",
    "data.labeled_per_class=3",
    "+tuning@recipe.stages.finetune.tuning=full",
)


def test_what_comes_after_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage with adapters, then one with full tuning: it starts from the merged weights, also when resumed."""
    seen = watch(monkeypatch)
    config = composed(*RUN, "tuning=lora", *STAGES)
    results = run(config, tmp_path / "whole")
    assert results["stages"]["finetune"]["parameters"]["backbone"][0] == 93_472
    first = [s for s in seen if any("lora_" in n for n in s["training"])]
    assert len(first) == 2
    assert {n for n in first[-1]["moved"] if n.startswith("backbone.")} == {
        n for n in first[-1]["training"] if n.startswith("backbone.")
    }
    merged = of_checkpoint(tmp_path / "whole" / "checkpoints" / "adapt" / "last.ckpt")
    start = seen[2]["state"]
    assert start.keys() == merged.keys()
    assert all(torch.equal(t, merged[n]) for n, t in start.items())
    # Killed in the second stage: the first is read from its checkpoint.
    seen.clear()
    with monkeypatch.context() as patch:
        dies_at(patch, "finetune", 1)
        with pytest.raises(InterruptedError):
            run(config, tmp_path / "killed")
    run(config, tmp_path / "killed", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize(
    "overrides", [("tuning.dropout=0.3",), ("optim=adamw", "method=cdan")], ids=["sgd", "adamw"]
)
def test_resumed_in_any_epoch(
    overrides: tuple[str, ...], epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed("trainer=smoke", "trainer.epochs=3", "tuning=lora", "tuning.rank=2", *overrides)
    run(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        dies_at(patch, "adapt", epoch)
        with pytest.raises(InterruptedError):
            run(config, tmp_path / "killed")
    run(config, tmp_path / "killed", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "killed")
