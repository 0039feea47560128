"""Disagreement of an adversarial classifier, measured with a margin."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .precision import full_precision


@full_precision
def margin_disparity(
    source_adversary: Tensor, source: Tensor, target_adversary: Tensor, target: Tensor, margin: float = 4.0
) -> Tensor:
    """Margin disparity discrepancy as its adversary minimises it: agree on the source, differ on the target.

    γ · mean_s CE(σ(z'_s), ŷ_s) − mean_t log(1 − σ(z'_t)[ŷ_t]),  ŷ = argmax z (no gradient through it), γ = e^margin
    of the theory.

    Zhang et al., Bridging Theory and Algorithm for Domain Adaptation, ICML 2019,
    https://arxiv.org/abs/1904.05801, equations 26 to 30. The authors' code clamps 1 − σ at 1e-6; this is exact,
    log Σ_{k≠ŷ} e^z'_k − log Σ_k e^z'_k.

    Args:
        source_adversary, source: (N, K) logits z'_s of the adversary and z_s of the classifier.
        target_adversary, target: (M, K) the same of the target.
        margin: γ > 0.

    Returns:
        Scalar ≥ 0.

    Raises:
        ValueError: for fewer than two classes, which cannot differ.

    >>> import torch
    >>> z = torch.zeros(2, 2)
    >>> round(margin_disparity(z, z, z, z, margin=4.0).item(), 4)  # 5 ln 2
    3.4657
    """
    if target.shape[1] < 2:
        raise ValueError(f"needs at least 2 classes to differ in, got logits {tuple(target.shape)}")
    agree = F.cross_entropy(source_adversary, source.argmax(1))
    others = target_adversary.scatter(1, target.argmax(1, keepdim=True), float("-inf"))
    differ = target_adversary.logsumexp(1) - others.logsumexp(1)
    return margin * agree + differ.mean()
