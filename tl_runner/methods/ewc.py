from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..nn.model import Model
from ..types import Batches, Count, DataInfo, Joint, Losses, NonNegative
from .base import Collect
from .finetune import Finetune


class EWC(Finetune):
    """Learns the labelled samples, and moves little what mattered before: λ/2 Σ F (w − w₀)².

    Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017.
    https://arxiv.org/abs/1612.00796

    F is the diagonal of the Fisher information at w₀, where the stage begins: the mean over samples of the
    squared gradients of log p(y | x). The paper draws y from the model's own prediction; many implementations
    take the true label.

    Args:
        label_smoothing, class_weights, mixup, cutmix: as for `finetune`.
        weight: λ.
        data: whose Fisher information: of the `source`, or, without source data, of the `labeled` samples.
        labels: `drawn` from the prediction, or `true`.
        samples: that the mean is taken over, spread evenly over the role; each costs a backward pass.
    """

    start: Tensor
    fisher: Tensor
    known: Tensor

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1000.0,
        data: Literal["source", "labeled"] = "source",
        labels: Literal["drawn", "true"] = "drawn",
        samples: Count = 500,
        **options: Any,
    ) -> None:
        super().__init__(model, info, **options)
        self.weight, self.data, self.labels, self.samples = weight, data, labels, samples
        self.collects = () if data == "labeled" else (data,)
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        start = self.flat([p.detach() for p in self.parameters_of(model)])
        # What the stage began with is there again when a run goes on; what it computed then is not.
        self.register_buffer("start", start, persistent=False)
        self.register_buffer("fisher", torch.zeros_like(start))
        self.register_buffer("known", torch.tensor(False))

    def parameters_of(self, model: Model) -> list[Tensor]:
        own = dict(model.named_parameters())
        return [own[name] for name in self.names]

    @staticmethod
    def flat(tensors: list[Tensor]) -> Tensor:
        return torch.cat([t.flatten() for t in tensors])

    def begin_epoch(self, collect: Collect) -> None:
        if self.known:
            return
        every = max(1, self.info.sizes[self.data] // self.samples)
        params, count = self.parameters_of(self.model), 0
        with torch.enable_grad():
            for batch in collect.batches(self.data):
                for i in (batch.row % every == 0).nonzero().flatten().tolist():
                    log_p = F.log_softmax(self.model(batch.x[i : i + 1]).logits.float(), dim=1)
                    y = batch.y[i : i + 1] if self.labels == "true" else log_p.exp().multinomial(1).flatten()
                    grads = torch.autograd.grad(
                        F.nll_loss(log_p, y), params, allow_unused=True, materialize_grads=True
                    )
                    self.fisher += self.flat(list(grads)).square()
                    count += 1
        self.fisher /= count
        self.known.fill_(True)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        moved = self.flat(self.parameters_of(self.model)) - self.start
        kept = 0.5 * (self.fisher * moved.square()).sum()
        return {**super().losses(out, batch, progress), "elastic": self.weight * kept}
