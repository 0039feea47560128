"""Contrast of labelled samples with a memory of others."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import full_precision


@full_precision
def categorical_contrast(
    queries: Tensor, keys: Tensor, bank: Tensor, labels: Tensor, temperature: float = 0.07
) -> Tensor:
    """A query is as similar to all keys of its own class, and dissimilar to those of others.

    KL(u ‖ p) where p is the softmax of cosines / T between a query and its own key and the whole bank, and
    u is uniform over the own key and the bank's K of the query's class. Both contrastive losses of Zhong et al.,
    Bi-tuning of Pre-trained Representations, 2020, https://arxiv.org/abs/2011.06182: queries are projections
    of samples and keys those of their other views, or queries are the classifier's weights of the samples'
    classes and keys the samples' features.

    Args:
        queries, keys: (N, D) of unit length. bank: (C, K, D) of unit length: K keys of each class.
        labels: (N,) int64. temperature: T.

    Returns:
        Scalar ≥ 0, mean over rows.

    >>> bank = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]])
    >>> same = torch.tensor([[1.0, 0.0]])
    >>> categorical_contrast(same, same, bank, torch.tensor([0])).item() < 1e-6
    True
    >>> round(categorical_contrast(same, same, bank, torch.tensor([1])).item(), 2)  # 1 / 0.07
    14.29
    """
    classes, size, width = bank.shape
    own = (queries * keys).sum(1, keepdim=True)
    others = queries @ bank.view(classes * size, width).T
    log_p = F.log_softmax(torch.cat([own, others], 1) / temperature, dim=1)
    of_class = log_p[:, 1:].view(-1, classes, size)[torch.arange(len(labels), device=labels.device), labels]
    return -(log_p[:, 0] + of_class.sum(1)).mean() / (size + 1) - math.log(size + 1)
