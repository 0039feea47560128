"""The nouns every part of the project shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, MinLen
from torch import Tensor, nn

from . import tokens

# Ranges that `check()` enforces on config values before anything is built.
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
Count = Annotated[int, Ge(1)]
Bandwidths = Annotated[tuple[Positive, ...], MinLen(1)]
Natural = Annotated[int, Ge(0)]

HIDDEN = -1
"""The label of a row whose class the training code may not know."""


@dataclass
class Batch:
    """One role's mini-batch.

    Attributes:
        views: augmented copies of the same N samples, each (N, ...). Of texts each is (S, L), with N marks on what
            is classified (`tokens`): N texts or, of fewer texts, N words.
        y: (N,) int64 class indices; `HIDDEN` for unlabelled rows. Where the method mixes samples, (N, K)
            float32 shares of the classes: `F.cross_entropy` takes either.
        domain: (N,) int64, which domain of the role a row comes from.
        row: (N,) int64, stable index of each sample in its role: 0 .. `DataInfo.sizes[role]` - 1.
    """

    views: tuple[Tensor, ...]
    y: Tensor
    domain: Tensor
    row: Tensor

    @property
    def x(self) -> Tensor:
        """The first view."""
        return self.views[0]

    def __len__(self) -> int:
        return len(self.row)

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        def move(t: Tensor) -> Tensor:
            return t.to(device, non_blocking=non_blocking)

        return Batch(tuple(map(move, self.views)), move(self.y), move(self.domain), move(self.row))

    def where(self, chosen: Tensor) -> Batch:
        """The rows of a mask (N,)."""
        views = tuple(tokens.choose(view, chosen) for view in self.views)
        return Batch(views, self.y[chosen], self.domain[chosen], self.row[chosen])


Batches = Mapping[str, Batch]
Losses = dict[str, Tensor]


@dataclass
class Outputs:
    """What a model says of N things: `features` (N, D) after the neck and `logits` (N, K)."""

    features: Tensor
    logits: Tensor


Joint = Mapping[str, Outputs]
"""What one forward pass gives for each role: `source`, `target`, `labeled`, and for the second view of a role
that the method reads two of, `target_2` or `labeled_2`."""


@dataclass
class Collected(Outputs):
    """`Outputs` over a whole set, with `y` (N,) (`HIDDEN` where unlabelled), `domain` and `row` (N,)."""

    y: Tensor
    domain: Tensor
    row: Tensor

    @classmethod
    def join(cls, parts: Sequence[Collected]) -> Collected:
        """One set of several, in their order."""
        names = ("features", "logits", "y", "domain", "row")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@dataclass
class Step:
    """One optimiser update.

    Attributes:
        losses: named and already weighted.
        updates: which modules it may change; None: all.
        out: the outputs that the losses were computed from, if other methods may add losses of their own.
    """

    losses: Losses
    updates: list[nn.Module] | None = None
    out: Joint | None = None


@dataclass(frozen=True)
class Mixing:
    """How the samples of a labelled batch are blended with each other, labels and all.

    `Batch.y` becomes (N, K) float32 shares of the `classes` K classes.

    Attributes:
        mixup, cutmix: parameter of the Beta distribution that the share comes from; 0: never.
    """

    classes: int
    mixup: float = 0.0
    cutmix: float = 0.0


VECTORS, TEXTS, IMAGES = 1, 2, 3
"""Kinds of samples, by the dimensions of their shape (`DataInfo.shape`)."""


@dataclass(frozen=True)
class DataInfo:
    """What a model or method may know of the data.

    Attributes:
        classes: class names; a label is an index into them.
        shape: of one sample as the model sees it: (C, H, W) for images, (L, V) for texts of at most L tokens out of
            V, (D,) for vectors.
        sizes: number of samples (images, texts, words) of each role present.
        domains: names of the domains of each role, in the order of `Batch.domain`.
        counts: samples of each class in each labelled role.
    """

    classes: tuple[str, ...]
    shape: tuple[int, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    domains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.classes)
