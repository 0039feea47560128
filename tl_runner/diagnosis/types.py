"""The nouns of a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass

from ..probe import Features, Labels
from .estimate import Estimate


@dataclass(frozen=True)
class Settings:
    """How much a diagnosis looks at.

    Attributes:
        rows: of each domain at most, drawn at random; classifiers and scores see all of them.
        pair_rows: of these, for the distances. class_rows: of each class, for the distances per class.
        components: leading principal components that the Gaussians of symmetric KL are fitted in.
        repeats: bootstrap resamples. class_repeats: the same, for each class.
        seed: of everything random.
    """

    rows: int = 5000
    pair_rows: int = 1000
    class_rows: int = 200
    components: int = 128
    repeats: int = 100
    class_repeats: int = 30
    seed: int = 0


@dataclass(frozen=True)
class Domain:
    """Rows of a domain.

    Attributes:
        name: of the domain, or of several, joined.
        features: (N, D) float32.
        labels: (N,); None where they are not known, or not to be used.
        total: rows that there are; N of them were drawn.
        pretrained: (N, Z) probabilities by the classifier that the backbone was pretrained with, in its own
            classes; None where there is none.
    """

    name: str
    features: Features
    labels: Labels | None
    total: int
    pretrained: Features | None = None


@dataclass(frozen=True)
class Bound:
    """The three terms of Ben-David's bound on the target error, and that error.

    Attributes:
        source: held-out error of a linear classifier on the source.
        divergence: half of the proxy A-distance, standing in for half of d_HΔH.
        joint: λ, the error on source and target together of one classifier trained on both; None without
            target labels.
        target: measured error on the target of the classifier trained on the source; None likewise.
    """

    source: Estimate
    divergence: Estimate
    joint: Estimate | None
    target: Estimate | None

    @property
    def total(self) -> float:
        """The bound; without λ, what it is at least."""
        return self.source.value + self.divergence.value + (self.joint.value if self.joint else 0.0)


@dataclass(frozen=True)
class LabelShift:
    """How far the class priors differ.

    Attributes:
        source: (K,) priors. estimated: (K,) of the target, by BBSE. true: (K,) of the target, if known.
        distance: total variation of source and estimated priors.
        noise: what 95 % of such estimates stay below when the priors are the same.
        true_distance: total variation of source and true priors.
    """

    source: Features
    estimated: Features
    true: Features | None
    distance: float
    noise: float
    true_distance: float | None


@dataclass(frozen=True)
class ClassMap:
    """Where the target's classes lie among the source's.

    Attributes:
        similarity: (K, K) cosine of the centroid of a target class (row) and a source class (column), both
            seen from the middle of the domains' means; NaN for classes that a domain lacks.
        nearest: (K,) the source class nearest to each target class; -1 where the target lacks it.
    """

    similarity: Features
    nearest: Labels

    @property
    def astray(self) -> list[int]:
        """Target classes that are nearest to another class of the source."""
        return [k for k, found in enumerate(self.nearest) if found not in (-1, k)]


@dataclass(frozen=True)
class Diagnosis:
    """What is known before training.

    Attributes:
        model: name of the backbone; empty for vectors. dimensions: D.
        trained: whether the backbone has learned anything.
        classes: names. source, target: names of the domains.
        rows: of source and target, (drawn, there are). pair_rows: that the distances saw.
        repeats: of the bootstrap, overall and per class.
        labels_used: whether target labels were looked at.
        distances: between the domains. class_distances: the same for each class with rows enough in both.
        bound, label_shift, class_map: see there; the last needs target labels.
        scores: of transferability: `logme` and `h_score` of the features and the source's labels, `leep` and
            `nce` of the pretrained classifier's predictions and the source's labels; with target labels each
            of them as `.._target`, and `leep_transfer`, `nce_transfer` of the source classifier's predictions
            and the target's labels. Without a pretrained classifier, without its LEEP and NCE.
    """

    model: str
    dimensions: int
    trained: bool
    classes: tuple[str, ...]
    source: str
    target: str
    rows: dict[str, tuple[int, int]]
    pair_rows: dict[str, int]
    repeats: tuple[int, int]
    labels_used: bool
    distances: dict[str, Estimate]
    class_distances: dict[str, dict[str, Estimate]]
    bound: Bound
    label_shift: LabelShift
    class_map: ClassMap | None
    scores: dict[str, float]
