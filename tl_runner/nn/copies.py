"""Models as they were."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError, UserError
from .maps import tapped
from .model import Model
from .weights import mismatch, of_checkpoint


class Still:
    """A network that never changes: in eval mode, without gradients.

    It is no part of the module that holds it, so that checkpoints do not carry it: a run that goes on makes
    the same one again, from the model as it was when the stage began.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def copy(cls, network: nn.Module) -> Still:
        """A copy of a network as it is now."""
        return cls(copy.deepcopy(network))

    def on(self, device: torch.device) -> nn.Module:
        """The network, moved there if it is not there yet."""
        if next(self.network.parameters()).device != device:
            self.network.to(device)
        return self.network

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Any:
        return self.on(x.device)(x)


class Earlier(nn.Module):
    """A model's answers in the classes of what it was trained on before, x -> (N, K) logits.

    These are, the first that there is: the model's own head, if an earlier stage or run has trained it; the
    head that the last of these left, where `init_parts` leaves it out because its classes are others; the
    classifier that the backbone was pretrained with.

    Args:
        model: it stays the one that trains. method: for the message.

    Attributes:
        head: the classifier, of so many `classes`. reads: which part of the model it reads, `neck` or `backbone`.
        own: whether it is the model's own.

    Raises:
        UserError: if there is none.
    """

    def __init__(self, model: Model, method: str) -> None:
        super().__init__()
        self.model, self.own, self.reads = model, "head" in model.trained, "neck"
        pretrained = getattr(model.backbone, "classifier", None)
        if self.own:
            self.head = model.head
        elif "neck" in model.trained:
            self.head = left_head(model)
        elif pretrained is not None and any(p.requires_grad for p in model.backbone.parameters()):
            self.head, self.reads = pretrained(), "backbone"
        else:
            raise UserError(
                f"method {method} needs the classifier of an earlier task, and there is none. It may be an earlier "
                "run's (init_from=RUN_DIR; with other classes, init_parts=[backbone,neck]), an earlier stage's "
                f"(recipe=pretrain_adapt_finetune recipe.stages.finetune.method={method}), or the one that came "
                "with the weights of a timm or torchvision backbone, if that trains (tuning=full)"
            )
        self.classes = rows(self.head.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        with tapped(self.model, [self.reads]) as calls:
            self.model(x)
        return self.head(calls[self.reads][0])  # type: ignore[no-any-return]


def left_head(model: Model) -> nn.Module:
    """The head in the last checkpoint that a model has been through, which may know other classes.

    Raises:
        DataError: if it is of another kind than the model's.
    """
    file = [*model.past.values()][-1]
    state = {k.removeprefix("head."): v for k, v in of_checkpoint(file).items() if k.startswith("head.")}
    head = model.new_head(rows(state))
    if problems := mismatch(state, head.state_dict()):
        raise DataError(f"{file}: its head does not fit model.head={model.kind}; {problems}")
    head.load_state_dict(state)
    return head


def rows(head: Mapping[str, Tensor]) -> int:
    """How many classes a head's weights tell apart."""
    return [len(v) for v in head.values() if v.ndim == 2][-1]


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """The values of several tensors, in one vector of their own."""
    return torch.cat([torch.empty(0), *(t.detach().flatten().cpu() for t in tensors)])


def views(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """A vector's values as tensors of the shapes given."""
    parts = torch.split(vector, [t.numel() for t in like])
    return [part.view(t.shape) for part, t in zip(parts, like, strict=True)]
