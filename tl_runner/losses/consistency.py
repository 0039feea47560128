"""Predictions that should not change: between views, between teacher and student, around each sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import full_precision


@full_precision
def softmax_mse(logits: Tensor, reference: Tensor, confidence: float = 0.0) -> Tensor:
    """Squared difference of two predictions, mean over rows and classes: 1[max q > c] · mean_k (p_k − q_k)².

    p = softmax(logits), q = softmax(reference), without gradient through q. Rows that q is not confident
    of count as 0, and all rows divide the sum.

    French et al., Self-Ensembling for Visual Domain Adaptation, ICLR 2018, https://arxiv.org/abs/1706.05208

    Args:
        logits, reference: (N, K). confidence: c; 0 keeps all rows.

    Returns:
        Scalar in [0, 2 / K].

    >>> a, b = torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]])
    >>> softmax_mse(a, b).item(), softmax_mse(a, a).item()
    (1.0, 0.0)
    """
    q = F.softmax(reference.detach(), dim=1)
    each = (F.softmax(logits, dim=1) - q).square().mean(1)
    return (each * (q.amax(1) > confidence)).mean()


@full_precision
def class_balance(logits: Tensor) -> Tensor:
    """How far the mean prediction is from uniform: Σ_k −[u log m_k + (1 − u) log(1 − m_k)], u = 1/K.

    m is the mean of softmax(logits) over rows. French et al., ICLR 2018, section 3.4,
    https://arxiv.org/abs/1706.05208; binary cross-entropies and their sum as in the authors' code. No
    logarithm falls below that of 1e-6, so that a class nobody predicts costs a finite amount.

    Args:
        logits: (N, K).

    Returns:
        Scalar, least for m = u: log K + (K − 1) log(K / (K − 1)).

    >>> round(class_balance(torch.eye(2)).item(), 4)  # 2 ln 2
    1.3863
    """
    mean = F.softmax(logits, dim=1).mean(0)
    u, least = 1 / logits.shape[1], 1e-6
    return -(u * torch.log(mean + least) + (1 - u) * torch.log(1 - mean + least)).sum()


@full_precision
def divergence(logits: Tensor, reference: Tensor, reduction: str = "mean") -> Tensor:
    """Kullback-Leibler divergence KL(q ‖ p) = Σ_k q_k (log q_k − log p_k), without gradient through q.

    p = softmax(logits), q = softmax(reference). The smoothness term of virtual adversarial training, Miyato
    et al., TPAMI 2018, https://arxiv.org/abs/1704.03976, and the teacher's term of DIRT-T.

    Args:
        logits, reference: (N, K). reduction: `mean` over rows, or `none`.

    Returns:
        Scalar or (N,), ≥ 0; 0 for equal predictions.

    >>> round(divergence(torch.zeros(1, 2), torch.tensor([[99.0, 0.0]])).item(), 4)  # ln 2
    0.6931
    """
    log_q = F.log_softmax(reference.detach(), dim=1)
    each = (log_q.exp() * (log_q - F.log_softmax(logits, dim=1))).sum(1)
    return each if reduction == "none" else each.mean()


@full_precision
def distillation(logits: Tensor, reference: Tensor, temperature: float = 2.0) -> Tensor:
    """A teacher's softened predictions as labels: T² · KL(softmax(reference / T) ‖ softmax(logits / T)).

    Hinton et al., Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531. The
    T² keeps the gradient's size whatever the temperature; without gradient through the reference.

    Args:
        logits, reference: (N, K). temperature: T, above 0; 1 leaves the predictions as they are.

    Returns:
        Scalar ≥ 0, mean over rows; 0 for equal predictions.

    >>> z = torch.tensor([[2.0, 0.0]])
    >>> distillation(z, z).item(), round(distillation(-z, z, temperature=1.0).item(), 4)  # 2 tanh 1
    (0.0, 1.5232)
    """
    return temperature**2 * divergence(logits / temperature, reference / temperature)


def adversarial_direction(
    predict: Callable[[Tensor], Tensor],
    x: Tensor,
    reference: Tensor,
    trial: float | Tensor,
    iterations: int = 1,
) -> Tensor:
    """The direction in which a small step from x changes the prediction most, by power iteration.

    d ← ∇_r KL(q ‖ p(x + r)) at r = trial · d, q = softmax(reference), scaled to a mean square of 1 in each
    row, from a random start. Miyato et al., TPAMI 2018, algorithm 1, https://arxiv.org/abs/1704.03976

    Args:
        predict: (N, ...) -> (N, K) logits. It runs as it is called here, in autocast or not.
        x: (N, ...) floats. reference: (N, K) logits at x.
        trial: root mean square of the step that the gradient is taken at.
        iterations: 1 in the published settings; 0 gives a random direction.

    Returns:
        As x, float32 at least, without a graph; each row with a root mean square of 1, or 0 where the
        gradient is 0.

    >>> d = adversarial_direction(lambda x: x * torch.tensor([1.0, 0.0]), torch.ones(1, 2), torch.ones(1, 2), 0.01)
    >>> d.abs().round(decimals=3)  # the prediction depends on the first component alone
    tensor([[1.4140, 0.0000]])
    """

    def normalized(d: Tensor) -> Tensor:
        flat, tiny = d.flatten(1), torch.finfo(d.dtype).tiny
        # By the largest component first: the squares of a small gradient would underflow.
        flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(tiny)
        return (flat / flat.square().mean(1, keepdim=True).sqrt().clamp_min(tiny)).view_as(d)

    x = x.detach()
    d = normalized(torch.randn_like(x, dtype=torch.promote_types(x.dtype, torch.float32)))
    for _ in range(iterations):
        with torch.enable_grad():
            r = (trial * d).requires_grad_()
            # A sum, so that a row's gradient does not depend on the size of the batch.
            change = divergence(predict(x + r), reference, reduction="none").sum()
        d = normalized(torch.autograd.grad(change, r)[0])
    return d
