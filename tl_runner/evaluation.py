"""A finished run, looked at again: what its checkpoints say of the evaluation rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .data.domains import Prepared
from .data.loader import EvalLoader
from .data.rows import Rows
from .errors import DataError, UserError, nearest, reason
from .fitted import finished, restore
from .nn.model import Model
from .nn.weights import read as read_weights
from .stage import Stage
from .types import Outputs

Predict = Callable[[Tensor], Outputs]
Array = npt.NDArray[np.int64]


@dataclass
class Finished:
    """A run whose checkpoints are there.

    Attributes:
        model: builds the model as the run began with it.
    """

    folder: Path
    stages: dict[str, Stage]
    data: Prepared
    model: Callable[[], Model]

    def walk(self) -> Iterator[tuple[str, Model]]:
        """Each stage, with the model as it found it.

        Raises:
            UserError: at a stage that is not finished, when asked for what follows it.
        """
        model = self.model()
        for name in self.stages:
            yield name, model
            if restore(self.folder, name, model) is None:
                raise UserError(f"the run in {self.folder} has not finished its stage {name}")
            model.past[name] = self.checkpoint(name, "last")
            model.trained = {"backbone", "neck", "head"}

    def checkpoint(self, stage: str, pick: str) -> Path:
        """The file of the weights that a criterion picked.

        Raises:
            UserError: if there is no such stage or checkpoint.
        """
        if stage not in self.stages:
            raise UserError(f"the run has no stage '{stage}'{nearest(stage, self.stages)}")
        folder = self.folder / "checkpoints" / stage
        known = {file.stem: file for file in sorted(folder.glob("*.ckpt"))}
        if pick not in known:
            raise UserError(f"stage {stage} left no checkpoint '{pick}'{nearest(pick, known)}")
        return known[pick]

    def epoch(self, stage: str, pick: str) -> int:
        """Which epoch a criterion picked."""
        return int(json.loads(finished(self.folder, stage).read_text())["picks"][pick]["epoch"])

    def rows(self) -> str:
        """The evaluation rows that matter: the target's, if there are any."""
        return next(name for name in ("target", "labeled_val", "source_val") if name in self.data.evaluation)

    def names(self, rows: Rows) -> list[str]:
        """Of samples: paths below the data's folder, say."""
        return [
            self.data.names[rows.names[d]][i]
            for d, i in zip(rows.domain.tolist(), rows.index.tolist(), strict=True)
        ]

    def truth(self, name: str) -> Tensor | None:
        """Labels of evaluation rows."""
        return self.data.truth if name == "target" else self.data.evaluation[name].y


@dataclass
class View:
    """A stage's evaluation rows as its models see them."""

    stage: Stage
    data: Prepared
    device: torch.device

    def ask(self, predict: Predict, rows: Rows, limit: int | None = None) -> Iterator[tuple[Tensor, Outputs]]:
        """(row, outputs) of batches, in order, on the CPU in float32; nothing of no rows."""
        if not len(rows):
            return
        settings = self.stage.trainer
        precision = settings.lightning_precision(self.device)
        half = torch.bfloat16 if precision.startswith("bf16") else torch.float16
        loader = EvalLoader(rows, settings.eval_batch_size, self.stage.augment, self.device, limit)
        for batch in loader:
            with torch.no_grad(), torch.autocast(self.device.type, half, enabled="mixed" in precision):
                out = predict(batch.x)
            yield batch.row.cpu(), Outputs(out.features.float().cpu(), out.logits.float().cpu())

    def trained(self, model: Model, file: Path) -> Predict:
        """What a checkpoint of the stage predicts; its weights are then the model's.

        Raises:
            DataError: if it does not fit.
        """
        method = self.stage.method(model, self.data.info)
        state = {
            k.removeprefix("method."): v for k, v in read_weights(file).items() if k.startswith("method.")
        }
        try:
            method.load_state_dict(state)
        except RuntimeError as error:
            raise DataError(f"{file} does not fit the run's method ({reason(error)})") from error
        method.to(self.device).eval()
        return method.predict


@contextmanager
def view(stage: Stage, model: Model, data: Prepared) -> Iterator[View]:
    """The stage as it was run: with the parameters that it trained, and a frozen backbone's cached features."""
    device = stage.trainer.device()
    stage.tuning.apply(model)
    with stage.cached(model, data, device) as seen:
        model.to(device).eval()
        yield View(stage, seen, device)
    model.cpu()
    stage.tuning.finish(model)


def subset(rows: Rows, which: Array) -> Rows:
    """The rows at these places."""
    kept = torch.from_numpy(which)
    return replace(rows, domain=rows.domain[kept], index=rows.index[kept], y=rows.y[kept])
