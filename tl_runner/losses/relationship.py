"""Which classes of one task are which of another."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .precision import full_precision

Array = npt.NDArray[np.float64]


@full_precision
def category_relationship(
    logits: Tensor, labels: Tensor, classes: int, approach: Literal["reverse", "direct"] = "reverse"
) -> Tensor:
    """p(earlier class | class), from an earlier classifier's predictions on labelled samples.

    You et al., Co-Tuning for Transfer Learning, NeurIPS 2020,
    https://proceedings.neurips.cc/paper/2020/hash/c8067ad1937f728f51288b3eb986afaa-Abstract.html. `direct`
    averages the predictions of each class. `reverse` learns p(class | earlier class) by a logistic regression
    without intercept on the predictions, calibrates it by a temperature, and inverts it by Bayes' rule with
    the mean prediction as prior; as in the authors' code, rows are normalised. Its strength of regularisation,
    by accuracy, and its temperature, by likelihood, come from cross-validation, where the authors hold out
    samples; with a class of a single sample, both are 1.

    Args:
        logits: (N, S), calibrated. labels: (N,) in 0 .. C − 1. classes: C.

    Returns:
        (C, S), each row of sum 1; uniform for a class without samples.

    >>> z = 9 * torch.eye(3)[[0, 0, 0, 2, 2, 2]]
    >>> category_relationship(z, torch.tensor([0, 0, 0, 1, 1, 1]), 2, "direct").round(decimals=2)
    tensor([[1., 0., 0.],
            [0., 0., 1.]])
    """
    p = torch.softmax(logits.detach().double(), 1).cpu().numpy()
    present, y = np.unique(labels.cpu().numpy(), return_inverse=True)
    found = np.full((classes, p.shape[1]), 1 / p.shape[1])
    found[present] = _direct(p, y) if approach == "direct" or len(present) == 1 else _reverse(p, y)
    return torch.from_numpy(found).to(logits)


def _direct(p: Array, y: npt.NDArray[np.int64]) -> Array:
    return np.stack([p[y == k].mean(0) for k in range(y.max() + 1)])


def _reverse(p: Array, y: npt.NDArray[np.int64]) -> Array:
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax, softmax
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    def regression(c: float) -> Any:
        return LogisticRegression(C=c, fit_intercept=False, max_iter=1000)

    def scores(fitted: Any) -> Array:
        """Of each class, for two as for more."""
        weights: Array = fitted.coef_
        return weights if len(weights) > 1 else np.concatenate([-weights, weights]) / 2

    strength, scale = 1.0, 1.0
    folds = min(5, int(np.bincount(y).min()))
    if folds > 1:
        held: dict[float, Array] = {}
        for c in 10.0 ** np.arange(4, -5, -1):  # The largest of those that do equally well.
            z = cross_val_predict(regression(c), p, y, cv=StratifiedKFold(folds), method="decision_function")
            held[float(c)] = z if z.ndim == 2 else np.stack([-z, z], 1) / 2
        strength = max(held, key=lambda c: float((held[c].argmax(1) == y).mean()))

        def surprise(log_scale: float) -> float:
            log_p = log_softmax(np.exp(log_scale) * held[strength], axis=1)
            return float(-log_p[np.arange(len(y)), y].mean())

        scale = float(np.exp(minimize_scalar(surprise, bounds=(-5, 5), method="bounded").x))
    joint = softmax(scale * scores(regression(strength).fit(p, y)), axis=0) * p.mean(0)
    result: Array = joint / joint.sum(1, keepdims=True)
    return result
