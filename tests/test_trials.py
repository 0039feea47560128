"""Searches by Optuna: what is asked and told, also of trials whose processes died."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from conftest import Tlrun, composed
from hydra.core.override_parser.overrides_parser import OverridesParser

optuna = pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from tl_runner.errors import UserError  # noqa: E402
from tl_runner.jobs import Job, ready  # noqa: E402
from tl_runner.report.search import write  # noqa: E402
from tl_runner.sweep import Outcome  # noqa: E402
from tl_runner.trials import Search, taking_part, watcher  # noqa: E402

SPACE = {"x": FloatDistribution(0, 1)}


def search(
    folder: Path, worker: int = 0, about: tuple[str, ...] = ("x=interval(0,1)",), **changes: Any
) -> Search:
    given: dict[str, Any] = {"sampler": "tpe", "pruner": "none", "seed": 0} | changes
    return Search(folder, SPACE, about, worker=worker, **given)


def done(value: float | None) -> Outcome:
    return Outcome(Path("x"), "done", value=value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("x=interval(0.1,2)", FloatDistribution(0.1, 2)),
        ("x=tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("x=int(interval(2,9))", IntDistribution(2, 9)),
        ("x=int(tag(log,interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("x=16,32,64", CategoricalDistribution(["16", "32", "64"])),
        ("x=range(1,4)", CategoricalDistribution(["1", "2", "3"])),
    ],
)
def test_what_is_drawn_from(override: str, expected: object) -> None:
    (parsed,) = OverridesParser.create().parse_overrides([override])
    assert import_module("hydra_plugins.tlrun_optuna").distribution(parsed) == expected


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "nsga2"])
def test_a_search_finds_the_maximum(sampler: str, tmp_path: Path) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    one = search(tmp_path, sampler=sampler)
    one.space = {key: FloatDistribution(0, 1) for key in "xyz"}
    values = []
    for _ in range(60):
        trial = one.ask()
        values.append(-sum((value - 0.3) ** 2 for value in trial.params.values()))
        one.tell(trial, done(values[-1]))
    best = one.best()
    assert best is not None
    assert best.value == max(values) > -0.05
    assert sum(values[-20:]) / 20 > sum(values[:10]) / 10 + 0.1, "it has not learnt"


def test_what_is_told(tmp_path: Path) -> None:
    one = search(tmp_path)
    outcomes = [done(1.0), done(None), done(float("nan"))]
    outcomes += [
        Outcome(Path("x"), state, value=0.5) for state in ("skipped", "pruned", "failed", "unfinished")
    ]
    for outcome in outcomes:
        one.tell(one.ask(), outcome)
    told = [(t.state.name, t.value) for t in one.study.trials]
    assert told == [
        *(("COMPLETE", 1.0), ("FAIL", None), ("FAIL", None), ("COMPLETE", 0.5)),
        *(("PRUNED", None), ("FAIL", None), ("FAIL", None)),
    ]
    assert one.left(10) == 3


def test_a_killed_trial_has_failed_and_is_tried_again(tmp_path: Path) -> None:
    with taking_part(tmp_path) as worker:
        first = search(tmp_path, worker)
        first.tell(first.ask(), done(0.0))
        killed = first.ask().params
        search(tmp_path, 7).release()
        assert first.study.trials[1].state == TrialState.RUNNING, "its process lives"
    with taking_part(tmp_path) as worker:
        assert worker == 1
        second = search(tmp_path, worker)
        second.release()
        assert second.study.trials[1].state == TrialState.FAIL
        assert second.left(4) == 3
        again = second.ask()
        assert again.params == killed
        assert second.ask().params not in ({"x": t.params["x"]} for t in second.study.trials[:-1])
        assert second.left(4) == 1
        second.tell(again, done(1.0))
        best = second.best()
        assert best is not None
        assert best.params == killed


def test_workers_draw_different_trials(tmp_path: Path) -> None:
    draws = [search(tmp_path, worker).ask().params["x"] for worker in range(3)]
    assert len(set(draws)) == 3
    assert search(tmp_path / "..", 0).ask().params["x"] == draws[0], "the seed decides"


def test_another_search_in_the_folder_is_refused(tmp_path: Path) -> None:
    search(tmp_path)
    with pytest.raises(UserError, match=r"holds another search \(x=interval\(0,1\)\): choose another hydra"):
        search(tmp_path, about=("x=interval(0,2)",))


def test_a_trial_that_is_worse_than_the_others_is_pruned(tmp_path: Path) -> None:
    one = search(tmp_path, pruner="median")
    for _ in range(5):
        trial = one.ask()
        for epoch in range(1, 4):
            trial.report(1e6, epoch)
        one.tell(trial, done(1e6))
    trial = one.ask()
    config = ready(composed("trainer=smoke", "trainer.epochs=3", "objective=im"), multirun=True)
    config["sweep"] = {"pruner": "median", "trial": trial.number}
    folder = tmp_path / "job"
    folder.mkdir()
    job = Job(folder, config)
    job()
    outcome = job.outcome()
    assert outcome.state == "pruned"
    assert outcome.why.startswith("after epoch 1, at ")
    assert not outcome.bad
    assert job.settled() == outcome, "not run again"
    one.tell(trial, outcome)
    frozen = one.study.trials[-1]
    assert frozen.state == TrialState.PRUNED
    assert set(frozen.intermediate_values) == {1}


def test_a_score_that_is_no_number_prunes_nothing(tmp_path: Path) -> None:
    one = search(tmp_path)
    trial = one.ask()
    watch = watcher(tmp_path, {"pruner": "median", "trial": trial.number})
    watch(1, float("nan"))
    watch(2, 0.5)
    assert one.study.trials[0].intermediate_values == {2: 0.5}


def test_what_is_written(tmp_path: Path) -> None:
    one = search(tmp_path)
    for _ in range(5):
        trial = one.ask()
        one.tell(trial, done(trial.params["x"]))
    assert write(one, ["a=b c", "x=1"], tmp_path / "report") == "tlrun 'a=b c' x=1"
    assert {f.name for f in (tmp_path / "report").iterdir()} == {
        *("search.md", "search-history.png", "search-importance.png")
    }
    page = (tmp_path / "report" / "search.md").read_text()
    assert "tlrun 'a=b c' x=1" in page
    assert page.count("| complete |") == 5
    assert mpl.rcParams["axes.facecolor"] == "white", "later figures look as they did"


def test_a_search_through_the_command_line(tlrun: Tlrun, tmp_path: Path) -> None:
    command = ("-m", "sweep=optuna", "sweep.trials=2", "trainer=smoke", "hydra.sweep.dir=sweep")
    command += ("optim.lr=tag(log,interval(1e-4,1e-2))", "method=mmd,coral")
    told = tlrun(*command).stdout
    assert "2 jobs: 2 done" in told
    best = shlex.split(re.search(r"^tlrun .*", told, re.MULTILINE)[0])  # type: ignore[index]
    assert best[1] == "trainer=smoke"
    assert re.fullmatch(r"method=(mmd|coral)", best[3])
    sweep = tmp_path / "work" / "sweep"
    results = [json.loads(f.read_text()) for f in sweep.glob("*/results.json")]
    top = max(results, key=lambda r: r["objective"]["value"])
    assert float(best[2].removeprefix("optim.lr=")) == top["config"]["optim"]["lr"]
    more = tlrun("resume", "sweep", "sweep.trials=3").stdout
    assert "1 jobs" in more or "1 job: 1 done" in more
    assert len(list(sweep.glob("*/results.json"))) == 3
    assert "holds another search" in tlrun(*command, "seed=2", check=False).stderr


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path: Path, tlrun: Tlrun) -> None:
    work = tmp_path / "work"
    work.mkdir()
    command = ["-m", "sweep=optuna", "sweep.trials=3", "trainer.epochs=12", "trainer.steps_per_epoch=40"]
    command += ["optim.lr=interval(0.001,0.01)", "hydra.sweep.dir=sweep"]
    process = subprocess.Popen([sys.executable, "-m", "tl_runner.cli", *command], cwd=work)
    deadline = time.monotonic() + 300
    while not list(work.glob("sweep/*/checkpoints/adapt/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    (killed,) = work.glob("sweep/optim*")
    tlrun("resume", "sweep")
    study = optuna.load_study(
        study_name="tlrun",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(work / "sweep" / "optuna.journal"))
        ),
    )
    assert [t.state.name for t in study.trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert study.trials[0].params == study.trials[1].params
    assert (killed / "run.log").read_text().count("epoch 1/12") == 1, "it went on from its checkpoint"
    assert len(list(work.glob("sweep/*/results.json"))) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("optim.lr=0.1",), "give some key several values"),
        (("optim.lr=interval(0.1,1)", "sweep.sampler=tpa"), "sweep.sampler: input should be 'tpe', 'cmaes'"),
        (("optim.lr=interval(0.1,1)", "sweep.parallel=0"), "sweep.parallel: input should be greater than"),
        (("optim.lr=interval(0.1,1)", "sweep.pruner=true"), "sweep.pruner: input should be 'none', 'median'"),
        (("optim.lr=interval(1,0.1)",), "expected an interval of rising numbers"),
    ],
)
def test_wrong_searches(arguments: tuple[str, ...], said: str, tlrun: Tlrun) -> None:
    failed = tlrun("-m", "sweep=optuna", *arguments, check=False)
    assert failed.returncode != 0
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr
