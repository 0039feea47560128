"""Which parameters train, and how fast. Works with any method: what is frozen also stays in eval mode."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from torch import nn

from .errors import UserError
from .nn import lora
from .nn.blocks import NORMS, Block, blocks
from .nn.model import Model
from .types import Count, Fraction, Positive

log = logging.getLogger(__name__)


class Tuning:
    """Every parameter trains.

    Attributes:
        cache_features: the backbone's features may be computed once, from the unaugmented image.
    """

    cache_features = False

    def apply(self, model: Model) -> None:
        """Set `requires_grad` of the model's parameters: what trains at any time of the stage."""
        model.requires_grad_(True)

    def lr_factors(self, model: Model) -> Mapping[nn.Parameter, float]:
        """Factors on the learning rates of single parameters; 1 for those not in it."""
        return {}

    def begin_epoch(self, model: Model, epoch: int, epochs: int) -> None:
        """Called before each epoch, of which `epoch` are done: what trains may depend on nothing else."""

    def finish(self, model: Model) -> None:
        """Called after the stage: leave a plain model."""


class Frozen(Tuning):
    """The backbone is frozen; neck and head train.

    Args:
        cache_features: compute the backbone's features once, from the unaugmented image, and train on
            them: seconds instead of hours. False augments and runs the backbone at every step.
    """

    def __init__(self, cache_features: bool = True) -> None:
        self.cache_features = cache_features

    def apply(self, model: Model) -> None:
        model.requires_grad_(True)
        model.backbone.requires_grad_(False)


class LinearProbe(Frozen):
    """Only the head trains. Arguments as for `Frozen`."""

    def apply(self, model: Model) -> None:
        if any(p.requires_grad for p in model.neck.parameters()):
            log.warning("linear_probe freezes the neck as it is; model.neck=none probes the backbone itself")
        model.requires_grad_(False)
        model.head.requires_grad_(True)


class NormOnly(Tuning):
    """Only scale and shift of the normalisation layers train, and the head unless `head` is False."""

    def __init__(self, head: bool = True) -> None:
        self.head = head

    def apply(self, model: Model) -> None:
        model.requires_grad_(False)
        for module in model.modules():
            if isinstance(module, NORMS):
                module.requires_grad_(True)
        model.head.requires_grad_(self.head)


class BiasOnly(Tuning):
    """Of the backbone only the biases train, those of its norms included; neck and head train.

    Ben Zaken et al., BitFit, ACL 2022. https://arxiv.org/abs/2106.10199
    """

    def apply(self, model: Model) -> None:
        model.requires_grad_(True)
        for name, p in model.backbone.named_parameters():
            p.requires_grad_(name.endswith("bias"))  # in_proj_bias, q_bias and the like are biases too


class LastN(Tuning):
    """The last `n` blocks of the backbone train, neck and head; `nn.blocks` says what a block is.

    Raises:
        UserError: if the backbone has fewer.
    """

    def __init__(self, n: Count = 1) -> None:
        self.n = n

    def apply(self, model: Model) -> None:
        parts = blocks(model.backbone)
        if self.n > len(parts):
            raise UserError(f"tuning.n={self.n}: this backbone has {len(parts)} blocks:{_listed(parts)}")
        model.requires_grad_(True)
        for part in parts[: -self.n]:
            _require_grad(part, False)


class LayerwiseLR(Tuning):
    """Every parameter trains, the backbone's blocks the slower the nearer they are to the input.

    Howard & Ruder, ULMFiT, ACL 2018, https://arxiv.org/abs/1801.06146 (decay 1/2.6); Bao et al., BEiT, ICLR
    2022, https://arxiv.org/abs/2106.08254.

    The last block learns at `decay` times the head's rate, the one before it at `decay`² times, and so on. The
    rates are multiplied by `optim.backbone_lr`, which may thus stay at 1.

    Args:
        decay: from one block to the one before it.
    """

    def __init__(self, decay: Fraction = 0.75) -> None:
        self.decay = decay

    def lr_factors(self, model: Model) -> Mapping[nn.Parameter, float]:
        parts = blocks(model.backbone)
        return {p: self.decay ** (len(parts) - i) for i, part in enumerate(parts) for p in part.values()}


