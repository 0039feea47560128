from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError
from ..losses import distillation
from ..nn.copies import Still
from ..nn.model import Model
from ..tokens import is_text
from ..types import Batches, DataInfo, Joint, Losses, NonNegative, Positive
from .base import Method


class Distill(Method):
    """A student learns the softened predictions of a teacher: another run's model, or itself as the stage found it.

    Hinton et al., Distilling the Knowledge in a Neural Network, 2015. https://arxiv.org/abs/1503.02531

    The teacher sees the student's augmented images, resized to what it was trained on. No label is used:
    `method=finetune +method.extra.distill.teacher.run=DIR` adds the labelled samples' cross-entropy.

    Args:
        teacher: the finished run that it comes from (`teacher.run=DIR`); null: what the model knows already.
        role: whose samples it is asked about.
        weight: of the loss.
        temperature: that softens both predictions.

    Raises:
        UserError: if there is no teacher, or it has other classes or inputs.
    """

    roles: tuple[str, ...] = ()
    sees_images = "teacher"

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        teacher: Model | None,
        role: Literal["source", "target", "labeled"] = "target",
        weight: NonNegative = 1.0,
        temperature: Positive = 2.0,
    ) -> None:
        super().__init__(model, info)
        self.roles, self.role = (role,), role
        self.weight, self.temperature = weight, temperature
        if teacher is None and "head" not in model.trained:
            raise UserError(
                "method distill needs a teacher, and this model knows nothing yet: set method.teacher.run=RUN_DIR, "
                "or start from a run (init_from=RUN_DIR) or a stage"
            )
        self.teacher = Still.copy(model) if teacher is None else Still(teacher)
        teacher = teacher or model
        self.shape = info.shape if teacher is model else teacher.shape
        if set(teacher.classes) != set(info.classes):
            raise UserError(
                f"method.teacher: the teacher knows the classes {', '.join(teacher.classes)}, "
                f"and this data has {', '.join(info.classes)}"
            )
        self.order = [teacher.classes.index(name) for name in info.classes]
        texts = len(info.shape) == 2
        if len(self.shape) != len(info.shape) or self.shape[: 1 + texts] != info.shape[: 1 + texts]:
            raise UserError(
                f"method.teacher: the teacher looks at samples of shape {self.shape}, this data has {info.shape}"
            )

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        reference = self.teacher(self.seen(batch[self.role].x)).logits[:, self.order]
        return {"teacher": self.weight * distillation(out[self.role].logits, reference, self.temperature)}

    def seen(self, x: Tensor) -> Tensor:
        """The samples as the teacher was trained to see them."""
        if x.shape[1:] == self.shape or is_text(x):
            return x
        resized = F.interpolate(x.float(), self.shape[1:], mode="bilinear", antialias=True)
        return resized.round().to(torch.uint8) if x.dtype == torch.uint8 else resized
