"""A diagnosis in plain words, with the thresholds behind each."""

from __future__ import annotations

from dataclasses import dataclass

from .types import Diagnosis

SOURCE_ERROR = 0.3
"""Held-out source error from which on the features themselves are the problem."""
SAME = 0.5
"""A-distance below which domains hardly differ: a held-out error above 37.5 %, 50 % being chance."""
SAME_MMD = 0.05
"""MMD² below which they hardly differ either, in ways that a linear classifier cannot see."""
APART = 1.5
"""A-distance from which on they are nearly separable: an error of 12.5 % at most."""
LOSS = 0.05
"""Rise of the error from source to target below which there is little to win."""
JOINT_ERROR = 0.2
"""λ from which on no single classifier does well on both domains."""
LABEL_SHIFT = 0.3
"""Total variation of the class priors from which on they differ much: so large a share of the target's rows
would have to change their class."""


@dataclass(frozen=True)
class Finding:
    """A sentence or two. `rule` is what was compared with what; empty where nothing was."""

    topic: str
    text: str
    rule: str = ""


def verdict(d: Diagnosis) -> list[Finding]:
    """What the numbers mean for the choice of a method. Never more than the numbers say."""
    found = [_features(d), _domains(d)]
    if d.bound.target is not None and d.bound.joint is not None:
        found += [_loss(d, d.bound.target.value), _joint(d.bound.joint.value)]
    found += [_bound(d), _label_shift(d)]
    if d.class_map is not None and (astray := d.class_map.astray):
        pairs = ", ".join(f"{d.classes[k]} ({d.classes[d.class_map.nearest[k]]})" for k in astray[:8])
        more = f" and {len(astray) - 8} more" if len(astray) > 8 else ""
        text = f"These target classes lie nearest to another class of the source, in brackets: {pairs}{more}."
        found.append(Finding("classes", text + " Expect alignment and pseudo-labels to confuse them."))
    return [*([] if d.trained else [_untrained(d)]), *found]


def _untrained(d: Diagnosis) -> Finding:
    return Finding(
        "weights",
        f"The backbone {d.model} has random weights. The numbers compare images through a random network; once "
        "trained it will see other things. Choose pretrained weights, or diagnose a trained model with "
        "init_from=RUN_DIR.",
    )


def _features(d: Diagnosis) -> Finding:
    error = d.bound.source.value
    rule = f"held-out source error {error:.3f}, threshold {SOURCE_ERROR}"
    if error >= SOURCE_ERROR:
        text = (
            f"A linear classifier of these features errs on {error:.0%} of the source itself. Train the backbone "
            "on the source first (tuning=full), or choose another: adaptation cannot give the target what the "
            "source lacks."
        )
    else:
        text = f"The features tell the source's classes apart: a linear classifier errs on {error:.1%}."
    return Finding("features", text, rule)


def _domains(d: Diagnosis) -> Finding:
    a, mmd = d.distances["a_distance"].value, d.distances["mmd"].value
    rule = f"A-distance {a:.2f}, thresholds {SAME} and {APART}; MMD² {mmd:.3f}, threshold {SAME_MMD}"
    if a >= APART and mmd < SAME_MMD:
        text = (
            "A linear classifier nearly always tells the domains apart, and yet they lie close: the difference may "
            "be one that the classes hardly feel, and training on the source alone may do."
        )
    elif a >= APART:
        text = (
            "A linear classifier nearly always tells the domains apart. That does not yet mean that the classes "
            "suffer: compare any method with training on the source alone."
        )
    elif a >= SAME:
        text = "The domains differ, and overlap: aligning their features is promising."
    elif mmd >= SAME_MMD:
        text = (
            "A linear classifier cannot tell the domains apart, and yet they differ, in spread or shape: aligning "
            "more than their means is promising."
        )
    else:
        text = "The domains hardly differ: training on the source alone may do."
    return Finding("domains", text, rule)


def _loss(d: Diagnosis, target: float) -> Finding:
    loss = target - d.bound.source.value
    rule = (
        f"target error {target:.3f} - source error {d.bound.source.value:.3f} = {loss:.3f}, threshold {LOSS}"
    )
    if loss < LOSS:
        text = (
            "The source's classifier does about as well on the target: there is little to win by adaptation."
        )
    else:
        text = (
            f"The source's classifier loses {100 * loss:.0f} points on the target: there is something to win."
        )
    return Finding("target", text, rule)


def _joint(error: float) -> Finding:
    rule = f"lambda {error:.3f}, threshold {JOINT_ERROR}"
    if error < JOINT_ERROR:
        text = "One linear classifier can serve both domains, so the features suffice for adaptation."
    else:
        text = (
            "No single linear classifier does well on both domains: aligning these features alone may hurt. Train "
            "the backbone too, or give some target labels (data.labeled_per_class)."
        )
    return Finding("joint error", text, rule)


def _bound(d: Diagnosis) -> Finding:
    total = d.bound.total
    text = f"Ben-David's bound on the target error is {total:.2f}"
    if d.bound.joint is None:
        text += " at least, as lambda is not known without target labels"
    text += ": above 1, it promises nothing." if total >= 1 else "."
    return Finding("bound", text, f"bound {total:.3f}, threshold 1")


def _label_shift(d: Diagnosis) -> Finding:
    shift = d.label_shift
    if shift.true_distance is not None:
        distance, explained = shift.true_distance, True
        rule = f"total variation of the true class priors {distance:.2f}, threshold {LABEL_SHIFT}"
    else:
        # Were the priors all that differs, no classifier could tell the domains apart better than this.
        distance, most = shift.distance, 2 * max(shift.distance, shift.noise)
        explained = d.distances["a_distance"].low <= most
        rule = (
            f"total variation of the estimated class priors {distance:.2f}, threshold {LABEL_SHIFT}, noise "
            f"{shift.noise:.2f}; such priors alone explain an A-distance up to {most:.2f}"
        )
    if not explained:
        text = (
            "Whether the class priors differ cannot be told: the domains differ by more than priors explain, which "
            "spoils the estimate. Look at the classes of some target rows before aligning whole domains."
        )
    elif distance < LABEL_SHIFT:
        text = "The class priors are close enough for methods that align whole domains."
    else:
        text = (
            "The class priors differ much: avoid methods that align whole domains (MMD, CORAL, a domain "
            "discriminator), which mix classes to make up for it. Prefer those that go by class."
        )
    return Finding("class priors", text, rule)
