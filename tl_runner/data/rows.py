"""The samples of a role: which rows of which stores, and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..types import HIDDEN, Batch
from .store import Store


@dataclass
class Rows:
    """The samples of one role or evaluation set.

    Attributes:
        stores: of the domains involved.
        domain: (N,) index into `stores`. index: (N,) row in that store.
        y: (N,) labels; `HIDDEN` throughout where the training code may not know them.
        names: of the domains, in order.
    """

    stores: Sequence[Store]
    domain: Tensor
    index: Tensor
    y: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def group(self) -> Tensor | None:
        """(N,) ascending numbers, which rows are drawn together; None: each is by itself."""
        if self.stores[0].group is None:
            return None
        own, first = torch.empty_like(self.index), 0
        for number, store in enumerate(self.stores):
            mask = self.domain == number
            own[mask] = store.group[self.index[mask]] + first  # type: ignore[index]
            first = int(own[mask].max()) + 1 if mask.any() else first
        return own

    @cached_property
    def spans(self) -> Tensor | None:
        """(U, 2) first row, and one past the last, of what is drawn at once; None: each row is."""
        if self.group is None:
            return None
        sizes = torch.unique_consecutive(self.group, return_counts=True)[1]
        return torch.stack([sizes.cumsum(0) - sizes, sizes.cumsum(0)], 1)

    @property
    def units(self) -> int:
        """How many things there are to draw: sentences, where the rows are words."""
        return len(self) if self.spans is None else len(self.spans)

    def of(self, unit: Tensor) -> Tensor:
        """The rows of what was drawn."""
        if self.spans is None:
            return unit
        return torch.cat([torch.arange(first, end) for first, end in self.spans[unit].tolist()])

    def gather(self, row: Tensor) -> Tensor:
        """The samples at `row`, in that order."""
        if len(self.stores) == 1:
            return self.stores[0].rows(self.index[row])
        domain, index = self.domain[row], self.index[row]
        if self.group is not None:  # Fewer samples than rows: not to be put in their places one by one.
            runs = torch.unique_consecutive(domain, return_counts=True)
            parts = zip(runs[0].tolist(), torch.split(index, runs[1].tolist()), strict=True)
            return torch.cat([self.stores[number].rows(part) for number, part in parts])
        out: Tensor | None = None
        for number, store in enumerate(self.stores):
            mask = domain == number
            if mask.any():
                part = store.rows(index[mask])
                if out is None:
                    out = part.new_empty((len(row), *part.shape[1:]))
                out[mask.to(out.device)] = part
        assert out is not None
        return out

    def hidden(self) -> Rows:
        """The same rows without their labels."""
        return replace(self, y=torch.full_like(self.y, HIDDEN))

    def batch(self, row: Tensor, views: tuple[Tensor, ...]) -> Batch:
        return Batch(views, self.y[row], self.domain[row], row)
