"""What a method is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import tokens
from ..nn.model import Model
from ..types import Batch, Batches, Collected, DataInfo, Joint, Losses, Mixing, Outputs, Step


class Collect:
    """Whole training roles, in row order, unaugmented, with the method in eval mode.

    Args:
        method: whose outputs are collected.
        loaders: batches of every role that the method reads or collects.
    """

    def __init__(self, method: Method, loaders: Mapping[str, Iterable[Batch]]) -> None:
        self.method, self.loaders = method, loaders

    @torch.no_grad()
    def __call__(self, role: str) -> Collected:
        """The method's predictions."""
        return Collected.join([self.method.collected(batch) for batch in self.batches(role)])

    def batches(self, role: str) -> Iterator[Batch]:
        """What goes in, to compute anything else."""
        self.method.eval()
        return iter(self.loaders[role])

    def some(self, role: str, count: int) -> Iterator[Batch]:
        """What goes in, of at most so many samples, spread evenly over the role."""
        size = self.method.info.sizes[role]
        wanted = torch.linspace(0, size - 1, min(count, size), dtype=torch.float64).round().long()
        for batch in self.batches(role):
            chosen = torch.isin(batch.row, wanted.to(batch.row.device))
            if chosen.any():
                yield batch.where(chosen)


class Method(nn.Module):
    """How one paper trains a model.

    It declares `roles`, which roles its steps read, of `source`, `target`, `labeled`; `two_views`, of which
    of these it reads two views of each sample; `collects`, further roles that `begin_epoch` alone reads; and
    `mixing`, how samples of a role are blended with each other before it reads them.
    What there is to override; most methods override `losses` alone:

    - `losses`: what one step minimises, as named, already weighted scalars. Written as a function of the
      outputs, it can also be added to another method (`+method.extra=[mcc]`);
    - `steps`: for methods of several updates per batch; code after a `yield` runs after the update;
    - `begin_epoch`: whole-set computations such as pseudo-labels;
    - `predict`: outputs at evaluation.

    Target labels are never there: `batch["target"].y` is `HIDDEN` throughout.
    """

    roles: tuple[str, ...] = ("source", "target")
    two_views: tuple[str, ...] = ()
    collects: tuple[str, ...] = ()
    mixing: Mapping[str, Mixing] = {}
    source_free: ClassVar[bool] = False
    """True for methods that adapt a trained model without its source data: they need an earlier stage or
    `init_from`, and their stage never opens the source."""
    trains: bool = True
    """False for methods whose steps update nothing."""
    source_optional: bool = False
    """True for losses that can do without the source but for its labels: added to a method that does not read it, they
    do not either."""
    whole_labels: ClassVar[bool] = False
    """True for losses that need each source sample to be of one class, not blended of several."""
    sees_images: ClassVar[bool | str] = False
    """True for methods that need the images themselves, where cached features of a frozen backbone will not do; or
    the argument with which they do."""

    def __init__(self, model: Model, info: DataInfo) -> None:
        super().__init__()
        self.model, self.info = model, info

    def forward(self, batch: Batches, model: Callable[[Tensor], Outputs] | None = None) -> Joint:
        """Outputs of every role, in one pass; of the second view too where the method reads two.

        Args:
            model: asked instead of the method's own.
        """
        x = {role: b.x for role, b in batch.items()}
        x |= {f"{role}_2": batch[role].views[1] for role in self.two_views}
        return self.outputs(x, model)

    def outputs(self, x: Mapping[str, Tensor], model: Callable[[Tensor], Outputs] | None = None) -> Joint:
        """Outputs of several inputs, as one batch unless the model says `bn: per_domain`."""
        model = model or self.model
        if self.model.bn == "per_domain" or len(x) == 1:
            return {name: model(part) for name, part in x.items()}
        joint = model(torch.cat(list(x.values())))
        sizes = [tokens.count(part) for part in x.values()]
        features, logits = joint.features.split(sizes), joint.logits.split(sizes)
        return {name: Outputs(f, z) for name, f, z in zip(x, features, logits, strict=True)}

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        """Named losses of one step; `progress` in [0, 1) is the share of the stage done.

        Those on labels are called `source` and `labeled`: they are left out where the method is an extra.
        """
        raise TypeError(f"{type(self).__name__} must define losses() or steps()")

    def source_loss(self, out: Joint, batch: Batches) -> Losses:
        """The cross-entropy of the source's labels, `source`; nothing where the source is not read."""
        if "source" not in out:
            return {}
        return {"source": F.cross_entropy(out["source"].logits, batch["source"].y)}

    def steps(self, batch: Batches, progress: float) -> Iterator[Step]:
        """The optimiser updates that one set of batches gives."""
        out = self(batch)
        yield Step(self.losses(out, batch, progress), out=out)

    def begin_epoch(self, collect: Collect) -> None:
        """Called before each epoch."""

    def predict(self, x: Tensor) -> Outputs:
        """Outputs at evaluation."""
        return self.model(x)  # type: ignore[no-any-return]

    def collected(self, batch: Batch) -> Collected:
        """Outputs at evaluation, with what says which rows they are of."""
        out = self.predict(batch.x)
        return Collected(out.features, out.logits, batch.y, batch.domain, batch.row)

    def train(self, mode: bool = True) -> Method:
        """Training mode, but whatever is frozen as a whole stays in eval: no dropout, no moving batch-norm."""
        super().train(mode)
        if mode:
            _rest(self)
        return self


Builder = Callable[[Model, DataInfo], Method]
"""What makes a method."""


def is_loss(kind: type[Method]) -> bool:
    """Whether a method has no passes, updates, predictions or stage of its own, so that it can be added to another."""
    own = ("forward", "outputs", "steps", "predict")
    return not kind.source_free and all(getattr(kind, name) is getattr(Method, name) for name in own)


def _rest(module: nn.Module) -> None:
    """Eval mode for what is frozen. What has no parameters, such as dropout, follows what comes before it."""
    trains = True
    for child in module.children():
        if params := list(child.parameters()):
            trains = any(p.requires_grad for p in params)
        if not trains:
            child.train(False)
        elif isinstance(child, Method):
            child.train()  # which may know better
        else:
            _rest(child)
