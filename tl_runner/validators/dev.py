from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..types import Collected, Count
from .base import Probe
from .density import density_ratio, features


class DeepEmbedded:
    """1 − the target risk that held-out source rows estimate, with the variance of their weights controlled.

    You et al., Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation, ICML 2019,
    https://proceedings.mlr.press/v97/you19a.html: risk = mean(wℓ) + η mean(w) − η with
    η = −Cov(wℓ, w) / Var(w), ℓ being 1 for a wrong prediction and w the density ratio of the features
    (`density_ratio`; the authors train a perceptron). An estimate of accuracy, but not confined to [0, 1].
    Costs a pass over the source rows below at every evaluation.

    Args:
        rows: of the source's training rows, and of the target's, for the density ratio.
    """

    def __init__(self, rows: Count = 1000) -> None:
        self.rows = rows
        self.trained = Probe("source", rows)
        self.needs = ("source_val", self.trained)

    def __call__(self, collected: Mapping[str, Collected]) -> float:
        held = collected["source_val"]
        target = features(collected["target"].features, self.rows)
        weight = density_ratio(collected[self.trained.name].features, target, held.features)
        wrong = (held.logits.argmax(1) != held.y).double().cpu()
        return 1 - float(risk(weight, wrong))


def risk(weight: Tensor, loss: Tensor) -> Tensor:
    """mean(wℓ) + η mean(w) − η of (M,) weights and losses; η = 0 where all weights are equal."""
    weighted = weight * loss
    spread = ((weight - weight.mean()) ** 2).mean()
    shared = ((weighted - weighted.mean()) * (weight - weight.mean())).mean()
    eta = -shared / spread if float(spread) > 0 else weight.new_zeros(())
    return weighted.mean() + eta * weight.mean() - eta
