"""One console for the log and the progress bar, so that neither breaks the other's lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rich

from .errors import UserError


class Handler(logging.Handler):
    """Log records on the console, unwrapped and unstyled."""

    def emit(self, record: logging.LogRecord) -> None:
        console = rich.get_console()
        style = "yellow" if record.levelno >= logging.WARNING else None
        console.print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Also write the log into the folder's `run.log`; and where a crash happened, which no terminal needs."""
    file = logging.FileHandler(folder / "run.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(file)
    root.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        place = None if isinstance(error, UserError) else (type(error), error, error.__traceback__)
        file.handle(root.makeRecord("tlrun", logging.ERROR, "", 0, str(error), (), place))
        raise
    finally:
        root.removeHandler(file)
        root.setLevel(level)
        file.close()
