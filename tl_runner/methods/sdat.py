from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call

from ..errors import UserError
from ..nn.model import Model
from ..ranks import average
from ..types import Batches, DataInfo, Losses, NonNegative, Outputs, Step
from .base import Builder, Collect, Method
from .builders import classes


class SDAT(Method):
    """Wraps an adversarial method: its task loss, and only that, is minimised where it is flat.

    Rangwani et al., A Closer Look at Smoothness in Domain Adversarial Training, ICML 2022.
    https://arxiv.org/abs/2206.08213

    Sharpness-aware minimisation (Foret et al., ICLR 2021, https://arxiv.org/abs/2010.01412): a first pass
    takes the gradient of the task loss, a second one minimises at weights moved along it by `rho`. Every loss
    counts as task loss, extras included, but those named in `adversarial`. The paper takes the adversarial loss at
    the weights themselves; the authors' code, which made the published numbers, at the moved ones, and so does
    this unless told otherwise. Only the model's weights are moved, never the discriminator's. What a wrapped method
    keeps from batch to batch, such as moving averages and memories, moves in either pass: twice a batch.

    Args:
        method: what is wrapped: a name, `dann`, or a name and settings, `{cdan: {entropy: true}}`.
        rho: length of the ascent step.
        adversarial: names of the losses that the ascent leaves out; none for plain sharpness-aware minimisation.
        domain_at: weights at which the adversarial losses are taken.
    """

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        method: Builder,
        rho: NonNegative = 0.02,
        adversarial: tuple[str, ...] = ("domain",),
        domain_at: Literal["moved", "original"] = "moved",
    ) -> None:
        super().__init__(model, info)
        for wrapped in classes(method):
            if wrapped.steps is not Method.steps:
                raise UserError(
                    f"method.method: sdat wraps methods of one update per batch, and {wrapped.__name__} has several"
                )
        self.method = method(model, info)
        self.roles, self.collects = self.method.roles, self.method.collects
        self.two_views, self.mixing = self.method.two_views, self.method.mixing
        self.rho, self.adversarial, self.domain_at = rho, tuple(adversarial), domain_at

    def task(self, losses: Losses) -> Losses:
        return {k: v for k, v in losses.items() if k.rpartition(".")[2] not in self.adversarial}

    def moved(self, task: Tensor) -> dict[str, Tensor]:
        """The model's weights, ρ up the gradient; gradients flow to the weights as they are."""
        names, params = zip(
            *((n, p) for n, p in self.model.named_parameters() if p.requires_grad), strict=True
        )
        grads = torch.autograd.grad(
            task, params, retain_graph=self.domain_at == "original", allow_unused=True
        )
        average(grads)
        norm = torch.stack([g.norm() for g in grads if g is not None]).norm()
        scale = self.rho / (norm + 1e-12)
        return {n: p if g is None else p + scale * g for n, p, g in zip(names, params, grads, strict=True)}

    def steps(self, batch: Batches, progress: float) -> Iterator[Step]:
        first = self.method.losses(self.method(batch), batch, progress)
        task = self.task(first)
        if self.adversarial and len(task) == len(first):
            raise UserError(
                f"method.adversarial={[*self.adversarial]}: the losses of {type(self.method).__name__} are "
                f"{', '.join(first)}; name the adversarial one, or none: method.adversarial=[]"
            )
        weights = self.moved(torch.stack([*task.values()]).sum())
        out = self.method(batch, lambda x: functional_call(self.model, weights, (x,)))
        losses = self.method.losses(out, batch, progress)
        if self.domain_at == "original":
            losses = first | self.task(losses)
        yield Step(losses)

    def begin_epoch(self, collect: Collect) -> None:
        self.method.begin_epoch(collect)

    def predict(self, x: Tensor) -> Outputs:
        return self.method.predict(x)
