"""One console for the log and the progress bar, so that neither breaks the other's lines."""

from __future__ import annotations

import logging

import rich


class Handler(logging.Handler):
    """Log records on the console, unwrapped and unstyled."""

    def emit(self, record: logging.LogRecord) -> None:
        console = rich.get_console()
        style = "yellow" if record.levelno >= logging.WARNING else None
        console.print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)
