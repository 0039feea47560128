"""What weights matter for a prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..types import Batch


def fisher_diagonal(
    predict: Callable[[Tensor], Tensor],
    weights: Sequence[Tensor],
    batches: Iterable[Batch],
    drawn: bool = True,
) -> list[Tensor]:
    """Diagonal of the Fisher information: mean over samples of the squared gradients of log p(y | x).

    One backward pass for each sample.

    Args:
        predict: (N, ...) -> (N, K) logits. weights: that these depend on, or not.
        drawn: y is drawn from the prediction; False: the sample's label, the empirical Fisher information.

    Returns:
        As the weights; each ≥ 0.
    """
    trains = [w.requires_grad for w in weights]
    total, count = [torch.zeros_like(w) for w in weights], 0
    for w in weights:  # What is frozen for now, too.
        w.requires_grad_(True)
    with torch.enable_grad():
        for batch in batches:
            for row in torch.eye(len(batch), dtype=torch.bool, device=batch.row.device):
                one = batch.where(row)
                log_p = F.log_softmax(predict(one.x).float(), dim=1)
                y = log_p.exp().multinomial(1).flatten() if drawn else one.y
                loss = F.nll_loss(log_p, y)
                grads = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
                torch._foreach_addcmul_(total, grads, grads)
                count += 1
    for w, train in zip(weights, trains, strict=True):
        w.requires_grad_(train)
    return [t.detach() / max(count, 1) for t in total]
