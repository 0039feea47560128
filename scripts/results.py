"""Measured numbers: from the runs' `results.json` to `docs/results/*.csv`, and from those to `docs/results.md`.

    python scripts/results.py collect NAME RUNS...    add runs (folders, searched) to docs/results/NAME.csv
    python scripts/results.py write [--check]         write docs/results.md and its figures; with --check only compare

NAME is an experiment with dashes (`office31-frozen`), or `digits` for the embedded data. A run of the same method,
domains and seed replaces the row that is there. Numbers reach the page in no other way, but what others have published:
`docs/results/NAME.published.csv` (method, source, target, accuracy) is shown beside ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from tl_runner.commands.list import describe
from tl_runner.files import replace_bytes
from tl_runner.report import statistics
from tl_runner.report.comparison import Comparison, of_scores
from tl_runner.report.plots import CAPTIONS, plots
from tl_runner.report.render import markdown
from tl_runner.report.runs import Run, find
from tl_runner.report.style import png, style
from tl_runner.report.tables import Cell, Table, tables
from tl_runner.report.words import spread_of

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"
KEY = ["method", "source", "target", "seed"]

plus_minus = spread_of("accuracy")


def row(run: Run) -> dict[str, str]:
    """What a run was, the target accuracy of each pick in percent, and where it ran."""
    assert run.results is not None
    source, target = run.transfer.split(" -> ")
    picked: dict[str, Any] = run.stage["picks"]
    environment, changed = run.results["environment"], (run.folder / "results.json").stat().st_mtime
    return {
        **{"method": run.method, "source": source, "target": target, "seed": str(run.value("seed"))},
        **{pick: f"{100 * found['target']['accuracy']:.2f}" for pick, found in picked.items()},
        "date": datetime.fromtimestamp(changed, UTC).date().isoformat(),
        "torch": environment["packages"]["torch"],
        "gpu": environment["gpu"] or "",
    }


def collect(name: str, folders: Iterable[Path]) -> None:
    path, runs = FOLDER / f"{name}.csv", find(folders)
    new = pd.DataFrame([row(run) for run in runs if run.results is not None])
    rows = pd.concat([read(path), new]) if path.exists() else new
    rows = rows.drop_duplicates(KEY, keep="last").sort_values(KEY)
    rows.to_csv(path, index=False, lineterminator="\n")
    for run in runs:
        if run.results is None:
            print(f"left out: {run.folder} ({run.status}: {run.why})")
    print(f"{path}: {len(new)} runs read, {len(rows)} rows")


def read(path: Path) -> pd.DataFrame:
    """As text: what is not measured anew is written as it was."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def picks(rows: pd.DataFrame) -> list[str]:
    return [str(c) for c in rows if c not in (*KEY, "date", "torch", "gpu")]


def scores(rows: pd.DataFrame, pick: str) -> pd.DataFrame:
    """Accuracies as `tl_runner.report.statistics` takes them."""
    table = rows.assign(transfer=rows["source"] + " → " + rows["target"], value=pd.to_numeric(rows[pick]))
    return table.pivot(index=["transfer", "seed"], columns="method", values="value")


def averages(rows: pd.DataFrame, pick: str) -> pd.DataFrame:
    """Over the transfers, for each seed that has them all: (seeds, methods)."""
    return statistics.averages(scores(rows, pick))


def compared(rows: pd.DataFrame) -> Comparison:
    return of_scores({pick: scores(rows, pick) for pick in picks(rows)})


def section(name: str, rows: pd.DataFrame) -> Iterator[str]:
    about, machine = heading(name), sorted({gpu or "CPU" for gpu in rows["gpu"]})
    dates, seeds = sorted(set(rows["date"])), sorted(set(rows["seed"]), key=int)
    yield f"## {name}"
    yield ""
    yield f"{about}. Seeds {', '.join(seeds)}; {dates[0]}" + (f" to {dates[-1]}" if len(dates) > 1 else "")
    yield f"({', '.join(machine)}, torch {', '.join(sorted(set(rows['torch'])))})."
    yield ""
    comparison = compared(rows)
    yield from (markdown(table, level=3) for table in (*published(name, rows), *tables(comparison)))
    for figure in plots(comparison):
        yield f"![{CAPTIONS[figure]}](results/{name}-{figure}.png)"
        yield ""


def published(name: str, rows: pd.DataFrame) -> Iterator[Table]:
    """Ours beside what others have published."""
    path = FOLDER / f"{name}.published.csv"
    if not path.exists():
        return
    theirs = pd.read_csv(path).set_index(["method", "source", "target"])["accuracy"]
    numbers = rows.astype({"last": float, "oracle": float})
    ours = numbers.groupby(["method", "source", "target"], sort=False)[["last", "oracle"]].mean()
    transfers = list(dict.fromkeys((source, target) for _, source, target in theirs.index))
    columns = [f"{s} → {t}, {what}" for s, t in transfers for what in ("last", "oracle", "published")]
    table = Table("accuracy on the target beside what was published, in percent", ["method", *columns])
    for method in dict.fromkeys(theirs.index.get_level_values("method")):
        line = [Cell(method)]
        for transfer in transfers:
            key: Any = (method, *transfer)
            found = ours.loc[key] if key in ours.index else None
            line += [Cell("" if found is None else f"{found[pick]:.1f}") for pick in ("last", "oracle")]
            line.append(Cell(f"{theirs[method, *transfer]:.1f}"))
        table.lines.append(line)
    table.notes.append(
        "Published numbers are those of the best epoch on the target's test labels, as `oracle` is."
    )
    yield table


def draw(path: Path) -> None:
    """The figures of a table, beside it."""
    with style():
        for figure, make in plots(compared(read(path))).items():
            replace_bytes(path.with_name(f"{path.stem}-{figure}.png"), png(make()))


def heading(name: str) -> str:
    """What the experiment's config says of itself."""
    experiment = name.replace("-", "/", 1)
    file = ROOT / "conf" / "experiment" / f"{experiment}.yaml"
    if not file.exists():
        return (
            "The embedded digits shift, `tlrun` with its defaults and `trainer.epochs=12` "
            "(and `augment=weak_strong` for methods that need two views)"
        )
    return f"{describe(file)[0]} (`experiment={experiment}`)"


def accuracies() -> Iterator[Path]:
    """The tables of accuracies."""
    for path in sorted(FOLDER.glob("*.csv")):
        rows = read(path)
        if len(rows) and set(KEY) <= set(rows):
            yield path


def page() -> str:
    lines = [
        "# Measured",
        "",
        "Written by `python scripts/results.py write` from `docs/results/*.csv`, which the same script collects from",
        "the runs' `results.json`. No epoch here was picked by a target label but those under `oracle`. Where a",
        "published setting did not carry over, a method's defaults were looked for on A→W and D→A with frozen",
        "features and on the embedded digits, one seed: for these, target labels have been seen.",
        "How to read the tables: [comparing runs](comparisons.md). How well each criterion picks, over many runs:",
        "[selecting without target labels](selection.md#measured-on-office-31).",
        "",
    ]
    for path in accuracies():
        lines += section(path.stem, read(path))
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect")
    collecting.add_argument("name")
    collecting.add_argument("runs", nargs="+", type=Path)
    commands.add_parser("write").add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.command == "collect":
        collect(arguments.name, arguments.runs)
    elif not arguments.check:
        PAGE.write_text(page())
        for path in accuracies():
            draw(path)
    elif PAGE.read_text() != page():
        sys.exit("docs/results.md is stale: run python scripts/results.py write")


if __name__ == "__main__":
    main()
