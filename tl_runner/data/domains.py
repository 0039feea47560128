"""Domains become roles: who is labelled, who is tested, and who knows which label."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, UserError
from ..types import Count, DataInfo, Fraction, Natural
from .draws import Array, check_taught, in_groups, per_class, source_rows, target_rows
from .folders import Folders, Lists
from .rows import Rows
from .samples import Reader, Samples, check_distinct, unify_classes
from .store import FileStore, Store, cached_pixels

log = logging.getLogger(__name__)


@dataclass
class Prepared:
    """Data ready to train on.

    Attributes:
        roles: `source`, `target`, `labeled`, those that have rows. The target's labels are hidden.
        evaluation: `source_val`, `labeled_val`, `target`; the target's labels are hidden here too.
        truth: labels of `target`'s rows, for metrics alone; None if the data has none.
        info: for models and methods, but for the sample shape that the model sees.
        contents: fingerprint of what each store holds, by its id.
        fingerprint: of all of it.
        names: of each domain's samples, in the order of its store.
    """

    roles: dict[str, Rows]
    evaluation: dict[str, Rows]
    truth: Tensor | None
    info: DataInfo
    contents: dict[int, str] = field(default_factory=dict)
    fingerprint: str = ""
    names: dict[str, list[str]] = field(default_factory=dict)

    def only(self, *names: str) -> Prepared:
        """The same without any other role or evaluation set."""

        def kept(rows: dict[str, Rows]) -> dict[str, Rows]:
            return {name: r for name, r in rows.items() if name in names}

        return replace(self, roles=kept(self.roles), evaluation=kept(self.evaluation))


class DomainData:
    """A data set made of domains.

    Args:
        reader: finds the samples of a domain by its name.
        source: the labelled domain, or several; None: only target data.
        target: the domain to adapt to, or several; None: only source data.
        protocol: `transductive` adapts to all target images, unlabelled, and tests on them, as papers do;
            `split` adapts to the target's train split and tests on its test split (its own, or a random
            share `target_test`).
        target_test: share of the target that `split` holds out if the data has no test split.
        labeled_per_class: target samples per class whose labels may be used, or `all`; they are neither in
            the unlabelled role nor in the test.
        label_fraction: the same as a share of each class's training samples, at least one; 0: none.
        source_val: share of the source held out, per class, to validate on, if the data has no split for it.
        label_set: how class names must match: `closed`, `partial`, `shared`.
        flip: probability with which augmentation may mirror an image; 0 where a mirror image is another class.
        channels: 3, or 1 for grey.
        resize: side of the stored images.
        cache: decode every image once into a map in `cache_dir`; False decodes at every step.
        cache_dir: where maps lie, shared by all runs.
        on_corrupt: what an unreadable image is: an `error`, or something to `skip`.
        workers: threads that prepare batches ahead; 0: none.
        seed: of held-out rows and labelled samples; of these a smaller number is among a larger.
    """

    def __init__(
        self,
        reader: Reader,
        source: str | Sequence[str] | None,
        target: str | Sequence[str] | None,
        protocol: Literal["transductive", "split"] = "transductive",
        target_test: Fraction = 0.3,
        labeled_per_class: Natural | Literal["all"] = 0,
        label_fraction: Fraction = 0.0,
        source_val: Fraction = 0.1,
        label_set: Literal["closed", "partial", "shared"] = "closed",
        flip: Fraction = 0.5,
        channels: Literal[1, 3] = 3,
        resize: Count | None = None,
        cache: bool = True,
        cache_dir: str = ".cache",
        on_corrupt: Literal["error", "skip"] = "error",
        workers: Natural = 1,
        seed: int = 0,
    ) -> None:
        self.reader = reader
        self.source, self.target = _names(source), _names(target)
        self.protocol, self.target_test = protocol, target_test
        self.labeled_per_class, self.label_fraction = labeled_per_class, label_fraction
        self.source_val = source_val
        self.label_set, self.flip, self.channels, self.resize = label_set, flip, channels, resize
        self.cache, self.cache_dir, self.on_corrupt = cache, Path(cache_dir).expanduser(), on_corrupt
        self.workers, self.seed = workers, seed
        if not self.source and not self.target:
            raise UserError("data.source and data.target are both empty; name at least one domain")
        if both := set(self.source) & set(self.target):
            raise UserError(f"domain '{both.pop()}' is both source and target")
        if labeled_per_class and label_fraction:
            raise UserError(
                f"data.labeled_per_class={labeled_per_class} and data.label_fraction={label_fraction} both say which "
                "target labels are given: set one of them"
            )

    def prepare(self, known: tuple[str, ...] | None = None) -> Prepared:
        """Read, check, decode (once) and divide.

        Args:
            known: classes of a trained model, which say what there is to tell apart where no source does.

        Raises:
            DataError: for anything wrong with the files.
        """
        names = [*self.source, *self.target]
        domains = {name: self.reader.read(name) for name in names}
        check_distinct(domains)
        classes = unify_classes(domains, self.source, self.label_set, None if self.source else known)
        prints: dict[str, str] = {}
        stores: dict[str, Store] = {}
        pool = ThreadPoolExecutor(os.cpu_count())
        for name in names:
            samples, stores[name] = self._open(domains[name], pool)
            prints[name] = hashlib.sha256(f"{samples.fingerprint()} {self._settings()}".encode()).hexdigest()
            domains[name] = samples
        return self._divide(domains, classes, stores, prints)

    def _settings(self) -> str:
        """What of the settings says how samples are stored."""
        return f"{self.resize} {self.channels}"

    def _open(self, samples: Samples, pool: ThreadPoolExecutor) -> tuple[Samples, Store]:
        if self.cache or samples.files is None:
            folder = self.cache_dir / "pixels"
            return cached_pixels(samples, self.resize, self.channels, folder, self.on_corrupt, pool)
        if self.resize is None:
            raise DataError("model.resize: say at which size images are decoded (a side in pixels)")
        return samples, FileStore(samples.files, self.resize, self.channels, pool)

    def _divide(
        self,
        domains: dict[str, Samples],
        classes: tuple[str, ...],
        stores: dict[str, Store],
        prints: dict[str, str],
    ) -> Prepared:
        sets: dict[str, list[tuple[str, Array]]] = {}
        labels = {name: s.labels_in(classes) for name, s in domains.items()}
        for name, samples in domains.items():
            if samples.classes and (dropped := int((labels[name] < 0).sum())):
                log.warning("domain '%s': %d samples of classes not shared are left out", name, dropped)

        def put(name: str, domain: str, rows: Array) -> None:
            if len(rows):
                sets.setdefault(name, []).append((domain, rows))

        taught = {}
        for name in self.source:
            train, held = source_rows(domains[name], labels[name], self.source_val, self.seed)
            put("source", name, train)
            put("source_val", name, held)
            taught[name] = labels[name][train]
        if self.source:
            check_taught(taught, classes)
        for name in self.target:
            train, val, test = target_rows(
                *(domains[name], labels[name], self.protocol == "split", self.target_test, self.seed)
            )
            known = self._labeled(domains[name], labels[name], train, classes)
            val = val if len(known) else known
            put("labeled", name, known)
            put("labeled_val", name, val)
            put("target", name, np.setdiff1d(train, known))
            put("target_test", name, np.setdiff1d(test, np.concatenate([known, val])))

        def rows(name: str) -> Rows:
            parts = sets[name]
            return Rows(
                [stores[domain] for domain, _ in parts],
                torch.cat([torch.full((len(r),), i) for i, (_, r) in enumerate(parts)]),
                torch.from_numpy(np.concatenate([r for _, r in parts])),
                torch.from_numpy(np.concatenate([labels[domain][r] for domain, r in parts])),
                tuple(domain for domain, _ in parts),
            )

        roles: dict[str, Rows] = {role: rows(role) for role in ("source", "labeled") if role in sets}
        if "target" in sets:
            roles["target"] = rows("target").hidden()
        evaluation: dict[str, Rows] = {e: rows(e) for e in ("source_val", "labeled_val") if e in sets}
        truth = None
        if "target_test" in sets:
            tested = rows("target_test")
            truth = tested.y if bool((tested.y >= 0).all()) else None
            evaluation["target"] = tested.hidden()
        info = DataInfo(
            classes,
            next(iter(stores.values())).shape,
            {role: len(r) for role, r in roles.items()},
            {role: r.names for role, r in roles.items()},
            {
                role: tuple(torch.bincount(r.y, minlength=len(classes)).tolist())
                for role, r in roles.items()
                if role != "target"
            },
        )
        labelled = {
            name: (s.classes, s.labels.tobytes(), None if s.split is None else s.split.tolist())
            for name, s in domains.items()
        }
        whole = hashlib.sha256(repr((sorted(prints.items()), sorted(labelled.items()))).encode()).hexdigest()
        contents = {id(stores[name]): print_ for name, print_ in prints.items()}
        names = {name: s.names for name, s in domains.items()}
        return Prepared(roles, evaluation, truth, info, contents, whole, names)

    def _labeled(self, samples: Samples, y: Array, train: Array, classes: tuple[str, ...]) -> Array:
        name, number, share = samples.domain, self.labeled_per_class, self.label_fraction
        if not number and not share:
            return train[:0]
        asked = f"data.labeled_per_class={number}" if number else f"data.label_fraction={share}"
        if (y[train] < 0).all():
            raise DataError(f"{asked}: domain '{name}' has no labels")
        least = number if isinstance(number, int) and number else 1
        for k, count in enumerate(np.bincount(y[train], minlength=len(classes))):
            if count < least and (count or self.label_set != "partial"):
                raise DataError(
                    f"{asked}: domain '{name}' has {count or 'no'} training samples of class '{classes[k]}'"
                )

        def wanted(count: int) -> int:
            return count if number == "all" else number or max(1, round(share * count))

        if share and samples.group is not None:  # Sentences are labelled, not words.
            known = in_groups(samples.group, train, share, self.seed, "labeled", name)
        else:
            known = per_class(y, train, wanted, self.seed, "labeled", name)
        if self.protocol == "transductive" and len(known) == len(train):
            raise DataError(
                f"{asked} leaves nothing to test on under data.protocol=transductive; set data.protocol=split"
            )
        return known


def _names(value: str | Sequence[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


class FolderData(DomainData):
    """A data set in folders.

    Args:
        root, layout, source_url: as for `Folders`.
        options: as for `DomainData`.
    """

    def __init__(
        self,
        root: str,
        layout: str | dict[str, str] = "{domain}/{class}/*",
        source_url: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(Folders(root, layout, source_url), **options)


class ListData(DomainData):
    """A data set in list files or tables.

    Args:
        root, files, class_from, source_url, encoding: as for `Lists`.
        options: as for `DomainData`.
    """

    def __init__(
        self,
        root: str,
        files: str | list[str],
        class_from: Literal["label", "folder"] = "label",
        source_url: str | None = None,
        encoding: str = "utf-8",
        **options: Any,
    ) -> None:
        super().__init__(Lists(root, files, class_from, source_url, encoding), **options)
