"""Domains as folders of class folders, list files and tables."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal

from ..errors import DataError, nearest
from .reading import read_text, table
from .samples import Samples, from_labels

log = logging.getLogger(__name__)

IMAGES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"])
_HOLE = re.compile(r"\{(\w+)\}")


class Folders:
    """Images, or other files, in folders.

    Args:
        root: the data set's folder.
        layout: where the images of a domain are, relative to `root`, e.g. `{domain}/images/{class}/*`;
            `{class}` and `{split}` (train, val, test) each stand for one folder, `*` and `**` as in a glob.
            Without `{class}` a domain is unlabelled. A mapping gives each domain its own layout, with
            `default` for the others.
        source_url: where to get the data; part of the message when it is missing.
        kind, suffixes: what the files are, and how their names end.
    """

    def __init__(
        self,
        root: str,
        layout: str | Mapping[str, str] = "{domain}/{class}/*",
        source_url: str | None = None,
        kind: str = "images",
        suffixes: Collection[str] = IMAGES,
    ) -> None:
        self.root, self.source_url = Path(root).expanduser(), source_url
        self.kind, self.suffixes = kind, suffixes
        self.keys = "data" if kind == "images" else "data.reader"
        self.layouts = {"default": layout} if isinstance(layout, str) else dict(layout)

    def read(self, domain: str) -> Samples:
        """The domain's images.

        Raises:
            DataError: if the folder is missing or holds no image.
        """
        layout = self.layouts.get(domain) or self.layouts.get("default")
        if layout is None:
            raise DataError(
                f"{self.keys}.layout: no layout for domain '{domain}'{nearest(domain, self.layouts)}"
            )
        if unknown := set(_HOLE.findall(layout)) - {"domain", "class", "split"}:
            raise DataError(
                f"{self.keys}.layout: unknown {{{unknown.pop()}}}; known: {{domain}}, {{class}}, {{split}}"
            )
        if not self.root.is_dir():
            raise DataError(self._missing(self.root, layout))
        filled = layout.replace("{domain}", domain)
        pattern, glob = _pattern(filled), _HOLE.sub("*", filled)
        names, labels, splits, files = [], [], [], []
        for file in sorted(self.root.glob(glob)):
            name = file.relative_to(self.root).as_posix()
            match = pattern.fullmatch(name)
            if match and file.suffix.lower() in self.suffixes and "/." not in f"/{name}":
                found = match.groupdict()
                names.append(name)
                files.append(file)
                labels.append(found.get("class", ""))
                splits.append(split_name(found.get("split"), name))
        if not files:
            raise DataError(self._missing(self.root / filled, layout, domain))
        if "{class}" in filled:
            self._name_empty(filled, set(labels), domain)
        return from_labels(domain, names, labels, splits if "{split}" in filled else None, files=files)

    def _name_empty(self, filled: str, found: set[str], domain: str) -> None:
        folder = filled[: filled.index("{class}") + len("{class}")]
        pattern = _pattern(folder)
        folders = (
            f.relative_to(self.root).as_posix() for f in self.root.glob(_HOLE.sub("*", folder)) if f.is_dir()
        )
        present = {m["class"] for m in map(pattern.fullmatch, folders) if m}
        one = "an image" if self.kind == "images" else f"any {self.kind}"
        if empty := sorted(c for c in present - found if not c.startswith(".")):
            log.warning("domain '%s': class folders without %s are ignored: %s", domain, one, empty)

    def _missing(self, looked: Path, layout: str, domain: str | None = None) -> str:
        where = "" if self.root.is_absolute() else f" (in {Path.cwd()})"
        message = (
            f"no {self.kind} found: looked for {looked}{where}; expected the layout {self.root}/{layout}"
        )
        if domain and self.root.is_dir():
            have = [f.name for f in self.root.iterdir() if f.is_dir()]
            hint = nearest(domain, have)
            if domain in have and "{class}" in layout:
                flat = f"{{default: '{layout}', {domain}: '{{domain}}/*'}}"
                hint = f'; if its {self.kind} lie in no class folders: "{self.keys}.layout={flat}"'
            message += f" (folders there: {', '.join(sorted(have)[:12]) or 'none'}{hint})"
        if self.source_url:
            message += f". Get it from {self.source_url}"
        return f"{message}. Set {self.keys}.root, or paths.data / TLRUN_DATA for the folder that holds all data sets"


def _pattern(layout: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\w+\}|\*\*/|\*)", layout)
    regex, seen = "", set()
    for part in parts:
        hole = _HOLE.fullmatch(part)
        if hole and hole[1] not in seen:
            seen.add(hole[1])
            regex += f"(?P<{hole[1]}>[^/]+)"
        elif hole:
            regex += f"(?P={hole[1]})"
        else:
            regex += {"**/": "(?:.*/)?", "*": "[^/]*"}.get(part, re.escape(part))
    return re.compile(regex)


_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def split_name(given: str | None, where: str) -> str:
    if given is None:
        return "train"
    split = _SPLITS.get(given.strip().lower())
    if split is None:
        raise DataError(f"{where}: '{given}' is no split; expected train, val or test")
    return split


class Lists:
    """Images named by list files or tables.

    A `.csv` or `.tsv` file has a header with `path` and `label` and, if wanted, `domain` and `split`. Any
    other file has `path label` in each line. Paths are relative to `root`.

    Args:
        root: the folder that paths are relative to.
        files: the list, or lists, relative to `root`; may contain `{domain}`.
        class_from: `label` takes the label column as the class's name; `folder` the image's folder, for
            lists that number the classes.
        source_url: where to get the data.
        encoding: of the lists.
    """

    def __init__(
        self,
        root: str,
        files: str | list[str],
        class_from: Literal["label", "folder"] = "label",
        source_url: str | None = None,
        encoding: str = "utf-8",
    ) -> None:
        self.root, self.source_url, self.encoding = Path(root).expanduser(), source_url, encoding
        self.files = [files] if isinstance(files, str) else list(files)
        self.class_from = class_from

    def read(self, domain: str) -> Samples:
        """The domain's images.

        Raises:
            DataError: naming a missing list, a malformed line, the images that are not there, or one without a label
                where others have one.
        """
        rows: list[tuple[str, str, str]] = []
        domains: set[str] = set()
        for template in self.files:
            file = self.root / template.replace("{domain}", domain)
            if not file.is_file():
                hint = f". Get it from {self.source_url}" if self.source_url else ""
                raise DataError(f"data.files: no list file {file}; expected lines 'path label'{hint}")
            split = next((s for s in ("train", "val", "test") if s in file.stem.split("_")), "train")
            rows_of = _table if file.suffix in (".csv", ".tsv") else _list
            for path, label, of, part in rows_of(file, read_text(file, self.encoding, "data.encoding")):
                domains.add(of)
                if of in ("", domain):
                    rows.append((path, label, part or split))
        if not rows:
            raise DataError(
                f"{', '.join(self.files)}: no row of domain '{domain}'{nearest(domain, domains - {''})}"
            )
        files = [self.root / path for path, _, _ in rows]
        if missing := [str(f) for f in files if not f.is_file()]:
            raise DataError(f"{len(missing)} listed images do not exist: {', '.join(missing[:5])}")
        labels = [
            f.parent.name if self.class_from == "folder" else label
            for f, (_, label, _) in zip(files, rows, strict=True)
        ]
        splits = [split_name(split, path) for path, _, split in rows]
        return from_labels(
            domain,
            [path for path, _, _ in rows],
            labels,
            splits if len(set(splits)) > 1 else None,
            files=files,
        )


Row = tuple[str, str, str, str]


def _table(file: Path, text: str) -> Iterator[Row]:
    for line, row in table(file, text):
        if "path" not in row:
            raise DataError(
                f"{file}: expected a header with 'path', 'label'[, 'domain', 'split'], got {list(row)}"
            )
        if not row["path"]:
            raise DataError(f"{file}:{line}: has no path")
        yield row["path"], row.get("label", ""), row.get("domain", ""), row.get("split", "")


def _list(file: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            # Paths may contain spaces; the label is the last word.
            path, _, label = line.strip().rpartition(" ")
            if not path:
                raise DataError(f"{file}:{number}: expected 'path label', got '{line.strip()[:80]}'")
            yield path.strip(), label, "", ""
