"""Texts and tagged sentences that the `datasets` library loads: from the Hugging Face hub, a folder or a file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, nearest, reason
from ..nn.text import need
from .conll import check_known, iob2, is_tag
from .folders import split_name
from .samples import Samples, from_labels

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
FIELDS = {"text": ("text", "tokens"), "label": ("label", "ner_tags"), "domain": ("domain",)}
"""Columns that are looked for; the first that there is."""
FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


class HubTexts:
    """A data set of texts and labels, or of sentences (lists of words) and lists of tags.

    Lhoest et al., Datasets: A Community Library for Natural Language Processing, EMNLP 2021.
    https://aclanthology.org/2021.emnlp-demo.21

    Its domains are the values of a column; or whole data sets, or configs of one, where the name of these has
    `{domain}`. With neither it is one domain, called as the data set is: `imdb` of `stanfordnlp/imdb`.

    Code that comes with a data set is never run: from version 4 on the library cannot.

    Args:
        name: on the hub, or a folder, or a file (csv, tsv, json, jsonl, parquet), or what `save_to_disk` wrote.
        config: which of several that the data set has; a language, say.
        revision: commit, tag or branch on the hub.
        splits: its own names of train, val and test; None: those that are called so, or dev, validation ….
        fields: columns that are not called `text` or `tokens`, `label` or `ner_tags`, and `domain`.
    """

    def __init__(
        self,
        name: str,
        config: str | None = None,
        revision: str | None = None,
        splits: dict[str, str] | None = None,
        fields: dict[str, str] | None = None,
    ) -> None:
        self.name, self.config, self.revision = name, config, revision
        self.splits, self.fields = splits, fields or {}
        for key, given, known in (("splits", splits or {}, SPLITS), ("fields", self.fields, tuple(FIELDS))):
            for unknown in set(given) - set(known):
                raise DataError(f"data.reader.{key}: there is no '{unknown}'{nearest(unknown, known)}")

    def read(self, domain: str) -> Samples:
        """The domain's texts, or its words sentence by sentence with their tags in IOB2.

        Raises:
            DataError: if the data set is not to be had, has no such column, split or domain, or a row is wrong.
        """
        name = self.name.replace("{domain}", domain)
        config = self.config and self.config.replace("{domain}", domain)
        loaded = _loaded(name, config, self.revision)
        rows, domains = list[_Row](), set[str]()
        for split, own in self._splits(name, loaded).items():
            table = loaded[own]
            text = self._column("text", name, table)
            if text is None:
                raise DataError(
                    f"{name}: has no column 'text' or 'tokens', but {', '.join(table.column_names)}; "
                    "data.reader.fields={text: COLUMN} says which it is"
                )
            labels, of = (_values(table, self._column(field, name, table)) for field in ("label", "domain"))
            if self._alone(of, name, domain):
                of = [domain] * len(table)
            domains |= {str(value) for value in of}
            for i, (value, label) in enumerate(zip(table[text][:], labels, strict=True)):
                if str(of[i]) == domain:
                    rows.append(_Row(f"{own}:{i}", split, value, label))
        if not rows:
            raise DataError(f"{name}: no row of domain '{domain}'{nearest(domain, domains)}")
        return (_words if isinstance(rows[0].text, list) else _texts)(name, domain, rows)

    def _splits(self, name: str, loaded: Mapping[str, Any]) -> dict[str, str]:
        """Which of its splits are train, val and test."""
        if self.splits is not None:
            for own in self.splits.values():
                if own not in loaded:
                    raise DataError(f"data.reader.splits: {name} has no split '{own}'{nearest(own, loaded)}")
            return self.splits
        found = dict[str, str]()
        for own in map(str, loaded):
            try:
                found.setdefault(split_name(own, name), own)
            except DataError:
                log.info("%s: its split '%s' is not read", name, own)
        if not found:
            raise DataError(
                f"{name}: has splits {', '.join(map(str, loaded))}; data.reader.splits={{train: NAME}} says which is "
                "train, val or test"
            )
        return found

    def _column(self, field: str, name: str, table: Any) -> str | None:
        have, given = table.column_names, self.fields.get(field)
        if given is not None and given not in have:
            raise DataError(
                f"data.reader.fields.{field}: {name} has no column '{given}'{nearest(given, have)}"
            )
        return given or next((column for column in FIELDS[field] if column in have), None)

    def _alone(self, of: list[Any], name: str, domain: str) -> bool:
        """Whether all rows are the domain's."""
        if "{domain}" in f"{self.name} {self.config}":
            return True
        if any(value is not None for value in of):
            return False
        path = Path(name)
        if domain != (alone := path.stem if path.suffix in FORMATS else path.name):
            raise DataError(
                f"{name}: has no column 'domain', so it is one domain, '{alone}', and has no '{domain}'. "
                "data.reader.fields={domain: COLUMN} names the column; with {domain} in data.reader.name or .config "
                "each domain is a data set or a config"
            )
        return True


