"""A comparison as files: Markdown, LaTeX, HTML and CSV, and its figures."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from ..errors import DataError, reason
from ..files import replace_bytes
from . import statistics
from .comparison import Comparison
from .cost import costs
from .html import render
from .plots import CAPTIONS, plots
from .render import latex, latex_text, markdown
from .style import DPI, png, style
from .tables import Table
from .words import picked

# It tells of every table of every font that goes into a PDF.
logging.getLogger("fontTools").setLevel(logging.WARNING)


def write(comparison: Comparison, tables: Sequence[Table], folder: Path) -> list[Path]:
    """Write `comparison.{md,tex,html}`, `runs.csv`, `summary.csv`, `pairwise.csv` and the figures.

    Every file appears whole; those of an earlier comparison that this one lacks are removed.

    Raises:
        DataError: if the folder cannot be written.
    """
    with style():
        figures = {name: draw() for name, draw in plots(comparison).items()}
        images = {name: png(made) for name, made in figures.items()}
        prints = {name: _pdf(made) for name, made in figures.items()}
    title = f"{comparison.metric} {picked(comparison.pick)}, by {', '.join(comparison.by)}"
    counted = sum(len(row.runs) for row in comparison.rows)
    about = f"{counted} runs in {len(comparison.rows)} rows; {len(comparison.listed)} runs are not compared."
    files: dict[str, str | bytes] = {
        "comparison.md": _markdown(title, about, tables, images),
        "comparison.tex": _latex(tables, images),
        "comparison.html": _html(title, about, tables, figures, images),
        "runs.csv": _runs(comparison).to_csv(index=False),
        "summary.csv": _summary(comparison).to_csv(index=False),
        "pairwise.csv": statistics.pairwise(comparison.tested[[r.name for r in comparison.rivals]]).to_csv(),
        **{f"{name}.png": image for name, image in images.items()},
        **{f"{name}.pdf": document for name, document in prints.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            replace_bytes(folder / name, content if isinstance(content, bytes) else content.encode())
        for name in CAPTIONS:
            if name not in figures:
                for kind in ("png", "pdf"):
                    (folder / f"{name}.{kind}").unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write the comparison into {folder} ({reason(error)})") from error
    return [folder / name for name in files]


def _pdf(made: Figure) -> bytes:
    stream = io.BytesIO()
    with mpl.rc_context({"pdf.fonttype": 42}):  # Type 3 fonts are refused by some conferences.
        made.savefig(stream, format="pdf", metadata={"CreationDate": None})
    return stream.getvalue()


def _markdown(title: str, about: str, tables: Sequence[Table], images: Mapping[str, bytes]) -> str:
    shown = [f"![{CAPTIONS[name]}]({name}.png)\n" for name in images]
    return "\n".join([f"# {title}", "", about, "", *map(markdown, tables), *shown])


def _latex(tables: Sequence[Table], images: Mapping[str, bytes]) -> str:
    shown = [
        f"\\begin{{figure}}\n\\centering\n\\includegraphics[width=\\linewidth]{{{name}}}\n"
        f"\\caption{{{latex_text(CAPTIONS[name])}}}\n\\end{{figure}}\n"
        for name in images
    ]
    return "\n".join(["% \\usepackage{booktabs,graphicx}", *map(latex, tables), *shown])


def _html(
    title: str,
    about: str,
    tables: Sequence[Table],
    figures: Mapping[str, Figure],
    images: Mapping[str, bytes],
) -> str:
    shown = [
        {
            "caption": CAPTIONS[name],
            "png": base64.b64encode(image).decode(),
            "size": [round(inches * DPI * 2 / 3) for inches in figures[name].get_size_inches()],
        }
        for name, image in images.items()
    ]
    return render("comparison", title=title, about=about, tables=tables, figures=shown)


def _runs(comparison: Comparison) -> pd.DataFrame:
    """A line for each run, compared or not."""

    def lines() -> Iterator[dict[str, Any]]:
        for row in comparison.rows:
            for (transfer, seed), run in sorted(row.runs.items()):
                scores = {p: comparison.scores[p][row.name][transfer, seed] for p in comparison.picks}
                cost = {str(k): v for k, v in costs([run]).iloc[0].items()}
                yield {
                    "row": row.name,
                    "transfer": transfer,
                    "seed": seed,
                    "status": run.status,
                    **scores,
                    **cost,
                    "folder": str(run.folder),
                    "why": "",
                }
        for run, why in comparison.listed:
            yield {
                "row": run.method,
                "transfer": run.transfer,
                "seed": run.value("seed"),
                "status": run.status,
                "folder": str(run.folder),
                "why": f"not compared: {why}",
            }

    return pd.DataFrame(list(lines()))


def _summary(comparison: Comparison) -> pd.DataFrame:
    """Mean, standard deviation, bootstrap interval and number of seeds of each cell, by pick."""

    names = [row.name for row in comparison.rows]

    def lines() -> Iterator[dict[str, Any]]:
        for pick in comparison.picks:
            scores = comparison.scores[pick]
            cells = {t: scores.xs(t, level="transfer") for t in comparison.transfers}
            for transfer, values in {**cells, "average": statistics.averages(scores)}.items():
                for name in names:
                    low, high = statistics.interval(values[name]) or (None, None)
                    yield {
                        "pick": pick,
                        "row": name,
                        "transfer": transfer,
                        "mean": values[name].mean(),
                        "std": values[name].std(),
                        "low": low,
                        "high": high,
                        "seeds": values[name].count(),
                    }

    return pd.DataFrame(list(lines()))
