"""Figures of one set of predictions: who is confused with whom, which classes gain, how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from .style import COLOURS, FAINT, GRID, INK, SEEING, SOURCE, TARGET, figure, short

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]

BINS = 15


@dataclass(frozen=True)
class Confusion:
    """A pair of classes: how many rows of `true` were taken for `predicted`, and which share of its rows."""

    true: str
    predicted: str
    count: int
    share: float


def counts(y: Ints, predicted: Ints, classes: int) -> npt.NDArray[np.int64]:
    """(K, K) rows of each true class (down) by predicted class (across)."""
    return np.bincount(y * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def confusions(table: Ints, classes: Sequence[str], most: int = 10) -> list[Confusion]:
    """The largest cells off the diagonal, largest first."""
    off = table - np.diag(np.diag(table))
    rows = table.sum(1)
    found = []
    for cell in np.argsort(-off, axis=None, kind="stable")[:most]:
        i, j = divmod(int(cell), len(table))
        if off[i, j]:
            found.append(Confusion(classes[i], classes[j], int(off[i, j]), float(off[i, j] / rows[i])))
    return found


def most_confused(table: Ints, most: int) -> list[int]:
    """At most so many classes: those of the largest confusions, in their own order."""
    if len(table) <= most:
        return list(range(len(table)))
    off = table - np.diag(np.diag(table))
    chosen: dict[int, None] = {}
    for cell in np.argsort(-off, axis=None, kind="stable"):
        i, j = divmod(int(cell), len(table))
        if not off[i, j] or len(chosen) == most:
            break
        for k in (i, j):
            if len(chosen) < most:
                chosen[k] = None
    return sorted(chosen) or list(range(most))


def confusion(table: Ints, classes: Sequence[str], most: int = 15) -> Figure:
    """Share of each true class's rows by predicted class, in percent.

    Args:
        table: (K, K) counts, true class down.
        most: classes shown at most; the columns of all others are then added up.
    """
    kept = most_confused(table, most)
    shown = table[np.ix_(kept, kept)]
    columns = [short(classes[k], 16) for k in kept]
    if len(kept) < len(table):
        shown = np.column_stack([shown, table[kept].sum(1) - shown.sum(1)])
        columns.append("any other")
    rows = table[kept].sum(1)
    percent = 100 * shown / np.maximum(rows, 1)[:, None]
    made = figure(max(2.6, 0.3 * len(kept) + 1.6), width=min(7.2, 0.42 * len(columns) + 3.2))
    axes = made.subplots()
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for i, j in np.ndindex(*percent.shape):
        if shown[i, j]:
            value = percent[i, j]
            text = f"{value:.0f}" if value >= 0.5 else "<1"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if value > 55 else INK)
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, columns)) > 4 else {}
    axes.set_xticks(range(len(columns)), columns, **turned)  # type: ignore[arg-type]
    axes.set_yticks(
        range(len(kept)), [f"{short(classes[k])}  ({n})" for k, n in zip(kept, rows, strict=True)]
    )
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (rows)")
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(kept) + 1) - 0.5, minor=True)
    axes.grid(visible=False)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return made


def extremes(change: Floats, most: int) -> list[int]:
    """Classes in order of their change, at most so many: half of them from either end."""
    order = [int(k) for k in np.argsort(change, kind="stable") if np.isfinite(change[k])]
    if len(order) <= most:
        return order
    return order[: most // 2] + order[len(order) - (most - most // 2) :]


def per_class(
    after: Floats,
    before: Floats | None,
    rows: Ints,
    classes: Sequence[str],
    named: str = "before",
    most: int = 40,
) -> Figure:
    """Accuracy of each class, and the change from before where that is known.

    Args:
        after, before: (K,) accuracies in [0, 1]; NaN for a class without rows.
        rows: (K,) of each class.
        named: what `before` is.
        most: classes shown at most, from both ends of the order.
    """
    kept = extremes(after if before is None else after - before, most)
    made = figure(0.19 * len(kept) + 1.1)
    axes = made.subplots()
    places = np.arange(len(kept))
    now = 100 * after[kept]
    if before is None:
        axes.barh(places, now, color=TARGET, height=0.66)
    else:
        then = 100 * before[kept]
        axes.hlines(places, then, now, color=np.where(now < then, SEEING, TARGET), linewidth=2)
        axes.plot(then, places, "o", color=FAINT, markerfacecolor="white", markersize=5.5, label=named)
        for mask, marker, colour, label in (
            (now > then, ">", TARGET, "better"),
            (now < then, "<", SEEING, "worse"),
            (now == then, ".", FAINT, "unchanged"),
        ):
            if mask.any():
                axes.plot(now[mask], places[mask], marker, color=colour, markersize=6.5, label=label)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, borderaxespad=0.1)
    for place, k in enumerate(kept):
        value = round(100 * (after[k] if before is None else after[k] - before[k]))
        text = str(value) if before is None or not value else f"{value:+d}".replace("-", "−")
        axes.annotate(
            text,
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
    if np.isfinite(after).sum() > len(kept):  # Between the two ends, others are left out.
        axes.axhline(len(kept) // 2 - 0.5, color=FAINT, linewidth=1, linestyle=":")
    axes.set_yticks(places, [f"{short(classes[k], 28)}  ({rows[k]})" for k in kept])
    axes.set_ylim(-0.7, len(kept) - 0.3)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("accuracy on the class's rows (%)")
    axes.grid(axis="y", visible=False)
    if before is not None:
        axes.hlines(places, -2, 102, color=GRID, linewidth=0.6, zorder=0)
    return made


@dataclass(frozen=True)
class Reliability:
    """How often predictions of each confidence are right.

    Attributes:
        confidence, accuracy: (B,) means of the bins; NaN for an empty one.
        rows: (B,) in each bin.
        ece: expected calibration error, Σ rows/N · |accuracy − confidence|; Guo et al., ICML 2017,
            https://arxiv.org/abs/1706.04599.
    """

    confidence: Floats
    accuracy: Floats
    rows: Ints
    ece: float


def calibration(confidence: Floats, right: npt.NDArray[np.bool_], bins: int = BINS) -> Reliability:
    """Over bins of equal width in (0, 1].

    Args:
        confidence: (N,) the largest probability of each row. right: (N,) whether its class is the true one.
    """
    bin_ = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    rows = np.bincount(bin_, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(bin_, weights=confidence, minlength=bins) / rows
        accuracy = np.bincount(bin_, weights=right, minlength=bins) / rows
    gap = np.nan_to_num(np.abs(accuracy - mean))
    return Reliability(mean, accuracy, rows, float((gap * rows).sum() / max(1, rows.sum())))


def reliability(confidence: Floats, right: npt.NDArray[np.bool_], bins: int = BINS) -> Figure:
    """Accuracy by confidence beside the diagonal of perfect calibration, and how confident predictions are."""
    found = calibration(confidence, right, bins)
    made = figure(3.1)
    left, other = made.subplots(1, 2)
    edges = [i / bins for i in range(bins + 1)]
    middle, width = (np.arange(bins) + 0.5) / bins, 1 / bins
    some = found.rows > 0
    left.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1, label="perfect")
    left.bar(middle[some], found.accuracy[some], width * 0.92, color=TARGET, label="accuracy of the bin")
    left.bar(
        middle[some],
        (found.confidence - found.accuracy)[some],
        width * 0.92,
        bottom=found.accuracy[some],
        color="none",
        edgecolor=SEEING,
        hatch="////",
        linewidth=0.8,
        label="gap to its confidence",
    )
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
    left.set_title(f"reliability: ECE {found.ece:.3f} ({bins} bins)")
    left.legend(loc="upper left", fontsize=8)
    other.hist(
        [confidence[right], confidence[~right]],
        bins=edges,
        stacked=True,
        color=[TARGET, SOURCE],
        label=["right", "wrong"],
        rwidth=0.92,
    )
    for patch in other.patches[bins:]:
        patch.set_hatch("\\\\\\\\")
        patch.set_edgecolor("white")
    other.set(xlim=(0, 1), xlabel="confidence", ylabel="rows")
    other.set_title(f"mean confidence {np.mean(confidence):.2f}, accuracy {np.mean(right):.2f}")
    other.legend(loc="upper left", fontsize=8)
    return made


def confidences(confidence: Floats, bins: int = BINS) -> Figure:
    """How confident predictions are, where nobody knows which are right."""
    made = figure(2.2)
    axes = made.subplots()
    axes.hist(confidence, bins=[i / bins for i in range(bins + 1)], color=COLOURS[0], rwidth=0.92)
    axes.set(xlim=(0, 1), xlabel="confidence", ylabel="rows")
    axes.set_title(f"mean confidence {np.mean(confidence):.2f}")
    return made
