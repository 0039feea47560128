from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from ..losses.precision import wide
from ..types import Collected, Positive


class Circular:
    """Accuracy on held-out source rows of a classifier that was trained on the target's predicted classes.

    Reverse, or circular, validation: Bruzzone & Marconcini, TPAMI 2010,
    https://doi.org/10.1109/TPAMI.2009.57; Zhong et al., ECML PKDD 2010,
    https://doi.org/10.1007/978-3-642-15939-8_35. They adapt a new model from the target back to the source;
    here the reverse classifier is ridge regression onto the classes in the model's own feature space, in
    closed form, so that it can be asked every epoch. In [0, 1].

    Args:
        ridge: penalty added to the diagonal of XᵀX, X being standardised features.
    """

    needs = ("source_val",)

    def __init__(self, ridge: Positive = 1.0) -> None:
        self.ridge = ridge

    def __call__(self, collected: Mapping[str, Collected]) -> float:
        target, source = collected["target"], collected["source_val"]
        features, k = wide(target.features), target.logits.shape[1]
        d = features.shape[1]
        predicted = target.logits.argmax(1)
        mean = features.mean(0, dtype=torch.float64).to(features.dtype)
        gram, sums = (torch.zeros(d, n, dtype=torch.float64, device=mean.device) for n in (d, k))
        # Products of some thousand rows are exact enough for the ridge in float32; sums of them are not.
        for part, y in zip(*(torch.split(t, 8192) for t in (features, predicted)), strict=True):
            x = part - mean
            gram += x.T @ x
            sums += x.T @ F.one_hot(y, k).to(x.dtype)
        scale = (gram.diagonal() / len(predicted)).sqrt().clamp_min(1e-12)
        gram /= scale[:, None] * scale
        gram.diagonal().add_(self.ridge)
        weight = (torch.linalg.solve(gram, sums / scale[:, None]) / scale[:, None]).to(mean.dtype)
        count = predicted.bincount(minlength=k)
        scores = (source.features - mean) @ weight + count / len(predicted)
        scores[:, count == 0] = -torch.inf  # What was never taught cannot be the answer.
        return float((scores.argmax(1) == source.y).double().mean())
