"""Low-rank adapters: put in with peft, and taken out again.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022. https://arxiv.org/abs/2106.09685
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from ..errors import UserError

_A, _B, _BASE, _SCALE = "lora_A.default.weight", "lora_B.default.weight", "base_layer.", "lora_scale"


def need_peft() -> None:
    """
    Raises:
        UserError: if it is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise UserError("tuning=lora needs peft, which is not installed: pip install 'tl-runner[lora]'")


def candidates(net: nn.Module) -> list[str]:
    """The layers that can be adapted: plain linear layers and convolutions.

    Left out are grouped and depthwise convolutions, which have few weights and no low rank to speak of;
    dilated ones, which peft adapts as if they were not; subclasses, which may do more with their weights; and
    what is inside `nn.MultiheadAttention`, which uses its layers' weights without calling them.
    """
    inside = {id(m) for a in net.modules() if isinstance(a, nn.MultiheadAttention) for m in a.modules()}
    return [name for name, m in net.named_modules() if _is_plain(m) and id(m) not in inside]


def _is_plain(module: nn.Module) -> bool:
    if type(module) is nn.Conv2d:
        return module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    return type(module) is nn.Linear


def adapt(net: nn.Module, rank: int, alpha: float, dropout: float, targets: Sequence[str] | None) -> None:
    """Freeze the network, and add to layers W what alone trains of it: W x + alpha / rank · B A x.

    Args:
        net: changed in place.
        dropout: of x, before A.
        targets: names of layers or of what they are part of, as in a file glob, whole or their last parts;
            None: every candidate.

    Raises:
        UserError: if a target matches none of the `candidates`.
    """
    chosen = possible = candidates(net)
    if targets is not None:
        for target in targets:
            if not any(_matches(name, target) for name in possible):
                ends = sorted({name.rpartition(".")[2] for name in possible})
                raise UserError(
                    f"tuning.targets: '{target}' matches no linear layer or ungrouped convolution of the backbone, "
                    f"which has {len(possible)}: {', '.join(possible[:4])}"
                    f"{' …' if len(possible) > 4 else ''}; last parts of their names: {', '.join(ends)}"
                )
        chosen = [name for name in possible if any(_matches(name, target) for target in targets)]
    if not chosen:
        raise UserError("tuning=lora: the backbone has no linear layer or ungrouped convolution to adapt")
    need_peft()
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type] # any number does
        lora_dropout=dropout,
        target_modules="|".join(map(re.escape, chosen)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what peft cannot know of the networks it was not made for
        inject_adapter_in_model(config, net)
    for name in chosen:  # so that a checkpoint says all that it takes to merge it
        net.get_submodule(name).register_buffer(_SCALE, torch.tensor(alpha / rank))


def _matches(name: str, target: str) -> bool:
    return any(fnmatch(f".{name}.", f"*.{target}{end}") for end in (".", ".*"))


def merge(net: nn.Module) -> None:
    """Add the adapters to the weights, so that the network has the layers again that it had before."""
    plain = merged(net.state_dict())
    for name, module in list(net.named_modules()):
        if hasattr(module, _SCALE):
            net.set_submodule(name, module.base_layer)
    if hasattr(net, "peft_config"):
        del net.peft_config
    net.load_state_dict(plain)


def beneath(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that adapters are added to, by the names that they have without."""
    return {k.replace(f".{_BASE}", "."): v for k, v in state.items() if ".lora_" not in k}


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a network as `merge` leaves it; one without adapters is what it was."""
    found: dict[str, Tensor] = {}
    adapted = {k.removesuffix(_SCALE): float(scale) for k, scale in state.items() if k.endswith(f".{_SCALE}")}
    for key, value in state.items():
        layer = next((a for a in adapted if key.startswith(a)), None)
        if layer is None:
            found[key] = value
        elif key.startswith(layer + _BASE):
            plain = key.replace(layer + _BASE, layer)
            found[plain] = value
            if plain == f"{layer}weight":
                a, b = state[layer + _A], state[layer + _B]
                found[plain] = value + adapted[layer] * (b.flatten(1) @ a.flatten(1)).view_as(value)
    return found
