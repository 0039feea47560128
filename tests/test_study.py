"""How well validators select: arithmetic by hand, and what a reader gets to see."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Tlrun, write_run
from PIL import Image

from tl_runner.errors import DataError
from tl_runner.report.render import markdown
from tl_runner.report.runs import find
from tl_runner.report.study import Study, correlations, over_runs, study, summary
from tl_runner.report.study_pages import tables, write
from tl_runner.validators import RankEnsemble

ENSEMBLE = {"_target_": "tl_runner.validators.rank_ensemble.RankEnsemble", "members": None, "least": 0.5}


def scripted(
    folder: Path,
    accuracy: list[float],
    share: list[float] | None = None,
    method: str = "mmd",
    target: str = "b",
    **val: Any,
) -> Path:
    """A run whose epochs had these scores; each criterion has picked its first highest epoch."""
    val.setdefault("im", accuracy)
    validators = {**{name: {"_target_": f"x.{name}"} for name in val}, "rank_ensemble": ENSEMBLE}
    write_run(folder, method=method, target=target, validators=validators)
    n = range(1, len(accuracy) + 1)
    table = pd.DataFrame({"stage": "adapt", "epoch": n, "test/accuracy": accuracy})
    for name, scores in val.items():
        table[f"val/{name}"] = scores
    if share is not None:
        table["target/classes"] = share
    ranks = RankEnsemble()(
        [{str(k): v for k, v in row.items()} for row in table.iloc[:, 2:].to_dict("records")]
    )
    chosen = {
        "last": len(accuracy) - 1,
        "oracle": int(np.argmax(accuracy)),
        "rank_ensemble": int(np.argmax(ranks)),
    }
    chosen |= {name: int(np.nanargmax(scores)) for name, scores in val.items()}
    results = json.loads((folder / "results.json").read_text())
    results["stages"]["adapt"]["picks"] = {
        name: {"epoch": i + 1, "target": {"accuracy": accuracy[i]}, "validators": {}}
        for name, i in chosen.items()
    }
    (folder / "results.json").write_text(json.dumps(results))
    table.to_csv(folder / "metrics.csv", index=False)
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    scripted(runs / "a", [0.5, 0.7, 0.8, 0.6], [1, 1, 1, 1], snd=[1, 2, 3, 4], im=[1, 2, 4, 3])
    scripted(
        runs / "b", [0.4, 0.5, 0.3, 0.2], [1, 1, 0.5, 0.1], snd=[1, 2, 3, 9], im=[2, 3, 1, 0], method="mcc"
    )
    scripted(runs / "c", [0.6, 0.9, 0.9, 0.9], [1, 1, 1, 1], snd=[4, 3, 2, 1], im=[1, 5, 2, 2], method="mcc")
    scripted(runs / "d", [0.1, 0.2, 0.3], snd=[1, 2, 3], im=[3, 2, 1], target="c")
    return runs


def of(table: pd.DataFrame, run: str, criterion: str) -> pd.Series:
    chosen = table[table["run"].str.endswith(f"/{run}") & (table["criterion"] == criterion)]
    assert len(chosen) == 1
    return chosen.iloc[0]


# Arithmetic


def naive_weighted(x: Any, y: Any) -> float:
    """Vigna's τ with the weight 1/(r + 1) of each rank, added; the mean of ranking by x and by y. No ties."""

    def once(by: Any) -> float:
        rank = np.argsort(np.argsort(-np.asarray(by)))
        w = 1 / (rank[:, None] + 1) + 1 / (rank[None] + 1)
        agree = np.sign(np.subtract.outer(x, x)) * np.sign(np.subtract.outer(y, y))
        off = ~np.eye(len(x), dtype=bool)
        return float((agree * w)[off].sum() / w[off].sum())

    return (once(x) + once(y)) / 2


def test_correlations() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random(9), rng.random(9)
    ranks = [np.argsort(np.argsort(v)) for v in (x, y)]
    found = correlations(x, y)
    assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found["weighted"] == pytest.approx(naive_weighted(x, y))
    assert correlations(x, np.exp(3 * x)) == pytest.approx({"spearman": 1, "weighted": 1})
    assert correlations(x, -x) == pytest.approx({"spearman": -1, "weighted": -1})
    assert correlations([*x, math.nan], [*y, 0.5]) == pytest.approx(found)


