"""What may see target labels. Nothing here reaches training or model selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor
from torchmetrics import Metric

MetricFactory = Callable[..., Metric]


def evaluate(factories: Mapping[str, MetricFactory], logits: Tensor, y: Tensor) -> dict[str, float]:
    """Each metric of softmax(logits) against the labels.

    Args:
        factories: called with `num_classes`.
        logits: (N, K). y: (N,) true labels.

    Returns:
        Values by name; fractions, not percent.
    """
    p = logits.float().softmax(1).cpu()
    return {name: float(factory(num_classes=p.shape[1])(p, y.cpu())) for name, factory in factories.items()}
