"""Measured numbers: from the runs' `results.json` to `docs/results/*.csv`, and from those to `docs/results.md`.

    python scripts/results.py collect NAME RUNS...    add runs (folders, searched) to docs/results/NAME.csv
    python scripts/results.py write [--check]         write docs/results.md; with --check only compare

NAME is an experiment with dashes (`office31-frozen`), or `digits` for the embedded data. A run of the same method,
domains and seed replaces the row that is there. Numbers reach the page in no other way.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from tl_runner.commands.list import describe

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"
KEY = ("method", "source", "target", "seed")
Rows = list[dict[str, str]]


def run_row(file: Path) -> dict[str, str]:
    """One run as a row: what it was, the target accuracy of each pick in percent, and where."""
    results = json.loads(file.read_text())
    config, environment = results["config"], results["environment"]
    *_, stage = results["stages"].values()
    source, target = results["data"].split(" -> ")
    row = {"method": stage["method"], "source": source, "target": target, "seed": str(config["seed"])}
    row |= {pick: f"{100 * found['target']['accuracy']:.2f}" for pick, found in stage["picks"].items()}
    row |= {
        "date": datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat(),
        "torch": environment["packages"]["torch"],
        "gpu": environment["gpu"] or "",
    }
    return row


def collect(name: str, folders: Iterable[Path]) -> None:
    path = FOLDER / f"{name}.csv"
    rows = {tuple(row[k] for k in KEY): row for row in read(path)} if path.exists() else {}
    files = sorted(file for folder in folders for file in folder.rglob("results.json"))
    for file in files:
        row = run_row(file)
        rows[tuple(row[k] for k in KEY)] = row
    columns = dict.fromkeys(key for row in rows.values() for key in row)
    with path.open("w", newline="") as out:
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[k] for k in sorted(rows))
    print(f"{path}: {len(files)} runs read, {len(rows)} rows")


def read(path: Path) -> Rows:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def picks(rows: Rows) -> list[str]:
    return [c for c in rows[0] if c not in (*KEY, "date", "torch", "gpu")]


def transfers(rows: Rows) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["source"], row["target"]) for row in rows))


def numbers(rows: Rows, method: str, pick: str, transfer: tuple[str, str]) -> dict[str, float]:
    """Accuracy by seed."""
    return {
        row["seed"]: float(row[pick])
        for row in rows
        if (row["method"], row["source"], row["target"]) == (method, *transfer) and row.get(pick)
    }


def averages(rows: Rows, method: str, pick: str) -> list[float]:
    """Over the transfers, for each seed that has them all."""
    each = [numbers(rows, method, pick, t) for t in transfers(rows)]
    seeds = set.intersection(*(set(e) for e in each))
    return [statistics.mean(e[seed] for e in each) for seed in sorted(seeds)]


def plus_minus(values: Iterable[float]) -> str:
    values = list(values)
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def ranked(rows: Rows) -> list[str]:
    """Methods, the best at the last epoch first; those that lack a transfer at the end."""
    found = {row["method"]: averages(rows, row["method"], "last") for row in rows}
    return sorted(found, key=lambda m: -statistics.mean(found[m] or [0.0]))


def table(head: list[str], lines: Iterable[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for line in lines:
        yield "| " + " | ".join(line) + " |"


def section(name: str, rows: Rows) -> Iterator[str]:
    about, machine = heading(name), sorted({row["gpu"] or "CPU" for row in rows})
    dates, seeds = sorted({row["date"] for row in rows}), sorted({row["seed"] for row in rows}, key=int)
    yield f"## {name}"
    yield ""
    yield f"{about}. Seeds {', '.join(seeds)}; {dates[0]}" + (f" to {dates[-1]}" if len(dates) > 1 else "")
    yield f"({', '.join(machine)}, torch {', '.join(sorted({row['torch'] for row in rows}))})."
    yield ""
    yield "Target accuracy at the **last epoch**, in percent, mean ± standard deviation over seeds:"
    yield ""
    several = len(transfers(rows)) > 1
    head = ["method", *(f"{s} → {t}" for s, t in transfers(rows)), *(["average"] if several else [])]

    def accuracy(method: str) -> list[str]:
        cells = [plus_minus(numbers(rows, method, "last", t).values()) for t in transfers(rows)]
        average = plus_minus(averages(rows, method, "last"))
        return [method, *cells, *([f"**{average}**" if average != "–" else average] if several else [])]

    yield from table(head, map(accuracy, ranked(rows)))
    yield ""
    yield "The same by who **picks the epoch**" + (", averaged over the transfers" if several else "")
    yield "(`oracle` looks at the target's labels: it is what most papers report and nobody has):"
    yield ""

    def by_pick(method: str) -> list[str]:
        return [method, *(plus_minus(averages(rows, method, pick)) for pick in picks(rows))]

    complete = [method for method in ranked(rows) if averages(rows, method, "last")]
    yield from table(["method", *picks(rows)], map(by_pick, complete))
    yield ""


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


def page() -> str:
    lines = [
        "# Measured",
        "",
        "Written by `python scripts/results.py write` from `docs/results/*.csv`, which the same script collects from",
        "the runs' `results.json`. No epoch here was picked by a target label but those under `oracle`. Where a",
        "published setting did not carry over, a method's defaults were looked for on A→W and D→A with frozen",
        "features and on the embedded digits, one seed: for these, target labels have been seen.",
        "",
    ]
    for path in sorted(FOLDER.glob("*.csv")):
        rows = read(path)
        if rows and set(KEY) <= rows[0].keys():
            lines += section(path.stem, rows)
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
    elif PAGE.read_text() != page():
        sys.exit("docs/results.md is stale: run python scripts/results.py write")


if __name__ == "__main__":
    main()
