from __future__ import annotations

from .finetune import Finetune


class SourceOnly(Finetune):
    """Cross-entropy on the source alone: what every adaptation has to beat.

    Args:
        label_smoothing, class_weights, mixup, cutmix: as for `finetune`, of the source's labels.
    """

    roles = ("source",)
    taught = "source"
