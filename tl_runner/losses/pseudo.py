"""Labels that a model gives itself, and learning from them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import full_precision


@full_precision
def pseudo_label(logits: Tensor, reference: Tensor, confidence: float = 0.95) -> Tensor:
    """Cross-entropy with the reference's confident labels: mean over all rows of 1[max q ≥ c] · −log p_ŷ.

    p = softmax(logits), q = softmax(reference), ŷ = argmax q, no gradient through q. The unlabelled loss of
    FixMatch, Sohn et al., NeurIPS 2020, equation 4, https://arxiv.org/abs/2001.07685

    Args:
        logits, reference: (N, K). confidence: c; 0 keeps all rows.

    Returns:
        Scalar ≥ 0; 0 if no row is confident.

    >>> sure, unsure = torch.tensor([[99.0, 0.0]]), torch.zeros(1, 2)
    >>> round(pseudo_label(unsure, sure).item(), 4), pseudo_label(unsure, unsure).item()
    (0.6931, 0.0)
    """
    q, labels = F.softmax(reference.detach(), dim=1).max(1)
    return (F.cross_entropy(logits, labels, reduction="none") * (q >= confidence)).mean()


@full_precision
def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Σ_i w_i · −log p_i,y_i / Σ_i w_i, without gradient through w; 0 if all weights are 0.

    As in the code of ATDOC, Liang et al., CVPR 2021, https://arxiv.org/abs/2007.04171

    Args:
        logits: (N, K). labels: (N,) int64, below 0 where the row shall not count. weights: (N,) ≥ 0.

    >>> weighted_cross_entropy(torch.zeros(2, 2), torch.tensor([0, -1]), torch.ones(2)).item()
    0.6931...
    """
    w = weights.detach().to(logits.dtype) * (labels >= 0)
    each = F.cross_entropy(logits, labels.clamp_min(0), reduction="none")
    # Divided first: sums of tiny weights would lose their ratio.
    w = w / w.sum().clamp_min(torch.finfo(w.dtype).tiny)
    return (w * each).sum()


@full_precision
def balanced_sharpening(logits: Tensor) -> Tensor:
    """Sharper predictions, in which classes count alike: s_ik = p_ik² / Σ_j p_jk², p = softmax(logits).

    Liang et al., CVPR 2021, https://arxiv.org/abs/2007.04171. As in the authors' code, the sum
    runs over the rows given and rows do not sum to 1.

    Args:
        logits: (N, K) of one batch.

    Returns:
        (N, K); each column sums to 1.

    >>> balanced_sharpening(torch.tensor([[99.0, 0.0], [99.0, 0.0], [0.0, 99.0]]))
    tensor([[0.5000, 0.0000],
            [0.5000, 0.0000],
            [0.0000, 1.0000]])
    """
    # In logarithms: the square of an improbable class would underflow, and with it its column's sum.
    return F.softmax(2 * F.log_softmax(logits, dim=1), dim=0)


@full_precision
def nearest_rows(features: Tensor, row: Tensor, bank: Tensor, count: int) -> Tensor:
    """Which rows of a bank are most similar to each of some, by the cosine, themselves left out.

    Args:
        features: (..., D). row: (...) int64, which row of the bank each of them is.
        bank: (M, D) features of unit length. count: at most M − 1 are found.

    Returns:
        (..., count) int64, the most similar first.

    Raises:
        ValueError: if the bank has fewer than 2 rows.

    >>> bank = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> nearest_rows(bank[:1], torch.tensor([0]), bank, 2)
    tensor([[1, 2]])
    """
    if len(bank) < 2:
        raise ValueError(f"neighbours need a bank of at least 2 rows, this one has {len(bank)}")
    similarity = (features @ bank.to(features.dtype).T).scatter(-1, row[..., None], -torch.inf)
    return similarity.topk(min(count, len(bank) - 1), dim=-1).indices


@full_precision
def neighbour_labels(
    features: Tensor, row: Tensor, bank: Tensor, labels: Tensor, neighbours: int = 5
) -> Tensor:
    """Soft labels of each row: the mean of those of its nearest rows in a bank, itself left out.

    Nearest by cosine similarity. Liang et al., CVPR 2021, https://arxiv.org/abs/2007.04171

    Args:
        features: (N, D). row: (N,) int64, which row of the bank each of them is.
        bank: (M, D) features of unit length. labels: (M, K). neighbours: at most M − 1 are used.

    Returns:
        (N, K).

    Raises:
        ValueError: if the bank has fewer than 2 rows.

    >>> bank, labels = F.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])), torch.eye(3)
    >>> neighbour_labels(bank[:1], torch.tensor([0]), bank, labels, neighbours=1)
    tensor([[0., 1., 0.]])
    """
    return labels[nearest_rows(features, row, bank, neighbours)].mean(1)


@full_precision
def class_thresholds(logits: Tensor, portion: float) -> Tensor:
    """The confidence that a share of each predicted class reaches.

    Of the N_c rows predicted as class c, sorted by confidence, that of number max(1, ⌊portion · N_c⌋); 1 for
    a class that no row is predicted as. Zou et al., Unsupervised Domain Adaptation for Semantic Segmentation
    via Class-Balanced Self-Training, ECCV 2018, algorithm 2, https://arxiv.org/abs/1810.07911 (which calls
    −log of them k_c).

    Args:
        logits: (N, K). portion: share of each class, in (0, 1].

    Returns:
        (K,) in (0, 1].

    >>> class_thresholds(torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.1, 0.0]]), 0.5)
    tensor([0.7311, 1.0000])
    """
    confidence, predicted = F.softmax(logits, dim=1).max(1)
    # Sorted by class, and by falling confidence within each.
    falling = confidence.argsort(descending=True, stable=True)
    ordered = confidence[falling[predicted[falling].argsort(stable=True)]]
    counts = torch.bincount(predicted, minlength=logits.shape[1])
    last = (portion * counts).long().clamp_min(1) + counts.cumsum(0) - counts - 1
    return torch.where(counts > 0, ordered[last.clamp_max(len(ordered) - 1)], 1.0)


@full_precision
def balanced_labels(logits: Tensor, thresholds: Tensor) -> Tensor:
    """Labels of the rows that pass their class's threshold: argmax_c p_c / τ_c if that ratio is ≥ 1, else −1.

    Zou et al., ECCV 2018, https://arxiv.org/abs/1810.07911

    Args:
        logits: (N, K). thresholds: (K,) in (0, 1].

    Returns:
        (N,) int64.

    >>> balanced_labels(torch.tensor([[2.0, 0.0], [0.0, 0.1], [0.0, 2.0]]), torch.tensor([0.9, 0.6]))
    tensor([-1, -1,  1])
    """
    ratio, labels = (F.softmax(logits, dim=1) / thresholds).max(1)
    return torch.where(ratio >= 1, labels, -1)
