"""Features of a frozen backbone, computed once."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..files import part_of_name
from .augment import Augment
from .loader import EvalLoader
from .rows import Rows
from .store import ArrayStore, build_map


def fingerprint(backbone: nn.Module) -> str:
    """Of the network's structure and weights."""
    digest = hashlib.sha256(str(backbone).encode())
    for name, tensor in sorted(
        {**dict(backbone.named_buffers()), **dict(backbone.named_parameters())}.items()
    ):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def cached_features(
    rows: Mapping[str, Rows],
    contents: Mapping[int, str],
    backbone: nn.Module,
    augment: Augment,
    folder: Path,
    device: torch.device,
) -> dict[str, Rows]:
    """The same rows as (N, D) features of the central view.

    Whole domains are computed, so that every pair of domains, split and label count shares them.

    Args:
        rows: of roles and evaluation sets.
        contents: for each store, by id, a fingerprint of what it holds.
        backbone: frozen; runs in eval mode and float32.
        folder: where the maps lie.
    """
    view = augment.center()
    network = fingerprint(backbone)
    # A copy: in another memory format the model would go on with other roundings than a run that is resumed.
    net = copy.deepcopy(backbone).to(device).to(memory_format=torch.channels_last).eval()
    # On a CPU small batches stay in its caches: measured on 2 cores with EfficientNet-Lite0, 164 images/s
    # at 16 and channels_last against 96 at 64 and contiguous.
    # A text encoder sorts what it gets by length itself.
    images = len(next(iter(rows.values())).stores[0].shape) == 3
    batch_size = 16 if device.type == "cpu" and images else 256
    stores: dict[int, ArrayStore] = {}
    for r in rows.values():
        for name, store in zip(r.names, r.stores, strict=True):
            if id(store) not in contents or id(store) in stores:
                continue
            total = len(store)
            whole = Rows(
                [store],
                torch.zeros(total, dtype=torch.long),
                torch.arange(total),
                torch.zeros(total),
                (name,),
            )
            about = hashlib.sha256(f"{network} {contents[id(store)]} {view.size}".encode()).hexdigest()[:20]
            path = folder / f"{part_of_name(name)}-{about}.npy"

            def fill(first: int, last: int, whole: Rows = whole) -> np.ndarray[Any, Any]:
                part = replace(whole, index=torch.arange(first, last))
                with torch.inference_mode():
                    loader = EvalLoader(part, batch_size, view, device)
                    return torch.cat([net(_channels_last(b.x)).float().cpu() for b in loader]).numpy()

            if not path.exists():
                shape = total, int(backbone.num_features)  # type: ignore[arg-type]
                chunk = None if images else 4 * batch_size
                build_map(path, shape, np.float32, fill, f"features of {name}", chunk)
            stores[id(store)] = ArrayStore.map(path)
            stores[id(store)].group = store.group
    return {role: replace(r, stores=[stores[id(s)] for s in r.stores]) for role, r in rows.items()}


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
