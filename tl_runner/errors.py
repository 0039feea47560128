"""What the user is told when an input is wrong: a sentence, not a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Something the user gave is wrong; the message says what, and what was expected."""


class ConfigError(UserError):
    """All that is wrong with a config, found before any data is read."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"The config has {count}:\n" + "\n".join(f"  - {p}" for p in problems))


class DataError(UserError):
    """Files that are missing, unreadable or inconsistent."""


class TrainingError(UserError):
    """Training cannot go on (a loss that is not finite, say); the last good checkpoint is kept."""


def reason(error: BaseException) -> str:
    """An exception in one line.

    >>> reason(ValueError("too small\\nat line 3")), reason(MemoryError())
    ('ValueError: too small', 'MemoryError')
    """
    return ": ".join(filter(None, [type(error).__name__, str(error).partition("\n")[0]]))


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a mistyped name: `; did you mean 'lr'?`, or the known names if none is near.

    >>> nearest("weigth", ["weight", "gamma"])
    "; did you mean 'weight'?"
    >>> nearest("zzz", ["b", "a"])
    '; known: a, b'
    """
    known = sorted(known)
    # A prefix counts as near: `efficientnet` for `efficientnet_lite0`.
    close = difflib.get_close_matches(name, known, n=1) or [k for k in known if name and k.startswith(name)]
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""
