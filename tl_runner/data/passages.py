"""What people are shown of a text: its beginning, or one of its words among those around it."""

from __future__ import annotations

import torch

from .rows import Rows
from .texts import TextStore

TEXT, AROUND, WORD = 200, 80, 40
"""Characters of a text, on either side of a word, and of a word at most."""


Passage = tuple[str, str, str]
"""The sample itself between what stands before it and after it in the sentence, if it is a word."""


def texts(rows: Rows) -> list[str] | None:
    """Of samples: whole texts, or words; None of other data."""
    found = _places(rows)
    return None if found is None else [store.texts[row] for store, row in found]


def passages(rows: Rows) -> list[Passage] | None:
    """Of samples, shortened; None of other data."""
    found = _places(rows)
    return None if found is None else [_passage(store, row) for store, row in found]


def _places(rows: Rows) -> list[tuple[TextStore, int]] | None:
    """Where each sample lies."""
    stores = [store for store in rows.stores if isinstance(store, TextStore)]
    if len(stores) < len(rows.stores):
        return None
    return [(stores[d], i) for d, i in zip(rows.domain.tolist(), rows.index.tolist(), strict=True)]


def _passage(store: TextStore, row: int) -> Passage:
    if store.group is None:
        return "", _beginning(" ".join(store.texts[row].split()), TEXT), ""
    first, end = (
        int(torch.searchsorted(store.group, store.group[row], right=past)) for past in (False, True)
    )
    before = "".join(f"{word} " for word in store.texts[first:row])
    after = "".join(f" {word}" for word in store.texts[row + 1 : end])
    if len(before) > AROUND:
        before = f"…{before[-AROUND:]}"
    return before, _beginning(store.texts[row], WORD), _beginning(after, AROUND)


def _beginning(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
