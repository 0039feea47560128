"""A diagnosis for readers: on the terminal, as Markdown, as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ..diagnosis import Diagnosis, Estimate, verdict

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
    "logme_target": "LogME, target",
    "h_score_target": "H-score, target",
    "leep": "LEEP",
    "nce": "NCE",
}
SHOWN = 10
"""Rows of a table that has one for each class."""


@dataclass(frozen=True)
class Section:
    """A table with a title and remarks below."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def sections(diagnoses: Sequence[Diagnosis]) -> list[Section]:
    """All tables: the first diagnosis in full, then how it compares with the others."""
    d = diagnoses[0]
    return [_distances(d), _bound(d), _priors(d), *_classes(d), _scores(diagnoses)]


def about(d: Diagnosis) -> list[str]:
    """What was compared, and how much of it was looked at."""
    rows = ", ".join(
        f"{name} {used} of {total} rows"
        for (used, total), name in zip(d.rows.values(), _names(d), strict=True)
    )
    what = f"features of {d.model}" if d.model else "the vectors themselves"
    labels = (
        "Target labels were looked at (--no-labels leaves them out)."
        if d.labels_used
        else "No target label was looked at."
    )
    return [
        f"{d.source} -> {d.target}, {what} ({d.dimensions} numbers a row).",
        f"Looked at: {rows}; for distances {d.pair_rows['source']} and {d.pair_rows['target']}. 95 % intervals "
        f"from {d.repeats[0]} bootstrap resamples ({d.repeats[1]} for a class).",
        labels,
    ]


