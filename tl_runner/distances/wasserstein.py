"""Transport between two domains, along random directions."""

from __future__ import annotations

from ..probe import Features


def sliced_wasserstein(source: Features, target: Features, projections: int = 100, seed: int = 0) -> float:
    """Root mean square, over random directions, of the 2-Wasserstein distance of the projected rows.

    (1/R Σ_r W₂²(S θ_r, T θ_r))^½, θ_r uniform on the unit sphere; a shift by δ alone gives ‖δ‖ / √D for R → ∞.
    Two samples of one distribution have a distance above 0, the smaller the more rows.

    Bonneel et al., Sliced and Radon Wasserstein Barycenters of Measures, JMIV 2015,
    https://doi.org/10.1007/s10851-014-0506-3

    Args:
        source: (N, D). target: (M, D).
        projections: R. seed: of the directions.

    Returns:
        At least 0, in the features' own unit.
    """
    return projected_wasserstein(project(source, projections, seed), project(target, projections, seed))


def project(x: Features, projections: int = 100, seed: int = 0) -> Features:
    """(N, R): the rows of `x` (N, D) along R random directions, the same for the same D and seed."""
    import ot  # Slow to import.

    found: Features = x @ ot.sliced.get_random_projections(x.shape[1], projections, seed).astype(x.dtype)
    return found


def projected_wasserstein(source: Features, target: Features) -> float:
    """The distance of rows that are projected already, (N, R) and (M, R). The transport is POT's."""
    import ot

    return float(ot.wasserstein_1d(source, target, p=2).mean() ** 0.5)
