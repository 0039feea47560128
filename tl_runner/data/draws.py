"""Rows drawn once, the same for every method: a draw depends on its key and on the labels alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..errors import DataError
from .loader import generator
from .samples import Samples

Array = npt.NDArray[np.int64]


def per_class(y: npt.NDArray[Any], rows: Array, wanted: Callable[[int], int], *key: object) -> Array:
    """Of `rows`, so many of each class as `wanted` says of the number that there are, sorted.

    What a smaller number draws, a larger one draws too: the three per class are among the ten per class.
    """
    picked = [rows[:0]]
    for k in np.unique(y[rows]):
        own = rows[y[rows] == k]
        shuffled = own[torch.randperm(len(own), generator=generator(*key, int(k))).numpy()]
        picked.append(shuffled[: wanted(len(own))])
    return np.sort(np.concatenate(picked))


def in_groups(group: Array, rows: Array, share: float, *key: object) -> Array:
    """Of `rows`, those of a share of their groups, and of at least one; sorted."""
    every = np.unique(group[rows])
    shuffled = every[torch.randperm(len(every), generator=generator(*key)).numpy()]
    return rows[np.isin(group[rows], shuffled[: max(1, round(share * len(every)))])]


def source_rows(samples: Samples, y: Array, held_out: float, seed: int) -> tuple[Array, Array]:
    """A source's rows to train and to validate on: its own split, or a share of each class, or of its sentences."""
    usable = y >= 0
    if samples.split is not None:
        other = "val" if (samples.split == "val").any() else "test"
        if (samples.split == other).any() and (samples.split == "train").any():
            return (
                np.flatnonzero(usable & (samples.split == "train")),
                np.flatnonzero(usable & (samples.split == other)),
            )
    rows = np.flatnonzero(usable)
    about = seed, "source_val", samples.domain
    if samples.group is None:
        held = per_class(y, rows, lambda count: round(held_out * count), *about)
    else:  # The words of a sentence know each other.
        held = in_groups(samples.group, rows, held_out, *about) if held_out else rows[:0]
    return np.setdiff1d(rows, held), held


def target_rows(
    samples: Samples, y: Array, split: bool, tested: float, seed: int
) -> tuple[Array, Array, Array]:
    """A target's rows to train, to validate and to test on: all to train and to test on, unless `split`."""
    # An unlabelled target is all of it; a labelled one loses the classes that `shared` drops.
    usable = (y >= 0) if samples.classes else np.ones(len(y), dtype=bool)
    rows = np.flatnonzero(usable)
    if not split:
        return rows, rows[:0], rows
    if samples.split is not None and (samples.split == "test").any():
        train, val, test = (np.flatnonzero(usable & (samples.split == s)) for s in ("train", "val", "test"))
        return train, val, test
    # Never by class: the split must not know target labels.
    if samples.group is not None:
        test_rows = in_groups(samples.group, rows, tested, seed, "target_test", samples.domain)
        return np.setdiff1d(rows, test_rows), rows[:0], test_rows
    order = torch.randperm(len(y), generator=generator(seed, "target_test", samples.domain)).numpy()
    test = np.zeros(len(y), dtype=bool)
    test[order[: round(tested * len(y))]] = True
    return np.flatnonzero(usable & ~test), rows[:0], np.flatnonzero(usable & test)


def check_taught(source: Mapping[str, Array], classes: Sequence[str]) -> None:
    """
    Args:
        source: labels of the training rows, by domain.

    Raises:
        DataError: naming a class that none of them has.
    """
    taught = {int(k) for y in source.values() for k in np.unique(y)}
    if missing := [name for k, name in enumerate(classes) if k not in taught]:
        raise DataError(
            f"source {', '.join(source)} has no training samples of class '{missing[0]}': "
            "all are held out to validate on (data.source_val, or the data's own split)"
        )
