"""How much more likely a feature is on the target than on the source."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor

from .base import spread

_PENALTIES = (1e-3, 1e-2, 1e-1)


def density_ratio(source: Tensor, target: Tensor, at: Tensor) -> Tensor:
    """p_target(f) / p_source(f), by a classifier of domains: N_s/N_t · P(target | f) / P(source | f).

    Bickel et al., ICML 2007, https://doi.org/10.1145/1273496.1273507. The classifier is logistic regression
    on standardised features; of three penalties the one with the smallest loss on every fifth row is taken.
    (DEV's authors choose the weight decay of a perceptron in the same way, by accuracy.)

    Args:
        source, target: (N_s, D), (N_t, D), what the classifier learns from.
        at: (M, D), where the ratio is asked for.

    Returns:
        (M,) float64 on the CPU, positive; NaN throughout if a feature is not finite.
    """
    x = torch.cat([source, target]).double().cpu()
    if not bool(torch.isfinite(x).all()) or not bool(torch.isfinite(at).all()):
        return torch.full((len(at),), torch.nan, dtype=torch.float64)
    mean, scale = x.mean(0), x.std(0).clamp_min(1e-12)
    # Single precision halves the time, and the ratio is an estimate from thousands of rows at best.
    train = ((x - mean) / scale).float().numpy()
    asked = ((at.double().cpu() - mean) / scale).float().numpy()
    domain = np.r_[np.zeros(len(source)), np.ones(len(target))]
    held = np.arange(len(domain)) % 5 == 0
    best, least = _PENALTIES[0], np.inf
    if all(len(np.unique(domain[part])) == 2 for part in (held, ~held)):
        for penalty in _PENALTIES:
            p = _classifier(penalty, train[~held], domain[~held]).predict_proba(train[held])
            if (loss := log_loss(domain[held], p)) < least:
                best, least = penalty, loss
    logit = _classifier(best, train, domain).decision_function(asked)
    return torch.from_numpy(np.exp(logit.astype(np.float64))) * len(source) / len(target)


def _classifier(penalty: float, x: np.ndarray, domain: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=penalty, max_iter=200).fit(x, domain)


def features(of: Tensor, rows: int) -> Tensor:
    """At most `rows` of them, evenly spaced."""
    return of[spread(len(of), rows).to(of.device)]
