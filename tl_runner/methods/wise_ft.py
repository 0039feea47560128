from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import UserError
from ..nn.lora import beneath
from ..nn.model import Model
from ..nn.weights import of_checkpoint
from ..types import Batches, Count, DataInfo, Step
from .base import Collect
from .finetune import Finetune


class WiSEFT(Finetune):
    """Walks in a straight line from the weights before fine-tuning to those after it; nothing is trained.

    Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022. https://arxiv.org/abs/2109.01903

    Every epoch is a point of the line, α = 0 first: a row of the history, from which each criterion picks its
    own best point; `last` is the fine-tuned model. `recipe=wise_ft` trains both ends. Batch-norm statistics
    are interpolated along with the weights (the paper's networks have none).

    Args:
        points: of the line, both ends included; the stage needs as many epochs.

    Raises:
        UserError: if it has others.
    """

    trains = False
    point: Tensor

    def __init__(self, model: Model, info: DataInfo, points: Count = 11) -> None:
        super().__init__(model, info)
        self.points = points
        if len(model.past) < 2:
            raise UserError(
                "method wise_ft goes from one stage's weights to the next one's, and there are no two before it: "
                "use recipe=wise_ft"
            )
        *_, before, after = model.past
        self.ends = (of_checkpoint(model.past[before]), of_checkpoint(model.past[after]))
        if lost := self.ends[1].keys() - self.ends[0].keys():
            raise UserError(
                f"method wise_ft: stage {before} left no {sorted(lost)[0]}, which stage {after} trained: "
                f"tuning.cache_features=false keeps a frozen backbone in {before}'s checkpoint"
            )
        self.register_buffer("point", torch.tensor(0))

    @torch.no_grad()
    def begin_epoch(self, collect: Collect) -> None:
        alpha = min(1.0, float(self.point) / max(1, self.points - 1))
        before, after = self.ends
        own = beneath(self.model.state_dict())
        for name, end in after.items():
            if end.is_floating_point():
                own[name].copy_(torch.lerp(before[name], end, alpha))
        self.point += 1

    def steps(self, batch: Batches, progress: float) -> Iterator[Step]:
        if int(progress * self.points + 1e-6) != int(self.point) - 1:
            raise UserError(
                f"method wise_ft takes a point of its line from each epoch: method.points={self.points} needs as many "
                "epochs in its stage"
            )
        self.model.eval()  # Batch-norm statistics belong to the point.
        yield Step(self.losses(self(batch), batch, progress), updates=[])
