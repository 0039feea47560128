"""What a method is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..nn.model import Model
from ..types import Batches, Collected, DataInfo, Joint, Losses, Outputs, Step

Collect = Callable[[str], Collected]
"""Role -> the model's outputs over all its rows, in row order, unaugmented, in eval mode."""


class Method(nn.Module):
    """How one paper trains a model.

    It declares `roles`, which roles it reads, of `source`, `target`, `labeled`; and `views`, how many views
    of each target sample. Four things to override; most methods override `losses` alone:

    - `losses`: what one step minimises, as named, already weighted scalars. Written as a function of the
      outputs, it can also be added to another method (`+method.extra=[mcc]`);
    - `steps`: for methods of several updates per batch; code after a `yield` runs after the update;
    - `begin_epoch`: whole-set computations such as pseudo-labels;
    - `predict`: outputs at evaluation.

    Target labels are never there: `batch["target"].y` is `HIDDEN` throughout.
    """

    roles: tuple[str, ...] = ("source", "target")
    views: int = 1
    adapts_trained_model: ClassVar[bool] = False
    """True for methods that need an earlier stage, since a random head would teach itself."""

    def __init__(self, model: Model, info: DataInfo) -> None:
        super().__init__()
        self.model, self.info = model, info

    def forward(self, batch: Batches, model: Callable[[Tensor], Outputs] | None = None) -> Joint:
        """Outputs of every role, in one pass; of the target's second view too if the method reads two.

        Args:
            model: asked instead of the method's own.
        """
        x = {role: b.x for role, b in batch.items()}
        if self.views > 1:
            x["target_2"] = batch["target"].views[1]
        return self.outputs(x, model)

    def outputs(self, x: Mapping[str, Tensor], model: Callable[[Tensor], Outputs] | None = None) -> Joint:
        """Outputs of several inputs, as one batch unless the model says `bn: per_domain`."""
        model = model or self.model
        if self.model.bn == "per_domain" or len(x) == 1:
            return {name: model(part) for name, part in x.items()}
        joint = model(torch.cat(list(x.values())))
        sizes = [len(part) for part in x.values()]
        features, logits = joint.features.split(sizes), joint.logits.split(sizes)
        return {name: Outputs(f, z) for name, f, z in zip(x, features, logits, strict=True)}

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        """Named losses of one step; `progress` in [0, 1) is the share of the stage done.

        Those on labels are called `source` and `labeled`: they are left out where the method is an extra.
        """
        raise TypeError(f"{type(self).__name__} must define losses() or steps()")

    def steps(self, batch: Batches, progress: float) -> Iterator[Step]:
        """The optimiser updates that one set of batches gives."""
        out = self(batch)
        yield Step(self.losses(out, batch, progress), out=out)

    def begin_epoch(self, collect: Collect) -> None:
        """Called before each epoch."""

    def predict(self, x: Tensor) -> Outputs:
        """Outputs at evaluation."""
        return self.model(x)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Method:
        """Training mode, but whatever is frozen as a whole stays in eval: no dropout, no moving batch-norm."""
        super().train(mode)
        if mode:
            for module in self.modules():
                params = list(module.parameters())
                if params and not any(p.requires_grad for p in params):
                    module.train(False)
        return self
