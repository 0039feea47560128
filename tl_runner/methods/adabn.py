from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError
from ..nn.model import Model
from ..types import Batches, DataInfo, Joint, Outputs, Step
from .base import Method


class AdaBN(Method):
    """Trained on the source; batch-norm normalises the target with the target's own statistics.

    Li et al., Revisiting Batch Normalization for Practical Domain Adaptation, 2016.
    https://arxiv.org/abs/1603.04779

    Where the paper runs the target through the trained network once, its statistics are gathered during
    training, as moving averages: only target batches move them. Every evaluation uses them, also that on
    source samples, which `source_val` therefore underrates.

    Raises:
        UserError: if no batch-norm of the model trains.
    """

    def __init__(self, model: Model, info: DataInfo) -> None:
        super().__init__(model, info)
        check_some_train("adabn", model)

    def outputs(self, x: Mapping[str, Tensor], model: Callable[[Tensor], Outputs] | None = None) -> Joint:
        """Outputs of one input at a time: only those of the target move the moving averages."""
        model = model or self.model
        found = {}
        for name, part in x.items():
            with nullcontext() if name.startswith("target") else still(self.model):
                found[name] = model(part)
        return found

    # Not `losses`: added to another method, this one would do nothing.
    def steps(self, batch: Batches, progress: float) -> Iterator[Step]:
        out = self(batch)
        yield Step({"source": F.cross_entropy(out["source"].logits, batch["source"].y)}, out=out)


def check_some_train(method: str, model: Model) -> None:
    """Complain of a model whose batch-norm layers all stay in eval mode, as frozen ones do.

    Raises:
        UserError: naming the method.
    """
    norms = tracking(model.neck if model.bn == "frozen" else model)
    if all(_frozen(norm) for norm in norms):
        raise UserError(
            f"method={method} needs batch-norm layers that train, and this model has none: choose a model with "
            "some, model.neck=bottleneck, tuning=full or model.bn=joint"
        )


def _frozen(norm: nn.Module) -> bool:
    trains = [p.requires_grad for p in norm.parameters()]
    return bool(trains) and not any(trains)


def tracking(net: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers that keep moving averages."""
    return [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@contextmanager
def still(model: Model) -> Iterator[None]:
    """Batches normalise as ever, and leave no trace in the moving averages."""
    norms = tracking(model)
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
