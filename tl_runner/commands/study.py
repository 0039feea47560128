"""`tlrun study RUNS…`: how well validators select, judged by target labels after the fact."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import rich

EPILOG = """\
examples:
  tlrun study multirun/2026-11-22/21-50-12          the runs of a sweep
  tlrun study outputs multirun --out docs/study     all there are

For each criterion: how well its scores rank the target accuracy of a run's epochs and of a transfer's runs,
the accuracy of its pick, its regret against the oracle, how often it picks a collapsed model. Files go into the
folder `study` beside the runs: study.md, epochs.csv, runs.csv, methods.csv, and the figures.
"""


def main(arguments: list[str], own: list[Path]) -> None:
    """Study how well criteria select in the runs given.

    Raises:
        UserError: if there is no run to judge by, or if the folder cannot be written.
    """
    given = _parser().parse_args(arguments)
    from ..report.render import terminal
    from ..report.runs import find
    from ..report.study import study
    from ..report.study_pages import tables, write

    runs = find(given.runs)
    common = Path(os.path.commonpath([run.folder.resolve() for run in runs]))
    beside = common.parent if len(runs) == 1 else common
    out = given.out or (Path() if beside == Path(beside.anchor) else beside) / "study"
    found = study(runs)
    made = tables(found)
    console = rich.get_console()
    for table in made:
        console.print(terminal(table, console.width))
    write(found, made, out)
    console.print(f"Study: {out}", markup=False, highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tlrun study",
        description="Judge label-free model selection by the target labels of finished runs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUNS", help="run folders, or folders that hold some"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where files go (the folder study beside the runs)"
    )
    return parser
