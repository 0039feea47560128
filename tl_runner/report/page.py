"""`report.html`: one run on one page, self-contained, made of what the run left in its folder alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import rich
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..errors import DataError
from ..files import replace_bytes
from . import outputs, runs
from .content import Stage
from .embedding import Embedding
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
    how = run.value("report.embedding", "tsne")
    places: dict[bytes, Any] = {}
    sections = []
    with style(), rich.get_console().status(NAME) as status:
        tell = _teller(status.update)
        for name, stage in results["stages"].items():
            rows = history.get(name, pd.DataFrame({"epoch": []}))
            made = Stage(name, stage, rows, _outputs(folder, name), _embedding(how), places, tell)
            sections.append(made.write())
    _save_figures(folder, sections)
    page = inside(folder, NAME)
    replace_bytes(page, _render(results, sections).encode())
    return page


def inside(folder: Path, *parts: str) -> Path:
    """A path in the run's folder.

    Raises:
        DataError: if a name or a link leads out of it.
    """
    path = folder.joinpath(*parts)
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


def _embedding(how: Any) -> Embedding:
    return how if how in ("tsne", "umap", "none") else "tsne"


def _teller(update: Callable[[str], None]) -> Callable[[str], None]:
    return lambda what: update(f"{NAME}: {what}")


def _save_figures(folder: Path, sections: list[Section]) -> None:
    place = inside(folder, FIGURES)
    place.mkdir(exist_ok=True)
    made = {
        f"{section.name}-{shown.key}.png": shown.png
        for section in sections
        for shown in section.curves + section.figures
        if shown.png
    }
    for file in place.glob("*.png"):
        if file.name not in made:  # An older page's.
            file.unlink()
    for name, content in made.items():
        replace_bytes(inside(folder, FIGURES, name), content)


def _render(results: Mapping[str, Any], sections: list[Section]) -> str:
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    told = results.get("environment", {})
    return environment.get_template("page.html.jinja").render(
        title=f"{sections[-1].method}: {results['data']}".replace(" -> ", " → "),
        results=results,
        sections=sections,
        kept=list(results.get("source_accuracy", {}).items()),
        environment=[(key, _text(value)) for key, value in told.items()],
        config=yaml.safe_dump(results["config"], sort_keys=False, allow_unicode=True),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "none" if value is None else str(value)
