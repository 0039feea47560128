"""How long, on how much and on what a stage trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from . import ranks
from .errors import TrainingError, UserError, reason
from .types import Count


@dataclass(frozen=True)
class TrainerSettings:
    """How long and on what a stage trains.

    Attributes:
        epochs: evaluations and checkpoints happen once an epoch.
        steps_per_epoch: batches per epoch; None: once through the largest role.
        batch_size: rows per role and step, one number or one per role.
        balanced: roles whose batches hold every class equally often, however rare it is.
        eval_batch_size: rows per batch at evaluation.
        eval_rows: evaluate on so many rows at most; None: all. Only for trying things out.
        accelerator: `auto`, `cpu` or `cuda`.
        precision: `auto` is bf16 where the GPU has it, else float32. On most CPUs bf16 is slower.
        early_stop: a validator; training stops after `patience` epochs without a better score.
        patience: see `early_stop`.
        devices: processes that train one model together, on all machines, each on a share of every batch; on GPUs,
            one for each.
        shard: divide the backbone's weights, gradients and optimiser state among the processes, instead of giving
            each the whole of them.
        log_every: steps between rows of losses in TensorBoard.
        deterministic: refuse operations that are not reproducible on a GPU.
    """

    epochs: Count = 10
    steps_per_epoch: Count | None = None
    batch_size: Count | dict[str, Count] = 32
    balanced: tuple[Literal["source", "labeled"], ...] = ()
    eval_batch_size: Count = 256
    eval_rows: Count | None = None
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "32", 32, "bf16", "16", 16] = "auto"
    early_stop: str | None = None
    patience: Count = 5
    devices: Count = 1
    shard: bool = False
    log_every: Count = 50
    deterministic: bool = False

    def device(self) -> torch.device:
        cuda = torch.cuda.is_available() if self.accelerator == "auto" else self.accelerator == "cuda"
        if cuda and not torch.cuda.is_available():
            raise UserError("trainer.accelerator=cuda: no CUDA device is available; use auto or cpu")
        if not cuda:
            return torch.device("cpu")
        return (
            torch.device("cuda", torch.cuda.current_device()) if ranks.count() > 1 else torch.device("cuda")
        )

    def check_devices(self, count: int) -> None:
        """Whether so many processes can share a batch.

        Raises:
            UserError: if it does not divide, or the weights do not.
        """
        if self.shard and count > 1 and str(self.precision) == "16":
            raise UserError(
                "trainer.shard=true: divided weights do not train in precision 16; take bf16 or 32"
            )
        sizes = {"a role": self.batch_size} if isinstance(self.batch_size, int) else self.batch_size
        for role, size in sizes.items():
            if size % count:
                near = (size // count * count, (size // count + 1) * count)
                raise UserError(
                    f"trainer.batch_size: {size} rows of {role} do not divide by trainer.devices={count}; take "
                    f"{' or '.join(str(n) for n in near if n)}"
                )

    def lightning_precision(self, device: torch.device) -> str:
        if self.precision == "auto":
            return "bf16-mixed" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "32-true"
        return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[str(self.precision)]

    def sizes(self, roles: tuple[str, ...]) -> dict[str, int]:
        """Batch size of each role."""
        if isinstance(self.batch_size, int):
            return dict.fromkeys(roles, self.batch_size)
        if missing := [role for role in roles if role not in self.batch_size]:
            raise UserError(
                f"trainer.batch_size: no size for role '{missing[0]}', got {dict(self.batch_size)}"
            )
        return {role: self.batch_size[role] for role in roles}

    @contextmanager
    def explaining_memory(self, stage: str, roles: tuple[str, ...]) -> Iterator[None]:
        """Running out of memory says what took it, and what to lower.

        Raises:
            TrainingError: then.
        """
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            # On a CPU, torch's allocator raises a plain RuntimeError.
            words = ("out of memory", "can't allocate memory", "not enough memory")
            if not isinstance(error, MemoryError) and not any(word in str(error) for word in words):
                raise
            batch = ", ".join(f"{role}: {size}" for role, size in self.sizes(roles).items())
            raise TrainingError(
                f"stage {stage}: out of memory ({reason(error)}), with trainer.batch_size {{{batch}}} and "
                f"trainer.eval_batch_size {self.eval_batch_size}; the last checkpoint is kept. Lower them, or "
                "model.size; or train less of the backbone (tuning=last_n, lora, frozen)"
            ) from error
