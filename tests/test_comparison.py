"""Runs side by side: what is averaged, what is not, and what is said of the rest."""

from __future__ import annotations

import json
import os
import re
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rich
from conftest import Tlrun, write_run
from matplotlib.text import Text
from rich.console import Console

from tl_runner.commands.report import after_sweep, main
from tl_runner.errors import ConfigError, DataError, UserError
from tl_runner.report.baselines import against, baselines
from tl_runner.report.comparison import Comparison, compare
from tl_runner.report.plots import RANKED, plots
from tl_runner.report.publish import write
from tl_runner.report.render import latex, markdown, plain, terminal
from tl_runner.report.runs import find
from tl_runner.report.style import style
from tl_runner.report.summary import number
from tl_runner.report.tables import Table, tables

NAN = float("nan")


def grid(root: Path, values: dict[str, dict[str, list[float]]], **config: Any) -> None:
    """Runs of each method on each transfer a -> TARGET, a seed for each accuracy in percent; NaN: no run."""
    for method, by_target in values.items():
        for target, accuracies in by_target.items():
            for seed, accuracy in enumerate(accuracies):
                if accuracy == accuracy:
                    folder = root / f"{method},{target},{seed}"
                    picks = {"last": accuracy / 100, "im": accuracy / 100 - 0.1, "oracle": 0.99}
                    write_run(folder, method, "a", target, seed, picks, **config)


