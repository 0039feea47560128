"""How well features, or a classifier's predictions, suit a labelled task, without training on it."""

from __future__ import annotations

import numpy as np

from .probe import Features, Labels


def logme(features: Features, y: Labels) -> float:
    """Log of the maximum evidence per row: of a Bayesian linear model of the labels, mean over classes.

    For each class the indicator t ∈ {0, 1}^N is N(F w, β⁻¹ I) with w ~ N(0, α⁻¹ I); α and β are those that
    maximise the evidence p(t | F), found by MacKay's fixed point. The score is mean_k log p(t_k | F) / N.

    You et al., LogME: Practical Assessment of Pre-trained Models for Transfer Learning, ICML 2021,
    https://arxiv.org/abs/2102.11005

    Args:
        features: (N, D). y: (N,); classes without a row are left out.

    Returns:
        Any number; higher is better. Unchanged by a rotation or a scale of the features.

    Raises:
        ValueError: for a single class.
    """
    y = _dense(y)
    u, s, _ = np.linalg.svd(features.astype(np.float64), full_matrices=False)
    n, squares = len(u), s[:, None] ** 2
    truth = np.eye(y.max() + 1)[y]
    inside = (u.T @ truth) ** 2  # (r, K): of each indicator along each left singular vector
    outside = np.clip(truth.sum(0) - inside.sum(0), 0, None)
    alpha, beta = np.ones(truth.shape[1]), np.ones(truth.shape[1])
    tiny = np.finfo(np.float64).eps
    for _ in range(200):
        scale = alpha + beta * squares
        gamma = (beta * squares / scale).sum(0)
        weights = (beta**2 * squares * inside / scale**2).sum(0)
        residual = outside + (alpha**2 * inside / scale**2).sum(0)
        before = alpha / beta
        alpha = gamma / np.maximum(weights, tiny)
        beta = (n - gamma).clip(tiny) / np.maximum(residual, tiny)
        if np.all(np.abs(alpha / beta / before - 1) < 1e-4):
            break
    scale = alpha + beta * squares
    weights = (beta**2 * squares * inside / scale**2).sum(0)
    residual = outside + (alpha**2 * inside / scale**2).sum(0)
    evidence = (
        n * np.log(beta / (2 * np.pi)) + np.log(alpha / scale).sum(0) - beta * residual - alpha * weights
    ) / 2
    return float(evidence.mean() / n)


def h_score(features: Features, y: Labels, shrink: bool = True) -> float:
    """Variance of the class means, in units of the features' covariance: tr(cov(f)⁻¹ cov(E[f | y])).

    Bao et al., An Information-Theoretic Approach to Transferability in Task Transfer Learning, ICIP 2019,
    https://ieeexplore.ieee.org/document/8803726. With N near D or below, cov(f) cannot be inverted and the
    score says nothing; `shrink` replaces cov(f) by its Ledoit-Wolf estimate with shrinkage a, and the other
    factor by (1 − a) cov(E[f | y]), as in Ibrahim et al., Newer is not always better, 2021,
    https://arxiv.org/abs/2110.06893.

    Args:
        features: (N, D). y: (N,). shrink: False takes the pseudo-inverse of the plain covariance.

    Returns:
        From 0 to min(K − 1, D); higher is better. Unchanged by a rotation or a scale of the features.

    Raises:
        ValueError: for a single class.
    """
    from sklearn.covariance import ledoit_wolf

    y = _dense(y)
    f = features.astype(np.float64)
    f = f - f.mean(0)
    share = np.bincount(y) / len(y)
    # (D, K): class means, each as heavy as its class.
    means = np.stack([f[y == k].mean(0) * np.sqrt(share[k]) for k in range(len(share))], 1)
    if not shrink:
        return float((means * (np.linalg.pinv(f.T @ f / len(f), hermitian=True) @ means)).sum())
    covariance, shrinkage = ledoit_wolf(f, assume_centered=True)
    if not covariance.any():
        return 0.0
    return float((1 - shrinkage) * (means * np.linalg.solve(covariance, means)).sum())


def leep(probabilities: Features, y: Labels) -> float:
    """Log expected empirical prediction: mean log-likelihood of the labels, guessed from a classifier's outputs.

    mean_i log Σ_z p(y_i | z) θ(x_i)_z, with p(y, z) = 1/N Σ_{i: y_i = y} θ(x_i)_z; z are the classes of the
    task that the classifier θ was trained on, which need not be those of y.

    Nguyen et al., LEEP: A New Measure to Evaluate Transferability of Learned Representations, ICML 2020,
    https://arxiv.org/abs/2002.12462

    Args:
        probabilities: (N, Z), rows summing to 1. y: (N,).

    Returns:
        At most 0; higher is better.
    """
    p = probabilities.astype(np.float64)
    joint = np.eye(int(y.max()) + 1)[y].T @ p / len(y)
    given = joint / np.maximum(joint.sum(0), np.finfo(np.float64).tiny)
    return float(np.log((given[y] * p).sum(1)).mean())


def nce(z: Labels, y: Labels) -> float:
    """Negative conditional entropy −H(Y | Z) of the labels given another labelling of the same rows, in nats.

    Σ p(y, z) log p(y | z). With z a classifier's predictions it is LEEP of its hard decisions.

    Tran et al., Transferability and Hardness of Supervised Classification Tasks, ICCV 2019,
    https://arxiv.org/abs/1908.08142

    Args:
        z: (N,). y: (N,).

    Returns:
        From −log K to 0; higher is better.
    """
    return leep(np.eye(int(z.max()) + 1)[z], y)


def _dense(y: Labels) -> Labels:
    """Class numbers 0 .. K − 1, of those that occur."""
    found, dense = np.unique(y, return_inverse=True)
    if len(found) < 2:
        raise ValueError("needs at least two classes")
    return dense
