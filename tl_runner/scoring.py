"""What an epoch's evaluation gives: scores without target labels, and with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .metrics import MetricFactory, evaluate
from .types import Collected
from .validators import LABELLED, Validator, class_share

Row = dict[str, float]


@dataclass(frozen=True)
class Score:
    """`val/…` and `target/…` without target labels; `test/…` with them, for the oracle alone to select by.

    Attributes:
        validators: scores without target labels, by name.
        metrics: scores with them, by name.
        classes: their names, in the order of the logits.
        truth: the target's labels in the order of its evaluation rows; None if there are none. Only
            `metrics` gets them.
        sentences: where the target's evaluation rows are words, which of them make a sentence; else None.
    """

    validators: Mapping[str, Validator]
    metrics: Mapping[str, MetricFactory]
    classes: Sequence[str]
    truth: Tensor | None
    sentences: Tensor | None = None

    def __call__(self, collected: Mapping[str, Collected]) -> Row:
        """Of what the model says of each evaluation set."""
        scores: Row = {}
        held = {name: collected[name] for name in LABELLED if name in collected}
        for name, out in held.items():
            scores[f"val/{name}"] = float((out.logits.argmax(1) == out.y).float().mean())
        if "target" not in collected:
            return scores
        target = collected["target"]
        labels = next((out.y for out in held.values()), None)
        scores["target/classes"] = class_share(target.logits, labels)
        scores |= {f"val/{name}": float(validator(collected)) for name, validator in self.validators.items()}
        if self.truth is not None:
            row = target.row.cpu()
            about = {
                "classes": self.classes,
                "sentences": None if self.sentences is None else self.sentences[row],
            }
            found = evaluate(self.metrics, target.logits, self.truth[row], about)
            scores |= {f"test/{name}": value for name, value in found.items()}
        return scores
