"""Pages: self-contained, and whatever is put into them is text."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """A page from one of this package's templates.

    Raises:
        jinja2.UndefinedError: for a value that the template needs.
    """
    environment = Environment(
        loader=PackageLoader("tl_runner.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(f"{template}.html.jinja").render(**values)
