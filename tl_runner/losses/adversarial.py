"""What a domain discriminator minimises."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import full_precision


@full_precision
def domain_adversarial(
    scores: Tensor, num_source: int, weights: Tensor | None = None, through_weights: bool = False
) -> Tensor:
    """Binary cross-entropy of domain scores, source = 1, target = 0, both domains counting one half.

    ½ Σ_i w_i log(1 + e^−s_i) / Σ w_i over the source rows + ½ Σ_i w_i log(1 + e^s_i) / Σ w_i over the target's

    Ganin et al., JMLR 2016, https://arxiv.org/abs/1505.07818; weights as in CDAN+E, Long et al.,
    NeurIPS 2018, https://arxiv.org/abs/1705.10667.

    Args:
        scores: (N + M,) or (N + M, 1) logits, the N source rows first.
        num_source: N, with 0 < N < N + M.
        weights: (N + M,) non-negative row weights; None: all equal. A domain whose weights sum to 0 adds 0.
        through_weights: let a gradient flow through w_i, never through Σ w, as the code of CDAN and GVB does.

    Returns:
        Scalar ≥ 0; ln 2 for undecided scores.

    Raises:
        ValueError: if one domain has no rows.

    >>> round(domain_adversarial(torch.zeros(4), 2).item(), 4)
    0.6931
    """
    scores = scores.flatten()
    if not 0 < num_source < len(scores):
        raise ValueError(f"needs rows of both domains: {num_source} of {len(scores)} are source rows")
    truth = (torch.arange(len(scores), device=scores.device) < num_source).to(scores.dtype)
    each = F.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    w = torch.ones_like(each) if weights is None else weights.to(each.dtype)
    w = w if through_weights else w.detach()

    def mean(rows: slice) -> Tensor:
        total = w[rows].detach().sum()
        # Where all weights are 0, so is the sum above: divided by anything it stays 0.
        return (w[rows] * each[rows]).sum() / total.where(total > 0, torch.ones_like(total))

    return 0.5 * (mean(slice(None, num_source)) + mean(slice(num_source, None)))
