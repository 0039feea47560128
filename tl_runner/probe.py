"""Linear classifiers of fixed features, judged on rows that they were not trained on."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]

FOLDS = 5


def fit(x: Features, y: Labels, weight: Features | None = None) -> Any:
    """Logistic regression with an L2 penalty on standardised features (scikit-learn's, C = 0.1).

    Args:
        x: (N, D). y: (N,), at least two classes. weight: (N,) of the rows; None: all 1.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-3, max_iter=1000))
    return classifier.fit(x, y, logisticregression__sample_weight=weight)


def probabilities(classifier: Any, x: Features, num_classes: int) -> Features:
    """(N, num_classes); 0 for classes that the classifier has not seen."""
    found = np.zeros((len(x), num_classes))
    found[:, classifier.classes_] = classifier.predict_proba(x)
    return found


def out_of_fold(
    x: Features, y: Labels, num_classes: int, weight: Features | None = None, seed: int = 0
) -> Features:
    """(N, num_classes) probabilities, each row's from a classifier that was trained on the other folds.

    Folds are stratified by class: five, or as many as the largest class has rows.

    Raises:
        ValueError: for a single class, or if no class has two rows.
    """
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(y)
    folds = min(FOLDS, int(counts.max()))
    if folds < 2 or (counts > 0).sum() < 2:
        raise ValueError("needs at least two classes, and two rows of one of them")
    found = np.zeros((len(x), num_classes))
    with warnings.catch_warnings():
        # Classes with fewer rows than folds are in fewer folds, which is fine.
        warnings.filterwarnings("ignore", message="The least populated class")
        for train, held in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y):
            classifier = fit(x[train], y[train], None if weight is None else weight[train])
            found[held] = probabilities(classifier, x[held], num_classes)
    return found


def equal_shares(n: int, m: int) -> Features:
    """(n + m,) weights under which n and m rows count the same; mean 1."""
    return np.repeat([(n + m) / (2 * n), (n + m) / (2 * m)], [n, m])
