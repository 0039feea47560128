"""Which epoch is picked: what is on disk is what the results say."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import Tlrun, composed
from omegaconf import OmegaConf

from tl_runner import cli
from tl_runner.checkpoints import link
from tl_runner.data.augment import Augment, View
from tl_runner.data.loader import MixedLoader
from tl_runner.data.rows import Rows
from tl_runner.data.store import ArrayStore
from tl_runner.errors import ConfigError, UserError
from tl_runner.module import TransferModule
from tl_runner.run import run
from tl_runner.schema import check
from tl_runner.selection import Criterion, better, value_of
from tl_runner.validators import RankEnsemble

SCORES = {
    "val/im": [0.5, 0.9, 0.9, 0.2, 0.4, 0.8],
    "val/entropy": [-1.0, -0.8, -0.3, -0.1, -0.2, -0.5],
    "val/bnm": [0.1, 0.2, 0.15, 0.3, 0.31, 0.32],
    "val/snd": [1.0, 1.0, 1.0, 1.0, 1.0, math.nan],
    "val/source_val": [0.5, 0.5, 0.4, 0.6, 0.6, 0.1],
    "target/classes": [0.9, 0.9, 0.9, 0.2, 0.9, 0.9],
    "test/accuracy": [0.1, 0.2, 0.3, 0.4, 0.5, 0.5],
}
NAMES = ("im", "entropy", "bnm", "snd")


def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs whose epochs get the scores above."""

    def end(self: TransferModule) -> None:
        self.log_dict({name: values[self.current_epoch] for name, values in SCORES.items()})

    monkeypatch.setattr(TransferModule, "on_validation_epoch_end", end)


def config(*overrides: str) -> dict[str, Any]:
    found = composed("trainer=smoke", "trainer.epochs=6", *overrides)
    found["validators"] = {k: v for k, v in found["validators"].items() if k in (*NAMES, "rank_ensemble")}
    return found


def sequential(rows: Sequence[dict[str, float]]) -> int:
    """The rank ensemble's pick as it is defined, replayed from the beginning."""
    pick = 0
    for now in range(1, len(rows)):
        ranks = RankEnsemble(list(NAMES))(rows[: now + 1])
        if ranks[now] > ranks[pick]:
            pick = now
    return pick


def test_files_are_the_picks_and_written_once_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch)
    written: list[tuple[int, bool]] = []
    original = pl.Trainer.save_checkpoint

    def count(self: pl.Trainer, path: Any, weights_only: bool = False, **options: Any) -> None:
        written.append((self.current_epoch, weights_only))
        original(self, path, weights_only, **options)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", count)
    stage = run(config(), tmp_path)["stages"]["adapt"]
    epochs = {name: pick["epoch"] for name, pick in stage["picks"].items()}
    rows = [{k: v[i] for k, v in SCORES.items()} for i in range(6)]
    # Of equals the first, never an epoch without a score; the epoch that collapsed is no pick of the ensemble.
    expected = {"last": 6, "source_val": 4, "im": 2, "entropy": 4, "bnm": 6, "snd": 1, "oracle": 5}
    assert epochs == expected | {"rank_ensemble": sequential(rows) + 1}
    assert epochs["rank_ensemble"] != 4
    assert list(epochs) == [
        "last",
        "source_val",
        *NAMES[:1],
        "entropy",
        "bnm",
        "snd",
        "rank_ensemble",
        "oracle",
    ]
    for name, epoch in epochs.items():
        state = torch.load(tmp_path / "checkpoints" / "adapt" / f"{name}.ckpt", weights_only=True)
        assert state["epoch"] + 1 == epoch, name
        assert ("optimizer_states" in state) == (name == "last")
    assert len([w for w in written if w[1]]) == len({w for w in written if w[1]}) == 6
    assert not list(tmp_path.rglob("*.part"))


def test_a_rank_does_not_forget_what_was_on_disk() -> None:
    """Later epochs change the ranks of earlier ones; the pick only ever moves to the newest epoch."""
    rows = [{k: v[i] for k, v in SCORES.items()} for i in range(6)]
    criterion: Criterion = RankEnsemble(list(NAMES))
    pick: int | None = None
    for t in range(1, 7):
        if better(criterion, rows[:t], pick):
            pick = t - 1
    assert pick == sequential(rows)


def test_resumed_runs_remember_their_picks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch)
    whole = run(config(), tmp_path / "whole")["stages"]["adapt"]["picks"]
    original = TransferModule.on_train_epoch_start

    def die(self: TransferModule) -> None:
        if self.current_epoch == 4:
            raise InterruptedError("killed")
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(TransferModule, "on_train_epoch_start", die)
        with pytest.raises(InterruptedError):
            run(config(), tmp_path / "killed")
    assert run(config(), tmp_path / "killed", resume=True)["stages"]["adapt"]["picks"] == whole


@pytest.mark.parametrize(("name", "stops"), [("im", 4), ("snd", 3), ("bnm", 6), ("rank_ensemble", None)])
def test_early_stopping(
    name: str, stops: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch)
    stage = run(config(f"trainer.early_stop={name}", "trainer.patience=2"), tmp_path)["stages"]["adapt"]
    pick = stage["picks"][name]["epoch"]
    assert stage["epochs"] == (min(6, pick + 2) if stops is None else stops)


