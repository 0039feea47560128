"""Amazon product reviews of several domains, as they are published."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError
from .reading import missing, read_text
from .samples import Samples, from_labels

_TAG = re.compile(r"\s*<(/?)(\w+)>\s*")


class AmazonReviews:
    """Reviews in `<domain>/positive.review` and `<domain>/negative.review`.

    Blitzer et al., Biographies, Bollywood, Boom-boxes and Blenders, ACL 2007. https://aclanthology.org/P07-1056

    The files are no XML: nothing is escaped, there is no root, and the encoding is latin-1. Tags stand on lines of
    their own, and that is what they are read by. The text is that between the `review_text` tags.

    Args:
        root: holds a folder for each domain; `kitchen` is also found as `kitchen_&_housewares`.
        title: put the review's title before its text.
        encoding: of the files.
        source_url: where to get the data.
    """

    def __init__(
        self, root: str, title: bool = False, encoding: str = "latin-1", source_url: str | None = None
    ) -> None:
        self.root, self.title = Path(root).expanduser(), title
        self.encoding, self.source_url = encoding, source_url

    def read(self, domain: str) -> Samples:
        """A domain's reviews, labelled `negative` and `positive`.

        Raises:
            DataError: if a file is missing, or has a review that does not end or has no text, by its line.
        """
        names, texts, labels = [], [], []
        folder = self.root / domain
        if not folder.is_dir():
            folder = next(iter(sorted(self.root.glob(f"{glob.escape(domain)}_*"))), folder)
        for label in ("negative", "positive"):
            file = folder / f"{label}.review"
            if not file.is_file():
                raise missing(file, self.root, self.source_url, domain)
            for line, review in _reviews(file, self.encoding):
                if not review.get("review_text", "").strip():
                    raise DataError(f"{file}:{line}: this review has no review_text")
                title = [review["title"]] if self.title and review.get("title") else []
                texts.append("\n".join([*title, review["review_text"]]))
                names.append(f"{domain}/{label}.review:{line}")
                labels.append(label)
        if not texts:
            raise DataError(f"{folder}: its files have no <review>")
        return from_labels(domain, names, labels, texts=texts)


def _reviews(file: Path, encoding: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The line at which each review begins, and its fields."""
    review: dict[str, str] | None = None
    begun, field, opened, content = 0, "", 0, list[str]()
    for number, line in enumerate(read_text(file, encoding).split("\n"), 1):
        tag = _TAG.fullmatch(line)
        closes, name = (bool(tag[1]), tag[2]) if tag else (False, "")
        if field:
            if closes and name == field and review is not None:
                review[field] = "\n".join(content).strip()
                field = ""
            elif name == "review":
                raise DataError(
                    f"{file}:{opened}: <{field}> has no end before the review's, in line {number}"
                )
            else:
                content.append(line)
        elif name == "review" and closes == (review is None):
            raise DataError(f"{file}:{number}: <{tag[1] if tag else ''}review> where the other was expected")
        elif name == "review" and not closes:
            review, begun = {}, number
        elif name == "review" and review is not None:
            yield begun, review
            review = None
        elif review is not None and name and not closes:
            field, opened, content = name, number, []
        elif review is not None and line.strip():
            raise DataError(
                f"{file}:{number}: expected a tag on a line of its own, got '{line.strip()[:60]}'"
            )
    if review is not None:
        raise DataError(f"{file}:{begun}: this review has no end (</review>)")
