from __future__ import annotations

from torch.nn import functional as F

from ..losses import deepjdot
from ..losses.transport import LabelCost, Solver
from ..nn.model import Model
from ..types import Batches, DataInfo, Joint, Losses, NonNegative, Positive
from .base import Method


class DeepJDOT(Method):
    """Target rows learn the features and labels of the source rows that optimal transport sends to them.

    Damodaran et al., DeepJDOT: Deep Joint Distribution Optimal Transport for Unsupervised Domain Adaptation,
    ECCV 2018. https://arxiv.org/abs/1803.10081

    The plan is that of each batch, without the paper's class-balanced source batches of hundreds of rows. A
    plan keeps the proportions of the classes: where the domains' differ, as many target rows learn wrong labels
    (those of DSLR and Webcam overlap by 82 %: from one to the other it loses to source_only, with 64 rows and 256).
    The right `alpha` depends on the length of the features; the authors' code has 0.01, which for the
    bottleneck's features makes both terms of the cost about 1. The label cost is the paper's unless told
    otherwise, its weight of 0.1 a choice of ours.

    Args:
        weight: of the transport cost.
        alpha: of the squared distance of features in the cost.
        label_weight: of the label loss in the cost.
        solver: `exact` (on the CPU) or `sinkhorn` (where the model is).
        regularization: of `sinkhorn`, as a share of the mean cost.
        label_cost: that the plan minimises: `squared` distance of one-hot labels and predictions, as in the
            authors' code, or `cross_entropy`, as in the paper.
    """

    whole_labels = True

    def __init__(
        self,
        model: Model,
        info: DataInfo,
        weight: NonNegative = 1.0,
        alpha: NonNegative = 0.01,
        label_weight: NonNegative = 0.1,
        solver: Solver = "exact",
        regularization: Positive = 0.05,
        label_cost: LabelCost = "cross_entropy",
    ) -> None:
        super().__init__(model, info)
        self.weight, self.alpha, self.label_weight = weight, alpha, label_weight
        self.solver, self.regularization, self.label_cost = solver, regularization, label_cost

    def losses(self, out: Joint, batch: Batches, progress: float) -> Losses:
        s, t, y = out["source"], out["target"], batch["source"].y
        cost = deepjdot(
            *(s.features, t.features, y, t.logits, self.alpha, self.label_weight),
            *(self.solver, self.regularization, self.label_cost),
        )
        return {"source": F.cross_entropy(s.logits, y), "transport": self.weight * cost}