def test_a_name_is_replaced_whole_with_and_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    for broken in (False, True):
        new.write_text("new")
        old.write_text("old")
        if broken:
            monkeypatch.setattr(Path, "hardlink_to", _refuse)
        link(new, old)
        assert old.read_text() == "new"
        assert (old.stat().st_ino == new.stat().st_ino) != broken
        assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "old"]
        new.unlink()
        old.unlink()


def _refuse(*_: object) -> None:
    raise OSError(1, "Operation not permitted")


def test_validators_without_what_they_need_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        results = run(
            composed("trainer=smoke", "method=shot", "recipe=source_free", "validators=all"), tmp_path
        )
    picks = {name: stage["picks"].keys() for name, stage in results["stages"].items()}
    without = picks["source"] - picks["adapt"]
    assert without == {"source_val", "circular", "iwv", "dev"}
    assert {"mixval", "rank_ensemble", "im"} <= picks["adapt"]
    for name in without - {"source_val"}:
        assert f"validator {name} is left out: it looks at source_val" in caplog.text


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["imm"], "validators.rank_ensemble.members: there is no validator 'imm'; did you mean 'im'?"),
        ([], "to rank by"),
    ],
)
def test_members_of_the_ensemble(members: list[str], message: str, tmp_path: Path) -> None:
    wrong = config()
    wrong["validators"]["rank_ensemble"]["members"] = members
    with pytest.raises(UserError, match=message.replace(".", r"\.").replace("?", r"\?")):
        run(wrong, tmp_path)


def test_mixed_rows() -> None:
    """Vectors and bytes; each row with the next one of those drawn."""
    only = torch.tensor([4, 0, 3])
    for x in (torch.randn(5, 2), torch.randint(0, 256, (5, 6, 6, 3), dtype=torch.uint8)):
        y = torch.full((5,), -1)
        rows = Rows([ArrayStore(x)], torch.zeros(5).long(), torch.arange(5), y, ("a",))
        loader = MixedLoader(rows, 2, Augment([View()], 4), torch.device("cpu"), only, 0.55)
        batches = list(loader)
        assert len(loader) == len(batches) == 2
        assert torch.cat([b.row for b in batches]).tolist() == [4, 0, 3]
        mixed = torch.cat([b.x for b in batches])
        assert mixed.dtype == x.dtype
        seen = x if x.ndim == 2 else x[:, 1:5, 1:5].permute(0, 3, 1, 2)
        expected = 0.55 * seen[[4, 0, 3]].double() + 0.45 * seen[[0, 3, 4]].double()
        assert float((mixed.double() - expected).abs().max()) <= (0.5 + 1e-4 if x.ndim == 4 else 1e-6)


# The objective


def test_default_objective_is_label_free(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    results = run(composed("trainer=smoke"), tmp_path)
    picks = results["stages"]["adapt"]["picks"]
    value = picks["im"]["validators"]["im"]
    assert results["objective"] == {"name": "im", "value": value, "sees_target_labels": False}
    assert "target labels" not in caplog.text
    written = (tmp_path / "metrics.csv").read_text().splitlines()
    column = written[0].split(",").index("val/im")
    assert value == max(float(line.split(",")[column]) for line in written[1:])


@pytest.mark.parametrize(("name", "pick"), [("oracle", "oracle"), ("macro_f1", "last")])
def test_an_objective_that_sees_labels_says_so(
    name: str, pick: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = run(composed("trainer=smoke", f"objective={name}"), tmp_path)
    metric = "accuracy" if name == "oracle" else name
    value = results["stages"]["adapt"]["picks"][pick]["target"][metric]
    assert results["objective"] == {"name": name, "value": value, "sees_target_labels": True}
    assert f"objective={name} looks at target labels" in caplog.text
    assert json.loads((tmp_path / "results.json").read_text())["objective"]["sees_target_labels"] is True


def test_an_objective_without_a_value() -> None:
    picks = {"last": {"target": {}, "validators": {}}}
    assert value_of("im", picks, False) is None
    assert value_of("oracle", picks, True) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("orcale", "objective: expected a validator or a metric, got 'orcale'; did you mean 'oracle'?"),
        ("rank_ensemble", "objective: the ranks of 'rank_ensemble' compare epochs of one run, not runs"),
    ],
)
def test_wrong_objectives(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(composed(f"objective={name}"))
    assert message in str(error.value)


def test_a_job_returns_its_objective(tmp_path: Path) -> None:
    value = cli._job(OmegaConf.create(composed("trainer=smoke")), tmp_path, multirun=False)
    assert value == json.loads((tmp_path / "results.json").read_text())["objective"]["value"]
    assert isinstance(value, float)


def test_the_command_line_warns(tlrun: Tlrun) -> None:
    done = tlrun("trainer=smoke", "objective=oracle")
    assert "objective=oracle looks at target labels" in done.stdout + done.stderr