class _Row(NamedTuple):
    name: str
    split: str
    text: Any
    label: Any


def _loaded(name: str, config: str | None, revision: str | None) -> Mapping[str, Any]:
    """Its splits by name."""
    need("datasets")
    import datasets

    path = Path(name).expanduser()
    if not path.exists() and (path.suffix in FORMATS or name.startswith((".", "/", "~"))):
        raise DataError(f"data.reader.name: there is no file or folder '{path}'")
    if path.is_file() and path.suffix not in FORMATS:
        raise DataError(f"{path}: is none of {', '.join(FORMATS)}")
    saved = any((path / kept).is_file() for kept in ("dataset_dict.json", "state.json"))
    if config is not None and (saved or path.is_file()):
        raise DataError(f"data.reader.config={config}: {path} has no configs")
    datasets.disable_progress_bars()
    try:
        if path.is_file():
            more = {"sep": "\t"} if path.suffix == ".tsv" else {}
            loaded = datasets.load_dataset(FORMATS[path.suffix], data_files=str(path), **more)
        elif saved:
            loaded = datasets.load_from_disk(str(path))
        else:
            loaded = datasets.load_dataset(
                str(path) if path.is_dir() else name, config, revision=None if path.is_dir() else revision
            )
    except Exception as error:  # of pyarrow, pandas, the hub's client and fsspec too
        raise DataError(_unreadable(name, path, error)) from error
    return loaded if isinstance(loaded, dict) else {"train": loaded}


def _unreadable(name: str, path: Path, error: Exception) -> str:
    cause = error
    while cause.__cause__ is not None and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    said = f"{name}: could not be loaded ({reason(cause)[:200]})"
    if isinstance(cause, UnicodeDecodeError):
        return f"{said}; data=text reads files in other encodings than utf-8"
    if path.exists():
        return said
    if isinstance(error, ConnectionError):
        return (
            f"{said}: the Hugging Face hub is not to be reached, and the data set is not in its cache. Where there is "
            "no network, data.reader.name is a folder or a file"
        )
    return (
        f"{said}; data.reader.name is a name on the Hugging Face hub, as stanfordnlp/imdb, a folder or a file"
    )


def _values(table: Any, column: str | None) -> list[Any]:
    """A column with the names of its classes; None where nothing is given (-1, of classes)."""
    if column is None:
        return [None] * len(table)
    kind = table.features[column]
    names = getattr(getattr(kind, "feature", kind), "names", None)
    if names is None:
        return list(table[column][:])

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(v) for v in value]
        return None if value is None or value < 0 else names[value]

    return [named(value) for value in table[column][:]]


def _texts(name: str, domain: str, rows: list[_Row]) -> Samples:
    known = {row.split for row in rows if row.label is not None}
    for row in rows:
        if not isinstance(row.text, str | None):
            raise DataError(f"{name}, {row.name}: expected a text, got {str(row.text)[:60]!r}")
        if row.label is None and row.split in known:
            raise DataError(f"{name}, {row.name}: has no label, and others of '{row.split}' have")
    if known and len(kept := [row for row in rows if row.split in known]) < len(rows):
        log.warning("%s: %d rows of splits without labels are left out", name, len(rows) - len(kept))
        rows = kept
    splits = [row.split for row in rows]
    return from_labels(
        domain,
        [row.name for row in rows],
        [str(row.label) for row in rows] if known else None,
        splits if len(set(splits)) > 1 else None,
        texts=[row.text or "" for row in rows],
    )


def _words(name: str, domain: str, rows: list[_Row]) -> Samples:
    names, words, tags, splits, group = list[str](), list[str](), list[str](), list[str](), list[int]()
    places = dict[str, tuple[str, str]]()
    for number, row in enumerate(rows):
        if not isinstance(row.label, list) or len(row.label) != len(row.text):
            raise DataError(
                f"{name}, {row.name}: expected a tag for each of {len(row.text)} words, got {str(row.label)[:60]!r}"
            )
        if wrong := [tag for tag in row.label if not is_tag(tag)]:
            raise DataError(
                f"{name}, {row.name}: '{wrong[0]}' is no tag; expected O, B-TYPE or I-TYPE, or classes called so"
            )
        for word, tag in zip(row.text, iob2(row.label), strict=True):
            names.append(f"{row.name} {word}")
            words.append(word)
            tags.append(tag)
            places.setdefault(tag, (row.split, f"{name}, {row.name}"))
        splits += [row.split] * len(row.text)
        group += [number] * len(row.text)
    check_known(places)
    return from_labels(
        domain, names, tags, splits if len(set(splits)) > 1 else None, texts=words, group=np.array(group)
    )
