"""A diagnosis for readers: tables, a page, JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console

from ..diagnosis import Diagnosis, Estimate, verdict
from .render import escaped, terminal
from .render import markdown as as_markdown
from .tables import Cell, Table
from .words import NONE

DISTANCES = {
    "a_distance": "proxy A-distance",
    "mmd": "MMD²",
    "sliced_wasserstein": "sliced Wasserstein",
    "symmetric_kl": "symmetric KL",
    "coral": "CORAL",
}
SCORES = {
    "logme": "LogME, source",
    "h_score": "H-score, source",
    "leep": "LEEP, source",
    "nce": "NCE, source",
    "logme_target": "LogME, target",
    "h_score_target": "H-score, target",
    "leep_target": "LEEP, target",
    "nce_target": "NCE, target",
    "leep_transfer": "LEEP, source to target",
    "nce_transfer": "NCE, source to target",
}
SHOWN = 10
"""Classes of which the priors are listed."""


def tables(diagnoses: Sequence[Diagnosis]) -> list[Table]:
    """The first diagnosis in full, and how it compares with the others."""
    d = diagnoses[0]
    return [_distances(d), _bound(d), _priors(d), *_classes(d), _scores(diagnoses)]


def about(d: Diagnosis) -> list[str]:
    """What was compared, and how much of it was looked at."""
    names = (d.source, d.target)
    rows = [f"{n} {used} of {total} rows" for n, (used, total) in zip(names, d.rows.values(), strict=True)]
    what = f"features of {d.model}" if d.model else "the vectors themselves"
    labels = "Target labels were looked at (--no-labels leaves them out)."
    return [
        f"{d.source} → {d.target}, {what}, {d.dimensions} numbers a row.",
        f"Looked at: {', '.join(rows)}; for distances {d.pair_rows['source']} and {d.pair_rows['target']}. 95 % "
        f"intervals from {d.repeats[0]} bootstrap resamples, {d.repeats[1]} for a class.",
        labels if d.labels_used else "No target label was looked at.",
    ]


def show(diagnoses: Sequence[Diagnosis], console: Console) -> None:
    """Print all of it, the verdict last."""

    def plain(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    for line in about(diagnoses[0]):
        plain(line)
    plain("")
    for table in tables(diagnoses):
        console.print(terminal(table, console.width))
    plain("Verdict", "bold")
    for finding in verdict(diagnoses[0]):
        plain(f"- {finding.topic}: {finding.text}")
        if finding.rule:
            plain(f"  ({finding.rule})", "dim")


def page(diagnoses: Sequence[Diagnosis], plot: str) -> str:
    """The same as Markdown; `plot` is the picture's file name."""
    lines = [
        "# Diagnosis",
        "",
        *map(escaped, about(diagnoses[0])),
        "",
        f"![Distances and classes]({plot})",
        "",
    ]
    lines += [as_markdown(table) for table in tables(diagnoses)]
    lines += ["## Verdict", ""]
    for finding in verdict(diagnoses[0]):
        why = f" ({escaped(finding.rule)})" if finding.rule else ""
        lines.append(f"- **{finding.topic}**: {escaped(finding.text)}{why}")
    return "\n".join(lines) + "\n"


def as_json(d: Diagnosis) -> dict[str, Any]:
    """Plain numbers, lists and mappings; None for what is not a number."""
    found = _plain(asdict(d))
    found["bound"]["total"] = d.bound.total
    found["verdict"] = [asdict(finding) for finding in verdict(d)]
    return dict(found)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: float) -> str:
    """Three digits that count.

    >>> number(0.00012345), number(254.4), number(-1.9889)
    ('0.000123', '254', '−1.99')
    """
    if value == 0:
        return "0"
    text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return text.replace("-", "−")


def _interval(e: Estimate) -> str:
    return f"{number(e.low)} to {number(e.high)}"


def _cells(texts: Sequence[str]) -> list[Cell]:
    return [Cell(text) for text in texts]


def _distances(d: Diagnosis) -> Table:
    head = [
        "distance",
        "value",
        "95 % interval",
        *(["class median", "farthest class"] if d.class_distances else []),
    ]
    table = Table(f"Distances, {d.source} and {d.target}", head)
    for key, name in DISTANCES.items():
        line = [name, number(d.distances[key].value), _interval(d.distances[key])]
        if d.class_distances:
            values = {c: e[key].value for c, e in d.class_distances.items()}
            farthest = max(values, key=lambda c: values[c])
            line += [number(float(np.median([*values.values()]))), f"{number(values[farthest])} {farthest}"]
        table.lines.append(_cells(line))
    if d.class_distances:
        few = len(d.classes) - len(d.class_distances)
        table.notes = [
            "A class has fewer rows, which alone changes most distances: compare classes with one another only.",
            *(
                [f"Too few rows for distances of their own: {few} of {len(d.classes)} classes."]
                if few
                else []
            ),
        ]
    return table


