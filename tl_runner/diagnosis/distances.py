"""All distances between two sets of rows, with bootstrap intervals."""

from __future__ import annotations

import numpy as np
import torch

from ..distances import a_distance, symmetric_kl
from ..distances.a_distance import Errors
from ..distances.wasserstein import project, projected_wasserstein
from ..losses.alignment import Kernel
from ..probe import Features, Labels
from .estimate import Estimate, Statistic, half_width, of_errors


def distances(
    source: Features,
    target: Features,
    errors: tuple[Errors, Errors],
    basis: Features,
    repeats: int,
    seed: int,
) -> dict[str, Estimate]:
    """Proxy A-distance, MMD², sliced Wasserstein, symmetric KL and CORAL.

    Args:
        source, target: (N, D) and (M, D). errors: of a classifier of the domains, on these or more rows.
        basis: (D, d) the axes that symmetric KL looks along.
        repeats: bootstrap resamples. seed: of their draws.
    """
    s_low, t_low = source @ basis, target @ basis
    statistics: dict[str, tuple[Statistic, float]] = {
        "mmd": (mmd_of_rows(source, target), -np.inf),
        "sliced_wasserstein": (sliced_wasserstein_of_rows(source, target), 0.0),
        "symmetric_kl": (lambda i, j: symmetric_kl(s_low[i], t_low[j]), 0.0),
        "coral": (coral_of_rows(source, target), 0.0),
    }
    found = {"a_distance": of_errors(a_distance, *errors, repeats, seed, most=2.0)}
    for name, (statistic, least) in statistics.items():
        value = statistic(np.arange(len(source)), np.arange(len(target)))
        half = half_width(statistic, len(source), len(target), repeats, seed)
        found[name] = Estimate.around(value, half, least)
    return found


# What does not change between resamples is computed once: kernels, inner products, projections.


def mmd_of_rows(source: Features, target: Features) -> Statistic:
    """The loss `mmd`, unbiased, of some rows of each."""
    kernel = Kernel.gaussian(torch.from_numpy(source), torch.from_numpy(target), (0.125, 0.25, 0.5, 1.0, 2.0))

    def of(i: Labels, j: Labels) -> float:
        rows = torch.from_numpy(np.concatenate([i, len(source) + j]))
        return Kernel(kernel.values[rows][:, rows], len(i)).discrepancy("unbiased").item()

    return of


def coral_of_rows(source: Features, target: Features) -> Statistic:
    """The loss `coral` of some rows of each, from inner products of rows: ‖Xᵀ X‖ = ‖X Xᵀ‖."""
    s, t = source.astype(np.float64), target.astype(np.float64)
    middle = (s.mean(0) + t.mean(0)) / 2
    s, t = s - middle, t - middle
    ss, tt, st = s @ s.T, t @ t.T, s @ t.T

    def squared(products: Features) -> float:
        centred = products - products.mean(0) - products.mean(1, keepdims=True) + products.mean()
        return float(np.square(centred).sum())

    def of(i: Labels, j: Labels) -> float:
        n, m = len(i) - 1, len(j) - 1
        within = squared(ss[np.ix_(i, i)]) / n**2 + squared(tt[np.ix_(j, j)]) / m**2
        between = squared(st[np.ix_(i, j)]) / (n * m)
        return max(0.0, within - 2 * between) / float(4 * s.shape[1] ** 2)

    return of


def sliced_wasserstein_of_rows(source: Features, target: Features) -> Statistic:
    """The distance `sliced_wasserstein` of some rows of each."""
    s, t = project(source), project(target)
    return lambda i, j: projected_wasserstein(s[i], t[j])
