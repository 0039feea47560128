from __future__ import annotations

from ..errors import UserError
from ..nn.model import Model
from ..types import DataInfo
from .finetune import Finetune


class TargetOnly(Finetune):
    """Cross-entropy on all target labels: the upper bound, not an adaptation.

    Refuses to run unless every training row of the target is labelled: with a few labels it is `finetune`.
    """

    def __init__(self, model: Model, info: DataInfo, label_smoothing: float = 0.0) -> None:
        super().__init__(model, info, label_smoothing)
        if info.sizes.get("target", 0):
            raise UserError(
                f"method target_only trains on all target labels, but {info.sizes['target']} target rows "
                "are unlabelled: set data.protocol=split data.labeled_per_class=all, or use method=finetune"
            )
