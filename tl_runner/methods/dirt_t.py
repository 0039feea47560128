from __future__ import annotations

import torch
from torch import Tensor

from ..losses import divergence, entropy
from ..nn.model import Model
from ..types import Batches, Count, DataInfo, Joint, Losses, NonNegative
from .base import Collect, Method
from .mean_teacher import Teacher
from .vada import roughness


class DIRTT(Method):
    """Refines an adapted model on the target alone: confident, smooth, and each time near its last self.

    Shu et al., A DIRT-T Approach to Unsupervised Domain Adaptation, ICLR 2018.
    https://arxiv.org/abs/1802.08735

    `recipe=vada_dirt_t` trains VADA first. The teacher is a copy of the model, renewed between epochs; the
    authors renew it every 5000 updates, from a moving average of the weights. They weight all losses alike;
    with a teacher renewed this often that drifts away from a model that is often wrong, hence a smaller weight.

    Args:
        weight: of the divergence from the teacher's predictions.
        target_weight: of entropy and smoothness.
        radius: of the perturbation, as for VADA.
        interval: epochs that a teacher stays.
    """

    roles = ("target",)
    source_free = True
    epoch: Tensor

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        target_weight: NonNegative = 0.1,
        radius: NonNegative = 0.063,
        interval: Count = 1,
    ) -> None:
        super().__init__(model, info)
        self.weight, self.target_weight, self.radius, self.interval = weight, target_weight, radius, interval
        self.teacher = Teacher(model)
        self.register_buffer("epoch", torch.tensor(0))

    def begin_epoch(self, collect: Collect) -> None:
        if int(self.epoch) % self.interval == 0:
            self.teacher.equal(self.model)
        self.epoch += 1

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        x, logits = batch["target"].x, out["target"].logits
        rough = roughness(self, {"target": x}, out, self.radius)
        return {
            "teacher": self.weight * divergence(logits, self.teacher(x).logits),
            "entropy": self.target_weight * entropy(logits),
            "target_smoothness": self.target_weight * rough["target"],
        }
