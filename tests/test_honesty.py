"""No method and no validator ever receives a target label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIGS, composed, method_class, walk
from test_configs import needs, smoke

from tl_runner.building import build
from tl_runner.data import domains
from tl_runner.data.domains import DomainData, Prepared
from tl_runner.run import run
from tl_runner.types import HIDDEN


def weights(folder: Path, overrides: list[str]) -> dict[str, dict[str, torch.Tensor]]:
    config = composed("trainer=smoke", "trainer.eval_rows=null", *overrides)
    run(config, folder)
    return {
        file.relative_to(folder).as_posix(): torch.load(file, weights_only=True)["state_dict"]
        for file in sorted(folder.rglob("*.ckpt"))
        if file.stem != "oracle"
    }


@pytest.mark.parametrize("method", walk(CONFIGS["method"]))
def test_scrambled_target_labels_change_nothing(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit-identical weights of every checkpoint but the oracle's, with the target's labels permuted."""
    overrides = [f"method={method}", *needs(method)]
    scrambled: list[int] = []
    before = weights(tmp_path / "true", overrides)
    with monkeypatch.context() as patch:
        original = DomainData._divide

        def scramble(self: DomainData, found: dict[str, Any], *rest: Any) -> Prepared:
            prepared = original(self, found, *rest)
            if "labeled" not in prepared.roles:
                # From the very beginning: before splits, roles and checks.
                for name in self.target:
                    labels = found[name].labels
                    found[name].labels = np.random.default_rng(1).permutation(labels)
                    scrambled.append(int((found[name].labels != labels).sum()))
                return original(self, found, *rest)
            # Labels that the user gave away are known; those of the test rows are not.
            assert prepared.truth is not None
            truth = prepared.truth[torch.randperm(len(prepared.truth))]
            scrambled.append(int((truth != prepared.truth).sum()))
            prepared.truth = truth
            return prepared

        patch.setattr(domains.DomainData, "_divide", scramble)
        after = weights(tmp_path / "scrambled", overrides)
    assert scrambled[0] > 100
    assert before.keys() == after.keys()
    assert len(before) >= 4
    for name, state in before.items():
        for key, value in state.items():
            assert torch.equal(value, after[name][key]), f"{name}: {key}"


@pytest.mark.parametrize("method", CONFIGS["method"])
def test_every_method_runs_and_its_batches_carry_no_target_label(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels are not merely unused: they are not there."""
    cls = method_class(method)
    seen = []
    original = cls.steps

    def watch(self: Any, batch: Any, progress: float) -> Any:
        assert batch.keys() == set(self.roles)
        seen.append({role: b.y.clone() for role, b in batch.items()})
        yield from original(self, batch, progress)

    monkeypatch.setattr(cls, "steps", watch)
    results = smoke(tmp_path, f"method={method}", *needs(method))
    # A wrapper names what it wraps: sdat(cdan).
    *_, last = results["stages"].values()
    assert last["method"].partition("(")[0] == method
    assert seen
    for batch in seen:
        for role, y in batch.items():
            assert bool((y == HIDDEN).all()) == (role == "target")


def test_scrambled_target_labels_change_no_pick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every validator's score at every epoch, and what it picks."""
    config = composed("trainer=smoke", "trainer.epochs=4", "trainer.eval_rows=null", "validators=all")
    before = run(config, tmp_path / "true")
    original = DomainData._divide

    def scramble(self: DomainData, *rest: Any) -> Prepared:
        prepared = original(self, *rest)
        assert prepared.truth is not None
        prepared.truth = prepared.truth.flip(0)
        return prepared

    monkeypatch.setattr(DomainData, "_divide", scramble)
    after = run(config, tmp_path / "scrambled")
    (picks,), (others,) = ([s["picks"] for s in r["stages"].values()] for r in (before, after))
    assert picks.keys() == others.keys() > config["validators"].keys()
    assert picks["last"]["target"] != others["last"]["target"]
    for name in picks.keys() - {"oracle"}:
        assert picks[name]["epoch"] == others[name]["epoch"], name
        assert picks[name]["validators"] == others[name]["validators"], name
    assert before["objective"] == after["objective"]


def test_validators_get_hidden_target_labels() -> None:
    prepared = build(composed()["data"]).prepare()
    assert bool((prepared.evaluation["target"].y == HIDDEN).all())
    assert bool((prepared.roles["target"].y == HIDDEN).all())
    assert prepared.truth is not None
