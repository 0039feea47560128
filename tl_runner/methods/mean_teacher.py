from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..losses import class_balance, softmax_mse
from ..nn.model import Model
from ..types import Batches, DataInfo, Fraction, Joint, Losses, NonNegative
from .base import Method


class Teacher(nn.Module):
    """A copy of a model, or of any network, that follows it and is never trained itself."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.copy = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def follow(self, model: nn.Module, momentum: float) -> None:
        """Each weight becomes momentum · itself + (1 − momentum) · the model's."""
        torch._foreach_lerp_([*self.copy.parameters()], [*model.parameters()], 1 - momentum)

    @torch.no_grad()
    def equal(self, model: nn.Module) -> None:
        """Become the model as it is, batch-norm statistics included."""
        self.copy.load_state_dict(model.state_dict())

    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        return self.copy(x)

    def alike(self, model: nn.Module) -> None:
        """Take the model's mode, layer by layer; a module that does not train is in eval otherwise."""
        for own, other in zip(self.copy.modules(), model.modules(), strict=True):
            own.training = other.training


class MeanTeacher(Method):
    """The student predicts of one view of a target sample what its moving average predicts of the other.

    French et al., Self-Ensembling for Visual Domain Adaptation, ICLR 2018.
    https://arxiv.org/abs/1706.05208

    The teacher sees the first view. As in the authors' code its layers are in the student's mode: batch-norm
    normalises with the target batch, dropout drops. They pass source and target through the student one at
    a time, as `model.bn=per_domain` does. The student is evaluated, so that the loss can be added to any method.

    Args:
        weight: of the consistency; 10 as published for photographs, 3 for digits.
        confidence: the teacher's, above which a sample counts.
        balance: of the loss that keeps the mean prediction uniform, relative to the consistency.
        momentum: of the moving average.
    """

    source_optional = True
    two_views = ("target",)

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 10.0,
        confidence: Fraction = 0.968,
        balance: NonNegative = 0.005,
        momentum: Fraction = 0.99,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.confidence, self.balance, self.momentum = weight, confidence, balance, momentum
        self.teacher = Teacher(model)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        self.teacher.follow(self.model, self.momentum)
        self.teacher.alike(self.model)
        guess, student = self.teacher(batch["target"].x).logits, out["target_2"].logits
        sure = (F.softmax(guess.float(), dim=1).amax(1) > self.confidence).float().mean()
        return {
            **self.source_loss(out, batch),
            "consistency": self.weight * softmax_mse(student, guess, self.confidence),
            # As long as nothing is sure, the source alone shall teach.
            "balance": self.weight * self.balance * sure * class_balance(student),
        }
