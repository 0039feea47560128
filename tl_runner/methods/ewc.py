from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..losses import starting_point
from ..nn.copies import Earlier, flat, views
from ..nn.fisher import fisher_diagonal
from ..nn.model import Model
from ..types import Batches, Count, DataInfo, Joint, Losses, NonNegative
from .base import Collect
from .finetune import Finetune


class EWC(Finetune):
    """Learns the labelled samples, and moves little what mattered before: λ/2 Σ F (w − w₀)².

    Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017.
    https://arxiv.org/abs/1612.00796

    F is the diagonal of the Fisher information at w₀, where the stage begins: the mean over samples of the
    squared gradients of log p(y | x) in the earlier task's classes, which are found as `lwf` finds them. The
    paper draws y from the prediction; many implementations take the true label.

    Args:
        label_smoothing, class_weights, mixup, cutmix: as for `finetune`.
        weight: λ. The penalty is as stiff as λ times the Fisher information: on a whole network, with plain SGD, 1000
            diverged on the embedded digits and 30 did not.
        data: whose Fisher information: of the `source`, or, without source data, of the `labeled` samples.
        labels: `drawn` from the prediction, or `true`, where the earlier classes are the data's.
        samples: that the mean is taken over, spread evenly over the role; each costs a backward pass.

    Raises:
        UserError: if the model has no earlier classifier, or `true` labels are of other classes.
    """

    start: Tensor
    fisher: Tensor
    known: Tensor

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 30.0,
        data: Literal["source", "labeled"] = "source",
        labels: Literal["drawn", "true"] = "drawn",
        samples: Count = 500,
        **options: Any,
    ) -> None:
        super().__init__(model, info, **options)
        self.weight, self.data, self.labels, self.samples = weight, data, labels, samples
        self.collects = () if data == "labeled" else (data,)
        earlier = Earlier(model, "ewc")
        if labels == "true" and not earlier.own:
            raise UserError("method.labels=true: the earlier classifier knows other classes; set drawn")
        # Not a module of its own: it is needed once, and the model is there already.
        self.earlier = (earlier,)
        start = flat(model.parameters())
        # What the stage began with is there again when a run goes on; what it computed then is not.
        self.register_buffer("start", start, persistent=False)
        self.register_buffer("fisher", torch.zeros_like(start))
        self.register_buffer("known", torch.tensor(False))

    def begin_epoch(self, collect: Collect) -> None:
        if self.known:
            return
        (earlier,) = self.earlier
        earlier.to(self.fisher.device).eval()
        found = fisher_diagonal(
            earlier,
            [*self.model.parameters()],
            collect.some(self.data, self.samples),
            drawn=self.labels == "drawn",
        )
        self.fisher.copy_(flat(found))
        self.known.fill_(True)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        every = [*self.model.parameters()]
        terms = zip(every, views(self.start, every), views(self.fisher, every), strict=True)
        moved = [term for term in terms if term[0].requires_grad]
        elastic = starting_point(*([term[i] for term in moved] for i in range(3)))
        return {**super().losses(out, batch, progress), "elastic": self.weight * elastic}
