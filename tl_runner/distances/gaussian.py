"""The divergence of two domains as if each were a Gaussian."""

from __future__ import annotations

import numpy as np

from ..probe import Features


def symmetric_kl(source: Features, target: Features) -> float:
    """KL(S ‖ T) + KL(T ‖ S) of Gaussians fitted to the rows (Jeffreys divergence), in nats.

    ½ [tr(C_t⁻¹ C_s) + tr(C_s⁻¹ C_t) − 2 D + (μ_s − μ_t)ᵀ (C_s⁻¹ + C_t⁻¹) (μ_s − μ_t)]: the log-determinants
    cancel. Covariances are shrunk towards a multiple of the identity as much as there are rows too few for
    them (Ledoit & Wolf, 2004, https://doi.org/10.1016/S0047-259X(03)00096-4), so that N and M may be below D.

    Jeffreys, An invariant form for the prior probability in estimation problems, 1946,
    https://doi.org/10.1098/rspa.1946.0056

    Args:
        source: (N, D). target: (M, D). N and M at least 2.

    Returns:
        At least 0; 0 for equal means and covariances. Unchanged by a shift, rotation or scale of both.

    Raises:
        ValueError: for fewer rows, or for a domain whose rows are all the same.
    """
    from sklearn.covariance import ledoit_wolf

    if min(len(source), len(target)) < 2:
        raise ValueError(f"needs at least 2 rows of each domain, got {len(source)} and {len(target)}")
    s, t = source.astype(np.float64), target.astype(np.float64)
    if not (np.ptp(s, 0).any() and np.ptp(t, 0).any()):
        raise ValueError("the rows of a domain are all the same: they have no covariance")
    gap = s.mean(0) - t.mean(0)
    c_s, c_t = ledoit_wolf(s)[0], ledoit_wolf(t)[0]
    # A column of c_t and the gap at once: C_s⁻¹ [C_t, gap].
    from_s = np.linalg.solve(c_s, np.column_stack([c_t, gap]))
    from_t = np.linalg.solve(c_t, np.column_stack([c_s, gap]))
    traces = np.trace(from_s[:, :-1]) + np.trace(from_t[:, :-1]) - 2 * len(gap)
    return max(0.0, float(traces + gap @ (from_s[:, -1] + from_t[:, -1])) / 2)