SMALL: dict[str, dict[str, list[float]]] = {
    "source_only": {"b": [60, 62], "c": [70, 70]},
    "mmd": {"b": [70, 74], "c": [66, 68]},
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    grid(tmp_path / "runs", SMALL)
    return tmp_path / "runs"


def compared(root: Path, **options: Any) -> Comparison:
    return compare(find([root]), **options)


def cells(table: Table) -> dict[str, list[str]]:
    return {line[0].text: [c.text for c in line[1:]] for line in table.lines}


def titled(found: list[Table], words: str) -> Table:
    return next(t for t in found if words in t.title)


def test_the_best_first_and_numbers_by_hand(small: Path) -> None:
    found = tables(compared(small))
    assert found[0].head == ["method", "a → b", "a → c", "average", "rank"]
    assert cells(found[0]) == {
        "mmd": ["72.0 ± 2.8", "67.0 ± 1.4 ▼", "69.5 ± 2.1", "1.50"],
        "source_only": ["61.0 ± 1.4", "70.0 ± 0.0", "65.5 ± 0.7", "1.50"],
    }
    assert [[c.best for c in line] for line in found[0].lines] == [
        [False, True, False, True, True],
        [False, False, True, False, True],
    ]


def test_picks_do_not_mix(small: Path) -> None:
    found = tables(compared(small, pick="im"))
    assert "at the epoch that im picks (label-free)" in found[0].title
    assert cells(found[0])["mmd"][:3] == ["62.0 ± 2.8", "57.0 ± 1.4 ▼", "59.5 ± 2.1"]
    by_pick = titled(found, "who picks")
    assert by_pick.head == ["method", "last", "im", "oracle"]
    assert cells(by_pick)["mmd"] == ["69.5 ± 2.1", "59.5 ± 2.1", "99.0 ± 0.0"]


def test_bootstrap_intervals(small: Path) -> None:
    found = tables(compared(small), ci=True)[0]
    assert cells(found)["mmd"][0] == "72.0 [70.0, 74.0]"
    assert any("too narrow" in note for note in found.notes)


def test_less_is_better(small: Path) -> None:
    comparison = compared(small, metric="ece")
    assert [row.name for row in comparison.rows] == ["mmd", "source_only"]
    found = tables(comparison)
    assert cells(found[0])["mmd"][0] == "0.280 ± 0.028"
    assert cells(titled(found, "gained over source_only"))["mmd"][:2] == ["+0.110", "−0.030 ▼"]


def test_a_metric_is_shown_in_a_comparison_as_at_the_end_of_a_run(small: Path) -> None:
    for file in small.rglob("results.json"):
        file.write_text(file.read_text().replace('"macro_f1"', '"auroc"'))
    found = tables(compared(small, metric="auroc"))
    assert "percent" not in found[0].title
    assert cells(found[0])["mmd"][0] == f"{number('auroc', 0.62)} ± 0.028" == "0.620 ± 0.028"
    assert cells(titled(found, "gained over source_only"))["mmd"][:2] == ["+0.110", "−0.030 ▼"]


def test_runs_that_are_not_compared_are_listed(small: Path) -> None:
    edits = {
        "failed": '{"state": "failed", "why": "CUDA out of memory"}',
        "unfinished": '{"state": "unfinished", "why": "interrupted"}',
    }
    for seed, (name, text) in enumerate(edits.items(), start=5):
        folder = write_run(small / name, "mcc", "a", "b", seed)
        (folder / "results.json").unlink()
        (folder / "status.json").write_text(text)
    (write_run(small / "broken", "mcc", seed=7) / "results.json").write_text("{")
    unscored = write_run(small / "unscored", "mcc", seed=8, picks={"last": 0.5})
    results = json.loads((unscored / "results.json").read_text())
    results["stages"]["adapt"]["picks"]["last"]["target"] = {}
    (unscored / "results.json").write_text(json.dumps(results))
    write_run(small / "no_pick", "mcc", seed=9, picks={"last": 0.5})

    comparison = compared(small, pick="im")
    listed = titled(tables(comparison), "not compared")
    found = {Path(line[0].text).name: (line[1].text, line[2].text) for line in listed.lines}
    assert found["failed"] == ("failed", "CUDA out of memory")
    assert found["unfinished"] == ("unfinished", "interrupted")
    assert found["broken"][0] == "broken"
    assert found["broken"][1].startswith("results.json: Invalid JSON")
    assert found["unscored"] == ("done", "its target has no labels to be scored with")
    assert found["no_pick"] == ("done", "it has no pick 'im'")
    assert [row.name for row in comparison.rows] == ["mmd", "source_only"]


def test_missing_runs_are_named_and_not_averaged_over(tmp_path: Path) -> None:
    values = SMALL | {"mcc": {"b": [99, 99], "c": [99, NAN]}, "cdan": {"b": [99, 99]}}
    grid(tmp_path, values)
    comparison = compared(tmp_path)
    assert comparison.missing() == ["mcc lacks seed 1 of a → c", "cdan lacks a → c"]
    found = tables(comparison)[0]
    assert cells(found)["mcc"] == ["99.0 ± 0.0", "99.0 (1 of 2)", "99.0 (1 of 2)", "1.00"]
    assert cells(found)["cdan"] == ["99.0 ± 0.0", "–", "–", "–"]
    assert [row.name for row in comparison.rows] == ["mcc", "mmd", "source_only", "cdan"]
    assert any("over 3 pairs of transfer and seed" in note for note in found.notes)
    assert "Missing: cdan lacks a → c." in found.notes


def test_runs_that_differ_are_rows_of_their_own(small: Path) -> None:
    write_run(small / "longer", "mmd", "a", "b", 0, trainer={"epochs": 5})
    comparison = compared(small)
    names = {row.name for row in comparison.rows}
    assert names == {"source_only", "mmd, trainer.epochs=2", "mmd, trainer.epochs=5"}
    assert any("also in trainer.epochs" in note for note in comparison.notes)
    merged = compared(small, ignore=["trainer.epochs"])
    assert {row.name for row in merged.rows} == {"source_only", "mmd"}
    assert "Runs of one row may differ in trainer.epochs." in merged.notes


def test_a_search_over_a_key_of_the_method(tmp_path: Path) -> None:
    node = {"_target_": "tl_runner.methods.mmd.mmd"}
    for weight in (0.1, 1.0):
        for seed in (0, 1):
            write_run(tmp_path / f"{weight},{seed}", seed=seed, method_node={**node, "weight": weight})
    assert {r.name for r in compared(tmp_path).rows} == {"mmd, method.weight=0.1", "mmd, method.weight=1.0"}
    by = compared(tmp_path, by=["method.weight"])
    assert {r.name for r in by.rows} == {"weight=0.1", "weight=1.0"}


def test_what_was_chosen_names_a_row_before_its_settings(tmp_path: Path) -> None:
    for n, (name, size) in enumerate((("resnet18", 224), ("lite2", 260))):
        model = {"_target_": "Model", "size": size, "backbone": {"name": name}}
        write_run(tmp_path / f"m{n}", "mmd", model=model, stages={"adapt": None, "finetune": "ewc"})
    assert {row.name for row in compared(tmp_path).rows} == {
        *("mmd, model.backbone.name=resnet18", "mmd, model.backbone.name=lite2"),
    }
    for tuned in ("ewc", "lwf"):
        write_run(tmp_path / "stages" / tuned, "mmd", stages={"adapt": None, "finetune": tuned})
    assert {row.name for row in compared(tmp_path / "stages").rows} == {
        *("mmd, recipe.stages.finetune.method=ewc", "mmd, recipe.stages.finetune.method=lwf"),
    }
    assert {row.name for row in compared(tmp_path / "stages", by=["recipe.stages.finetune.method"]).rows} == {
        *("ewc", "lwf"),
    }


def test_a_wide_table_goes_on_below(small: Path) -> None:
    stream, table = StringIO(), titled(tables(compared(small)), "who picks")
    Console(file=stream, width=30).print(terminal(table, 30))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 30
    assert [line.split() for line in lines if line.startswith(" mmd")] == [
        ["mmd", "69.5", "59.5"],
        ["mmd", "99.0"],
    ]


def test_long_names_leave_room_for_numbers(tmp_path: Path) -> None:
    for width in (1, 2):
        model = {"_target_": "tl_runner.nn.model.Model", "backbone": {"name": "x" * 40, "width": width}}
        write_run(tmp_path / str(width), model=model, picks={"last": width / 10, "oracle": 0.4})
        write_run(tmp_path / f"c{width}", target="c", model=model | {"backbone": {"name": str(width) * 39}})
    stream = StringIO()
    for table in tables(compared(tmp_path)):
        Console(file=stream, width=60).print(terminal(table, 60))
    told = stream.getvalue()
    assert max(map(len, told.splitlines())) <= 60
    assert all(head in told for head in ("a → b", "a → c", "seconds"))
    assert {"10.0", "20.0", "50.0"} <= {*told.split()}


def test_a_row_is_named_by_what_was_chosen(tmp_path: Path) -> None:
    for name in ("digits", "folder"):
        folder = write_run(tmp_path / name, data={"_target_": f"x.{name}.Data", "source": "a", "target": "b"})
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "hydra.yaml").write_text(f"hydra: {{runtime: {{choices: {{data: {name}}}}}}}")
    assert {row.name for row in compared(tmp_path).rows} == {"mmd, data=digits", "mmd, data=folder"}


