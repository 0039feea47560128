"""Where configs are looked for: in this package, and in the user's own folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .errors import UserError


def config_dir() -> Path:
    """The config tree: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def own_configs(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The user's config folders, `--config-dir` and `conf` in the working folder; the other arguments."""
    found, others = [], []
    rest = iter(arguments)
    for argument in rest:
        if argument in ("--config-dir", "-cd"):
            found.append(Path(next(rest, "")))
        elif argument.startswith("--config-dir="):
            found.append(Path(argument.split("=", 1)[1]))
        else:
            others.append(argument)
    if missing := [folder for folder in found if not folder.is_dir()]:
        raise UserError(f"--config-dir: '{missing[0]}' is no folder")
    here = Path.cwd() / "conf"
    if here.is_dir() and here.resolve() != config_dir().resolve():
        found.append(here)
    return [folder.resolve() for folder in found], others


def groups(folders: list[Path]) -> dict[str, dict[str, Path]]:
    """Config groups, each with its options and their files; earlier folders win."""
    found: dict[str, dict[str, Path]] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*.yaml")):
            name = file.relative_to(folder).with_suffix("").as_posix()
            group, _, option = name.partition("/")
            if "optim/schedule/" in name:
                group, option = "optim/schedule", file.stem
            # What is in `hydra` is chosen through a group of ours.
            if option and group != "hydra" and not file.stem.startswith("_"):
                found.setdefault(group, {}).setdefault(option, file)
    return dict(sorted(found.items()))


def register(folders: list[Path]) -> None:
    """Let Hydra look for configs in the folders too, whatever it composes: runs, completion, checks."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class OwnConfigs(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder in folders:
                search_path.append("tlrun", f"file://{folder}")

    Plugins.instance().register(OwnConfigs)
