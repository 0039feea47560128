"""What is known of a domain before a pixel is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import DataError
from ..types import HIDDEN


@dataclass
class Samples:
    """One domain.

    Attributes:
        domain: its name.
        names: (N,) stable names of the samples (relative paths, say).
        labels: (N,) int64 indices into `classes`; `HIDDEN` where the domain has no labels.
        classes: names of the classes present; empty for a domain without labels.
        files: image files, or
        array: uint8 images (N, H, W[, C]) or float32 vectors (N, D), or
        texts: N texts; with `group` N words.
        group: (N,) ascending, which words make a sentence; None where each sample is by itself.
        split: (N,) of `train`, `val`, `test`; None if the data set has no splits of its own.
    """

    domain: str
    names: list[str]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    classes: tuple[str, ...]
    files: list[Path] | None = None
    array: np.ndarray[Any, Any] | None = None
    split: np.ndarray[Any, Any] | None = None
    texts: list[str] | None = None
    group: np.ndarray[Any, np.dtype[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def keep(self, rows: np.ndarray[Any, Any]) -> Samples:
        """The samples at `rows` (indices or mask)."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return Samples(
            self.domain,
            [self.names[i] for i in rows],
            self.labels[rows],
            self.classes,
            None if self.files is None else [self.files[i] for i in rows],
            None if self.array is None else self.array[rows],
            None if self.split is None else self.split[rows],
            None if self.texts is None else [self.texts[i] for i in rows],
            None if self.group is None else self.group[rows],
        )

    def labels_in(self, classes: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(N,) labels as indices into `classes`; `HIDDEN` for other classes and unlabelled samples."""
        if not self.classes:
            return self.labels
        index = {name: i for i, name in enumerate(classes)}
        table: np.ndarray[Any, np.dtype[np.int64]]
        table = np.array([index.get(name, HIDDEN) for name in self.classes], dtype=np.int64)
        labels: np.ndarray[Any, np.dtype[np.int64]] = table[self.labels]
        return labels

    def fingerprint(self) -> str:
        """Changes when a file is added, removed, renamed or rewritten, or what was read of it is another."""
        digest = hashlib.sha256()
        if self.array is not None:
            digest.update(str((self.array.shape, self.array.dtype)).encode())
            digest.update(np.ascontiguousarray(self.array).data)
        for name, file in zip(self.names, self.files or [], strict=False):
            stat = file.stat()
            digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        for text in self.texts or []:
            digest.update(f"{text}\0".encode(errors="surrogatepass"))
        if self.group is not None:
            digest.update(np.ascontiguousarray(self.group).data)
        return digest.hexdigest()


class Reader(Protocol):
    """Finds the samples of a domain by its name."""

    def read(self, domain: str) -> Samples: ...


def from_labels(
    domain: str, names: list[str], labels: list[str] | None, splits: list[str] | None = None, **where: Any
) -> Samples:
    """`Samples` from class *names*, one a sample; None, or all empty, for a domain without labels.

    Raises:
        DataError: if some are empty and others not, naming the first.
    """
    classes: tuple[str, ...] = ()
    if labels is None or not any(labels):
        ids = np.full(len(names), HIDDEN)
    elif not all(labels):
        raise DataError(f"{names[labels.index('')]}: has no label, and others of domain '{domain}' have")
    else:
        classes = tuple(sorted(set(labels)))
        index = {name: i for i, name in enumerate(classes)}
        ids = np.array([index[name] for name in labels], dtype=np.int64)
    split = None if splits is None else np.array(splits)
    return Samples(domain, names, ids.astype(np.int64), classes, split=split, **where)


def check_distinct(domains: Mapping[str, Samples]) -> None:
    """Complain of one domain that goes by two names.

    Raises:
        DataError: for samples that lie at the same places of the same files.
    """
    for (one, a), (other, b) in combinations(domains.items(), 2):
        if a.array is None and (a.names, a.files, a.texts) == (b.names, b.files, b.texts):
            raise DataError(
                f"domains '{one}' and '{other}' are the same {len(a)} samples: their files need a column 'domain', or "
                "each domain files of its own, with {domain} in their name"
            )


def unify_classes(
    domains: dict[str, Samples], sources: list[str], label_set: str, model: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """The class list that all domains share, matched by name.

    Args:
        domains: by name. sources: names of the source domains.
        label_set: `closed` (all equal), `partial` (target classes may be fewer) or `shared` (the
            intersection; samples of other classes are dropped).
        model: classes, in order, of a trained model, where these and no source are to be shared.

    Raises:
        DataError: naming the classes that do not match.
    """
    sets = {name: set(s.classes) for name, s in domains.items() if s.classes}
    if not sets and not model:
        raise DataError("none of the domains has labels; expected class folders or a label column")
    if unlabelled := [name for name in sources if name not in sets]:
        raise DataError(f"source domain '{unlabelled[0]}' has no labels; expected class folders")
    if label_set == "shared":
        common = set.intersection(*sets.values(), *([set(model)] if model else []))
        if not common:
            names = [*sets, *(["the trained model"] if model else [])]
            raise DataError(f"domains {', '.join(names)} share no class name")
        return model or tuple(sorted(common))  # A head has the classes it has.
    labelled_by = ["the trained model"] if model else sources or list(sets)[:1]
    known = set(model) if model else set.union(*(sets[name] for name in labelled_by))
    for name, present in sets.items():
        extra = sorted(present - known)
        lacking = sorted(known - present) if label_set == "closed" or name in sources else []
        if extra or lacking:
            parts = [f"has classes that {', '.join(labelled_by)} lacks: {extra}"] if extra else []
            parts += [f"lacks classes: {lacking}"] if lacking else []
            may_lack = "partial (target may lack classes) or " if not extra and label_set == "closed" else ""
            raise DataError(
                f"domain '{name}' {' and '.join(parts)}. Classes are matched by name; rename the folders, or "
                f"set data.label_set={may_lack}shared (keep what all have)"
                + (", or init_parts=[backbone,neck] to start with a new head" if model else "")
            )
    return model or tuple(sorted(known))
