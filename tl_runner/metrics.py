"""What may see target labels. Nothing here reaches training or model selection."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import torch
from scipy.stats import rankdata
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassStatScores

from .errors import UserError

MetricFactory = Callable[..., Metric]


def evaluate(
    factories: Mapping[str, MetricFactory],
    logits: Tensor,
    y: Tensor,
    about: Mapping[str, object] = MappingProxyType({}),
) -> dict[str, float]:
    """Each metric of softmax(logits) against the labels.

    Args:
        factories: called with `num_classes`, and with what of `about` they ask for by name.
        logits: (N, K). y: (N,) true labels.
        about: the names of the `classes`; the `sentences` that rows belong to where they are words, else None.

    Returns:
        Values by name; fractions, not percent. Of a metric with a value for each class, `<name>/<class index>`;
        torchmetrics gives a class without true rows 0. Values that these labels leave undefined are left out.
    """
    p = logits.float().softmax(1).cpu()
    found: dict[str, float] = {}
    for name, factory in factories.items():
        asked = {k: v for k, v in about.items() if k in inspect.signature(factory).parameters}
        metric = factory(num_classes=p.shape[1], **asked)
        metric.distributed_available_fn = None  # These are all rows, whoever computed them.
        value = metric(p, y.cpu())
        found |= (
            {f"{name}/{k}": float(v) for k, v in enumerate(value)} if value.ndim else {name: float(value)}
        )
    return {name: value for name, value in found.items() if math.isfinite(value)}


class AUROC(Metric):
    """Area under the ROC curve of each class against the rest, averaged over the classes that there are.

    By ranks (Mann & Whitney, 1947), ties counted half: of two classes it is the area of either. In [0, 1];
    NaN if all labels are of one class.

    Args:
        num_classes: K.
    """

    p: list[Tensor]
    y: list[Tensor]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("p", [], dist_reduce_fx="cat")
        self.add_state("y", [], dist_reduce_fx="cat")

    def update(self, p: Tensor, y: Tensor) -> None:
        """(N, K) scores and (N,) labels."""
        self.p.append(p)
        self.y.append(y)

    def compute(self) -> Tensor:
        p, y = torch.cat(self.p), torch.cat(self.y)
        truth = torch.nn.functional.one_hot(y, self.num_classes).double()
        positive, negative = truth.sum(0), (1 - truth).sum(0)
        ranks = torch.from_numpy(rankdata(p.cpu().numpy(), axis=0)).to(p.device)
        above = (ranks * truth).sum(0) - positive * (positive + 1) / 2
        return (above / (positive * negative))[(positive > 0) & (negative > 0)].mean()


class ClassMean(MulticlassStatScores):
    """Recall (which is a class's accuracy) or F1, averaged over the classes that there are.

    TP / (TP + FN), or 2 TP / (2 TP + FP + FN). torchmetrics' macro averages count a class that is predicted but has no
    true row as 0, whose score no model can raise. In [0, 1].

    Args:
        num_classes: K.
        score: which of the two.
    """

    def __init__(self, num_classes: int, score: Literal["recall", "f1"] = "recall") -> None:
        super().__init__(num_classes, average="none")
        self.score = score

    def compute(self) -> Tensor:
        right, wrongly, _, _, support = super().compute().double().T
        values: Tensor = (
            right / support if self.score == "recall" else 2 * right / (support + right + wrongly)
        )
        return values[support > 0].mean()


class Support(MulticlassStatScores):
    """Number of samples of each class.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="none")

    def compute(self) -> Tensor:
        counts: Tensor = super().compute()[:, 4]
        return counts


class Entities(Metric):
    """Precision, recall or F1 of named entities: right is one whose type and both ends are right.

    Tjong Kim Sang & De Meulder, CoNLL-2003 shared task, https://aclanthology.org/W03-0419; counted by seqeval as
    the task's own script counts them, of which an entity may also begin without its B. In [0, 1].

    Args:
        num_classes: K.
        classes: names of the classes: O, or B- or I- and a type.
        sentences: (N,) which rows, in their order, make a sentence.
        score: which of the three. average: over entities (`micro`), or over their types (`macro`; a type that is
            predicted and has no true entity counts as 0, as seqeval has it).

    Raises:
        UserError: if the rows are no words, the classes no such tags, or seqeval is not installed.
    """

    def __init__(
        self,
        num_classes: int,
        classes: Sequence[str] = (),
        sentences: Tensor | None = None,
        score: Literal["precision", "recall", "f1"] = "f1",
        average: Literal["micro", "macro"] = "micro",
    ) -> None:
        super().__init__()
        if sentences is None or not all(c == "O" or c[:2] in ("B-", "I-") for c in classes):
            raise UserError(
                "metrics of entities are of words tagged O, B-TYPE or I-TYPE, as data=conll2003 has them; "
                f"these are {'words' if sentences is not None else 'no words'} of the classes {', '.join(classes[:5])}"
            )
        self.classes, self.sentences, self.which, self.average = classes, sentences, score, average
        self.add_state("predicted", torch.zeros(0, dtype=torch.long))
        self.add_state("truth", torch.zeros(0, dtype=torch.long))

    def update(self, p: Tensor, y: Tensor) -> None:
        """(N, K) scores and (N,) labels, once: of all rows."""
        self.predicted, self.truth = p.argmax(1), y

    def compute(self) -> Tensor:
        try:
            from seqeval import metrics as seqeval
        except ImportError as error:
            raise UserError("metrics of entities need seqeval: pip install 'tl-runner[text]'") from error
        sizes = torch.unique_consecutive(self.sentences, return_counts=True)[1].tolist()

        def tags(y: Tensor) -> list[list[str]]:
            return [[self.classes[k] for k in sentence.tolist()] for sentence in torch.split(y, sizes)]

        measure = getattr(seqeval, f"{self.which}_score")
        value = measure(tags(self.truth), tags(self.predicted), average=self.average, zero_division=0)
        return torch.tensor(float(value))
