"""What the modules inside a network put out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError, nearest
from ..ranks import whole


@contextmanager
def tapped(network: nn.Module, names: Iterable[str]) -> Iterator[dict[str, list[Tensor]]]:
    """While it lasts, the outputs of the named modules inside a network, in the order of its calls."""
    calls: dict[str, list[Tensor]] = {name: [] for name in names}

    def tap(name: str) -> torch.utils.hooks.RemovableHandle:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name].append(whole(output))

        return network.get_submodule(name).register_forward_hook(keep)

    handles = [tap(name) for name in calls]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def without(network: nn.Module, name: str, channel: int) -> Iterator[None]:
    """While it lasts, one channel of what the named module puts out is zero."""

    def clear(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        cleared = output.clone()
        channels_first(cleared)[:, channel] = 0
        return cleared

    handle = network.get_submodule(name).register_forward_hook(clear)
    try:
        yield
    finally:
        handle.remove()


def channels_first(output: Tensor) -> Tensor:
    """(N, C, ...): images as they are, tokens (N, T, C) turned, as a view."""
    return output.transpose(1, 2) if output.ndim == 3 else output


@torch.no_grad()
def channels(network: nn.Module, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """What the named modules put out for a sample, channels first; of a network in eval mode."""
    with tapped(network, names) as calls:
        network(x)
    return {name: channels_first(o[-1]) for name, o in calls.items() if o and isinstance(o[-1], Tensor)}


def stages(network: nn.Module, x: Tensor) -> list[str]:
    """The modules that end a network's stages.

    Of the modules that the network is made of, sequences opened, the last one at each resolution: of tokens
    (N, T, C) if it has any, else of images (N, C, H, W) larger than one pixel, else of anything.

    Args:
        network: in eval mode. x: a sample of what it takes.
    """
    outputs = channels(network, x, _parts(network))
    tokens = {name: o for name, o in outputs.items() if o.ndim == 3}
    images = {name: o for name, o in outputs.items() if o.ndim == 4 and o.shape[2:].numel() > 1}
    return [*{o.shape[2:]: name for name, o in (tokens or images or outputs).items()}.values()]


def _parts(network: nn.Module) -> list[str]:
    """Names of the modules that a network is made of, in their order."""
    name, children = "", dict(network.named_children())
    while len(children) == 1:  # A network in a wrapper.
        ((name, network),) = ((f"{name}.{child}".lstrip("."), part) for child, part in children.items())
        children = dict(network.named_children())
    return [n for child, part in children.items() for n in _opened(f"{name}.{child}".lstrip("."), part)]


def _opened(name: str, module: nn.Module) -> list[str]:
    if isinstance(module, nn.Sequential | nn.ModuleList) and len(module):
        return [n for child, part in module.named_children() for n in _opened(f"{name}.{child}", part)]
    return [name]


def found(network: nn.Module, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of modules inside a backbone, given from the backbone on or from the `net` in it.

    Raises:
        UserError: if there is none of that name.
    """
    known = dict(network.named_modules())
    resolved = tuple(name if name in known else f"net.{name}" for name in names)
    for given, name in zip(names, resolved, strict=True):
        if name not in known:
            options = [n.removeprefix("net.") for n in known]
            raise UserError(f"method.layers: the backbone has no module '{given}'{nearest(given, options)}")
    return resolved


@torch.no_grad()
def loss_increases(
    network: nn.Module, widths: Mapping[str, int], x: Sequence[Tensor], y: Tensor
) -> list[Tensor]:
    """By how much a linear classifier's cross-entropy grows without each channel, for each layer.

    The classifier is a logistic regression on the features of all samples, as they are with every channel.

    Args:
        network: gives (N, D) features, in eval mode. widths: numbers of channels by the layer's name.
        x: batches of samples. y: their labels, of all batches.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    labels = y.cpu().numpy()

    def features() -> Any:
        return torch.cat([network(batch) for batch in x]).float().cpu().numpy()

    judge = LogisticRegression(max_iter=1000).fit(features(), labels)

    def loss() -> float:
        return float(log_loss(labels, judge.predict_proba(features()), labels=judge.classes_))

    whole, increases = loss(), []
    for layer, width in widths.items():
        losses = []
        for channel in range(width):
            with without(network, layer, channel):
                losses.append(loss() - whole)
        increases.append(torch.tensor(losses, dtype=torch.float32))
    return increases
