"""What a run's report says: for each stage its figures, tables and sentences."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..errors import reason
from . import curves, figures
from .embedding import Embedding, embed, scatter
from .outputs import StageOutputs
from .section import Section, Shown, accuracies, class_table, cost, pick_table, samples
from .style import png

log = logging.getLogger(__name__)

CONFUSED = 15
"""Classes that a confusion matrix shows at most."""
COLOURED = 8
"""Classes that have a colour where there are more than ten."""
DISPLAYED = 120
"""Pixels of the page for an inch of a figure."""
LISTED = 40
"""Classes in the figure of accuracies per class at most."""
SEEING = {
    "oracle": "the oracle (all, as in most papers)",
    "labeled_val": "labeled_val (those that the run was given, of rows held out)",
}
"""Criteria that see labels of the target, and which."""


class Stage:
    """Writes one stage's section.

    Args:
        results: of the stage, as in `results.json`. history: a row per epoch.
        outputs: what the run kept of it, or the sentence why there is nothing.
        how: the embedding. places: embeddings made so far, by their features; shared by all stages.
        tell: is told what is being made.
    """

    def __init__(
        self,
        name: str,
        results: Mapping[str, Any],
        history: pd.DataFrame,
        outputs: StageOutputs | str,
        how: Embedding,
        places: dict[bytes, figures.Floats],
        tell: Callable[[str], None],
    ) -> None:
        self.name, self.results, self.history, self.outputs = name, results, history, outputs
        self.how, self.places, self.tell = how, places, tell
        self.section = Section(name, results["method"], *pick_table(results["picks"]), cost=cost(results))

    def write(self) -> Section:
        """The section."""
        self._curves()
        if isinstance(self.outputs, str):
            self.section.about.append(self.outputs)
        else:
            self._predictions(self.outputs)
        return self.section

    def _draw(
        self, into: list[Shown], key: str, title: str, text: str, alt: str, make: Callable[[], Figure]
    ) -> None:
        """Add a figure; one that cannot be drawn shall not cost the others."""
        self.tell(title)
        try:
            made = make()
            drawn = png(made)
            width, height = (round(DISPLAYED * inches) for inches in made.get_size_inches())
            into.append(Shown(key, title, text, drawn, alt, (width, height)))
        except Exception as error:
            log.warning(
                "report: the figure '%s' of stage %s cannot be drawn: %s", key, self.name, reason(error)
            )
            into.append(Shown(key, title, f"Not drawn: {reason(error)}."))

    def _curves(self) -> None:
        epochs = [int(epoch) for epoch in self.history["epoch"]]
        if not epochs:
            return

        def column(name: str) -> curves.Curve | None:
            return self.history[name].to_numpy(dtype=float) if name in self.history else None

        def named(prefix: str) -> dict[str, curves.Curve]:
            return {
                name.removeprefix(prefix): self.history[name].to_numpy(dtype=float)
                for name in map(str, self.history)
                if name.startswith(prefix)
            }

        picks = [
            curves.Picked(name, int(found["epoch"]), _accuracy(found))
            for name, found in self.results["picks"].items()
        ]
        seeing = " and ".join(says for name, says in SEEING.items() if name in self.results["picks"])
        target, source = column("test/accuracy"), column("val/source_val")
        self._draw(
            self.section.curves,
            "selection",
            "Accuracy over epochs, and which epoch each criterion picks",
            f"Labels of the target are seen by {seeing}, and by no other criterion."
            if seeing
            else "No criterion sees a label of the target.",
            "; ".join(f"{p.name} picks epoch {p.epoch}" for p in picks),
            lambda: curves.selection(epochs, target, source, picks),
        )
        if losses := named("loss/"):
            self._draw(
                self.section.curves,
                "losses",
                "Losses",
                "Mean of each loss over an epoch, already weighted.",
                "; ".join(f"{n} ends at {v[-1]:.3g}" for n, v in losses.items()),
                lambda: curves.panels(epochs, losses),
            )
        if validators := named("val/"):
            but = " (but for labeled_val, which has some)" if "labeled_val" in validators else ""
            self._draw(
                self.section.curves,
                "validators",
                "Validators",
                f"Estimates of the target accuracy without its labels{but}; higher is better. A ring marks the "
                "epoch that each picks.",
                "; ".join(f"{n} ends at {v[-1]:.3g}" for n, v in validators.items()),
                lambda: curves.panels(epochs, validators, {p.name: p.epoch for p in picks}),
            )

    def _predictions(self, outputs: StageOutputs) -> None:
        about = outputs.about
        sets = {"target": "of the target", "source_val": "held out of the source"}
        where, rows = sets.get(about.rows, "held out"), len(outputs.predicted)
        count = f"{rows} of {about.total}" if about.total > rows else str(rows)
        checkpoint = "the last epoch" if about.checkpoint == "last" else f"the pick of {about.checkpoint}"
        self.section.about.append(
            f"What follows is of {checkpoint} (epoch {about.epoch}), on {count} rows {where}: "
            f"{', '.join(about.domains)}."
        )
        if not rows:
            return
        if outputs.y is None:
            self.section.labelled = False
            self.section.about.append(
                "These rows have no labels: there is no confusion matrix, no accuracy per class and no "
                "reliability diagram."
            )
            self._draw(
                self.section.figures,
                "confidence",
                "Confidence",
                "The largest probability of each row.",
                f"mean {outputs.confidence.mean():.2f}",
                lambda: figures.confidences(outputs.confidence),
            )
        else:
            self._labelled(outputs, outputs.y)
        self._embedding(outputs)
        self.section.samples = samples(outputs)

    def _labelled(self, outputs: StageOutputs, y: figures.Ints) -> None:
        classes = outputs.about.classes
        table = figures.counts(y, outputs.predicted, len(classes))
        rows, right = table.sum(1), outputs.predicted == y
        self.section.confusions = figures.confusions(table, classes)
        some = (
            f" {CONFUSED} of {len(classes)} classes: those of the largest confusions; “any other” adds up the rest."
            if len(classes) > CONFUSED
            else ""
        )
        self._draw(
            self.section.figures,
            "confusion",
            "Confusion matrix",
            f"Percent of each true class's rows.{some}",
            f"{100 * right.mean():.1f} percent of all rows are on the diagonal",
            lambda: figures.confusion(table, classes, CONFUSED),
        )
        after, (named, before, text) = accuracies(table), self._earlier(outputs, y)
        present = int((rows > 0).sum())
        if present > LISTED:
            text += f" {LISTED} of {present} classes: both ends of the order."
        self._draw(
            self.section.figures,
            "classes",
            "Accuracy of each class",
            text,
            f"mean over classes {100 * np.nanmean(after):.1f} percent",
            lambda: figures.per_class(after, before, rows, classes, named, LISTED),
        )
        self.section.classes = class_table(table, classes, before)
        self._draw(
            self.section.figures,
            "reliability",
            "Reliability",
            "A calibrated model is right as often as it is confident. ECE is the mean gap over the rows.",
            f"expected calibration error {figures.calibration(outputs.confidence, right).ece:.3f}",
            lambda: figures.reliability(outputs.confidence, right),
        )

    def _earlier(self, outputs: StageOutputs, y: figures.Ints) -> tuple[str, figures.Floats | None, str]:
        """What the accuracy of each class is compared with: its name, its accuracies, and a sentence."""
        classes, baseline = len(outputs.about.classes), outputs.about.baseline
        if outputs.predicted_baseline is not None:
            known = outputs.predicted_baseline >= 0
            before = accuracies(figures.counts(y[known], outputs.predicted_baseline[known], classes))
            return f"baseline {baseline}", before, f"From the baseline, the run {baseline}, to this run."
        if outputs.predicted_before is not None:
            before = accuracies(figures.counts(y, outputs.predicted_before, classes))
            return "before", before, "From the model that the stage started with to the one it left."
        return (
            "before",
            None,
            (
                "There is nothing to compare with: the stage began with an untrained head, and the run had no "
                "report.baseline."
            ),
        )

    def _embedding(self, outputs: StageOutputs) -> None:
        if self.how == "none" or not len(outputs.features):
            return
        about, sources = outputs.about, len(outputs.source_y)
        name = {"tsne": "t-SNE", "umap": "UMAP"}[self.how]
        labels = outputs.predicted if outputs.y is None else outputs.y
        label = np.concatenate([outputs.source_y, labels[outputs.sample]])
        domains = [*about.source_domains, *about.domains]
        of_rows = outputs.domain[outputs.sample] + len(about.source_domains)
        domain = np.concatenate([outputs.source_domain, of_rows])
        coloured, which = self._coloured(outputs)
        text = [
            f"{name} of {len(outputs.sample)} of {len(outputs.predicted)} evaluated rows"
            + (f" and {sources} of {about.source_rows} source rows (pale on the right)" if sources else "")
            + ", drawn at random.",
            which,
            "Target rows have the colour of their predicted class." if outputs.y is None else "",
            "Neighbours stay neighbours; distances between groups mean little.",
        ]

        def make() -> Figure:
            places = []
            for title, features in (("before", outputs.features_before), ("after", outputs.features)):
                key = features.tobytes()
                if key not in self.places:
                    self.tell(f"{name} of the features {title} stage {self.name}")
                    self.places[key] = embed(features.astype(np.float32), self.how)
                places.append((title, self.places[key]))
            of_target = np.arange(len(about.source_domains), len(domains))
            return scatter(places, domain, domains, label, about.classes, coloured, of_target)

        self._draw(
            self.section.figures,
            "features",
            "Features before and after",
            " ".join(filter(None, text)),
            "rows in the plane, before and after, coloured by domain and by class",
            make,
        )

    def _coloured(self, outputs: StageOutputs) -> tuple[list[int], str]:
        """Classes that have a colour, and a sentence that says which."""
        classes = len(outputs.about.classes)
        if classes <= 10:
            return list(range(classes)), ""
        if outputs.y is None:
            often = np.argsort(-np.bincount(outputs.predicted, minlength=classes), kind="stable")
            chosen = sorted(int(k) for k in often[:COLOURED])
            return chosen, f"Coloured: the {COLOURED} most predicted classes."
        table = figures.counts(outputs.y, outputs.predicted, classes)
        return figures.most_confused(table, COLOURED), f"Coloured: the {COLOURED} most confused classes."


def _accuracy(pick: Mapping[str, Any]) -> float:
    value = pick["target"].get("accuracy")
    return math.nan if value is None else float(value)
