"""Texts and words as samples: tokenised once into a map, read by row."""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import tokens
from ..errors import DataError, UserError
from ..files import part_of_name
from ..nn.text import Tokenizer
from ..types import Count
from .domains import DomainData
from .samples import Reader, Samples
from .store import Store, build_map

log = logging.getLogger(__name__)


class TextStore:
    """Texts of which each, or each word, is a row.

    Args:
        data: (S, L) int32 as `tokens` has it, everything marked that is a row.
        vocabulary: V, how many tokens there are.
        texts: N, of the rows; or words.
    """

    def __init__(self, data: Tensor, vocabulary: int, texts: list[str]) -> None:
        self.data, self.texts = data, texts
        self.shape: tuple[int, ...] = (data.shape[1], vocabulary)
        self.where = tokens.marked(data).nonzero()
        words = bool((data[:, 0] % 4 != tokens.WHOLE).any())
        self.group: Tensor | None = self.where[:, 0].contiguous() if words else None

    def __len__(self) -> int:
        return len(self.where)

    def rows(self, index: Tensor) -> Tensor:
        """The texts that the rows are of, (S, L), with these marked; a text is there once for words in its order."""
        text, place = self.where[index].unbind(1)
        new = torch.ones(len(index), dtype=torch.bool)
        new[1:] = (text[1:] != text[:-1]) | (place[1:] <= place[:-1])
        x = self.data[text[new]]
        kind = self.data[text, place] % 4
        x -= x % 4
        x[new.cumsum(0) - 1, place] += kind
        return x


class TextData(DomainData):
    """A data set of texts made of domains.

    Args:
        reader: finds the texts, or the words of sentences, of a domain by its name.
        tokenizer: name of the encoder whose tokenizer cuts the texts, as for `nn.text.hf`.
        max_length: tokens of a text at most, special ones included.
        options: as for `DomainData`.

    Raises:
        UserError: if the model brings no tokenizer.
    """

    def __init__(
        self, reader: Reader, tokenizer: str | None, max_length: Count = 256, **options: Any
    ) -> None:
        super().__init__(reader, **options)
        if tokenizer is None:
            raise UserError(
                "this data is made of texts, which this model cannot read: choose model=minilm, or model=hf "
                "model.name=NAME"
            )
        self.tokenizer, self.max_length = Tokenizer(tokenizer), max_length

    def _settings(self) -> str:
        return f"{self.tokenizer.fingerprint} {self.max_length}"

    def _open(self, samples: Samples, pool: ThreadPoolExecutor) -> tuple[Samples, Store]:
        folder = self.cache_dir / "tokens"
        return cached_tokens(samples, self.tokenizer, self.max_length, folder, self.on_corrupt)


def cached_tokens(
    samples: Samples, tokenizer: Tokenizer, length: int, folder: Path, on_corrupt: str
) -> tuple[Samples, TextStore]:
    """The samples' texts, tokenised once; texts longer than `length` are cut, and the log says how many.

    Args:
        length: tokens of a text at most.
        folder: where the maps lie.
        on_corrupt: `error` names texts that are empty; `skip` leaves them out and says so.

    Returns:
        The samples that there are, and their rows: words that lie behind the cut are in neither.

    Raises:
        DataError: with `error`, naming the empty ones.
    """
    assert samples.texts is not None
    full = np.array([bool(text.strip()) for text in samples.texts])
    if not full.all():
        names = [samples.names[i] for i in np.flatnonzero(~full)]
        some = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        if on_corrupt == "error":
            raise DataError(f"empty texts ({len(names)}); remove them, or set data.on_corrupt=skip: {some}")
        log.warning("domain '%s': %d empty texts left out: %s", samples.domain, len(names), some)
        samples = samples.keep(full)
    assert samples.texts is not None
    about = hashlib.sha256(f"{samples.fingerprint()} {tokenizer.fingerprint}".encode()).hexdigest()[:20]
    path = folder / f"{part_of_name(samples.domain)}-{length}-{about}.npy"
    texts, sizes = samples.texts, np.ones(len(samples), dtype=np.int64)
    if samples.group is not None:
        sizes = np.unique(samples.group, return_counts=True)[1]
    ends = np.cumsum(sizes)

    def fill(first: int, last: int) -> np.ndarray[Any, Any]:
        if samples.group is None:
            return tokenizer.texts(texts[first:last], length)
        sentences = [texts[ends[i] - sizes[i] : ends[i]] for i in range(first, last)]
        return tokenizer.words(sentences, length)

    if not path.exists():
        build_map(path, (len(sizes), length), np.int32, fill, f"tokenising {samples.domain}", chunk=2048)
    data = np.load(path, mmap_mode="c", allow_pickle=False)
    if samples.group is None:
        if cut := int((data[:, -1] > 0).sum()):
            log.warning(
                "domain '%s': %d of %d texts have %d tokens or more: what follows is not read (data.max_length)",
                *(samples.domain, cut, len(data), length),
            )
    else:
        left = (data % 4 > 0).sum(1)
        if (left < sizes).any():
            log.warning(
                "domain '%s': %d words of %d sentences lie behind the first %d tokens, and are left out of training "
                "and test (data.max_length)",
                *(samples.domain, int((sizes - left).sum()), int((left < sizes).sum()), length),
            )
        place = np.arange(len(samples)) - np.repeat(ends - sizes, sizes)
        samples = samples.keep(place < np.repeat(left, sizes))
    assert samples.texts is not None
    return samples, TextStore(torch.from_numpy(data), tokenizer.vocabulary, samples.texts)