def test_what_no_row_has_is_left_out(tmp_path: Path) -> None:
    for target in ("b", "c"):
        write_run(tmp_path / target, target=target, root=f"/data/{target}")
    found = compared(tmp_path)
    made = tables(found)
    assert "average" not in made[0].head
    assert not any("who picks" in table.title for table in made)
    with style():
        assert [axes.get_title() for axes in plots(found)["scores"]().axes] == ["a →\nb", "a →\nc"]


def test_no_bar_goes_beyond_100_percent(tmp_path: Path) -> None:
    grid(tmp_path, {"mmd": {"b": [100, 100, 90]}})
    with style():
        axes = plots(compared(tmp_path))["scores"]().axes[0]
    (bar,) = axes.collections[0].get_segments()  # type: ignore[attr-defined]
    assert bar[:, 0].max() == 100
    assert axes.get_xlim()[1] < 102


def test_values_too_long_to_tell_apart_stay_apart(tmp_path: Path) -> None:
    start, end = "/a/long/folder/of/many/runs", "and/a/long/end/of/all/of/them"
    for i in range(2):
        write_run(tmp_path / str(i), init_from=f"{start}/{i}/{end}")
    names = sorted(row.name for row in compared(tmp_path).rows)
    assert len(set(names)) == 2
    assert names[1] == f"{names[0]} (2)"


def test_where_a_run_took_place_is_no_difference(tmp_path: Path) -> None:
    write_run(tmp_path / "here", seed=0)
    write_run(tmp_path / "there", seed=1, paths={"data": "/elsewhere"}, root="/elsewhere/x")
    (row,) = compared(tmp_path).rows
    assert len(row.runs) == 2


