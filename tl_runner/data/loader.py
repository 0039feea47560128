"""Batches by row number: the order is a pure function of (seed, stage, role, epoch)."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..ranks import count, joined, share
from ..types import Batch, Mixing
from .augment import Augment
from .mixing import mixed
from .rows import Rows
from .store import ArrayStore


def key(*parts: object) -> int:
    """A seed that depends on every part, and on nothing else."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def generator(*parts: object) -> torch.Generator:
    return torch.Generator().manual_seed(key(*parts))


def order(size: int, count: int, *parts: object) -> Tensor:
    """`count` row numbers below `size`: whole random permutations, one after another."""
    g = generator(*parts)
    rounds = -(-count // size)
    return torch.cat([torch.randperm(size, generator=g) for _ in range(rounds)])[:count]


def balanced_order(y: Tensor, count: int, *parts: object) -> Tensor:
    """`count` row numbers, equally many of each class: whole random rounds through the classes.

    Args:
        y: (N,) labels of the rows.
    """
    present = torch.unique(y)
    turns = present[order(len(present), count, *parts, "class")]
    rows = torch.empty(count, dtype=torch.long)
    for k in torch.unique(turns):
        own, places = (y == k).nonzero().flatten(), (turns == k).nonzero().flatten()
        rows[places] = own[order(len(own), len(places), *parts, int(k))]
    return rows


class StageLoader:
    """Training batches of one stage: each item maps roles to batches.

    Args:
        roles: what to read.
        batch_size: per role; sentences, where the rows are words.
        steps: items per epoch.
        augment: how views are drawn, per role.
        seed: of order and augmentation. stage: name of the stage.
        epoch: tells the current epoch; asked when an epoch's first batch is made.
        workers: threads that prepare batches ahead; 0 prepares each when it is asked for.
        device: where batches are made.
        mixing: roles whose samples are blended with each other.
        balanced: roles of which every class is read equally often.
    """

    def __init__(
        self,
        roles: Mapping[str, Rows],
        batch_size: Mapping[str, int],
        steps: int,
        augment: Mapping[str, Augment],
        seed: int,
        stage: str,
        epoch: Callable[[], int],
        workers: int,
        device: torch.device,
        mixing: Mapping[str, Mixing] | None = None,
        balanced: Collection[str] = (),
    ) -> None:
        self.roles, self.batch_size, self.steps, self.augment = roles, batch_size, steps, augment
        self.seed, self.stage, self.epoch = seed, stage, epoch
        self.workers, self.device, self.mixing, self.balanced = workers, device, mixing or {}, balanced

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        epoch = self.epoch()
        orders = {}
        for role, rows in self.roles.items():
            about = (self.steps * self.batch_size[role], self.seed, self.stage, role, epoch)
            orders[role] = (
                balanced_order(rows.y, *about) if role in self.balanced else order(rows.units, *about)
            )

        # Each process makes its share of the images; they are put together here, in the same order everywhere,
        # and not in a thread. Reading vectors costs less than that.
        divided = count() > 1 and all(len(rows.stores[0].shape) == 3 for rows in self.roles.values())

        def make(step: int) -> dict[str, Batch]:
            batches = {}
            for role, rows in self.roles.items():
                n, augment = self.batch_size[role], self.augment[role]
                row = orders[role][step * n : (step + 1) * n]
                if role not in self.balanced:  # which draws words one by one
                    row = rows.of(row)
                part = share(n) if divided else slice(None)
                x = rows.gather(row[part])
                if x.dtype == torch.uint8:
                    g = generator(self.seed, self.stage, role, epoch, step, "views")
                    views = augment(x.to(self.device), g, n, part)
                else:
                    views = (x,) * len(augment.views)  # Vectors are not augmented.
                batch = rows.batch(row, views)
                if self.device.type != "cpu":
                    batch = batch.to(self.device, non_blocking=True)
                batches[role] = batch
            return batches if divided else finish(step, batches)

        def finish(step: int, batches: dict[str, Batch]) -> dict[str, Batch]:
            for role, batch in batches.items():
                if divided:
                    batch = replace(batch, views=tuple(map(joined, batch.views)))
                if role in self.mixing:
                    rng = np.random.default_rng(key(self.seed, self.stage, role, epoch, step, "mixing"))
                    batch = mixed(batch, self.mixing[role], rng)
                batches[role] = batch
            return batches

        made = self._made(make)
        yield from (finish(step, batches) for step, batches in enumerate(made)) if divided else made

    def _made(self, make: Callable[[int], dict[str, Batch]]) -> Iterator[dict[str, Batch]]:
        if not self.workers:
            yield from map(make, range(self.steps))
            return
        with ThreadPoolExecutor(self.workers, "batches", initializer=_one_thread) as pool:
            ahead: deque[Future[dict[str, Batch]]] = deque()
            for step in range(self.steps):
                while len(ahead) < self.workers + 1 and step + len(ahead) < self.steps:
                    ahead.append(pool.submit(make, step + len(ahead)))
                yield ahead.popleft().result()


def _one_thread() -> None:
    """A thread that prepares batches shall not start a team of its own, which would fight the model's."""
    threadpool_limits(1, user_api="openmp")


class Groups:
    """Several steps as one item.

    Lightning's own loop takes a third of a millisecond per item, as long as a small step on cached features:
    it is run once for a group of those.
    """

    def __init__(self, loader: StageLoader, size: int) -> None:
        self.loader, self.size = loader, size

    def __len__(self) -> int:
        return -(-len(self.loader) // self.size)

    def __iter__(self) -> Iterator[list[dict[str, Batch]]]:
        steps = iter(self.loader)
        while group := list(islice(steps, self.size)):
            yield group


class EvalLoader:
    """Every row once, in order, unaugmented.

    Args:
        rows: what to read. batch_size: rows per batch. augment: its central view is shown.
        device: where batches are made. limit: at most so many rows; None: all.
        only: these rows, in this order.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        augment: Augment,
        device: torch.device,
        limit: int | None = None,
        only: Tensor | None = None,
    ) -> None:
        self.rows, self.batch_size, self.augment, self.device = rows, batch_size, augment.center(), device
        self.order = torch.arange(len(rows))[:limit] if only is None else only
        self.count = len(self.order)

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for row in torch.split(self.order, self.batch_size):
            yield self.rows.batch(row, self.views(row)).to(self.device)

    def views(self, row: Tensor) -> tuple[Tensor, ...]:
        return self.augment(self.rows.gather(row).to(self.device), torch.Generator())


class MixedLoader(EvalLoader):
    """Each row mixed with the next one, the last with the first: weight · x_i + (1 − weight) · x_{i+1}.

    Args:
        only: these rows, in this order. Images stay bytes, rounded.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        augment: Augment,
        device: torch.device,
        only: Tensor,
        weight: float,
    ) -> None:
        super().__init__(rows, batch_size, augment, device, only=only)
        self.weight, self.partner = weight, torch.zeros(len(rows), dtype=torch.long)
        self.partner[only] = only.roll(-1)

    def views(self, row: Tensor) -> tuple[Tensor, ...]:
        first, second = super().views(row)[0], super().views(self.partner[row])[0]
        mixed = torch.lerp(second.float(), first.float(), self.weight)
        return (mixed.round().to(first.dtype) if first.dtype == torch.uint8 else mixed.to(first.dtype),)


def on_device(rows: Mapping[str, Rows], device: torch.device) -> dict[str, Rows]:
    """Rows whose mapped arrays live on a GPU, if they fit in half of what is free there."""
    if device.type != "cuda":
        return dict(rows)
    stores = {id(s): s for r in rows.values() for s in r.stores if isinstance(s, ArrayStore)}
    size = sum(s.data.numel() * s.data.element_size() for s in stores.values())
    if size > torch.cuda.mem_get_info(device)[0] / 2:
        return dict(rows)
    moved = {name: s.to(device) for name, s in stores.items()}
    return {name: replace(r, stores=[moved.get(id(s), s) for s in r.stores]) for name, r in rows.items()}
