"""Class priors of a domain without labels."""

from __future__ import annotations

import numpy as np

from .probe import Features, Labels


def bbse(y: Labels, predicted: Labels, target_predicted: Labels, num_classes: int) -> Features:
    """Black box shift estimation: the target's class priors from a classifier's confusions.

    Solves C w = μ for the ratios w of target to source priors, C_ij = P_s(ŷ = i, y = j), μ_i = P_t(ŷ = i). Right if
    only the priors differ, p_s(x | y) = p_t(x | y), and C is invertible. The paper inverts C and cuts negative
    ratios off; this is the least-squares solution with w ≥ 0, the same where the inverse is not negative.

    Lipton et al., Detecting and Correcting for Label Shift with Black Box Predictors, ICML 2018,
    https://arxiv.org/abs/1802.03916

    Args:
        y: (N,) source labels. predicted: (N,) for the same rows, by a classifier that has not seen them.
        target_predicted: (M,). num_classes: K.

    Returns:
        (K,) priors, summing to 1; 0 for classes without a source row.
    """
    from scipy.optimize import nnls

    confusion = np.zeros((num_classes, num_classes))
    np.add.at(confusion, (predicted, y), 1 / len(y))
    seen = np.bincount(target_predicted, minlength=num_classes) / len(target_predicted)
    ratios, _ = nnls(confusion, seen)
    priors = ratios * priors_of(y, num_classes)
    return priors / priors.sum() if priors.sum() > 0 else priors_of(y, num_classes)


def priors_of(y: Labels, num_classes: int) -> Features:
    """(K,) shares of the classes."""
    return np.bincount(y, minlength=num_classes) / len(y)


def total_variation(p: Features, q: Features) -> float:
    """½ Σ |p − q| of two distributions: from 0 (equal) to 1 (disjoint)."""
    return float(np.abs(p - q).sum() / 2)
