"""Tagged sentences, a word a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ..errors import DataError
from .reading import missing, read_text
from .samples import Samples, from_labels


class Conll:
    """Sentences in column files: a word a line, its tag in the last column, an empty line after each sentence.

    As in the shared task of CoNLL-2003 (Tjong Kim Sang & De Meulder, https://aclanthology.org/W03-0419) and the many
    that took its format. Tags are O, B-TYPE and I-TYPE. IOB1, in which B- marks only an entity that follows another of
    its type, is turned into IOB2, in which every entity begins with B-. Lines that begin with `-DOCSTART-` end a
    sentence, as empty ones do.

    Args:
        root: the folder.
        files: for `train`, `val` and `test`, or some of them, a file relative to `root`; may contain `{domain}`.
        word, tag: columns of the word and of its tag, from 0, or from the end by -1, -2 ….
        encoding: of the files.
        source_url: where to get the data.
    """

    def __init__(
        self,
        root: str,
        files: dict[str, str],
        word: int = 0,
        tag: int = -1,
        encoding: str = "utf-8",
        source_url: str | None = None,
    ) -> None:
        self.root, self.files, self.word, self.tag = Path(root).expanduser(), files, word, tag
        self.encoding, self.source_url = encoding, source_url
        if not files or not set(files) <= {"train", "val", "test"}:
            raise DataError(
                f"data.reader.files: expected files for train, val and test, got {', '.join(files)}"
            )

    def read(self, domain: str) -> Samples:
        """The words of a domain, sentence by sentence, with their tags in IOB2 as classes.

        Raises:
            DataError: for a missing file, a line with too few columns, a tag that is none, or one of a type that no
                training sentence has, by file and line.
        """
        names, words, tags, splits, sentences = (
            list[str](),
            list[str](),
            list[str](),
            list[str](),
            list[int](),
        )
        places: dict[str, tuple[str, str]] = {}
        number = 0
        for split in (s for s in ("train", "val", "test") if s in self.files):
            file = self.root / self.files[split].replace("{domain}", domain)
            if not file.is_file():
                raise missing(file, self.root, self.source_url)
            for sentence in self._sentences(file):
                for (line, word, _), tag in zip(sentence, iob2([t for _, _, t in sentence]), strict=True):
                    names.append(f"{file.name}:{line} {word}")
                    words.append(word)
                    tags.append(tag)
                    places.setdefault(tag, (split, f"{file}:{line}"))
                splits += [split] * len(sentence)
                sentences += [number] * len(sentence)
                number += 1
        if not words:
            raise DataError(f"{self.root}: {', '.join(self.files.values())} have no words")
        check_known(places)
        return from_labels(
            domain,
            names,
            tags,
            splits if len(self.files) > 1 else None,
            texts=words,
            group=np.array(sentences, dtype=np.int64),
        )

    def _sentences(self, file: Path) -> Iterator[list[tuple[int, str, str]]]:
        """(line, word, tag) of each word."""
        sentence: list[tuple[int, str, str]] = []
        width = None
        for number, line in enumerate(read_text(file, self.encoding).split("\n"), 1):
            columns = line.split()
            if not columns or columns[0] == "-DOCSTART-":
                if sentence:
                    yield sentence
                sentence = []
                continue
            width = width or len(columns)
            if len(columns) != width:
                raise DataError(
                    f"{file}:{number}: expected {width} columns as above, got {len(columns)}: '{line[:60]}'"
                )
            try:
                word, tag = columns[self.word], columns[self.tag]
            except IndexError:
                raise DataError(
                    f"{file}:{number}: has {width} columns, and data.reader wants word {self.word} and tag {self.tag}"
                ) from None
            if width == 1 or not is_tag(tag):
                raise DataError(
                    f"{file}:{number}: '{tag}' is no tag; expected O, B-TYPE or I-TYPE in column {self.tag}"
                )
            sentence.append((number, word, tag))
        if sentence:
            yield sentence


def is_tag(tag: object) -> bool:
    """Whether it is O, B-TYPE or I-TYPE."""
    return isinstance(tag, str) and (tag == "O" or (tag[:2] in ("B-", "I-") and bool(tag[2:])))


def check_known(places: Mapping[str, tuple[str, str]]) -> None:
    """Complain of a tag that is nowhere taught.

    Args:
        places: of each tag the first split, of train, val and test, and where in it.

    Raises:
        DataError: for one that training sentences, if there are any, do not have.
    """
    known = {tag for tag, (split, _) in places.items() if split == "train"}
    for tag, (_, where) in places.items():
        if known and tag not in known:
            raise DataError(
                f"{where}: tag '{tag}' is in no training sentence, which have {', '.join(sorted(known))}"
            )


def iob2(tags: list[str]) -> list[str]:
    """Tags of a sentence in IOB1 or IOB2, in IOB2.

    >>> iob2(["I-PER", "I-PER", "B-PER", "O", "I-LOC", "I-PER"])
    ['B-PER', 'I-PER', 'B-PER', 'O', 'B-LOC', 'B-PER']
    """
    before = ["O", *tags]
    return [
        f"B-{tag[2:]}" if tag[:2] == "I-" and last[2:] != tag[2:] else tag
        for last, tag in zip(before, tags, strict=False)
    ]
