"""What may see target labels. Nothing here reaches training or model selection."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from scipy.stats import rankdata
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassStatScores

MetricFactory = Callable[..., Metric]


def evaluate(factories: Mapping[str, MetricFactory], logits: Tensor, y: Tensor) -> dict[str, float]:
    """Each metric of softmax(logits) against the labels.

    Args:
        factories: called with `num_classes`.
        logits: (N, K). y: (N,) true labels.

    Returns:
        Values by name; fractions, not percent. Of a metric with a value for each class, `<name>/<class index>`.
        Values that these labels leave undefined are left out.
    """
    p = logits.float().softmax(1).cpu()
    found: dict[str, float] = {}
    for name, factory in factories.items():
        value = factory(num_classes=p.shape[1])(p, y.cpu())
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