def test_each_seed_may_have_a_start_of_its_own(tmp_path: Path) -> None:
    for method in ("shot", "nrc"):
        for seed in (0, 1):
            write_run(tmp_path / f"{method}{seed}", method, seed=seed, init_from=f"models/a-{seed}")
    comparison = compared(tmp_path)
    assert [row.name for row in comparison.rows] == ["nrc", "shot"]
    assert any("started from different runs" in note for note in comparison.notes)
    write_run(tmp_path / "other", "shot", seed=1, init_from="models/other")
    assert {row.name for row in compared(tmp_path).rows} == {
        *("nrc, init_from=models/a-0", "shot, init_from=models/a-0"),
        *("nrc, init_from=models/a-1", "shot, init_from=models/a-1", "shot, init_from=models/other"),
    }


def test_what_only_looks_at_the_training_is_no_difference(tmp_path: Path) -> None:
    for seed, chunk in enumerate((1, 2)):
        validators = {"im": {"_target_": "IM"}, "snd": {"_target_": "SND", "chunk": chunk}}
        write_run(tmp_path / str(seed), seed=seed, picks={"last": 0.5, "snd": 0.5}, validators=validators)
    assert len(compared(tmp_path).rows) == 1
    assert {r.name for r in compared(tmp_path, pick="snd").rows} == {
        "mmd, validators.snd.chunk=1",
        "mmd, validators.snd.chunk=2",
    }


def test_sweeps_that_looked_at_target_labels_are_named(small: Path) -> None:
    file = small / "mmd,b,0" / "results.json"
    objective = {"name": "oracle", "value": 1.0, "sees_target_labels": True}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"objective": objective}))
    (note,) = [note for note in compared(small).notes if "objective" in note]
    assert note.endswith("looked at target labels: mmd,b,0.")


def test_of_two_alike_the_newer_counts(small: Path) -> None:
    again = write_run(small / "again", "mmd", "a", "b", 0, {"last": 0.9, "im": 0.9, "oracle": 0.9})
    os.utime(small / "mmd,b,0" / "results.json", (1, 1))
    comparison = compared(small)
    assert comparison.scores["last"]["mmd"]["a → b", "0"] == pytest.approx(90)
    ((old, why),) = comparison.listed
    assert old.folder == small / "mmd,b,0"
    assert why == f"the same as {again}, which is newer"


def test_other_rows_and_columns(tmp_path: Path) -> None:
    for i, tuning in enumerate(["Full", "Frozen"]):
        for method in ("mmd", "mcc"):
            folder = tmp_path / f"{tuning}{method}"
            write_run(
                folder,
                method,
                picks={"last": 0.5 + i / 10},
                tuning={"_target_": f"tl_runner.tuning.{tuning}"},
            )
    comparison = compared(tmp_path, by=["tuning"], over=["method", "data.target", "seed"])
    assert [row.name for row in comparison.rows] == ["Frozen", "Full"]
    assert comparison.transfers == ["b, mcc", "b, mmd"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": ["metod"]}, "no run's config has the key 'metod'; did you mean 'method'?"),
        ({"over": ["data.sauce"]}, "no run's config has the key 'data.sauce'; did you mean 'data.source'?"),
        ({"ignore": ["trainer.epoch"]}, "did you mean 'trainer.epochs'?"),
        ({"metric": "acuracy"}, "no run has the metric 'acuracy'; did you mean 'accuracy'?"),
        ({"pick": "orakle"}, "no run has the pick 'orakle'; did you mean 'oracle'?"),
    ],
)
def test_wrong_names(options: dict[str, Any], message: str, small: Path) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        compared(small, **options)


def test_no_run_that_is_done(tmp_path: Path) -> None:
    (write_run(tmp_path / "a") / "results.json").write_text("{")
    with pytest.raises(DataError, match=r"no run can be compared:\n.*broken \(results.json: Invalid JSON"):
        compared(tmp_path)


