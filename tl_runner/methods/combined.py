"""Methods made of methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import UserError
from ..nn.model import Model
from ..schedules import RampName, ramped
from ..types import Batches, DataInfo, Joint, Losses, Outputs, Step
from .base import Builder, Collect, Method, is_loss


@dataclass(frozen=True)
class Extra:
    """A method whose losses are added to another's.

    Attributes:
        method: called with (model, info).
        schedule: how its share grows: at once, linearly, or along DANN's ramp.
        start: share of the stage before it begins.
    """

    method: Builder
    schedule: RampName = "constant"
    start: float = 0.0


class Combined(Method):
    """A method, and on the same outputs the losses of others, but those on labels.

    An extra joins the first update of each batch that offers its outputs (`Step.out`). Its losses are called
    `<extra>.<loss>`. If it can do without the source (`source_optional`), it does where the method does.

    Args:
        method: what trains and predicts. extra: what is added, by name.

    Raises:
        UserError: for an extra that is more than a loss, or that needs whole labels where the method blends them.
    """

    def __init__(self, model: Model, info: DataInfo, method: Builder, extra: Mapping[str, Extra]) -> None:
        super().__init__(model, info)
        self.method = method(model, info)
        self.extra = nn.ModuleDict({name: e.method(model, info) for name, e in extra.items()})
        self.shares = dict(extra)
        for name, added in self.added().items():
            if not is_loss(type(added)):
                raise UserError(
                    f"method.extra.{name}: {name} is more than a loss (it has passes, updates, predictions or a "
                    f"stage of its own): choose method={name}, and add the other to it"
                )
            if added.whole_labels and "source" in self.method.mixing:
                raise UserError(
                    f"method.extra.{name}: {name} needs source samples of one class each: set method.mixup=0 "
                    "method.cutmix=0"
                )

        every = [self.method, *self.added().values()]
        unread = None if "source" in self.method.roles else "source"

        def union(attribute: str) -> tuple[str, ...]:
            roles = ((m, role) for m in every for role in getattr(m, attribute))
            return tuple(dict.fromkeys(r for m, r in roles if not (m.source_optional and r == unread)))

        self.roles, self.collects = union("roles"), union("collects")
        self.two_views = self.method.two_views = union("two_views")
        self.mixing, self.trains = self.method.mixing, self.method.trains

    def added(self) -> dict[str, Method]:
        return dict(self.extra.items())  # type: ignore[arg-type]

    def forward(self, batch: Batches, model: Callable[[Tensor], Outputs] | None = None) -> Joint:
        return self.method(batch, model)  # type: ignore[no-any-return]

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        return self.method.losses(out, batch, progress) | self.added_losses(out, batch, progress)

    def added_losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        found: dict[str, Tensor] = {}
        for name, method in self.added().items():
            share = self.shares[name]
            if progress < share.start:
                continue
            factor = ramped(share.schedule, (progress - share.start) / (1 - share.start))
            for loss, value in method.losses(out, batch, progress).items():
                if loss not in ("source", "labeled"):
                    found[f"{name}.{loss}"] = factor * value
        return found

    def steps(self, batch: Batches, progress: float) -> Iterator[Step]:
        waiting = True
        for step in self.method.steps(batch, progress):
            if waiting and step.out is not None:
                step.losses = step.losses | self.added_losses(step.out, batch, progress)
                if step.updates is not None:  # What an extra brings along learns with it.
                    own = [m for e in self.added().values() for n, m in e.named_children() if n != "model"]
                    step.updates = [*step.updates, *own]
                waiting = False
            yield step

    def begin_epoch(self, collect: Collect) -> None:
        for method in (self.method, *self.added().values()):
            method.begin_epoch(collect)

    def predict(self, x: Tensor) -> Outputs:
        return self.method.predict(x)
