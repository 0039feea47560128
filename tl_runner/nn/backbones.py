"""Backbones: images or vectors in, features (N, D) out.

A builder takes the sample's shape last, so that a config can leave it open. Each backbone normalises
uint8 images itself: the data path stays in bytes until the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError, nearest, reason
from ..types import Count, Natural
from . import weights as stored


class Backbone(nn.Module):
    """A network with its normalisation.

    Args:
        net: (N, C, H, W) or (N, D) float -> (N, num_features).
        mean, std: per channel, of inputs scaled to [0, 1].
        classifier: makes the classifier that the network was pretrained with, (N, num_features) -> (N, K).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        num_features: int,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        classifier: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.num_features, self.classifier = net, num_features, classifier
        # With the 255 of the bytes folded in: one subtraction and one product per pixel.
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8:
            x = (x.float() - self.mean) / self.std
        return self.net(x)  # type: ignore[no-any-return]


class Features(nn.Module):
    """Stands in for a frozen backbone whose features were computed beforehand."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def _as_channels(values: Sequence[float], channels: int) -> list[float]:
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels


def timm(name: str, weights: str = "hub", shape: tuple[int, ...] = (3, 224, 224)) -> Backbone:
    """Any model of timm, without its classifier.

    Args:
        name: as in `timm.list_models()`.
        weights: `hub` (downloaded by timm), `none` (random), `package:NAME`, or a file.

    Raises:
        UserError: for an unknown name or weights that cannot be had.
    """
    import timm as library
    from timm.data.config import resolve_model_data_config

    if not library.is_model(name):
        raise UserError(
            f"model.backbone.name: timm has no model '{name}'{nearest(name, library.list_models())}"
        )

    def create(**options: Any) -> nn.Module:
        options["in_chans"] = shape[0]
        net: nn.Module
        try:
            try:
                net = library.create_model(name, weights == "hub", img_size=shape[-1], **options)
            except TypeError as error:  # Transformers must know the size; most other networks refuse to.
                if "img_size" not in str(error):
                    raise
                net = library.create_model(name, weights == "hub", **options)
        except (OSError, RuntimeError) as error:
            if weights != "hub":
                raise
            raise _unreachable(name, error) from error
        if weights not in ("hub", "none"):
            stored.load(net, stored.locate(weights))
        return net

    net = create(num_classes=0)
    about = resolve_model_data_config(net)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        features = net.eval()(torch.zeros(1, *shape)).shape[1]
    return Backbone(
        net,
        features,
        _as_channels(about["mean"], shape[0]),
        _as_channels(about["std"], shape[0]),
        None if weights == "none" else lambda: create().get_classifier(),  # type: ignore[operator]
    )


def torchvision(name: str, weights: str = "hub", shape: tuple[int, ...] = (3, 224, 224)) -> Backbone:
    """Any classifier of torchvision, without its last linear layer and auxiliary heads. Arguments as for `timm`."""
    from torchvision import models

    if name not in models.list_models(module=models):
        hint = nearest(name, models.list_models(module=models))
        raise UserError(f"model.backbone.name: torchvision has no classifier '{name}'{hint}")

    def create() -> nn.Module:
        try:
            net: nn.Module = models.get_model(name, weights="DEFAULT" if weights == "hub" else None)
        except (OSError, RuntimeError) as error:
            raise _unreachable(name, error) from error
        # In training, networks with auxiliary heads would put out a tuple, theirs too.
        for part in ("aux_logits", "aux1", "aux2", "AuxLogits"):
            if hasattr(net, part):
                setattr(net, part, None)
        return net

    net = create()
    linear = [n for n, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(f"model.backbone.name: torchvision's '{name}' has no linear layer to remove")
    last = linear[-1]
    features = int(net.get_submodule(last).in_features)  # type: ignore[arg-type]
    net.set_submodule(last, nn.Identity())
    if weights not in ("hub", "none"):
        stored.load(net, stored.locate(weights))

    def classifier() -> nn.Module:
        whole = create()
        if weights != "hub":
            stored.load(whole, stored.locate(weights))
        return whole.get_submodule(last)

    # Every torchvision classifier was trained with ImageNet's statistics.
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return Backbone(net, features, mean, std, None if weights == "none" else classifier)


def _unreachable(name: str, error: Exception) -> UserError:
    return UserError(
        f"model.backbone.weights=hub: the pretrained weights of '{name}' could not be fetched "
        f"({reason(error)[:120]}); give a local .safetensors or .pth file, package:NAME, or "
        "none for random weights"
    )


def _sequential(shape: tuple[int, ...], *layers: nn.Module) -> Backbone:
    net = nn.Sequential(*layers)
    try:
        with torch.no_grad():
            features = net.eval()(torch.zeros(1, *shape)).shape[1]
    except RuntimeError as error:
        raise UserError(f"model: this backbone cannot take samples of shape {shape}: {error}") from error
    return Backbone(net, features, [0.5] * shape[0], [0.5] * shape[0])


def lenet(shape: tuple[int, ...] = (1, 28, 28)) -> Backbone:
    """LeNet with dropout, as in the published digits tables (28², 500 features)."""
    flat = 50 * ((shape[-1] - 12) // 4) ** 2
    return _sequential(
        shape,
        *(nn.Conv2d(shape[0], 20, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(20, 50, 5), nn.Dropout2d(0.5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(flat, 500), nn.ReLU(), nn.Dropout(0.5)),
    )


def dtn(shape: tuple[int, ...] = (3, 32, 32)) -> Backbone:
    """The larger digits network of SHOT and CDAN for 32² colour images (512 features)."""

    def block(i: int, o: int, dropout: float) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 5, 2, 2), nn.BatchNorm2d(o), nn.Dropout2d(dropout), nn.ReLU()]

    side = -(-shape[-1] // 8)
    return _sequential(
        shape,
        *(*block(shape[0], 64, 0.1), *block(64, 128, 0.3), *block(128, 256, 0.5), nn.Flatten()),
        *(nn.Linear(256 * side * side, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(0.5)),
    )


def tiny(width: Count = 32, shape: tuple[int, ...] = (3, 32, 32)) -> Backbone:
    """Three convolutions with batch-norm and a global average: seconds on a CPU."""

    def block(i: int, o: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]

    return _sequential(
        shape,
        *(*block(shape[0], width), *block(width, 2 * width), *block(2 * width, 4 * width)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten()),
    )


def mlp(hidden: Count = 64, layers: Natural = 2, shape: tuple[int, ...] = (2,)) -> Backbone:
    """Fully connected layers with ReLU, for vectors; without a layer, the vectors themselves."""
    sizes = [shape[0], *[hidden] * layers]
    parts = [m for i, o in pairwise(sizes) for m in (nn.Linear(i, o), nn.ReLU())]
    return _sequential(shape, nn.Flatten(), *parts)