def test_negative_transfer(tmp_path: Path) -> None:
    grid(
        tmp_path,
        {
            "source_only": {"b": [60, 61, 62, 60], "c": [70, 70, 71, 70]},
            "mmd": {"b": [50, 50, 52, 51], "c": [71, 69, 70, 71]},
            "mcc": {"b": [80, 81, 82, 80], "c": [90, 90, 91, 90]},
        },
    )
    comparison = compared(tmp_path)
    mcc, mmd = against(comparison, "source_only")
    assert (mcc.lost, mmd.lost) == ([], ["a → b"])
    assert (mmd.runs.losses, mmd.runs.n) == (6, 8)
    found = tables(comparison)
    assert cells(found[0])["mmd"][:2] == ["50.8 ± 1.0 ▼*", "70.2 ± 1.0"]
    table = titled(found, "gained over source_only")
    # Differences -10 -11 -10 -9 and +1 -1 -1 +1: 12 of the 256 signs give a rank sum as small as 5.
    assert cells(table)["mmd"] == ["−10.0 ▼*", "+0.0", "−5.0", "1 of 2", "6 of 8 (75 %)", "0.094"]
    assert cells(table)["mcc"][3:] == ["0 of 2", "0 of 8 (0 %)", "0.016"]
    assert "Worse than source_only: 1 of 4 cells (25 %), 6 of 16 runs (38 %)." in table.notes


def test_too_few_seeds_to_tell(small: Path) -> None:
    found = tables(compared(small))
    assert any("2 seeds cannot tell that from chance, 3 can" in note for note in found[0].notes)
    assert any("So few cannot tell: p is 0.125 at least" in note for note in titled(found, "gained").notes)


def test_a_baseline_is_of_the_same_data_and_backbone(tmp_path: Path) -> None:
    def model(name: str, **more: Any) -> dict[str, Any]:
        return {"_target_": "Model", "backbone": {"name": name}, **more}

    write_run(tmp_path / "base", "source_only", model=model("resnet18", neck="none"))
    write_run(tmp_path / "mmd", "mmd", model=model("resnet18", neck="bottleneck"))
    write_run(tmp_path / "other", "mcc", model=model("resnet50"))
    comparison = compared(tmp_path)
    found = {row.method: baselines(comparison, row) for row in comparison.rows}
    assert set(found["mmd"]) == {"source_only"}
    assert found["mcc"] == found["source_only"] == {}


def test_baselines_of_methods_with_target_labels(tmp_path: Path) -> None:
    for name, method, labels in (
        ("ft", "finetune", 3),
        ("lwf", "lwf", 3),
        ("mmd", "mmd", 0),
        ("to", "target_only", "all"),
    ):
        write_run(tmp_path / name, method, labeled_per_class=labels)
    comparison = compared(tmp_path)
    found = {row.method: set(baselines(comparison, row)) for row in comparison.rows}
    assert found == {"finetune": set(), "lwf": {"finetune"}, "mmd": set(), "target_only": set()}
    assert comparison.rows[-1].bound
    assert "target_only" not in {row.name for row in comparison.rivals}
    assert cells(tables(comparison)[0])["target_only (bound)"] == ["50.0", "–"]


def test_pretraining_is_measured_against_none(tmp_path: Path) -> None:
    for weights in ("hub", "none"):
        model = {"_target_": "Model", "backbone": {"name": "resnet18", "weights": weights}}
        write_run(
            tmp_path / weights, "finetune", picks={"last": 0.9 if weights == "hub" else 0.4}, model=model
        )
    comparison = compared(tmp_path)
    (found,) = against(comparison, "scratch")
    assert found.row.name == "finetune, model.backbone.weights=hub"
    assert found.runs.difference == pytest.approx(50)


def test_what_is_kept_of_the_source(small: Path) -> None:
    """From stage to stage; of the points before the last, the best counts."""
    assert not any("held-out source" in table.title for table in tables(compared(small)))
    known = {
        "mmd,b,0": {"adapt": 0.9, "finetune": 0.7},
        "mmd,c,0": {"adapt": 0.8, "finetune": 0.7},
        "source_only,b,0": {"init_from": 0.95, "source": 0.9, "adapt": 0.96},
        "source_only,b,1": {"adapt": 0.1},
    }
    for name, accuracies in known.items():
        file = small / name / "results.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"source_accuracy": accuracies}))
    found = titled(tables(compared(small)), "held-out source")
    assert found.head == ["method", "adapt", "finetune", "init_from", "source", "forgotten"]
    assert cells(found) == {
        "mmd": ["85.0 ± 7.1", "70.0 ± 0.0", "–", "–", "15.0 ± 7.1"],
        "source_only": ["96.0", "–", "95.0", "90.0", "−1.0"],
    }


