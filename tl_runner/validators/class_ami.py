from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from functools import cache

import torch
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_mutual_info_score
from threadpoolctl import ThreadpoolController
from torch.nn import functional as F

from ..types import Collected, Count
from .base import spread


class ClassAMI:
    """Adjusted mutual information of the target's predicted classes and k-means clusters of its features.

    Musgrave et al., Benchmarking Validation Methods for Unsupervised Domain Adaptation, 2022,
    https://arxiv.org/abs/2208.07360: features of length 1, as many clusters as classes. At most 1, and 0 if
    one class is predicted throughout or if the two are independent.

    Args:
        rows: at most so many of the target, evenly spaced (but 10 for each class at least). Exact for
            N ≤ rows.
    """

    def __init__(self, rows: Count = 2048) -> None:
        self.rows = rows

    def __call__(self, collected: Mapping[str, Collected]) -> float:
        target = collected["target"]
        k = target.logits.shape[1]
        rows = spread(len(target.row), max(self.rows, 10 * k)).to(target.row.device)
        predicted = target.logits[rows].argmax(1).cpu().numpy()
        if (predicted == predicted[0]).all():
            return 0.0
        features = F.normalize(target.features[rows].float(), dim=1)
        if not bool(torch.isfinite(features).all()):
            return math.nan
        x = features.cpu().numpy()
        # Threads add up their shares in the order in which they finish: one gives the same clusters always.
        with warnings.catch_warnings(), _threads().limit(limits=1):
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
            # Distances that scikit-learn takes in float64 in any case: in a third of the time if it need not convert.
            start, _ = kmeans_plusplus(x.astype(float), min(k, len(x)), random_state=0, n_local_trials=1)
            clusters = KMeans(len(start), init=start.astype(x.dtype), n_init=1, max_iter=20).fit_predict(x)
        return float(adjusted_mutual_info_score(predicted, clusters))


@cache
def _threads() -> ThreadpoolController:
    """Looking for the libraries' threads takes longer than the clustering of small sets."""
    return ThreadpoolController()