class Gradual(LayerwiseLR):
    """Neck and head train from the start; the backbone's blocks join from the last to the first.

    Howard & Ruder, Universal Language Model Fine-tuning for Text Classification, ACL 2018.
    https://arxiv.org/abs/1801.06146

    Args:
        until: share of the epochs after which every block trains; till then they join evenly.
        every: epochs from one block to the next, as in the paper, which has 1; null: as `until` says.
        decay: as for `layerwise_lr`, which the paper combines with it (1/2.6); 1: one rate.
    """

    def __init__(self, until: Fraction = 0.5, every: Count | None = None, decay: Fraction = 1.0) -> None:
        super().__init__(decay)
        self.until, self.every = until, every

    def joined(self, count: int, epoch: int, epochs: int) -> int:
        """How many of `count` blocks train when `epoch` of `epochs` are done."""
        if self.every is not None:
            return min(count, epoch // self.every)
        share = self.until * epochs
        # 0.7 · 10 is 7.000000000000001, and the seventh epoch is not before it.
        return count if epoch >= share - 1e-6 else int(count * epoch / share + 1e-6)

    def begin_epoch(self, model: Model, epoch: int, epochs: int) -> None:
        parts = blocks(model.backbone)
        count = len(parts)
        now = self.joined(count, epoch, epochs)
        for i, part in enumerate(parts):
            _require_grad(part, i >= count - now)
        if epoch == 0:
            end = self.joined(count, epochs - 1, epochs)
            log.info("gradual: %d of the backbone's %d blocks train; %d in the last epoch", now, count, end)
            if end < count:
                log.warning("gradual: the first %d blocks never train in %d epochs", count - end, epochs)
        elif new := now - self.joined(count, epoch - 1, epochs):
            joining = _listed(parts[count - now :][:new])
            log.info("epoch %d: %d of %d blocks train, now also%s", epoch + 1, now, count, joining)


class LoRA(Tuning):
    """The backbone's weights are frozen; low-rank additions to them train, neck and head.

    Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022. https://arxiv.org/abs/2106.09685

    When the stage is done the additions are merged into the weights: the model has the layers that it had. So do
    its checkpoints once they are read for anything but going on with the stage. Norms stay frozen, as in the paper.
    What can be adapted says `nn.lora.candidates`: plain linear layers and convolutions, no grouped ones.

    Args:
        rank: of the addition.
        alpha: the addition is multiplied by alpha / rank.
        dropout: of the addition's input.
        targets: layers by name or the end of it, `[qkv, proj]`, or by pattern, `["blocks.1*.attn.*"]`; null: all.

    Raises:
        UserError: if peft is not installed, or a target matches nothing.
    """

    def __init__(
        self,
        rank: Count = 8,
        alpha: Positive = 16.0,
        dropout: Fraction = 0.0,
        targets: tuple[str, ...] | None = None,
    ) -> None:
        lora.need_peft()
        self.rank, self.alpha, self.dropout, self.targets = rank, alpha, dropout, targets

    def apply(self, model: Model) -> None:
        model.requires_grad_(True)
        lora.adapt(model.backbone, self.rank, self.alpha, self.dropout, self.targets)

    def finish(self, model: Model) -> None:
        lora.merge(model.backbone)


def _require_grad(block: Block, value: bool) -> None:
    for p in block.values():
        p.requires_grad_(value)


def _listed(parts: list[Block]) -> str:
    """Blocks by the name of their first layer."""
    names = [next(iter(part)).rpartition(".")[0] or next(iter(part)) for part in parts]
    return f" {', '.join(names[:8])}{' …' if len(names) > 8 else ''}"


def parameter_table(model: Model, backbone: nn.Module | None = None) -> list[tuple[str, int, int]]:
    """(part, trainable parameters, all parameters) for backbone, neck and head.

    Args:
        backbone: counted instead of the model's, which may be its cached features.
    """
    parts = {**dict(model.named_children()), **({} if backbone is None else {"backbone": backbone})}
    return [
        (
            name,
            sum(p.numel() for p in part.parameters() if p.requires_grad),
            sum(p.numel() for p in part.parameters()),
        )
        for name, part in parts.items()
    ]


def shown(rows: list[tuple[str, int, int]]) -> str:
    """A parameter table as text, with its sum."""
    table = Table("part")
    for column in ("trainable", "all", "percent"):
        table.add_column(column, justify="right")
    total = ("model", sum(row[1] for row in rows), sum(row[2] for row in rows))
    for part, train, every in [*rows, total]:
        percent = f"{100 * train / every:.2f}" if every else "-"
        table.add_row(part, f"{train:,}", f"{every:,}", percent, end_section=part == rows[-1][0])
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(table)
    return console.file.getvalue().rstrip()  # type: ignore[attr-defined, no-any-return]
