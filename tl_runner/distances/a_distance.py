"""How well a classifier tells two domains apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..probe import Features, equal_shares, out_of_fold

Errors = npt.NDArray[np.floating[Any]]


def proxy_a_distance(source: Features, target: Features, seed: int = 0) -> float:
    """2 (1 − 2 ε), ε the held-out error of a linear classifier of the domains.

    ε is the mean of both domains' errors, so that neither counts more for having more rows. The classifier is
    a logistic regression (`probe.fit`), cross-validated.

    Ben-David et al., Analysis of Representations for Domain Adaptation, NeurIPS 2006,
    https://papers.nips.cc/paper/2983-analysis-of-representations-for-domain-adaptation

    Args:
        source: (N, D). target: (M, D). N and M at least 2.
        seed: of the folds.

    Returns:
        From 0 (no better than chance) to 2 (never wrong).

    Raises:
        ValueError: for fewer rows.
    """
    return a_distance(*domain_errors(source, target, seed))


def a_distance(source_errors: Errors, target_errors: Errors) -> float:
    """The distance from each row's error, 0 or 1; (N,) and (M,). A classifier worse than chance counts as chance."""
    error = (source_errors.mean() + target_errors.mean()) / 2
    return max(0.0, float(2 * (1 - 2 * error)))


def domain_errors(source: Features, target: Features, seed: int = 0) -> tuple[Errors, Errors]:
    """(N,) and (M,): 1 where a classifier trained on other rows puts a row into the wrong domain, else 0."""
    n, m = len(source), len(target)
    if min(n, m) < 2:
        raise ValueError(f"needs at least 2 rows of each domain, got {n} and {m}")
    domain = np.repeat([0, 1], [n, m])
    found = out_of_fold(np.concatenate([source, target]), domain, 2, equal_shares(n, m), seed)
    wrong = (found.argmax(1) != domain).astype(float)
    return wrong[:n], wrong[n:]
