"""`tlrun resume DIR`: go on with a run that was killed, or with what is not done of a sweep."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..search import register
from ..status import digest, locked, recorded
from ..terminal import Handler, logged
from ..trust import check_trust

USAGE = """\
usage: tlrun resume DIR [KEY=VALUE ...]
  DIR         a run's folder, or a sweep's
  KEY=VALUE   of a run: trainer.devices=2, whatever it was; of a sweep, its launcher and sweeper:
              launcher=joblib sweep.retry_failed=false
"""


def main(arguments: list[str], own: list[Path]) -> list[str] | None:
    """Resume the run in the folder given; of a sweep, return the command line that does.

    Raises:
        UserError: if the folder holds neither.
    """
    if not arguments or arguments[0].startswith("-"):
        print(USAGE, end="", file=sys.stdout if arguments[:1] in (["-h"], ["--help"]) else sys.stderr)
        sys.exit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)
    folder, changes = Path(arguments[0]), arguments[1:]
    register(own)
    if (folder / "multirun.yaml").is_file():
        return _sweep(folder, changes)
    devices = None
    for change in changes:
        if not (given := re.fullmatch(r"trainer\.devices=([1-9]\d*)", change)):
            raise UserError(
                f"tlrun resume: a run goes on as it began, but for trainer.devices=NUMBER; got '{change}'"
            )
        devices = int(given[1])
    config = _yaml(folder / "config.yaml", f"{folder} is no run folder: it has no config.yaml")
    if (folder / "results.json").exists():
        raise UserError(f"tlrun resume: the run in {folder} is finished; see results.json")
    check_trust(config, folder / "config.yaml")
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[Handler()])
    with locked(folder), logged(folder), recorded(folder, digest(config)):
        from ..run import run

        run(config, folder, resume=True, devices=devices)
    return None


def _sweep(folder: Path, changes: list[str]) -> list[str]:
    """The command line that the sweep was started with, once more, into its own folder."""
    told = _yaml(folder / "multirun.yaml", "")
    try:
        overrides = [str(o) for o in told["hydra"]["overrides"]["task"]]
    except (KeyError, TypeError):
        raise UserError(f"tlrun resume: {folder / 'multirun.yaml'} is not what a sweep writes") from None
    for change in changes:
        if not change.startswith(("launcher", "sweep.")):
            raise UserError(f"tlrun resume: a sweep goes on as it began; '{change}' would make it another")
    # Whether failures are left alone is said each time.
    given = {"sweep.retry_failed", *(change.partition("=")[0] for change in changes)}
    kept = [o for o in overrides if o.partition("=")[0] not in given]
    _check_overrides(kept, folder / "multirun.yaml")
    return ["-m", *kept, *changes, f"hydra.sweep.dir='{folder.absolute()}'"]


def _check_overrides(overrides: list[str], where: Path) -> None:
    """A sweep's folder may be a stranger's: its overrides set values, and call nothing.

    Raises:
        UserError: naming those that might.
    """
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        commands = key.startswith("launcher") and re.search("setup|args|parameters|env", override)
        if override.startswith("-") or key.startswith("hydra") or commands:
            raise UserError(
                f"tlrun resume: {where} says '{override}', which may run commands: if you trust it, give it again, "
                "after the folder (launcher.*), or start the sweep by its own command line"
            )
        named = re.findall(r"_target_\W*[:=]\s*['\"]?([\w.]*)", override)
        check_trust([{"_target_": target} for target in named], where)


def _yaml(file: Path, missing: str) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"tlrun resume: {missing}")
    try:
        found = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"tlrun resume: {file} is not valid YAML: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"tlrun resume: {file} is not a run's config")
    return found
