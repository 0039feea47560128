"""What a run leaves for people to look at, besides its numbers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import UserError
from .types import Natural


@dataclass(frozen=True)
class Reporting:
    """Whether `report.html` is written at the end of a run, and what it shows.

    Attributes:
        write: `always` or `never`; `auto`: the command line writes one after a single run, not after the
            jobs of a multirun nor where `trainer.eval_rows` says that this is a trial.
        checkpoint: whose outputs are shown, and written as predictions: `last`, or a pick such as `im`.
        baseline: folder of a finished run on the same target, whose accuracy per class is compared
            with; None: the model before the stage, if it could already classify.
        embedding: how features are drawn; `umap` is an extra package.
        rows: features that are kept and drawn, at most: half of them source, half target.
        images: wrong predictions shown one by one, at most.

    Raises:
        UserError: for a package or a run that is not there.
    """

    write: Literal["auto", "always", "never"] = "auto"
    checkpoint: str = "last"
    baseline: str | None = None
    embedding: Literal["tsne", "umap", "none"] = "tsne"
    rows: Natural = 1000
    images: Natural = 18

    def __post_init__(self) -> None:
        if self.embedding == "umap" and importlib.util.find_spec("umap") is None:
            raise UserError("report.embedding=umap needs umap-learn: pip install 'tl-runner[umap]'")
        if self.baseline is not None and not (Path(self.baseline).expanduser() / "evaluation").is_dir():
            raise UserError(
                f"report.baseline: '{self.baseline}' is no run folder that kept its outputs in evaluation/: "
                f"`tlrun predict {self.baseline} --report` makes them"
            )
