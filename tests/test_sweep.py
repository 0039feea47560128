"""Searches: what is drawn, and what is said of a search that cannot be."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from conftest import Tlrun
from hydra.core.override_parser.overrides_parser import OverridesParser


def draws(trials: int, *overrides: str, seed: int = 0) -> list[dict[str, str]]:
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    # Hydra loads its plugins anew when it starts: the class of an earlier import would be another one.
    (jobs,) = (
        import_module("hydra_plugins.tlrun_random").RandomSweeper(trials, seed).split_arguments(parsed, None)
    )
    return [dict(override.split("=", 1) for override in job) for job in jobs]


def test_each_key_is_drawn_from_what_it_was_given() -> None:
    found = draws(
        400,
        *("lr=tag(log,interval(1e-4,1e-1))", "weight=interval(0,2)", "batch=int(interval(3,5))"),
        *("method=dann,mmd", "size=range(10,40,10)", "rank=int(tag(log,interval(1,64)))", "epochs=7"),
    )
    assert {d["method"] for d in found} == {"dann", "mmd"}
    assert {d["size"] for d in found} == {"10", "20", "30"}
    assert {d["batch"] for d in found} == {"3", "4", "5"}
    assert {d["epochs"] for d in found} == {"7"}
    lr, weight, rank = ([float(d[k]) for d in found] for k in ("lr", "weight", "rank"))
    assert 1e-4 <= min(lr) < 2e-4 < 5e-2 < max(lr) <= 1e-1
    assert 0 <= min(weight) < 0.1 < 1.9 < max(weight) <= 2
    assert all(r == int(r) and 1 <= r <= 64 for r in rank)
    # Evenly in the logarithm: half of them below the geometric mean.
    assert sum(x < math.sqrt(1e-4 * 1e-1) for x in lr) == pytest.approx(200, abs=40)
    assert sum(x < 8 for x in rank) == pytest.approx(200, abs=50)


def test_a_longer_search_begins_like_a_shorter_one() -> None:
    overrides = ("lr=interval(0,1)", "method=dann,mmd")
    assert draws(9, *overrides)[:4] == draws(4, *overrides)
    assert draws(4, *overrides) != draws(4, *overrides, seed=1)


def test_random_search_through_the_command_line(tmp_path: Path, tlrun: Tlrun) -> None:
    tlrun(
        *("-m", "sweep=random", "sweep.trials=2", "trainer=smoke", "optim.lr=tag(log,interval(1e-4,1e-2))"),
        *("trainer.batch_size=4,8", f"hydra.sweep.dir={tmp_path}"),
    )
    jobs = [yaml.safe_load(file.read_text()) for file in sorted(tmp_path.glob("*/config.yaml"))]
    assert len(jobs) == 2
    assert len({job["optim"]["lr"] for job in jobs}) == 2
    assert all(1e-4 <= job["optim"]["lr"] <= 1e-2 and job["trainer"]["batch_size"] in (4, 8) for job in jobs)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("optim.lr=interval(0.1,1)",), "drawn from, not run through: add sweep=random"),
        (("sweep=random", "optim.lr=interval(1,0.1)"), "expected an interval of rising numbers"),
        (("sweep=random", "optim.lr=tag(log,interval(0,1))"), "begins above 0"),
        (("sweep=random", "optim.lrr=interval(0,1)"), "unknown key 'optim.lrr'; did you mean 'lr'?"),
        (
            ("sweep=random", "sweep.trials=0"),
            "sweep.trials: input should be greater than or equal to 1, got 0",
        ),
    ],
)
def test_wrong_searches(arguments: tuple[str, ...], said: str, tlrun: Tlrun) -> None:
    done = tlrun("-m", *arguments, check=False)
    assert done.returncode == 2
    assert said in done.stderr