def test_high_ranks_count_more() -> None:
    truth = np.arange(8.0)
    top, bottom = truth.copy(), truth.copy()
    top[[6, 7]], bottom[[0, 1]] = top[[7, 6]], bottom[[1, 0]]
    a, b = correlations(top, truth), correlations(bottom, truth)
    assert a["spearman"] == pytest.approx(b["spearman"])
    assert a["weighted"] < b["weighted"]


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [5, 5, 5]), ([], [1])]
)
def test_where_ranks_mean_nothing(x: list[float], y: list[float]) -> None:
    assert all(math.isnan(v) for v in correlations(x, y[: len(x)]).values())


def test_picks_of_a_run(folders: Path) -> None:
    picks = study(find([folders])).picks
    snd = of(picks, "a", "snd")
    assert (snd["epoch"], snd["score"]) == (4, 4)
    assert snd["accuracy"] == pytest.approx(60)
    assert snd["regret"] == pytest.approx(20)
    assert snd["spearman"] == pytest.approx(0.4)
    assert not snd["collapsed"]
    assert of(picks, "b", "snd")["collapsed"]
    assert of(picks, "b", "snd")["classes"] == pytest.approx(0.1)
    assert of(picks, "d", "snd")["collapsed"] is None
    assert of(picks, "b", "oracle")["regret"] == 0
    assert of(picks, "b", "oracle")["spearman"] == pytest.approx(1)
    assert of(picks, "b", "last")["regret"] == pytest.approx(30)
    assert math.isnan(of(picks, "b", "last")["spearman"])
    assert of(picks, "b", "any epoch")["accuracy"] == pytest.approx(35)
    assert of(picks, "b", "any epoch")["collapsed"] == pytest.approx(0.5)


def test_the_ensemble_is_ranked_as_it_selects(folders: Path) -> None:
    picks = study(find([folders])).picks
    line = of(picks, "b", "rank_ensemble")
    # snd rises as the model collapses: the guard puts epochs 3 and 4 last.
    ranks = [(1 + 3) / 2, (2 + 4) / 2, (3 + 2) / 2 - 4, (4 + 1) / 2 - 4]
    assert line["epoch"] == 2
    assert line["spearman"] == pytest.approx(correlations(ranks, [4, 5, 3, 2])["spearman"])
    assert pd.isna(line["score"])


def test_means(folders: Path) -> None:
    found = summary(study(find([folders])))
    assert found.loc["snd", "regret"] == pytest.approx((20 + 30 + 30 + 0) / 4)
    assert found.loc["snd", "worst"] == pytest.approx(30)
    assert found.loc["snd", "spread"] == pytest.approx(np.std([20, 30, 30, 0], ddof=1))
    assert found.loc["snd", "collapsed"] == pytest.approx(1 / 3)
    assert found.loc["im", "runs"] == 4
    assert list(found.index)[-3:] == ["oracle", "any epoch", "last"]
    assert found["regret"].iloc[:-3].is_monotonic_increasing
    by = summary(study(find([folders])), ["method"])
    assert by.loc[("mcc", "snd"), "regret"] == pytest.approx(30)


def test_choosing_a_run(folders: Path) -> None:
    """Of three runs of one transfer, each at the criterion's own pick; the other transfer has one run."""
    found = study(find([folders]))
    assert set(found.choices["transfer"]) == {"a → b"}
    line = found.choices.set_index("criterion").loc["snd"]
    scores, truth = [4, 9, 4], [60, 20, 60]  # of a, b, c
    assert line["spearman"] == pytest.approx(correlations(scores, truth)["spearman"])
    assert (line["accuracy"], line["regret"]) == (pytest.approx(20), pytest.approx(70))
    assert line["run"].endswith("/b")
    im = over_runs(found).loc["im"]
    assert (im["accuracy"], im["regret"]) == (pytest.approx(90), pytest.approx(0))
    assert over_runs(found).loc["any run", "accuracy"] == pytest.approx((60 + 20 + 90) / 3)


def test_data_sets_with_the_same_names_are_not_mixed(folders: Path) -> None:
    for name in ("a", "b", "c"):
        file = folders / name / "results.json"
        results = json.loads(file.read_text())
        results["config"]["data"]["root"] = "/elsewhere" if name == "a" else "/data/x"
        file.write_text(json.dumps(results))
    found = study(find([folders]))
    assert found.picks["transfer"].nunique() == 3
    assert not len(found.choices)
    assert "selecting the run" not in " ".join(t.title for t in tables(found))


# What cannot be judged


