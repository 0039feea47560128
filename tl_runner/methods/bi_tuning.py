from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from ..losses import categorical_contrast
from ..nn.model import Model
from ..types import Batches, Count, DataInfo, Fraction, Joint, Losses, NonNegative, Outputs, Positive
from .finetune import Finetune
from .mean_teacher import Teacher
from .memory import Queues


class BiTuning(Finetune):
    """Learns the labelled samples, and contrasts them with other classes, in the classifier and in a projection.

    Zhong et al., Bi-tuning of Pre-trained Representations, 2020. https://arxiv.org/abs/2011.06182

    Keys of the second view come from a moving average of network and projector; the last `queue` of each
    class are kept, at first random directions. As in the authors' library, the classifier's contrast has no
    gradient to the classifier's weights, and sees the batch's keys in the queue already.

    Args:
        label_smoothing, class_weights: as for `finetune`. mixup, cutmix: only 0, the contrasts need whole samples.
        weight: of both contrasts.
        queue: keys of each class.
        momentum: of the moving average.
        temperature: of the contrasts.
        projection: width of the projector.

    Raises:
        UserError: if samples are mixed, or the model's head has hidden layers.
    """

    two_views = ("labeled",)

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        queue: Count = 40,
        momentum: Fraction = 0.999,
        temperature: Positive = 0.07,
        projection: Count = 128,
        **options: Any,
    ) -> None:
        super().__init__(model, info, **options)
        if self.mixing:
            raise UserError(
                "method bi_tuning contrasts samples of one class each: set method.mixup=0 method.cutmix=0"
            )
        model.check_linear("bi_tuning")
        self.weight, self.momentum, self.temperature = weight, momentum, temperature
        self.projector = nn.Linear(model.num_features, projection)
        self.key_model, self.key_projector = Teacher(model), Teacher(self.projector)
        self.feature_keys = Queues(info.num_classes, queue, model.num_features + 1)
        self.projected_keys = Queues(info.num_classes, queue, projection)

    def forward(self, batch: Batches, model: Callable[[Tensor], Outputs] | None = None) -> Joint:
        """The second view of the labelled samples is for the keys alone."""
        x = {role: b.x for role, b in batch.items()}
        x |= {f"{role}_2": batch[role].views[1] for role in self.two_views if role != "labeled"}
        return self.outputs(x, model)

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        y, features = batch["labeled"].y, out["labeled"].features
        self.key_model.follow(self.model, self.momentum)
        self.key_projector.follow(self.projector, self.momentum)
        self.key_model.alike(self.model)
        keys = self.key_model(batch["labeled"].views[1]).features
        projected = unit(self.key_projector(keys))
        in_projection = categorical_contrast(
            unit(self.projector(features)), projected, self.projected_keys.keys.clone(), y, self.temperature
        )
        self.projected_keys.push(projected, y)
        self.feature_keys.push(with_one(keys), y)
        weights = class_weights(self.model.head)[y]
        in_classifier = categorical_contrast(
            weights, with_one(features), self.feature_keys.keys.clone(), y, self.temperature
        )
        return {
            **super().losses(out, batch, progress),
            "contrast": self.weight * in_classifier,
            "projection": self.weight * in_projection,
        }


def unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=1)


def with_one(features: Tensor) -> Tensor:
    """A constant for the bias beside the features, then unit length."""
    return unit(torch.cat([features, features.new_ones(len(features), 1)], 1))


def class_weights(head: nn.Module) -> Tensor:
    """(K, D + 1) of unit length, without gradient: each class's weights, and its bias, or 0."""
    weight, bias = head.weight, getattr(head, "bias", None)
    assert isinstance(weight, Tensor)
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return unit(torch.cat([weight, bias.unsqueeze(1)], 1)).detach()
