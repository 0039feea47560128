from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

import torch
from sklearn.svm import SVC
from torch import Tensor
from torch.nn import functional as F

from ..nn.model import Model
from ..types import Batches, DataInfo, Outputs, Positive, Step
from .base import Collect, Method

log = logging.getLogger(__name__)


class SVM(Method):
    """A support vector machine with a Gaussian kernel on the features; the network is not trained.

    Cortes & Vapnik, Support-Vector Networks, Machine Learning 1995. https://doi.org/10.1007/BF00994018

    scikit-learn's `SVC`, one class against the rest, fitted once, to all samples of a role. Its decision values
    are the logits. `model=mlp model.backbone.layers=0` gives it vectors as they are; a frozen backbone wants
    `model.neck=none` unless its neck has been trained.

    Args:
        role: whose labels teach: `labeled` trains from scratch, `source` transfers directly.
        penalty: C, of samples inside the margin.
        gamma: of the kernel exp(−γ‖x − x'‖²); None: 1 / (D · variance of the features), `scale`.
    """

    roles: tuple[str, ...] = ()
    trains = False
    rows: Tensor
    dual: Tensor
    bias: Tensor
    width: Tensor

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        role: Literal["source", "labeled"] = "labeled",
        penalty: Positive = 1.0,
        gamma: Positive | None = None,
    ) -> None:
        super().__init__(model, info)
        if list(model.neck.parameters()) and "neck" not in model.trained:
            log.warning("method=svm sees an untrained neck's features; model.neck=none: the backbone's own")
        self.role, self.roles, self.penalty, self.gamma = role, (role,), penalty, gamma
        n, k = info.sizes.get(role, 0), info.num_classes
        # What a fit leaves: Σ_i dual_ki · exp(−width ‖x − rows_i‖²) + bias_k.
        self.register_buffer("rows", torch.zeros(n, model.num_features))
        self.register_buffer("dual", torch.zeros(k, n))
        self.register_buffer("bias", torch.zeros(k))
        self.register_buffer("width", torch.tensor(0.0))

    def begin_epoch(self, collect: Collect) -> None:
        if self.width > 0:
            return
        known = collect(self.role)
        x = known.features.double()
        self.rows.copy_(x)
        self.width.fill_(self.gamma or 1 / (x.shape[1] * x.var(correction=0).clamp_min(1e-12)))
        for k in range(len(self.bias)):
            y = (known.y == k).cpu().numpy()
            if y.all() or not y.any():  # Nothing to tell apart.
                self.bias[k] = 1.0 if y.all() else -1.0
                continue
            machine = SVC(C=self.penalty, gamma=float(self.width)).fit(x.cpu().numpy(), y)
            self.dual[k, machine.support_.tolist()] = torch.from_numpy(machine.dual_coef_[0]).to(self.dual)
            self.bias[k] = float(machine.intercept_[0])

    def steps(self, batch: Batches, progress: float) -> Iterator[Step]:
        loss = F.multi_margin_loss(self.predict(batch[self.role].x).logits, batch[self.role].y)
        # An update of nothing, so that there is a checkpoint.
        yield Step({self.role: loss.detach().requires_grad_()}, updates=[])

    def predict(self, x: Tensor) -> Outputs:
        features = self.model.features(x).float()
        # Not through a matrix product, whose rounding a narrow kernel would show.
        distance = torch.cdist(features, self.rows, compute_mode="donot_use_mm_for_euclid_dist")
        kernel = torch.exp(-self.width * distance.square())
        return Outputs(features, kernel @ self.dual.T + self.bias)
