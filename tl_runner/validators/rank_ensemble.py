from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from ..types import Fraction

LABELLED = ("source_val", "labeled_val")
"""What picks by held-out labels: no validators."""


class RankEnsemble:
    """The mean rank of several validators, collapsed models last.

    No validator is right everywhere, and several favour a model that predicts few classes on the target; see
    Musgrave et al., 2022, https://arxiv.org/abs/2208.07360, and Saito et al., 2021,
    https://arxiv.org/abs/2108.10860. A score that is not finite ranks lowest.

    A rank depends on what it is compared with. So this is no score of one model, but of rows of scores: the
    pick of a run is found epoch by epoch, the new one against the pick so far, ranked among all epochs so far.

    Args:
        members: names of validators; None: all that the run has (held-out labels are not among them).
        least: a model is collapsed if its predictions spread over this share of the classes or less, as
            `class_share` counts them; 0: no model is.
    """

    def __init__(self, members: list[str] | None = None, least: Fraction = 0.5) -> None:
        self.members, self.least = members, least

    def __call__(self, rows: Sequence[Mapping[str, float]]) -> list[float]:
        """A score for each row of `val/NAME` and `target/classes`; higher is better.

        Returns:
            Mean ranks in [1, T] for T rows, less T where the model is collapsed.
        """
        names = [f"val/{m}" for m in self.members or ()] or sorted(
            {k for row in rows for k in row if k.startswith("val/") and k[4:] not in LABELLED}
        )
        table = np.array([[row.get(name, np.nan) for name in names] for row in rows], dtype=float)
        table = table.reshape(len(rows), len(names))
        mean = rankdata(np.where(np.isfinite(table), table, -np.inf), axis=0).mean(1)
        collapsed = np.array([row.get("target/classes", 1.0) <= self.least for row in rows])
        return (mean - len(rows) * collapsed).tolist()  # type: ignore[no-any-return]