def test_transfers_as_pairs(tmp_path: Path) -> None:
    grid(tmp_path, {"source_only": {"b": [60, 62], "c": [70, NAN]}, "mmd": {"b": [70, 74], "c": [66, 68]}})
    comparison = compared(tmp_path, pairs="transfers")
    assert comparison.tested["mmd"].tolist() == [72, 67]
    assert comparison.tested["source_only"].tolist()[0] == 61
    assert np.isnan(comparison.tested["source_only"].tolist()[1])
    assert any("over 1 transfer that all" in note for note in tables(comparison)[0].notes)


MARKDOWN = """\
## accuracy on the target at the last epoch, in percent, mean ± standard deviation over seeds

| method | a → b | a → c | average | rank |
|---|---|---|---|---|
| mmd | **72.0 ± 2.8** | 67.0 ± 1.4 ▼ | **69.5 ± 2.1** | **1.50** |
| source_only | 61.0 ± 1.4 | **70.0 ± 0.0** | 65.5 ± 0.7 | **1.50** |

- ▼ loses to source_only on that transfer; 2 seeds cannot tell that from chance, 3 can.
- Rank: the average over 4 pairs of transfer and seed that all ranked rows have.
"""

LATEX = r"""
\begin{table}
\centering
\caption{accuracy on the target at the last epoch, in percent, mean $\pm$ standard deviation over seeds.
$\downarrow$ loses to source\_only on that transfer; 2 seeds cannot tell that from chance, 3 can.
Rank: the average over 4 pairs of transfer and seed that all ranked rows have.}
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%
\begin{tabular}{lrrrr}
\toprule
method & a $\to$ b & a $\to$ c & average & rank \\
\midrule
mmd & \textbf{72.0 $\pm$ 2.8} & 67.0 $\pm$ 1.4 $\downarrow$ & \textbf{69.5 $\pm$ 2.1} & \textbf{1.50} \\
source\_only & 61.0 $\pm$ 1.4 & \textbf{70.0 $\pm$ 0.0} & 65.5 $\pm$ 0.7 & \textbf{1.50} \\
\bottomrule
\end{tabular}}
\end{table}
"""


def test_markdown_and_latex(small: Path) -> None:
    table = tables(compared(small))[0]
    assert markdown(table) == MARKDOWN
    assert latex(table).split() == LATEX.split()


EVIL = '<script>alert(1)</script>|a$b_c%&{#}^~\\[x](y)`*"'


def test_names_are_text_wherever_they_are_printed(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / "runs" / f"good{seed}", "mmd", "<b>a", "b|c", seed=seed)
        folder = write_run(tmp_path / "runs" / f"evil{seed}", "mcc", "<b>a", "b|c", seed=seed)
        results = json.loads((folder / "results.json").read_text())
        results["stages"]["adapt"]["method"] = EVIL
        (folder / "results.json").write_text(json.dumps(results))
    bad = write_run(tmp_path / "runs" / "<script>alert(2)<", "mcc")
    (bad / "results.json").write_text("[")
    comparison = compared(tmp_path / "runs")
    write(comparison, tables(comparison), tmp_path / "out")
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;script&gt;alert(2)&lt;" in page
    assert "<b>" not in page
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "<script" not in text
    widths = {
        line.count(" | ")
        for line in text.splitlines()
        if line.startswith(("| method | &lt;b>a", "| &lt;script>"))
    }
    assert len(widths) >= 1
    assert r"\|a$b_c%&amp;{#}^~\\\[x\](y)\`\*" in text
    tex = (tmp_path / "out" / "comparison.tex").read_text()
    assert r"\textless{}script\textgreater{}alert(1)" in tex
    assert r"a\$b\_c\%\&\{\#\}\textasciicircum{}\textasciitilde{}\textbackslash{}{[}x](y)" in tex
    runs = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert set(runs["row"]) >= {EVIL, "mmd"}


