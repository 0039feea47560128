"""The model that every method trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError
from ..ranks import divided
from ..tokens import is_text
from ..types import Count, DataInfo, Fraction, Outputs
from .layers import HeadName, NeckName, build_head, build_neck
from .recompute import recomputed


class Model(nn.Module):
    """Backbone, neck, head.

    Args:
        info: what the data looks like.
        backbone: called with the keyword `shape`; gives a module with `num_features`.
        name: of a text encoder, as for `nn.text.hf` (read by the data, which takes its tokenizer).
        size: side in pixels of the images that the backbone sees (read by the augmentation).
        resize: side in pixels of the stored images that `size` is cropped from (read by the data).
        neck: what stands between backbone and head; `neck_features` is its width.
        head: the classifier.
        dropout: of the bottleneck.
        bn: `joint` sends all roles through the network as one batch; `per_domain` one role at a time, so
            that batch-norm statistics do not mix. Published code does either. `frozen` is `joint` with the
            backbone's batch-norm in eval mode: it keeps the statistics that it comes with, for pretrained
            backbones and few images.
        channels_last: memory format of the backbone: up to 1.5 times as many steps per second on a CPU, and what tensor
            cores want. False keeps rows of pixels in the order in which they are stored.
        compile: compile the backbone with torch.compile.
        gradient_checkpointing: compute the backbone's blocks again in the backward pass instead of keeping what is
            in them: a third more arithmetic, and a fraction of the memory.

    Raises:
        UserError: if the backbone has no blocks to compute again, or is to be compiled as well.

    Attributes:
        classes: names of what the head tells apart. shape: of a sample as it was built for.
        past: the checkpoints that it has been through: `init_from`, then each finished stage's last, by name.
        trained: the parts, of backbone, neck and head, that these have trained; the others are as built.
    """

    def __init__(
        self,
        info: DataInfo,
        backbone: Callable[..., nn.Module],
        size: Count | None = None,
        resize: Count | None = None,
        neck: NeckName = "bottleneck",
        neck_features: Count = 256,
        head: HeadName = "linear",
        dropout: Fraction = 0.5,
        bn: Literal["joint", "per_domain", "frozen"] = "joint",
        channels_last: bool = True,
        compile: bool = False,
        gradient_checkpointing: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone(shape=info.shape)
        self.neck, self.num_features = build_neck(neck, self._width(), neck_features, dropout)
        self.bn, self.classes, self.shape = bn, info.classes, info.shape
        self.kind = head
        self.head = self.new_head()
        self.past: dict[str, Path] = {}
        self.trained: set[str] = set()
        self.channels_last, self.compiled = channels_last, compile
        if gradient_checkpointing and (compile or not recomputed(self.backbone)):
            why = "compiled: set model.compile=false" if compile else "one without blocks"
            raise UserError(f"model.gradient_checkpointing: the backbone is {why}")
        if channels_last:
            self.backbone.to(memory_format=torch.channels_last)
        if compile:
            self.backbone.compile()

    def train(self, mode: bool = True) -> Model:
        super().train(mode)
        if self.bn == "frozen":
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.train(False)
        return self

    def _width(self) -> int:
        return int(self.backbone.num_features)  # type: ignore[arg-type]

    def new_head(self, classes: int | None = None) -> nn.Module:
        """Another classifier of the same kind, untrained; None: of the same classes."""
        return build_head(self.kind, self.num_features, classes or len(self.classes))

    def check_linear(self, method: str) -> None:
        """Complain of a head that has no weights for each class, on behalf of a method that reads them.

        Raises:
            UserError: naming the method.
        """
        if not hasattr(self.head, "weight"):
            raise UserError(
                f"method={method} reads the weights that the head has for each class, and those of "
                f"model.head={self.kind} follow hidden layers: set model.head=linear"
            )

    def features(self, x: Tensor) -> Tensor:
        """(N, num_features) after the neck."""
        if self.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        # Texts have a row of features for each word, and lengths that differ: every process reads all.
        features = self.backbone(x) if is_text(x) else divided(self.backbone, x)
        return self.neck(features)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Outputs:
        features = self.features(x)
        return Outputs(features, self.head(features))
