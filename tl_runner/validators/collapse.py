from __future__ import annotations

from torch import Tensor, special


def class_share(logits: Tensor) -> float:
    """Over how many of the classes predictions spread: exp(H(histogram of argmax z)) / K.

    The exponential of the entropy counts classes by their weight: a few stray rows do not hide a collapse.

    Args:
        logits: (N, K).

    Returns:
        In [1/K, 1]; 1/K if one class is predicted throughout.

    >>> import torch
    >>> class_share(torch.eye(4)), class_share(torch.eye(4)[[0, 0, 1, 1]])
    (1.0, 0.5)
    """
    k = logits.shape[1]
    q = logits.argmax(1).bincount(minlength=k).double() / len(logits)
    return min(1.0, float(special.entr(q).sum().exp()) / k)