def test_runs_that_say_nothing_are_listed(folders: Path) -> None:
    (folders / "a" / "results.json").unlink()
    (folders / "a" / "status.json").write_text('{"state": "failed", "why": "loss is not finite"}')
    (folders / "b" / "metrics.csv").write_text("stage,epoch\nadapt,one\n")
    (folders / "c" / "metrics.csv").unlink()
    scripted(folders / "e", [0.5])
    unlabelled = json.loads((folders / "e" / "results.json").read_text())
    for pick in unlabelled["stages"]["adapt"]["picks"].values():
        pick["target"] = {}
    scripted(folders / "f", [0.5, 0.6])
    (folders / "f" / "results.json").write_text(json.dumps(unlabelled))
    found = study(find([folders]))
    assert found.runs == 1
    assert {run.folder.name: why.split(":")[0] for run, why in found.listed} == {
        "a": "loss is not finite",
        "b": f"{folders / 'b' / 'metrics.csv'} is broken (ValueError",
        "c": "metrics.csv lacks the accuracy of its epochs",
        "e": "it has one epoch",
        "f": "its target has no labels, or its accuracy was not measured",
    }
    assert "not studied" in tables(found)[-1].title
    for name in "bcdef":
        (folders / name / "results.json").unlink()
    with pytest.raises(DataError, match="no run says anything of selection"):
        study(find([folders]))


def test_a_criterion_that_some_runs_lack(folders: Path) -> None:
    scripted(folders / "e", [0.5, 0.6, 0.7], bnm=[1, 2, 3])
    table = tables(study(find([folders])))[0]
    assert {"bnm (1 runs)", "snd (4 runs)", "im"} <= {line[0].text for line in table.lines}
    assert any("compare them with care" in note for note in table.notes)


# What a reader sees


@pytest.mark.parametrize("given", [True, False])
def test_criteria_that_read_labels_are_named(given: bool, tmp_path: Path) -> None:
    labelled = {"labeled_val": [0.1, 0.2, 0.3]} if given else {}
    scripted(tmp_path / "a", [0.1, 0.2, 0.3], **labelled)
    *_, note = tables(study(find([tmp_path])))[0].notes
    assert note.endswith("labeled_val those that runs were given of held-out target rows.") == given
    assert note.endswith("source_val reads source labels, oracle target labels.") != given


def test_tables(folders: Path) -> None:
    made = tables(study(find([folders])))
    assert [t.title.split(":")[0] for t in made] == [
        "selecting the epoch",
        "selecting the run",
        "regret of the pick, in points",
        "Spearman's ρ over the epochs",
    ]
    assert "4 runs, 2 methods, 2 transfers" in made[0].title
    lines = {line[0].text: [c.text for c in line[1:]] for line in made[0].lines}
    assert lines["snd"][2:] == ["42.5", "20.0 ± 14.1", "30.0", "33 %"]
    best = {line[0].text for line in made[0].lines if line[4].best}
    assert best <= {"im", "snd", "rank_ensemble"}
    assert len(best) == 1
    assert "| oracle |" in markdown(made[0])


def test_files(folders: Path, tmp_path: Path) -> None:
    found = study(find([folders]))
    out = tmp_path / "out"
    written = write(found, tables(found), out)
    assert sorted(f.name for f in written) == sorted(f.name for f in out.iterdir())
    assert {f.name for f in written} == {
        *("study.md", "epochs.csv", "runs.csv", "methods.csv"),
        *("epochs.png", "methods.png", "runs.png"),
    }
    for file in out.glob("*.png"):
        with Image.open(file) as image:
            assert image.width > 900
            assert len(image.convert("RGB").getcolors(2**24) or ()) > 20
    back = pd.read_csv(out / "epochs.csv")
    assert len(back) == len(found.picks)
    assert f"]({'epochs.png'})" in (out / "study.md").read_text()
    alone = Study(found.picks[found.picks["method"] == "mmd"], found.choices.iloc[:0], [])
    write(alone, tables(alone), out)
    assert sorted(f.name for f in out.glob("*.png")) == ["epochs.png"]


def test_runs_too_short_for_ranks(tmp_path: Path) -> None:
    for method in ("mmd", "mcc"):
        scripted(tmp_path / method, [0.5, 0.6], method=method, snd=[2, 1])
    found = study(find([tmp_path]))
    made = tables(found)
    assert [t.title.split(":")[0] for t in made] == ["selecting the epoch", "regret of the pick, in points"]
    assert any("No run has the 3 epochs" in note for note in made[0].notes)
    assert tmp_path / "out" / "epochs.png" in write(found, made, tmp_path / "out")


def test_the_command(folders: Path, tlrun: Tlrun) -> None:
    done = tlrun("study", str(folders))
    assert "selecting the epoch: 4 runs" in done.stdout
    assert done.stdout.strip().endswith(f"Study: {folders / 'study'}")
    assert (folders / "study" / "study.md").is_file()
    missing = tlrun("study", str(folders / "nothing"), check=False)
    assert missing.returncode == 1
    assert "does not exist" in missing.stderr
