"""Weights that shall stay where they started."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .precision import wide


def starting_point(
    weights: Sequence[Tensor],
    start: Sequence[Tensor] | None = None,
    importance: Sequence[Tensor] | None = None,
) -> Tensor:
    """How far weights have moved, ½ Σ_i F_i (w_i − w⁰_i)².

    With F = 1 the starting-point penalty of Li et al., Explicit Inductive Bias for Transfer Learning with
    Convolutional Networks, ICML 2018, https://arxiv.org/abs/1802.01483; with F the diagonal of the Fisher
    information, elastic weight consolidation, Kirkpatrick et al., PNAS 2017, https://arxiv.org/abs/1612.00796

    Args:
        weights: of any shapes. start: w⁰, as the weights; None: 0, which is weight decay.
        importance: F ≥ 0, as the weights; None: 1.

    Returns:
        Scalar ≥ 0; 0 at the start, and for no weights.

    >>> starting_point([torch.tensor([3.0, 1.0])], [torch.tensor([1.0, 1.0])]).item()
    2.0
    >>> starting_point([torch.ones(2)], importance=[torch.tensor([4.0, 0.0])]).item()
    2.0
    """
    total = wide(weights[0]).new_zeros(()) if weights else torch.zeros(())
    for i, w in enumerate(weights):
        square = wide(w if start is None else w - start[i]).square()
        total = total + (square if importance is None else importance[i] * square).sum()
    return total / 2
