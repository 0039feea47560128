"""From the features of two domains to a diagnosis."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from ..distances import a_distance, domain_errors
from ..errors import DataError
from ..label_shift import bbse, priors_of, total_variation
from ..probe import Features, Labels, equal_shares, fit, out_of_fold, probabilities
from ..transferability import h_score, leep, logme, nce
from .distances import distances
from .estimate import Estimate, of_errors
from .types import Bound, ClassMap, Diagnosis, Domain, LabelShift, Settings

log = logging.getLogger(__name__)

LEAST_ROWS = 10
"""Of a domain, and of a class on both sides for distances of its own."""


def diagnose(
    source: Domain,
    target: Domain,
    classes: tuple[str, ...],
    settings: Settings,
    model: str = "",
    trained: bool = True,
) -> Diagnosis:
    """Everything that the features say about a transfer.

    Args:
        source: with labels. target: with or without.
        classes: names; a label is an index into them.
        settings: how much to look at.
        model: name of the backbone. trained: whether it has learned anything.

    Raises:
        DataError: for rows too few, one class, or features that are not finite or all the same.
    """
    for domain in (source, target):
        _check(domain, model)
    assert source.labels is not None
    y, k, seed = source.labels, len(classes), settings.seed
    if len(np.unique(y)) < 2:
        raise DataError(
            f"{source.name}: all rows have class '{classes[y[0]]}'; a diagnosis needs two classes"
        )
    if np.bincount(y).max() < 2:
        raise DataError(
            f"{source.name}: every class has a single row; classifiers cannot be judged on others"
        )
    log.info("%sclassifiers of %d classes and of the domains", f"{model}: " if model else "", k)
    held_out = out_of_fold(source.features, y, k, seed=seed)
    on_target = probabilities(fit(source.features, y), target.features, k)
    tell_apart = domain_errors(source.features, target.features, seed)

    log.info("distances, transferability")
    scale = _scale(source.features, target.features)
    s, t = source.features / scale, target.features / scale
    pairs = s[: settings.pair_rows], t[: settings.pair_rows]
    basis = _basis(*pairs, settings.components)
    return Diagnosis(
        model=model,
        dimensions=s.shape[1],
        trained=trained,
        classes=classes,
        source=source.name,
        target=target.name,
        rows={"source": (len(s), source.total), "target": (len(t), target.total)},
        pair_rows={"source": len(pairs[0]), "target": len(pairs[1])},
        repeats=(settings.repeats, settings.class_repeats),
        labels_used=target.labels is not None,
        distances=distances(*pairs, tell_apart, basis, settings.repeats, seed),
        class_distances={}
        if target.labels is None
        else _per_class(s, t, y, target.labels, classes, basis, settings),
        bound=_bound(source, target, k, held_out, on_target, tell_apart, settings),
        label_shift=_label_shift(y, held_out.argmax(1), on_target.argmax(1), target.labels, k, settings),
        class_map=None if target.labels is None else class_map(s, t, y, target.labels, k),
        scores=_scores(source, target, on_target),
    )


def _check(domain: Domain, model: str) -> None:
    n, of = len(domain.features), f" of {model}" if model else ""
    if n < LEAST_ROWS:
        raise DataError(f"{domain.name}: a diagnosis needs at least {LEAST_ROWS} rows, and there are {n}")
    bad = int((~np.isfinite(domain.features)).any(1).sum())
    if bad:
        raise DataError(f"{domain.name}: the features{of} are not finite in {bad} of {n} rows")
    if not np.ptp(domain.features, 0).any():
        raise DataError(f"{domain.name}: the features{of} are the same in all {n} rows")


def _scale(source: Features, target: Features) -> float:
    """Root mean variance of a feature over both domains: what distances are measured in, for any backbone."""
    variance = (source.var(0) + target.var(0)) / 2 + (source.mean(0) - target.mean(0)) ** 2 / 4
    return float(np.sqrt(variance.mean()))


def _basis(source: Features, target: Features, components: int) -> Features:
    """(D, components) leading principal axes of both domains together."""
    joint = np.concatenate([source, target])
    d = joint.shape[1]
    if d <= components:
        return np.eye(d, dtype=joint.dtype)
    centred = joint - joint.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return axes[:, ::-1][:, :components]


def _per_class(
    s: Features,
    t: Features,
    y_s: Labels,
    y_t: Labels,
    classes: tuple[str, ...],
    basis: Features,
    settings: Settings,
) -> dict[str, dict[str, Estimate]]:
    found = {}
    for k, name in _shown(list(enumerate(classes)), "distances per class"):
        a, b = s[y_s == k][: settings.class_rows], t[y_t == k][: settings.class_rows]
        if all(len(x) >= LEAST_ROWS and np.ptp(x, 0).any() for x in (a, b)):
            errors = domain_errors(a, b, settings.seed)
            found[name] = distances(a, b, errors, basis, settings.class_repeats, settings.seed)
    return found


def _shown(steps: list[Any], what: str) -> Iterable[Any]:
    """A progress bar, where somebody looks."""
    console = Console(stderr=True)
    return track(steps, what, console=console, disable=not console.is_terminal)


def _bound(
    source: Domain,
    target: Domain,
    k: int,
    held_out: Features,
    on_target: Features,
    tell_apart: tuple[Any, Any],
    settings: Settings,
) -> Bound:
    y, seed, repeats = source.labels, settings.seed, settings.repeats
    assert y is not None

    def rate(errors: Any, _: Any) -> float:
        return float(errors.mean())

    wrong = (held_out.argmax(1) != y).astype(float)
    found = Bound(
        of_errors(rate, wrong, wrong, repeats, seed, 1.0),
        of_errors(lambda s, t: a_distance(s, t) / 2, *tell_apart, repeats, seed, 1.0),
        None,
        None,
    )
    if target.labels is None:
        return found
    missed = (on_target.argmax(1) != target.labels).astype(float)
    both, truth = np.concatenate([source.features, target.features]), np.concatenate([y, target.labels])
    joint = out_of_fold(both, truth, k, equal_shares(len(y), len(target.labels)), seed)
    errors = (joint.argmax(1) != truth).astype(float)
    return replace(
        found,
        joint=of_errors(
            lambda s, t: float(s.mean() + t.mean()), errors[: len(y)], errors[len(y) :], repeats, seed, 2.0
        ),
        target=of_errors(rate, missed, missed, repeats, seed, 1.0),
    )


def _label_shift(
    y: Labels,
    predicted: Labels,
    target_predicted: Labels,
    truth: Labels | None,
    k: int,
    settings: Settings,
) -> LabelShift:
    source = priors_of(y, k)
    estimated = bbse(y, predicted, target_predicted, k)
    rng = np.random.default_rng(settings.seed)

    def unshifted() -> float:
        """The estimate, were the target drawn from the source."""
        i, j = rng.integers(len(y), size=len(y)), rng.integers(len(y), size=len(target_predicted))
        return total_variation(priors_of(y[i], k), bbse(y[i], predicted[i], predicted[j], k))

    noise = float(np.quantile([unshifted() for _ in range(settings.repeats)], 0.95))
    true = None if truth is None else priors_of(truth, k)
    return LabelShift(
        source,
        estimated,
        true,
        total_variation(source, estimated),
        noise,
        None if true is None else total_variation(source, true),
    )


def class_map(s: Features, t: Features, y_s: Labels, y_t: Labels, k: int) -> ClassMap:
    """Cosines of the class centroids of two domains; (N, D), (M, D), (N,), (M,) and the number of classes."""
    middle = (s.mean(0) + t.mean(0)) / 2

    def centroids(x: Features, y: Labels) -> Features:
        means = np.full((k, x.shape[1]), np.nan)
        for c in np.unique(y):
            means[c] = x[y == c].mean(0) - middle
        units: Features = means / np.linalg.norm(means, axis=1, keepdims=True)
        return units

    similarity = centroids(t, y_t) @ centroids(s, y_s).T
    nearest = np.where(np.isnan(similarity), -np.inf, similarity).argmax(1)
    return ClassMap(similarity, np.where(np.isin(np.arange(k), y_t), nearest, -1))


def _scores(source: Domain, target: Domain, on_target: Features) -> dict[str, float]:
    found: dict[str, float] = {}
    for domain, suffix in ((source, ""), (target, "_target")):
        y = domain.labels
        if y is None or len(np.unique(y)) < 2:
            continue
        found[f"logme{suffix}"] = logme(domain.features, y)
        found[f"h_score{suffix}"] = h_score(domain.features, y)
        if domain.pretrained is not None:
            found[f"leep{suffix}"] = leep(domain.pretrained, y)
            found[f"nce{suffix}"] = nce(domain.pretrained.argmax(1), y)
    if target.labels is not None:
        found["leep_transfer"] = leep(on_target, target.labels)
        found["nce_transfer"] = nce(on_target.argmax(1), target.labels)
    return found


def ranked(diagnoses: list[Diagnosis]) -> list[Diagnosis]:
    """Best backbone first: by LogME on the target's labels, or on the source's where those are not used."""
    return sorted(diagnoses, key=lambda d: -d.scores.get("logme_target", d.scores["logme"]))
