"""A network as blocks in order, from its input to its output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import nn

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

Block = dict[str, nn.Parameter]
"""Parameters by name."""


def blocks(net: nn.Module) -> list[Block]:
    """Every parameter of the network, in blocks from input to output.

    timm says of most of its models what their blocks are, residual or transformer blocks, and that counts.
    Elsewhere the order is that in which modules were registered. Containers are opened, and so are modules with
    several equal blocks in a container: stages, encoders. What is then not opened is a block: a residual block,
    or a layer. Normalisation layers and loose parameters join the block before them, or the first.
    """
    return _known(net) or _found(net)


def in_lists(net: nn.Module) -> Iterator[nn.Module]:
    """What the outermost lists of modules in a network hold, but for what has no parameters."""
    for child in net.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from (block for block in child if any(True for _ in block.parameters()))
        else:
            yield from in_lists(child)


def _known(net: nn.Module) -> list[Block]:
    """As timm groups them; nothing unless that covers the whole network."""
    from timm.models import group_parameters

    for prefix, module in net.named_modules():
        if hasattr(module, "group_matcher"):
            groups = group_parameters(module, module.group_matcher(coarse=False))
            every = dict(net.named_parameters())
            names = [[f"{prefix}.{n}".lstrip(".") for n in groups[i]] for i in sorted(groups)]
            if {n for group in names for n in group} == set(every):
                return [{n: every[n] for n in group} for group in names]
    return []


def _found(net: nn.Module) -> list[Block]:
    found: list[Block] = []
    early: Block = {}
    for starts, params in _pieces(net, "", _opened(net)):
        if starts:
            found.append(early | params)
            early = {}
        elif found:
            found[-1] |= params
        else:
            early |= params
    return [*found, early] if early else found


def _pieces(module: nn.Module, name: str, opened: set[nn.Module]) -> Iterator[tuple[bool, Block]]:
    """Blocks, and what joins one, in order; True where a block starts."""

    def named(recurse: bool) -> Block:
        return {f"{name}.{n}".lstrip("."): p for n, p in module.named_parameters(recurse=recurse)}

    if module not in opened:
        if params := named(True):
            yield not isinstance(module, NORMS), params
        return
    if params := named(False):
        yield False, params
    for child_name, child in module.named_children():
        yield from _pieces(child, f"{name}.{child_name}".lstrip("."), opened)


def _opened(net: nn.Module) -> set[nn.Module]:
    """Modules that are not one block: wrappers, containers, and what holds a series of blocks."""
    opened = {m for m in net.modules() if isinstance(m, _CONTAINERS) or _is_series(m)}
    inner = net
    while inner not in opened and (inside := [c for c in inner.children() if _layers(c)]):
        opened.add(inner)
        inner = inside[0]
        if len(inside) > 1 or list(inner.parameters(recurse=False)):
            break
    return opened


def _is_series(module: nn.Module) -> bool:
    if not list(module.children()):
        return False
    for container in module.modules():
        if isinstance(container, _CONTAINERS):
            kinds = Counter(
                type(c) for c in container.children() if not isinstance(c, _CONTAINERS) and _layers(c) > 1
            )
            if kinds and max(kinds.values()) > 1:
                return True
    return False


def _layers(module: nn.Module) -> int:
    """How many layers with weights are in it; norms do not count."""
    return sum(
        bool(list(m.parameters(recurse=False))) and not list(m.children()) and not isinstance(m, NORMS)
        for m in module.modules()
    )
