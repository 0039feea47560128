"""Texts as tensors: one number per token, which also says what of the text is classified.

S texts of at most L tokens are (S, L) int32, and no other samples have that type: 0 behind a text's end, else
4 · (id + 1) + `WORD` on the first token of a word that is classified, + `WHOLE` on the first token of a text that
is classified as a whole. A batch has one row of outputs for each mark, text by text, from left to right. So a text
stays one tensor, which is cut, joined and moved as one, and its words are there whichever of them are asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD, WHOLE = 1, 2


def is_text(x: Tensor) -> bool:
    return x.dtype == torch.int32


def ids(x: Tensor) -> Tensor:
    """(S, L) int64 numbers of the tokens; -1 behind the end."""
    return x.long() // 4 - 1


def marked(x: Tensor) -> Tensor:
    """(S, L) where something is classified."""
    return x % 4 > 0


def count(x: Tensor) -> int:
    """How many rows of outputs a batch of samples gives: one per mark of texts, one per sample of anything else."""
    return int(marked(x).sum()) if is_text(x) else len(x)


def choose(x: Tensor, rows: Tensor) -> Tensor:
    """The samples of some rows alone. Of texts, those with a word among them, the other words being context.

    Args:
        rows: (`count(x)`,) mask.
    """
    if not is_text(x):
        return x[rows]
    marks = marked(x)
    left = torch.zeros_like(marks)
    left[marks] = rows
    return (x - x % 4 * ~left)[left.any(1)]
