from __future__ import annotations

from ..losses import spectral_penalty
from ..nn.model import Model
from ..types import Batches, Count, DataInfo, Joint, Losses, NonNegative
from .base import Method
from .cdan import CDAN
from .dann import DANN


class BSP(Method):
    """Adversarial adaptation that keeps the largest singular values of the features from dominating.

    Chen et al., Transferability vs. Discriminability: Batch Spectral Penalization for Adversarial Domain
    Adaptation, ICML 2019. https://proceedings.mlr.press/v97/chen19i.html

    Args:
        penalty: of the k largest squared singular values of each domain's features.
        k: how many singular values are penalised.
        conditional: the adversary is CDAN, as in the quoted numbers; false: DANN.
        weight: of the domain loss.
        hidden: width of the discriminator's two hidden layers.
        gamma: how fast the reversed gradient reaches full strength.
        entropy: weight rows by certainty, if conditional (CDAN+E).
        exact: largest size of f ⊗ p that is formed exactly, if conditional.
        projection: size of the random projection above that.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        penalty: NonNegative = 1e-4,
        k: Count = 1,
        conditional: bool = True,
        weight: NonNegative = 1.0,
        hidden: Count = 1024,
        gamma: NonNegative = 10.0,
        entropy: bool = False,
        exact: Count = 4096,
        projection: Count = 1024,
    ) -> None:
        super().__init__(model, info)
        self.penalty, self.k = penalty, k
        self.adversary: Method
        if conditional:
            self.adversary = CDAN(model, info, weight, hidden, gamma, entropy, exact, projection)
        else:
            self.adversary = DANN(model, info, weight, hidden, gamma)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        of_source, of_target = (spectral_penalty(out[role].features, self.k) for role in ("source", "target"))
        spectral = self.penalty * (of_source + of_target)
        return self.adversary.losses(out, batch, progress) | {"spectral": spectral}
