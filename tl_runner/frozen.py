"""A frozen backbone is not run at every step: its features stand in for the data."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from .data.augment import Augment
from .data.domains import Prepared
from .data.features import cached_features
from .methods.base import Builder
from .methods.builders import sees_images
from .nn.backbones import Features
from .nn.model import Model
from .types import IMAGES, VECTORS

log = logging.getLogger(__name__)


@contextmanager
def cached_backbone(
    model: Model, data: Prepared, method: Builder, augment: Augment, folder: Path | None, device: torch.device
) -> Iterator[Prepared]:
    """While it lasts, a backbone that does not train is replaced by its cached features, data and all.

    Args:
        method: what is to train; some look at the samples themselves.
        augment: its central view is what the features are of.
        folder: where they are kept; None: the backbone runs.

    Yields:
        The data as the model then sees it.
    """
    backbone, kind = model.backbone, len(data.info.shape)
    if folder is None or kind == VECTORS or any(p.requires_grad for p in backbone.parameters()):
        yield data
        return
    if sees_images(method):
        log.info(
            "the backbone is frozen, and runs at every step: this method looks at the samples themselves"
        )
        yield data
        return
    if kind == IMAGES and not augment.fixed:
        log.info(
            "the backbone is frozen: training on its cached features of the central view, without "
            "augmentation (tuning.cache_features=false augments)"
        )
    rows = cached_features(
        {
            **{f"role {k}": v for k, v in data.roles.items()},
            **{f"eval {k}": v for k, v in data.evaluation.items()},
        },
        data.contents,
        backbone,
        augment,
        folder,
        device,
    )
    features = Features(int(backbone.num_features))  # type: ignore[arg-type]
    model.backbone = features
    try:
        yield replace(
            data,
            roles={k: rows[f"role {k}"] for k in data.roles},
            evaluation={k: rows[f"eval {k}"] for k in data.evaluation},
            info=replace(data.info, shape=(features.num_features,)),
        )
    finally:
        model.backbone = backbone
