from __future__ import annotations

from typing import Any

from ..errors import UserError
from ..nn.model import Model
from ..types import DataInfo
from .finetune import Finetune


class TargetOnly(Finetune):
    """Cross-entropy on all target labels: the upper bound, not an adaptation.

    Refuses to run unless every training row of the target is labelled: with a few labels it is `finetune`.

    Args:
        label_smoothing, class_weights, mixup, cutmix: as for `finetune`.
    """

    def __init__(self, model: Model, info: DataInfo, **options: Any) -> None:
        super().__init__(model, info, **options)
        if info.sizes.get("target", 0):
            raise UserError(
                f"method target_only trains on all target labels, but {info.sizes['target']} target rows "
                "are unlabelled: set data.protocol=split data.labeled_per_class=all, or use method=finetune"
            )
