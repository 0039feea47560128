"""Two classifiers side by side, one per domain, as one classifier of 2K classes.

Zhang et al., Domain-Symmetric Networks for Adversarial Domain Adaptation, CVPR 2019,
https://arxiv.org/abs/1904.04663. Throughout, `logits` are (N, 2K): K of the source's classifier, then K of the
target's; p = softmax over all 2K.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .precision import full_precision


@full_precision
def symmetric_domain(source: Tensor, target: Tensor) -> Tensor:
    """Each domain's rows belong to its classifier: −mean_s log Σ_{k<K} p_k − mean_t log Σ_{k≥K} p_k.

    Zhang et al., CVPR 2019, https://arxiv.org/abs/1904.04663, equation 6.

    Args:
        source: (N, 2K) logits. target: (M, 2K) logits.

    Returns:
        Scalar ≥ 0; 2 ln 2 for undecided rows.

    >>> import torch
    >>> round(symmetric_domain(torch.zeros(1, 6), torch.zeros(2, 6)).item(), 4)
    1.3863
    """
    # (N, 2): log-probability of each half.
    s, t = (F.log_softmax(z.reshape(len(z), 2, -1).logsumexp(2), dim=1) for z in (source, target))
    return -s[:, 0].mean() - t[:, 1].mean()


@full_precision
def category_confusion(logits: Tensor, y: Tensor) -> Tensor:
    """Both classifiers claim a labelled row's class: −½ mean log p_y − ½ mean log p_{y+K}.

    Zhang et al., CVPR 2019, https://arxiv.org/abs/1904.04663, equation 7.

    Args:
        logits: (N, 2K). y: (N,) classes below K.

    Returns:
        Scalar ≥ ln 2.

    >>> import torch
    >>> round(category_confusion(torch.zeros(2, 6), torch.tensor([0, 2])).item(), 4)  # ln 6
    1.7918
    """
    return 0.5 * (F.cross_entropy(logits, y) + F.cross_entropy(logits, y + logits.shape[1] // 2))


@full_precision
def domain_confusion(logits: Tensor) -> Tensor:
    """Both classifiers claim an unlabelled row alike: −½ mean log Σ_{k<K} p_k − ½ mean log Σ_{k≥K} p_k.

    Zhang et al., CVPR 2019, https://arxiv.org/abs/1904.04663, equation 8.

    Args:
        logits: (N, 2K).

    Returns:
        Scalar ≥ ln 2, which undecided rows reach.

    >>> import torch
    >>> round(domain_confusion(torch.zeros(2, 6)).item(), 4)
    0.6931
    """
    return -F.log_softmax(logits.reshape(len(logits), 2, -1).logsumexp(2), dim=1).mean()


@full_precision
def merged_entropy(logits: Tensor) -> Tensor:
    """Entropy of what the two classifiers say together: −mean Σ_k q_k log q_k, q_k = p_k + p_{k+K}.

    Zhang et al., CVPR 2019, https://arxiv.org/abs/1904.04663, equation 9.

    Args:
        logits: (N, 2K).

    Returns:
        Scalar in [0, ln K].

    >>> import torch
    >>> round(merged_entropy(torch.zeros(1, 8)).item(), 4)  # ln 4
    1.3863
    """
    log_q = F.log_softmax(logits, dim=1).reshape(len(logits), 2, -1).logsumexp(1)
    return -(log_q.exp() * log_q).sum(1).mean()
