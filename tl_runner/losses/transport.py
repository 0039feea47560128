"""Optimal transport between batches."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .alignment import Kernel
from .precision import full_precision, paired

Solver = Literal["exact", "sinkhorn"]
LabelCost = Literal["cross_entropy", "squared"]


@full_precision
def sliced_wasserstein(first: Tensor, second: Tensor, projections: int = 128) -> Tensor:
    """Squared 2-Wasserstein distance of two classifiers' predictions, mean over random directions.

    1/(R N) Σ_r ‖sort(P θ_r) − sort(Q θ_r)‖², P and Q the softmax of the logits, θ_r uniform on the unit
    sphere, drawn from torch's global generator. All classifiers agree for K = 1.

    Lee et al., Sliced Wasserstein Discrepancy, CVPR 2019, https://arxiv.org/abs/1903.04064, algorithm 1.

    Args:
        first, second: (N, K) logits. projections: R.

    Returns:
        Scalar in [0, 2]; about ‖P − Q‖² / (N K) if the order along most directions is the same.

    Raises:
        ValueError: if the shapes differ.

    >>> z = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    >>> sliced_wasserstein(z, z.flip(0)).item() < 1e-12
    True
    """
    if first.shape != second.shape:
        raise ValueError(
            f"needs equally many predictions, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    p, q = F.softmax(first, dim=1), F.softmax(second, dim=1)
    directions = torch.randn(p.shape[1], projections, dtype=p.dtype, device=p.device)
    directions = F.normalize(directions, dim=0)
    return ((p @ directions).sort(0).values - (q @ directions).sort(0).values).square().mean()


@full_precision
def transport_plan(cost: Tensor, solver: Solver = "exact", regularization: float = 0.05) -> Tensor:
    """(N, M) coupling of two uniform distributions of least cost; no gradient.

    Computed by POT, Flamary et al., JMLR 2021, https://jmlr.org/papers/v22/20-451.html.

    Args:
        cost: (N, M).
        solver: `exact` solves the linear programme in float64 on the CPU; `sinkhorn` the entropic one
            where `cost` is.
        regularization: of `sinkhorn`, as a share of the mean cost.

    Returns:
        Non-negative, rows summing to 1/N and columns to 1/M.

    >>> transport_plan(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    import ot  # Slow to import, and needed by those alone who transport.

    cost = cost.detach()
    n, m = cost.shape
    if solver == "exact":
        plan = ot.emd([], [], cost.double().cpu().numpy())
        return torch.from_numpy(plan).to(cost.device, cost.dtype)
    cost = cost - cost.amin()
    cost = cost / cost.mean().clamp_min(torch.finfo(cost.dtype).tiny)
    a, b = cost.new_full((n,), 1 / n), cost.new_full((m,), 1 / m)
    plan = ot.sinkhorn(a, b, cost, regularization, "sinkhorn_log", numItermax=200, stopThr=1e-6, warn=False)
    return plan  # type: ignore[no-any-return]


@full_precision
def deepjdot(
    source: Tensor,
    target: Tensor,
    y: Tensor,
    target_logits: Tensor,
    alpha: float = 0.01,
    label_weight: float = 1.0,
    solver: Solver = "exact",
    regularization: float = 0.05,
    label_cost: LabelCost = "squared",
) -> Tensor:
    """Cost of transporting source rows, features and labels, to target rows, features and predictions.

    Σ_ij γ_ij (α ‖s_i − t_j‖² + λ · −log p_j,y_i), p = softmax(z), γ the plan of least cost (no gradient
    through it).

    Damodaran et al., DeepJDOT, ECCV 2018, https://arxiv.org/abs/1803.10081, equation 6. In the paper γ minimises
    this very cost; in the authors' code one whose label term is λ ‖onehot(y_i) − p_j‖².

    Args:
        source: (N, D) features. target: (M, D) features.
        y: (N,) source labels. target_logits: (M, K).
        alpha: α. label_weight: λ.
        solver, regularization: see `transport_plan`.
        label_cost: of the plan: `squared` as in the code, `cross_entropy` as in the paper.

    Returns:
        Scalar ≥ 0.

    Raises:
        ValueError: if the shapes do not fit.

    >>> x, y = torch.arange(6.0).reshape(3, 2), torch.arange(3)
    >>> round(deepjdot(x, x.flip(0), y, 100 * torch.eye(3).flip(0)).item(), 4)
    0.0
    """
    paired(source, target, least=1)
    n, m = len(source), len(target)
    if (len(y), len(target_logits)) != (n, m):
        raise ValueError(f"{n} and {m} features, but {len(y)} labels and {len(target_logits)} logits")
    distance = Kernel.squared_distances(source, target)[:n, n:]
    log_p = F.log_softmax(target_logits, dim=1)
    labels = -log_p.T[y]
    cost = alpha * distance + label_weight * labels
    priced = cost.detach()
    if label_cost == "squared":
        p = log_p.detach().exp()
        # ‖onehot − p‖² = 1 − 2 p_y + ‖p‖²
        priced = alpha * distance.detach() + label_weight * (1 - 2 * p.T[y] + p.square().sum(1))
    return (transport_plan(priced, solver, regularization) * cost).sum()
