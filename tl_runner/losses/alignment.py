"""Distances between two domains' features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import full_precision, paired

Estimator = Literal["unbiased", "biased", "linear"]


class Kernel:
    """Kernel values of all pairs of rows of a joint batch. `k * l` is the product of two kernels.

    Args:
        values: (N + M, N + M), the N source rows first.
        num_source: N.
    """

    def __init__(self, values: Tensor, num_source: int) -> None:
        self.values, self.num_source = values, num_source

    @staticmethod
    def squared_distances(source: Tensor, target: Tensor) -> Tensor:
        """(N + M, N + M) between all rows of both; exactly 0 on the diagonal."""
        joint = torch.cat([source, target])
        # Distances do not see a common offset; rounding does.
        joint = joint - joint.detach().mean(0)
        norms = joint.square().sum(1)
        # (x − y)² expanded: one matrix product instead of an (N+M, N+M, D) tensor.
        squared = (norms[:, None] + norms[None, :] - 2 * joint @ joint.T).clamp_min(0)
        return squared * (1 - torch.eye(len(joint), dtype=squared.dtype, device=squared.device))

    @classmethod
    def gaussian(cls, source: Tensor, target: Tensor, alphas: Sequence[float]) -> Kernel:
        """Σ_α exp(−‖x − y‖² / (2 α m)), m the mean squared distance (no gradient through m)."""
        squared = cls.squared_distances(source, target)
        mean = squared.detach().mean().clamp_min(torch.finfo(squared.dtype).tiny ** 0.5)
        each = [torch.exp(-squared / (2 * alpha * mean)) for alpha in alphas]
        return cls(torch.stack(each).sum(0), len(source))

    @classmethod
    def fixed_gaussian(cls, source: Tensor, target: Tensor, sigma: float) -> Kernel:
        """exp(−‖x − y‖² / (2 σ²))."""
        squared = cls.squared_distances(source, target)
        return cls(torch.exp(-squared / (2 * sigma**2)), len(source))

    def __mul__(self, other: Kernel) -> Kernel:
        return Kernel(self.values * other.values, self.num_source)

    def blocks(self) -> tuple[Tensor, Tensor, Tensor]:
        """Source with source, target with target, source with target."""
        k, n = self.values, self.num_source
        return k[:n, :n], k[n:, n:], k[:n, n:]

    def discrepancy(self, estimator: Estimator) -> Tensor:
        """The squared maximum mean discrepancy; `linear` needs N = M."""
        ss, tt, st = self.blocks()
        n, m = st.shape
        if estimator == "linear":
            i = torch.arange(n, device=st.device)
            j = (i + 1) % n
            return (ss[i, j] + tt[i, j] - st[i, j] - st[j, i]).mean()
        if estimator == "biased":
            return ss.mean() + tt.mean() - 2 * st.mean()
        within_s = (ss.sum() - ss.diagonal().sum()) / (n * (n - 1))
        within_t = (tt.sum() - tt.diagonal().sum()) / (m * (m - 1))
        return within_s + within_t - 2 * st.mean()


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
    return Kernel.gaussian(source, target, alphas).discrepancy(estimator)


@full_precision
def joint_mmd(
    source: Tensor,
    target: Tensor,
    source_logits: Tensor,
    target_logits: Tensor,
    alphas: Sequence[float] = (0.125, 0.25, 0.5, 1.0, 2.0),
    sigma: float = 0.92,
    estimator: Estimator = "unbiased",
) -> Tensor:
    """Joint maximum mean discrepancy of features and predictions: MMD² with the product of two kernels.

    k((f, p), (f', p')) = Σ_α exp(−‖f − f'‖² / (2 α m)) · exp(−‖p − p'‖² / (2 σ²)), p = softmax(z), and m and
    the estimators as in `mmd`.

    Long et al., Deep Transfer Learning with Joint Adaptation Networks, ICML 2017,
    https://arxiv.org/abs/1605.06636. The paper states the linear estimator; σ is that of its code.

    Args:
        source: (N, D) features. target: (M, D) features. N and M at least 2.
        source_logits: (N, K). target_logits: (M, K).
        alphas: bandwidth factors of the features' kernels.
        sigma: bandwidth of the predictions' kernel.
        estimator: `linear` uses the first min(N, M) rows of each.

    Returns:
        Scalar, at most 2·len(alphas). One class (K = 1): `mmd` of the features.

    Raises:
        ValueError: if the shapes do not fit or a batch has fewer than 2 rows.

    >>> x, z = torch.arange(6.0).reshape(3, 2), torch.eye(3)
    >>> round(joint_mmd(x, x, z, z, estimator="biased").item(), 6)
    0.0
    """
    paired(source, target, least=2)
    paired(source_logits, target_logits, least=2)
    n, m = len(source), len(target)
    if (len(source_logits), len(target_logits)) != (n, m):
        raise ValueError(f"{n} and {m} features, but {len(source_logits)} and {len(target_logits)} logits")
    if estimator == "linear":
        n = m = min(n, m)
    p_s, p_t = F.softmax(source_logits[:n], dim=1), F.softmax(target_logits[:m], dim=1)
    of_features = Kernel.gaussian(source[:n], target[:m], alphas)
    return (of_features * Kernel.fixed_gaussian(p_s, p_t, sigma)).discrepancy(estimator)


@full_precision
def local_mmd(
    source: Tensor,
    target: Tensor,
    y: Tensor,
    target_logits: Tensor,
    alphas: Sequence[float] = (0.125, 0.25, 0.5, 1.0, 2.0),
    predicted_only: bool = True,
) -> Tensor:
    """MMD² within each class, mean over classes, target rows counting by their predicted probabilities.

    1/|C| Σ_c ‖Σ_i s_ic φ(f_i) − Σ_j t_jc φ(f_j)‖², with φ the feature map of the kernel of `mmd`,
    s_ic = [y_i = c] / #{i: y_i = c} and t_jc = p_jc / Σ_j p_jc, p = softmax(z). No gradient through p.

    Zhu et al., Deep Subdomain Adaptation Network for Image Classification, TNNLS 2020,
    https://arxiv.org/abs/2106.09388. The paper sums over all classes; the authors' code over those that the
    source batch contains and that some target row is predicted as.

    Args:
        source: (N, D) features. target: (M, D) features.
        y: (N,) source labels. target_logits: (M, K).
        alphas: bandwidth factors.
        predicted_only: C as in the code; False: all classes of the source batch (no others have a mean).

    Returns:
        Scalar in [0, 2·len(alphas)]; 0 if C is empty.

    Raises:
        ValueError: if the shapes do not fit.

    >>> x, y = torch.arange(6.0).reshape(3, 2), torch.arange(3)
    >>> round(local_mmd(x, x, y, 100 * torch.eye(3)).item(), 6)
    0.0
    """
    paired(source, target, least=1)
    if (len(y), len(target_logits)) != (len(source), len(target)):
        raise ValueError(
            f"{len(source)} and {len(target)} features, but {len(y)} labels and {len(target_logits)} logits"
        )
    k, p = target_logits.shape[1], F.softmax(target_logits.detach(), dim=1)
    tiny = torch.finfo(p.dtype).tiny
    truth = F.one_hot(y, k).to(p.dtype)
    w_s = truth / truth.sum(0).clamp_min(1)
    w_t = p / p.sum(0).clamp_min(tiny)
    counts = truth.amax(0)
    if predicted_only:
        counts = counts * F.one_hot(p.argmax(1), k).to(p.dtype).amax(0)
    share = counts / counts.sum().clamp_min(1)
    ss, tt, st = Kernel.gaussian(source, target, alphas).blocks()
    within_s = ((w_s * share) @ w_s.T * ss).sum()
    within_t = ((w_t * share) @ w_t.T * tt).sum()
    return within_s + within_t - 2 * ((w_s * share) @ w_t.T * st).sum()


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
