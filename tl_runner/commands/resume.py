"""`tlrun resume RUN_DIR`: go on with a run that was killed."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

import yaml

from ..errors import UserError
from ..search import register
from ..status import read, recorded
from ..terminal import Handler
from ..trust import check_trust

USAGE = "usage: tlrun resume RUN_DIR    RUN_DIR holds config.yaml and checkpoints/"


def main(arguments: list[str], own: list[Path]) -> None:
    """Resume the run in the folder given.

    Raises:
        UserError: if the folder holds no run.
    """
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(USAGE, file=sys.stdout if arguments in (["-h"], ["--help"]) else sys.stderr)
        sys.exit(0 if arguments in (["-h"], ["--help"]) else 2)
    folder = Path(arguments[0])
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(f"tlrun resume: {folder} is no run folder: it has no config.yaml")
    if (folder / "results.json").exists():
        raise UserError(f"tlrun resume: the run in {folder} is finished; see results.json")
    with suppress(OSError, ValueError):  # What it says is news; the checkpoints are what counts.
        if (stands := read(folder)) and stands[0] == "running":
            raise UserError(f"tlrun resume: the run in {folder} is still running ({stands[1]})")
    try:
        config = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"tlrun resume: {file} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"tlrun resume: {file} is not a run's config")
    register(own)
    check_trust(config, file)
    log_file = logging.FileHandler(folder / "run.log")
    log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[Handler(), log_file])
    with recorded(folder):
        from ..run import run

        run(config, folder, resume=True)
