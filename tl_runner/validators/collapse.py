from __future__ import annotations

from torch import Tensor, special


def class_share(logits: Tensor, labels: Tensor | None = None) -> float:
    """Over how many classes predictions spread, in shares of those that labels spread over: exp(H(q)) / exp(H(r)).

    q is the histogram of argmax z, r that of the labels. The exponential of the entropy counts classes by their
    weight: a few stray rows do not hide a collapse, and of imbalanced classes no model is asked to predict all alike.

    Args:
        logits: (N, K). labels: (M,) of the source or of other rows; None: of each class as many.

    Returns:
        In [1/K, 1]; 1 where predictions spread as far as the labels, or farther.

    >>> import torch
    >>> class_share(torch.eye(4)), class_share(torch.eye(4)[[0, 0, 1, 1]])
    (1.0, 0.5)
    >>> class_share(torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 1, 1, 0]))
    1.0
    """
    k = logits.shape[1]
    spread = float(k) if labels is None else _spread(labels, k)
    return min(1.0, _spread(logits.argmax(1), k) / spread)


def _spread(y: Tensor, k: int) -> float:
    return float(special.entr(y.bincount(minlength=k).double() / len(y)).sum().exp())
