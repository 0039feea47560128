"""Distances between two domains' features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .precision import full_precision, paired

Estimator = Literal["unbiased", "biased", "linear"]


@full_precision
def mmd(
    source: Tensor,
    target: Tensor,
    alphas: Sequence[float] = (0.125, 0.25, 0.5, 1.0, 2.0),
    estimator: Estimator = "unbiased",
) -> Tensor:
    """Squared maximum mean discrepancy with a sum of Gaussian kernels.

    k(x, y) = Σ_α exp(−‖x − y‖² / (2 α m)), with m the mean squared distance over all pairs of the joint
    batch (no gradient through m).

        biased    mean k(s, s') + mean k(t, t') − 2 mean k(s, t)            ≥ 0, exactly 0 for s = t
        unbiased  the same without the pairs of a row with itself           may be negative
        linear    mean over i of k(s_i, s_i+1) + k(t_i, t_i+1) − k(s_i, t_i+1) − k(s_i+1, t_i)

    Gretton et al., A Kernel Two-Sample Test, JMLR 2012, https://jmlr.org/papers/v13/gretton12a.html;
    the linear form as in Long et al., ICML 2015, https://arxiv.org/abs/1502.02791, with neighbours taken
    circularly, as the code behind the published numbers does.

    Args:
        source: (N, D) features. target: (M, D) features. N and M at least 2.
        alphas: bandwidth factors.
        estimator: `linear` uses the first min(N, M) rows of each.

    Returns:
        Scalar, at most 2·len(alphas).

    Raises:
        ValueError: if the shapes do not fit or a batch has fewer than 2 rows.

    >>> x = torch.arange(6.0).reshape(3, 2)
    >>> round(mmd(x, x, estimator="biased").item(), 6)
    0.0
    """
    paired(source, target, least=2)
    if estimator == "linear":
        n = min(len(source), len(target))
        source, target = source[:n], target[:n]
    n, m = len(source), len(target)
    joint = torch.cat([source, target])
    # Distances do not see a common offset; rounding does.
    joint = joint - joint.detach().mean(0)
    norms = joint.square().sum(1)
    # (x − y)² expanded: one matrix product instead of an (N+M, N+M, D) tensor.
    squared = (norms[:, None] + norms[None, :] - 2 * joint @ joint.T).clamp_min(0)
    squared = squared * (1 - torch.eye(n + m, dtype=squared.dtype, device=squared.device))
    bandwidth = squared.detach().mean().clamp_min(torch.finfo(squared.dtype).tiny ** 0.5)
    kernel = torch.stack([torch.exp(-squared / (2 * alpha * bandwidth)) for alpha in alphas]).sum(0)
    ss, tt, st = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
    if estimator == "linear":
        i = torch.arange(n, device=joint.device)
        j = (i + 1) % n
        return (ss[i, j] + tt[i, j] - st[i, j] - st[j, i]).mean()
    if estimator == "biased":
        return ss.mean() + tt.mean() - 2 * st.mean()
    within_s = (ss.sum() - ss.diagonal().sum()) / (n * (n - 1))
    within_t = (tt.sum() - tt.diagonal().sum()) / (m * (m - 1))
    return within_s + within_t - 2 * st.mean()


@full_precision
def coral(source: Tensor, target: Tensor) -> Tensor:
    """Distance between the second-order statistics: ‖C_s − C_t‖²_F / (4 D²), C with N − 1.

    Sun & Saenko, Deep CORAL, ECCV workshops 2016, https://arxiv.org/abs/1607.01719

    Args:
        source: (N, D) features. target: (M, D) features. N and M at least 2.

    Returns:
        Scalar ≥ 0; 0 for equal covariances, whatever the means.

    Raises:
        ValueError: if the shapes do not fit or a batch has fewer than 2 rows.

    >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]])
    >>> coral(x, x + 7).item() < 1e-6
    True
    """
    paired(source, target, least=2)

    def covariance(x: Tensor) -> Tensor:
        x = x - x.mean(0)
        return x.T @ x / (len(x) - 1)

    d = source.shape[1]
    return (covariance(source) - covariance(target)).square().sum() / (4 * d * d)
