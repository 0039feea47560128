"""`tlrun report RUNS…`: one run on a page, several side by side."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import rich

from ..errors import UserError, reason

if TYPE_CHECKING:
    from ..report.runs import Run

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  tlrun report multirun/2026-11-22/21-50-12         the runs of a sweep
  tlrun report outputs multirun --pick im           all there are, at the epoch that validator im picks
  tlrun report RUNS --by tuning,method --over data.target,seed --metric macro_f1

Runs that differ in anything but --over stand in rows of their own. Files go into the folder `report` beside
the runs: comparison.md, .tex and .html, runs.csv, summary.csv, pairwise.csv, and the figures.
"""


def main(arguments: list[str], own: list[Path]) -> None:
    """Compare runs, or write the page of the one there is.

    Raises:
        UserError: if there is no run, no such key, metric or pick, or if the folder cannot be written.
    """
    given = _parser().parse_args(arguments)
    from ..report.runs import find

    runs = find(given.runs)
    if len(runs) > 1:
        _compare(runs, given)
    elif runs[0].results is None:
        why = f": {runs[0].why}" if runs[0].why else ""
        raise UserError(f"the run in {runs[0].folder} is {runs[0].status}{why}")
    else:
        from ..report import page
        from ..report.summary import show, where

        show(runs[0].results, rich.get_console())
        page.write(runs[0].folder)
        where({**runs[0].results, "folder": str(runs[0].folder)}, rich.get_console())


def after_sweep(folder: Path) -> None:
    """Compare what the jobs of a sweep have left, whatever that is: nothing here may end a sweep badly."""
    try:
        from ..report.runs import find

        runs = find([folder])
        if len(runs) > 1:
            several = len({run.name("experiment") for run in runs}) > 1
            _compare(runs, _parser().parse_args([str(folder), *(["--by", "experiment"] if several else [])]))
    except Exception as error:
        told = str(error) if isinstance(error, UserError) else reason(error)
        log.warning("the runs are not compared: %s", told)


def _compare(runs: list[Run], given: argparse.Namespace) -> None:
    from ..report.comparison import BY, OVER, compare
    from ..report.publish import write
    from ..report.render import terminal
    from ..report.tables import tables

    common = Path(os.path.commonpath([run.folder.resolve() for run in runs]))
    out = given.out or (Path() if common == Path(common.anchor) else common) / "report"
    by, over = given.by or BY, given.over or OVER
    comparison = compare(runs, by, over, given.metric, given.pick, given.pairs, given.ignore)
    made = tables(comparison, given.ci)
    console = rich.get_console()
    try:  # Before the tables, which a closed pipe may cut short; and these whatever became of the files.
        write(comparison, made, out)
    finally:
        for table in made:
            console.print(terminal(table, console.width))
    console.print(f"Comparison: {out}", markup=False, highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    def keys(text: str) -> tuple[str, ...]:
        return tuple(filter(None, (key.strip() for key in text.split(","))))

    parser = argparse.ArgumentParser(
        prog="tlrun report",
        description="Write one run's report.html, or compare several: run folders, or folders that hold some.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUNS")
    add("--by", type=keys, metavar="KEYS", help="config keys that name the rows (method)")
    over = "keys in which a row's runs may differ: seed repeats, the others make columns (data.source,data.target,seed)"
    add("--over", type=keys, metavar="KEYS", help=over)
    add("--ignore", type=keys, default=(), metavar="KEYS", help="more keys that may differ within a row")
    add("--metric", default="accuracy", help="accuracy, class_mean, macro_f1, ece, ... (accuracy)")
    add("--pick", default="last", help="who picks the epoch: last, source_val, im, ..., oracle (last)")
    pairs = "what is ranked and tested: pairs of transfer and seed, or transfers averaged over seeds (runs)"
    add("--pairs", choices=("runs", "transfers"), default="runs", help=pairs)
    add("--ci", action="store_true", help="95 %% bootstrap intervals in place of standard deviations")
    add("--out", type=Path, metavar="DIR", help="where files go (the folder report beside the runs)")
    return parser
