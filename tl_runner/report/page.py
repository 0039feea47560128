"""`report.html`: one run on one page, self-contained, made of what the run left in its folder alone."""

from __future__ import annotations

import glob
import logging
import shlex
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import rich
import yaml
from jinja2 import UndefinedError
from rich.text import Text

from ..errors import DataError, reason
from ..files import replace_bytes
from . import outputs, runs
from .content import Stage
from .embedding import Embedding
from .html import render
from .section import Section
from .style import style

log = logging.getLogger(__name__)

NAME, FIGURES = "report.html", "report"


def write(folder: Path) -> Path:
    """Write `report.html`, and its figures as `report/<stage>-<figure>.png`.

    Args:
        folder: of a finished run. Nothing in it is executed, and nothing outside it is read or written.

    Returns:
        The page.

    Raises:
        DataError: if the folder holds no finished run.
    """
    run = runs.read(folder)
    if run.results is None:
        raise DataError(
            f"{folder}: no report of a run that is {run.status}" + (f" ({run.why})" if run.why else "")
        )
    results: Any = run.results
    history = run.history()
    try:
        with style(), rich.get_console().status(NAME) as status:
            sections = _sections(folder, results, history, run.value("report.embedding"), status.update)
        rendered = _render(folder, results, sections)
    except (KeyError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        raise DataError(f"{folder}/results.json is not what a run leaves ({reason(error)})") from error
    _save_figures(folder, sections)
    page = inside(folder, NAME)
    replace_bytes(page, rendered.encode())
    return page


def _sections(
    folder: Path,
    results: Mapping[str, Any],
    history: Mapping[str, pd.DataFrame],
    how: Any,
    update: Callable[[Text], None],
) -> list[Section]:
    """One for each stage.

    Args:
        how: what the config says of the embedding. update: is told what is being made.
    """
    embedding: Embedding = how if how in ("tsne", "umap", "none") else "tsne"
    places: dict[bytes, Any] = {}

    def tell(what: str) -> None:
        update(Text(f"{NAME}: {what}"))

    return [
        Stage(
            name,
            stage,
            history.get(name, pd.DataFrame({"epoch": []})),
            _outputs(folder, name),
            embedding,
            places,
            tell,
        ).write()
        for name, stage in results["stages"].items()
    ]


def inside(folder: Path, name: str) -> Path:
    """A path in the run's folder, or in one of its own.

    Raises:
        DataError: if the name or a link leads out of it.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{path} leads out of the run's folder")
    return path


def _outputs(folder: Path, stage: str) -> outputs.StageOutputs | str:
    """What the run kept of a stage, or why there is nothing."""
    try:
        file = inside(folder, outputs.path(Path(), stage).as_posix())
        if not file.is_file():
            return (
                "This run kept no outputs, so there is no figure of predictions and features; "
                f"`tlrun predict {folder} --report` computes them, where the data is."
            )
        return outputs.read(file)
    except DataError as error:
        log.warning("report: %s", error)
        return f"There is no figure of predictions and features: {error}."


def _save_figures(folder: Path, sections: list[Section]) -> None:
    place = inside(folder, FIGURES)
    place.mkdir(exist_ok=True)
    made = {
        f"{section.name}-{shown.key}.png".replace("/", "_"): shown.png
        for section in sections
        for shown in section.curves + section.figures
        if shown.png
    }
    for section in sections:
        for file in place.glob(f"{glob.escape(section.name.replace('/', '_'))}-*.png"):
            if file.name not in made:  # An older page's.
                file.unlink()
    for name, content in made.items():
        replace_bytes(inside(place, name), content)


def _render(folder: Path, results: Mapping[str, Any], sections: list[Section]) -> str:
    told = results.get("environment", {})
    methods = ", then ".join(section.method for section in sections)
    return render(
        "page",
        title=f"{methods}: {results['data']}".replace(" -> ", " → "),
        folder=str(folder.resolve()),
        results=results,
        objective=results.get("objective"),
        sections=sections,
        kept=list(results.get("source_accuracy", {}).items()),
        # Outside a repository there is nothing to tell of one.
        environment=[
            (key, _text(value))
            for key, value in told.items()
            if value != {"revision": None, "changed": False}
        ],
        config=yaml.safe_dump(results["config"], sort_keys=False, allow_unicode=True),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items())
    if isinstance(value, list):  # The command line, to be pasted.
        return shlex.join(map(str, value))
    return "none" if value is None else str(value)
