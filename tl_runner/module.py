"""The one LightningModule: it knows how to train *a* method, never which."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from . import ranks, sharding
from .data.loader import EvalLoader, key
from .errors import TrainingError, UserError
from .methods.base import Collect, Method
from .optim import Optim
from .scoring import Row
from .types import Batch, Collected, Step

_STATES = ("state_dict", "optimizer_states")


class TransferModule(pl.LightningModule):
    """Trains a method on batches of roles and scores it after every epoch.

    Args:
        method: what to train.
        optim: how.
        epochs, steps: length of the stage, and of an epoch in batches.
        seed, stage: what randomness depends on, together with the epoch.
        loaders: unaugmented batches of whole training roles, for `Method.begin_epoch`.
        score: what an epoch's evaluation gives.
        eval_names: names of the evaluation loaders, in order.
        log_every: steps between two rows of losses in the logger.
    """

    # Lightning prepares every hook at every step, and skips those that are None.
    on_before_backward = on_after_backward = on_before_zero_grad = on_before_optimizer_step = None  # type: ignore[assignment]
    on_train_batch_start = on_train_batch_end = None  # type: ignore[assignment]

    def __init__(
        self,
        method: Method,
        optim: Optim,
        epochs: int,
        steps: int,
        seed: int,
        stage: str,
        loaders: Mapping[str, EvalLoader],
        score: Callable[[Mapping[str, Collected]], Row],
        eval_names: tuple[str, ...],
        log_every: int = 50,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.method, self.optim = method, optim
        self.epochs, self.steps, self.seed, self.stage = epochs, steps, seed, stage
        self.loaders, self.score = loaders, score
        self.eval_names, self.log_every = eval_names, log_every
        self.losses: dict[str, list[Tensor]] = {}
        self.stepped = 0
        self.collected: dict[str, list[Collected]] = {}
        self.optimizer: Any = None

    def configure_optimizers(self) -> Optimizer:
        return self.optim.build(self.method, self.method.model.backbone.parameters())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= sharding.gathered({k: checkpoint[k] for k in _STATES if k in checkpoint})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = sharding.divided(checkpoint["state_dict"], self.state_dict())

    def on_train_start(self) -> None:
        if not self.method.trains and self._scaler() is not None:
            raise UserError(
                "trainer.precision=16 scales gradients, and this method has none: set trainer.precision=32"
            )
        sharding.divide_state(self.optimizers().optimizer)  # type: ignore[union-attr]

    def on_train_epoch_start(self) -> None:
        # Everything random in an epoch follows from these three: a resumed run needs no other state.
        pl.seed_everything(key(self.seed, self.stage, self.current_epoch) % 2**32, verbose=False)
        self.optimizer = self.optimizers()
        self.losses, self.stepped = {}, 0
        self.method.begin_epoch(Collect(self.method, self.loaders))
        # Lightning leaves modules in the mode it finds them in; `Method.train` keeps frozen parts in eval.
        self.method.train()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # The loaders make batches where they are used.

    def training_step(self, group: list[dict[str, Batch]], index: int) -> None:
        for batch in group:
            done = self.current_epoch * self.steps + self.stepped
            progress = done / (self.epochs * self.steps)
            self.optim.schedule_lr(self.optimizer, progress, done)
            try:
                for step in self.method.steps(batch, progress):
                    self.update(step)
            except ValueError as error:  # Statistics of one sample: batch-norm's, a kernel's, a covariance's.
                if alone := [role for role, rows in batch.items() if len(rows.row) == 1]:
                    raise UserError(
                        f"stage {self.stage}: a batch of one {alone[0]} sample is too small here ({error}): raise "
                        "trainer.batch_size"
                    ) from error
                raise
            self.stepped += 1
            if self.stepped % self.log_every == 0:
                self.log_losses(done + 1)

    def update(self, step: Step) -> None:
        """One optimiser update."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = list(step.losses.values())
        total = torch.stack(losses).sum() if len(losses) > 1 else losses[0]
        for name, loss in step.losses.items():
            self.losses.setdefault(name, []).append(loss.detach())
        # Reading a value of a GPU makes it wait: there, the losses are looked at now and then instead.
        if total.device.type == "cpu" and not math.isfinite(total.item()):
            self.check_finite()
        self.manual_backward(total)
        if step.updates is not None:
            allowed = {id(p) for module in step.updates for p in module.parameters()}
            for group in self.optimizer.param_groups:
                for p in group["params"]:
                    if id(p) not in allowed:
                        p.grad = None
        ranks.reduce(p.grad for group in self.optimizer.param_groups for p in group["params"])
        if self.optim.clip_norm is not None:
            params = [p for group in self.optimizer.param_groups for p in group["params"]]
            # Fused optimisers take the scale off gradients themselves, in their step.
            scaler = self._scaler()
            scale = 1.0 if scaler is None else scaler.get_scale()
            sharding.clip(params, self.optim.clip_norm * scale)
        self.optimizer.step()

    def _scaler(self) -> Any:
        """What scales the gradients of float16; None in other precisions."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def check_finite(self) -> None:
        """Stop at a loss that is not a number, before it reaches a checkpoint.

        Raises:
            TrainingError: naming the loss, and which of its updates in the epoch.
        """
        for name, values in self.losses.items():
            finite = torch.isfinite(torch.stack(values))
            if not finite.all():
                raise TrainingError(
                    f"stage {self.stage}, epoch {self.current_epoch + 1}, update {int(finite.int().argmin()) + 1}: "
                    f"loss '{name}' is not finite; the last checkpoint is kept. Lower optim.lr, or set optim.clip_norm"
                )

    def mean_losses(self) -> Row:
        """Mean of each named loss over its updates in this epoch so far."""
        return {name: float(torch.stack(values).mean()) for name, values in self.losses.items()}

    def log_losses(self, step: int) -> None:
        self.check_finite()
        if self.logger is not None:
            self.logger.log_metrics({f"loss/{k}": v for k, v in self.mean_losses().items()}, step=step)

    def on_train_epoch_end(self) -> None:
        self.check_finite()

    def on_validation_epoch_start(self) -> None:
        self.collected = {}

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        self.collected.setdefault(self.eval_names[dataloader_idx], []).append(self.method.collected(batch))

    def on_validation_epoch_end(self) -> None:
        collected = {name: Collected.join(parts) for name, parts in self.collected.items()}
        scores = ranks.from_first(lambda: self.score(collected))
        self.collected = {}
        self.log_dict(scores)