def show(diagnoses: Sequence[Diagnosis], console: Console) -> None:
    """Print all of it, the verdict last."""

    def plain(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    for line in about(diagnoses[0]):
        plain(line)
    for section in sections(diagnoses):
        table = Table(title=section.title, title_justify="left", title_style="bold")
        for column in section.header:
            numbers = all(_is_number(row[len(table.columns)]) for row in section.rows)
            table.add_column(column, justify="right" if numbers else "left")
        for row in section.rows:
            table.add_row(*row)
        console.print(table if section.rows else f"[bold]{section.title}: none")
        if section.note:
            plain(section.note, "dim")
    plain("Verdict", "bold")
    for finding in verdict(diagnoses[0]):
        plain(f"- {finding.topic}: {finding.text}")
        if finding.rule:
            plain(f"  ({finding.rule})", "dim")


def markdown(diagnoses: Sequence[Diagnosis], plot: str) -> str:
    """The same as a page; `plot` is the picture's file name."""
    lines = ["# Diagnosis", "", *about(diagnoses[0]), "", f"![Distances and classes]({plot})"]
    for section in sections(diagnoses):
        lines += ["", f"## {section.title}", ""]
        if section.rows:
            lines += [_line(section.header), _line(["---"] * len(section.header))]
            lines += [_line(row) for row in section.rows]
        else:
            lines.append("None.")
        if section.note:
            lines += ["", section.note]
    lines += ["", "## Verdict", ""]
    for finding in verdict(diagnoses[0]):
        why = f" ({finding.rule})" if finding.rule else ""
        lines.append(f"- **{finding.topic}**: {finding.text}{why}")
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


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _is_number(cell: str) -> bool:
    return cell.removeprefix("-")[:1].isdigit() or cell in ("", "-")


def _names(d: Diagnosis) -> tuple[str, str]:
    return d.source, d.target


def number(value: float) -> str:
    """Three digits that count.

    >>> number(0.00012345), number(254.4), number(1.9889)
    ('0.000123', '254', '1.99')
    """
    if value == 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _interval(e: Estimate) -> str:
    return f"{number(e.low)} to {number(e.high)}"


def _distances(d: Diagnosis) -> Section:
    rows = []
    for key, name in DISTANCES.items():
        row = [name, number(d.distances[key].value), _interval(d.distances[key])]
        if d.class_distances:
            values = {c: e[key].value for c, e in d.class_distances.items()}
            farthest = max(values, key=lambda c: values[c])
            row += [number(float(np.median([*values.values()]))), f"{number(values[farthest])} {farthest}"]
        rows.append(row)
    header = [
        "distance",
        "value",
        "95 % interval",
        *(["class median", "farthest class"] if d.class_distances else []),
    ]
    few = len(d.classes) - len(d.class_distances)
    note = (
        f"{few} classes have too few rows for distances of their own. " if few and d.class_distances else ""
    )
    if d.class_distances:
        note += "A class has fewer rows, which alone changes most distances: compare classes with one another only."
    return Section(f"Distances, {d.source} and {d.target}", header, rows, note)


def _bound(d: Diagnosis) -> Section:
    b = d.bound
    terms = [
        ("source error, held out", b.source),
        ("half of the A-distance, for half of d_HΔH", b.divergence),
        ("λ, error on both of one classifier for both", b.joint),
    ]
    rows = [[name, number(e.value), _interval(e)] for name, e in terms if e is not None]
    rows.append(["their sum, the bound" if b.joint else "their sum; the bound adds λ", number(b.total), ""])
    if b.target is not None:
        rows.append(["target error of the source's classifier", number(b.target.value), _interval(b.target)])
    return Section("Ben-David's bound on the target error", ["term", "value", "95 % interval"], rows)


def _priors(d: Diagnosis) -> Section:
    shift = d.label_shift
    reached = shift.estimated if shift.true is None else shift.true
    order = np.argsort(-np.abs(reached - shift.source), kind="stable")[:SHOWN]
    columns = [shift.source, shift.estimated, *([] if shift.true is None else [shift.true])]
    rows = [[d.classes[k], *(f"{100 * column[k]:.1f}" for column in columns)] for k in order]
    header = ["class", "source, %", "target (BBSE), %", *([] if shift.true is None else ["target (true), %"])]
    note = (
        f"Total variation {shift.distance:.2f} by the estimate; without a shift 95 % of estimates stay below "
        f"{shift.noise:.2f}."
    )
    if shift.true_distance is not None:
        note += f" In truth {shift.true_distance:.2f}."
    title = "Class priors" + (f", the {SHOWN} that differ most" if len(d.classes) > SHOWN else "")
    return Section(title, header, rows, note)


def _classes(d: Diagnosis) -> list[Section]:
    if d.class_map is None:
        return []
    near, similar = d.class_map.nearest, d.class_map.similarity
    rows = [
        [d.classes[k], d.classes[near[k]], f"{similar[k, near[k]]:.2f}", f"{similar[k, k]:.2f}"]
        for k in d.class_map.astray
    ]
    header = ["target class", "nearest source class", "cosine", "cosine to its own"]
    known = int((near >= 0).sum())
    note = f"{known - len(rows)} of {known} classes are nearest to their own."
    return [Section("Classes nearest to another class of the source", header, rows, note)]


def _scores(diagnoses: Sequence[Diagnosis]) -> Section:
    first = diagnoses[0]
    rows = [["features", *(str(d.dimensions) for d in diagnoses)]]
    for key in (key for key in SCORES if key in first.scores):
        rows.append([SCORES[key], *(_with_rank(key, d, diagnoses) for d in diagnoses)])
    rows.append(["A-distance", *(number(d.distances["a_distance"].value) for d in diagnoses)])
    rows.append(["source error", *(number(d.bound.source.value) for d in diagnoses)])
    if first.labels_used:
        rows.append(["target error", *(number(d.bound.target.value) for d in diagnoses if d.bound.target)])
    notes = [
        "LEEP and NCE are of the target's labels, given the predictions of the source's classifier."
        if first.labels_used
        else "LEEP and NCE need target labels."
    ]
    if len(diagnoses) > 1:
        by = SCORES["logme_target" if "logme_target" in first.scores else "logme"]
        notes.append(
            f"Best first, by {by}; in brackets the rank by each score. All above is of {first.model}."
        )
    if untrained := [d.model for d in diagnoses if not d.trained]:
        notes.append(f"With random weights: {', '.join(untrained)}.")
    header = ["transferability", *(d.model or "vectors" for d in diagnoses)]
    return Section("Transferability", header, rows, " ".join(notes))


def _with_rank(key: str, d: Diagnosis, diagnoses: Sequence[Diagnosis]) -> str:
    if len(diagnoses) == 1:
        return number(d.scores[key])
    better = sum(other.scores[key] > d.scores[key] for other in diagnoses)
    return f"{number(d.scores[key])} ({1 + better})"
