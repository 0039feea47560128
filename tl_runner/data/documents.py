"""One's own texts: tables, JSON lines, and folders of text files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DataError, nearest
from .folders import Folders, split_name
from .reading import missing, read_text, table
from .samples import Samples, from_labels

FIELDS = ("text", "label", "domain", "split")


class TextTable:
    """Texts in tables (.csv, .tsv, with a header) or JSON lines (.jsonl), with the fields text and label.

    A field `domain` tells the domains apart, `split` is train, val or test; both may be missing. A domain of which no
    row has a label is unlabelled.

    Args:
        root: the folder.
        files: a file relative to `root`, or several; may contain `{domain}`.
        fields: other names of the fields: `{text: review, label: stars}`.
        encoding: of the files.
    """

    def __init__(
        self, root: str, files: str | list[str], fields: dict[str, str] | None = None, encoding: str = "utf-8"
    ) -> None:
        self.root, self.encoding = Path(root).expanduser(), encoding
        self.files = [files] if isinstance(files, str) else list(files)
        for unknown in set(fields or {}) - set(FIELDS):
            raise DataError(f"data.reader.fields: there is no field '{unknown}'{nearest(unknown, FIELDS)}")
        self.fields = {name: (fields or {}).get(name, name) for name in FIELDS}

    def read(self, domain: str) -> Samples:
        """The domain's texts.

        Raises:
            DataError: naming a missing file, or a malformed line.
        """
        names, found, domains = list[str](), list[dict[str, str]](), set[str]()
        for template in self.files:
            file = self.root / template.replace("{domain}", domain)
            if not file.is_file():
                raise missing(file, self.root, None)
            for line, row in self._rows(file):
                domains.add(row["domain"])
                if row["domain"] in ("", domain):
                    found.append(row)
                    names.append(f"{file.name}:{line}")
        if not found:
            listed = ", ".join(self.files)
            raise DataError(f"{listed}: no row of domain '{domain}'{nearest(domain, domains - {''})}")
        splits = [split_name(row["split"] or "train", name) for row, name in zip(found, names, strict=True)]
        return from_labels(
            domain,
            names,
            [row["label"] for row in found],
            splits if len(set(splits)) > 1 else None,
            texts=[row["text"] for row in found],
        )

    def _rows(self, file: Path) -> Iterator[tuple[int, dict[str, str]]]:
        text = read_text(file, self.encoding)
        rows = _json_lines(file, text) if file.suffix in (".jsonl", ".ndjson") else table(file, text)
        for line, row in rows:
            if not isinstance(row.get(self.fields["text"]), str):
                raise DataError(
                    f"{file}:{line}: expected a text in '{self.fields['text']}'; its fields are "
                    f"{', '.join(map(str, row))}. data.reader.fields gives fields other names"
                )
            found = {f: "" if row.get(n) is None else str(row[n]) for f, n in self.fields.items()}
            if any("\ud800" <= c <= "\udfff" for c in "".join(found.values())):
                raise DataError(
                    f"{file}:{line}: has half a character (\\ud800 to \\udfff without its other half)"
                )
            yield line, found


def _json_lines(file: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{file}:{number}: is no JSON ({error.msg} at column {error.colno})"
                ) from error
            if not isinstance(row, dict):
                raise DataError(
                    f"{file}:{number}: expected an object with text and label, got {line.strip()[:60]}"
                )
            yield number, row


class TextFolders:
    """Texts in files: `.txt`, in folders as images are.

    Args:
        root, layout: as for `Folders`; the default has a folder per class in one per domain.
        encoding: of the files.
    """

    def __init__(
        self, root: str, layout: str | dict[str, str] = "{domain}/{class}/*", encoding: str = "utf-8"
    ) -> None:
        self.folders, self.encoding = Folders(root, layout, kind="texts", suffixes=[".txt"]), encoding

    def read(self, domain: str) -> Samples:
        """The domain's texts.

        Raises:
            DataError: if there is none, or one is not in the encoding.
        """
        samples = self.folders.read(domain)
        return replace(samples, files=None, texts=[read_text(f, self.encoding) for f in samples.files or []])
