"""What the one LightningModule promises whatever the method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import composed
from torch import nn

from tl_runner.methods.source_only import SourceOnly
from tl_runner.run import run
from tl_runner.types import Batches, Joint, Losses


@pytest.mark.parametrize(("tuning", "expected"), [("full", True), ("frozen", False)])
def test_modes_while_training(
    tuning: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What trains is in training mode at every step, after evaluations too; what is frozen is not."""
    seen: list[bool] = []
    original = SourceOnly.losses

    def watch(self: SourceOnly, out: Joint, batch: Batches, progress: float) -> Losses:
        norms = [m for m in self.model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(norms) == 3
        seen.extend(m.training for m in norms)
        assert self.model.neck.training
        return original(self, out, batch, progress)

    monkeypatch.setattr(SourceOnly, "losses", watch)
    override = ["tuning.cache_features=false"] if tuning == "frozen" else []
    run(composed("trainer=smoke", "method=source_only", f"tuning={tuning}", *override), tmp_path)
    assert len(seen) == 3 * 4
    assert set(seen) == {expected}
    state = torch.load(tmp_path / "checkpoints" / "adapt" / "last.ckpt", weights_only=True)["state_dict"]
    counts = [v for k, v in state.items() if "backbone" in k and k.endswith("num_batches_tracked")]
    assert [int(v) for v in counts] == [4 * expected] * 3


def test_cached_features_train_the_same_as_the_frozen_backbone(tmp_path: Path) -> None:
    """Features computed once, or the backbone run at every step on the central view: one result."""
    states = []
    for cached in ("true", "false"):
        run(
            composed(
                *("trainer=smoke", "method=mmd", "tuning=frozen", "augment=none"),
                f"tuning.cache_features={cached}",
            ),
            tmp_path / cached,
        )
        path = tmp_path / cached / "checkpoints" / "adapt" / "last.ckpt"
        states.append(torch.load(path, weights_only=True)["state_dict"])
    shared = [k for k in states[0] if "backbone" not in k]
    assert len(shared) > 5
    for name in shared:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-4, atol=1e-5)
