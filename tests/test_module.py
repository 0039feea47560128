"""What the one LightningModule promises whatever the method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from conftest import CONFIGS, composed, walk
from pytorch_lightning.plugins.precision import MixedPrecision
from test_configs import needs
from torch import nn

from tl_runner.errors import UserError
from tl_runner.methods.source_only import SourceOnly
from tl_runner.run import run
from tl_runner.types import Batches, Joint, Losses

TRAINER = pl.Trainer


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


def half(*, precision: str, plugins: list[object], **options: object) -> pl.Trainer:
    """A trainer in float16: `trainer.precision=16` is for GPUs, and a CPU has the same scaler."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return TRAINER(plugins=[*plugins, MixedPrecision("16-mixed", "cpu", scaler)], **options)


@pytest.mark.parametrize("method", ["mmd", "mcd"])
def test_float16_with_a_scaler_clips_and_trains_as_float32_does(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales, states = [], []

    def kept(**options: Any) -> pl.Trainer:
        trainer = half(**options)
        scales.append(trainer.precision_plugin.scaler)
        return trainer

    for precision in ("32", "16"):
        if precision == "16":
            monkeypatch.setattr(pl, "Trainer", kept)
        run(
            composed("trainer=smoke", f"method={method}", "augment=none", "optim.clip_norm=0.5"),
            tmp_path / precision,
        )
        path = tmp_path / precision / "checkpoints" / "adapt" / "last.ckpt"
        states.append(torch.load(path, weights_only=True)["state_dict"])
    assert scales[0].get_scale() == 1024.0  # no step was skipped
    for name, value in states[0].items():
        torch.testing.assert_close(
            states[1][name], value, rtol=0.05, atol=5e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_what_trains_nothing_has_no_gradients_to_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pl, "Trainer", half)
    with pytest.raises(UserError, match=r"this method has none: set trainer\.precision=32"):
        run(composed("trainer=smoke", "method=svm", *needs("svm")), tmp_path)


@pytest.mark.parametrize("method", walk(CONFIGS["method"]))
def test_every_method_in_bfloat16_has_the_losses_of_float32(method: str, tmp_path: Path) -> None:
    """Forward passes round to 8 bits; what losses do with the outputs is computed in float32.

    Of the same weights: with batches of four rows, a few steps of a usual rate lead to others.
    """
    found = []
    for precision in ("32", "bf16"):
        chosen = (f"method={method}", f"trainer.precision={precision}", "optim.lr=1e-5", *needs(method))
        run(composed("trainer=smoke", *chosen), tmp_path / precision)
        history = pd.read_csv(tmp_path / precision / "metrics.csv")
        found.append(history[[c for c in history if c.startswith("loss/")]])
    assert not found[0].empty or method == "svm"
    for name, values in found[0].items():
        assert found[1][name].to_numpy() == pytest.approx(
            values.to_numpy(), rel=0.1, abs=0.05, nan_ok=True
        ), name