def _bound(d: Diagnosis) -> Table:
    b = d.bound
    terms = [
        ("source error, held out", b.source),
        ("half of the A-distance, for half of d_HΔH", b.divergence),
        ("λ, error on both of one classifier for both", b.joint),
    ]
    lines = [[name, number(e.value), _interval(e)] for name, e in terms if e is not None]
    lines.append(["their sum, the bound" if b.joint else "their sum; the bound adds λ", number(b.total), ""])
    if b.target is not None:
        lines.append(["target error of the source's classifier", number(b.target.value), _interval(b.target)])
    head = ["term", "value", "95 % interval"]
    return Table("Ben-David's bound on the target error", head, [_cells(line) for line in lines])


def _priors(d: Diagnosis) -> Table:
    shift = d.label_shift
    reached = shift.estimated if shift.true is None else shift.true
    order = np.argsort(-np.abs(reached - shift.source), kind="stable")[:SHOWN]
    columns = {"source": shift.source, "target, by BBSE": shift.estimated}
    if shift.true is not None:
        columns["target, true"] = shift.true
    table = Table(
        "Class priors in percent" + (f", the {SHOWN} that differ most" if len(d.classes) > SHOWN else ""),
        ["class", *columns],
        [_cells([d.classes[k], *(f"{100 * c[k]:.1f}" for c in columns.values())]) for k in order],
    )
    text = (
        f"Total variation {shift.distance:.2f} by the estimate; without a shift 95 % of estimates stay below "
        f"{shift.noise:.2f}."
    )
    true = "" if shift.true_distance is None else f" In truth {shift.true_distance:.2f}."
    table.notes = [text + true]
    return table


def _classes(d: Diagnosis) -> list[Table]:
    if d.class_map is None:
        return []
    near, similar = d.class_map.nearest, d.class_map.similarity
    lines = [
        [d.classes[k], d.classes[near[k]], f"{similar[k, near[k]]:.2f}", f"{similar[k, k]:.2f}"]
        for k in d.class_map.astray
    ]
    head = ["target class", "nearest source class", "cosine", "cosine to its own"]
    known = int((near >= 0).sum())
    table = Table("Classes across the domains", head, [_cells(line) for line in lines], words=True)
    table.notes = [
        f"{known - len(lines)} of {known} target classes are nearest to their own class of the source."
    ]
    return [table]


def _scores(diagnoses: Sequence[Diagnosis]) -> Table:
    first = diagnoses[0]
    lines = [["features", *(str(d.dimensions) for d in diagnoses)]]
    for key, name in SCORES.items():
        if any(key in d.scores for d in diagnoses):
            lines.append([name, *(_with_rank(key, d, diagnoses) for d in diagnoses)])
    lines.append(["A-distance", *(number(d.distances["a_distance"].value) for d in diagnoses)])
    lines.append(["source error", *(number(d.bound.source.value) for d in diagnoses)])
    if first.labels_used:
        lines.append(["target error", *(number(d.bound.target.value) for d in diagnoses if d.bound.target)])
    head = ["score, labels of", *(d.model or "vectors" for d in diagnoses)]
    table = Table("Transferability", head, [_cells(line) for line in lines])
    if len(diagnoses) > 1:
        by = SCORES["logme_target" if "logme_target" in first.scores else "logme"]
        table.notes.append(
            f"Best first by {by}; in brackets the rank by each score. All above is of {first.model}."
        )
    if any("leep" not in d.scores for d in diagnoses):
        table.notes.append("LEEP and NCE need the classifier that a backbone was pretrained with.")
    if first.labels_used:
        table.notes.append(
            "Source to target: of a linear classifier trained on the source, in place of that one."
        )
    if untrained := [d.model for d in diagnoses if not d.trained]:
        table.notes.append(f"With random weights: {', '.join(untrained)}.")
    return table


def _with_rank(key: str, d: Diagnosis, diagnoses: Sequence[Diagnosis]) -> str:
    if key not in d.scores:
        return NONE
    if len(diagnoses) == 1:
        return number(d.scores[key])
    better = sum(other.scores.get(key, -math.inf) > d.scores[key] for other in diagnoses)
    return f"{number(d.scores[key])} ({1 + better})"