def test_no_name_steers_the_terminal(tmp_path: Path) -> None:
    for seed in range(2):
        file = write_run(tmp_path / str(seed), "mcc", seed=seed) / "results.json"
        file.write_text(file.read_text().replace('"method": "mcc"', '"method": "m\\u001b[2J\\u0007\\ncc"'))
    stream = StringIO()
    for table in tables(compared(tmp_path)):
        Console(file=stream, width=200).print(terminal(table, 200))
    told = stream.getvalue()
    assert "m�[2J� cc" in told
    assert "\x1b" not in told


def test_a_reason_of_several_lines_is_one_in_a_table() -> None:
    why = str(ConfigError(["optim.lr: expected a number"]))
    assert plain(why).plain == "The config has 1 problem: - optim.lr: expected a number"


def test_files(small: Path, tmp_path: Path) -> None:
    (write_run(small / "broken", "mcc", seed=7) / "results.json").write_text("{")
    comparison, out = compared(small), tmp_path / "out"
    paths = write(comparison, tables(comparison), out)
    names = {"comparison.md", "comparison.tex", "comparison.html", "runs.csv", "summary.csv", "pairwise.csv"}
    names |= {f"{figure}.{kind}" for figure in ("scores", "gains") for kind in ("png", "pdf")}
    assert {p.name for p in paths} == {p.name for p in out.iterdir()} == names
    runs = pd.read_csv(out / "runs.csv")
    assert len(runs) == 9
    assert runs["last"].dropna().tolist() == pytest.approx([70, 74, 66, 68, 60, 62, 70, 70])
    assert runs["why"].dropna().str.startswith("not compared: results.json").tolist() == [True]
    summary = pd.read_csv(out / "summary.csv").set_index(["pick", "row", "transfer"])
    assert summary["mean"]["last", "mmd", "average"] == pytest.approx(69.5)
    assert summary["seeds"]["im", "mmd", "a → b"] == 2
    pairwise = pd.read_csv(out / "pairwise.csv", index_col=0)
    assert pairwise.loc["mmd", "source_only"] == 0.625
    page = (out / "comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http://" not in page
    assert "https://" not in page

    # Without source_only there is nothing to gain over.
    alone = compare([run for run in find([small]) if run.method == "mmd"])
    write(alone, tables(alone), out)
    assert not (out / "gains.png").exists()
    assert (out / "scores.png").exists()


def test_a_folder_that_cannot_be_written(small: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    comparison = compared(small)
    with pytest.raises(DataError, match="cannot write the comparison into"):
        write(comparison, tables(comparison), tmp_path / "out")


def _figures(root: Path, methods: int, transfers: int, seeds: int) -> set[str]:
    rng = np.random.default_rng(0)
    values = {
        "source_only" if m == 0 else f"method_number_{m}": {
            f"domain_{t}": list(60 + m / 2 + 5 * t + rng.normal(0, 1, seeds)) for t in range(transfers)
        }
        for m in range(methods)
    }
    grid(root, values)
    with style():
        made = {name: draw() for name, draw in plots(compared(root)).items()}
        for name, figure in made.items():
            figure.canvas.draw()
            texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]
            assert min(t.get_fontsize() for t in texts) >= 8, name
            drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            assert min(drawn.x0, drawn.y0) >= 0, name
            assert drawn.x1 <= width, name
            assert drawn.y1 <= height, name
    return set(made)


def test_a_transfer_without_a_source_is_its_target(tmp_path: Path) -> None:
    write_run(tmp_path / "a", source=None, target="b")
    write_run(tmp_path / "b", source="a", target="b")
    assert compared(tmp_path).transfers == ["a → b", "b"]


def test_figures_are_legible(tmp_path: Path) -> None:
    assert _figures(tmp_path / "two", 2, 1, 1) == {"scores", "gains"}
    assert _figures(tmp_path / "five", 5, 4, 3) == {"scores", "gains", "ranks"}


@pytest.mark.slow
def test_figures_of_many_methods_are_legible(tmp_path: Path) -> None:
    assert _figures(tmp_path / "many", 35, 6, 3) == {"scores", "gains"}
    assert _figures(tmp_path / "most", RANKED, 6, 3) == {"scores", "gains", "ranks"}


@pytest.mark.slow
def test_the_page_in_a_browser(small: Path, tmp_path: Path) -> None:
    """No script, no request, no missing image."""
    playwright = pytest.importorskip("playwright.sync_api")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("no chromium")
    comparison = compared(small)
    write(comparison, tables(comparison), tmp_path)
    with playwright.sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
        trouble: list[str] = []
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request", lambda request: trouble.append(request.url) if "data:" not in request.url else None
        )
        page.goto((tmp_path / "comparison.html").as_uri())
        assert page.evaluate("[...document.images].map(i => i.naturalWidth > 0)") == [True, True]
        assert page.locator("tr").count() > 10
    assert trouble == [(tmp_path / "comparison.html").as_uri()]


WIDE = {**os.environ, "COLUMNS": "300"}
FAST = ("trainer=smoke", "trainer.accelerator=cpu")


def test_command_line(
    tmp_path: Path, tlrun: Tlrun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep compares its runs by itself, lists the job that failed, and can be compared anew."""
    grid = ("method=source_only,mmd,finetune", "seed=0,1", "hydra.sweep.dir=sweep")
    done = tlrun("-m", *FAST, *grid, check=False, env=WIDE)
    assert done.returncode == 1
    assert "reads role 'labeled'" in done.stdout
    report = tmp_path / "work" / "sweep" / "report"
    assert f"Comparison: {report}" in done.stdout
    assert "clean → photo" in done.stdout
    # Each in the comparison, and in the table of jobs.
    assert len(re.findall(r"method=finetune\S* +failed +(?:[\d:]+ +)?stage adapt", done.stdout)) == 4
    assert "pruned" not in done.stdout, "no library's chatter"
    assert {"comparison.html", "scores.png", "gains.pdf"} <= {file.name for file in report.iterdir()}
    runs = find([report.parent])
    statuses = {"source_only": "done", "mmd": "done", "finetune": "failed"}
    assert [run.status for run in runs] == [statuses[run.method] for run in runs]
    failed, *_ = [run for run in runs if run.method == "finetune"]
    assert failed.why in " ".join(done.stdout.split())
    good, *_ = [run for run in runs if run.method == "mmd"]
    assert json.loads((good.folder / "status.json").read_text())["state"] == "done"
    assert good.history()["adapt"]["epoch"].tolist() == [1, 2]
    assert good.name("model") == "tiny"

    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(rich, "_console", None)
    options = "--by method,optim --over data.target,seed --metric macro_f1 --pick im --ci --out elsewhere"
    main(["sweep", *options.split()], [])
    told = capsys.readouterr().out
    assert "macro_f1 on the target at the epoch that im picks" in told
    assert re.search(r"mmd, sgd .*\n.*source_only, sgd|source_only, sgd .*\n.*mmd, sgd", told)
    assert Path("elsewhere", "runs.csv").is_file()


def test_one_run_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run")
    main([str(tmp_path)], [])
    told = capsys.readouterr().out
    assert "picked by" in told
    assert f"Report: {folder / 'report.html'}" in told
    assert (folder / "report.html").is_file()
    (folder / "results.json").unlink()
    (folder / "status.json").write_text('{"state": "failed", "why": "out of memory"}')
    with pytest.raises(UserError, match=r"run is failed: out of memory"):
        main([str(tmp_path)], [])


@pytest.mark.parametrize("wrong", [[], ["--pairs", "seeds", "x"], ["x", "--nonsense"]])
def test_wrong_arguments(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(wrong, [])
    assert stop.value.code == 2


def test_nothing_about_a_comparison_ends_a_sweep_badly(
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(rich, "_console", None)
    after_sweep(small / "nowhere")
    assert "the runs are not compared: " in caplog.text
    (small / "report").write_text("in the way")
    after_sweep(small)
    assert "cannot write the comparison" in caplog.text
    assert "69.5 ± 2.1" in capsys.readouterr().out
    monkeypatch.setattr("tl_runner.report.publish.write", lambda *_: 1 / 0)
    after_sweep(small)
    assert "ZeroDivisionError" in caplog.text
