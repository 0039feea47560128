"""What a config that lies in a run's folder may name. The folder may be a stranger's: it is data, and runs nothing.

A config becomes objects by calling what its `_target_`s name. On a command line and in configs of one's own that is
anything; in a run's folder it is what this machine's own config files name too, classes of torch.optim and
torchmetrics, and modules of the user's own. All else is refused before it is imported.
"""

from __future__ import annotations

import importlib.util
import re
import site
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .search import config_dir

_NAMED = re.compile(r"^\s*(?:-\s+)?_target_:\s*['\"]?([\w.]+)", re.MULTILINE)
_OURS = ("tl_runner", "hydra_plugins")


def check_trust(config: Any, where: Path) -> None:
    """Refuse a config that names what it may not.

    Args:
        where: the file that it was read from.

    Raises:
        ConfigError: naming every such target.
    """
    refused = sorted({target for target in _targets(config) if not _known(target)})
    if refused:
        names = ", ".join(f"'{target}'" for target in refused)
        raise ConfigError(
            [
                f"{where} names {names}, which nothing on this machine vouches for: a run's folder may name what your "
                "config files name, optimizers of torch.optim, metrics of torchmetrics, and modules in your working "
                "folder or on PYTHONPATH. If you trust it, name it in a config of your own (conf/GROUP/NAME.yaml)"
            ]
        )


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)


def _known(target: str) -> bool:
    return target in _named_in_configs() or _library_class(target) or _own_module(target)


def _library_class(target: str) -> bool:
    """Whether it is one of the classes that these two packages are for."""
    package, _, name = target.rpartition(".")
    if package == "torch.optim":
        from torch import optim

        found, kind = getattr(optim, name, None), optim.Optimizer
    elif package in ("torchmetrics", "torchmetrics.classification"):
        import torchmetrics.classification

        found, kind = getattr(torchmetrics.classification, name, None), torchmetrics.Metric  # type: ignore[assignment]
    else:
        return False
    return isinstance(found, type) and issubclass(found, kind)


def _own_module(target: str) -> bool:
    """Whether Python would find it outside of what is installed: where the user has put it."""
    root = target.partition(".")[0]
    if root in _OURS:
        return False
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    place = spec.origin if spec.has_location else next(iter(spec.submodule_search_locations or ()), None)
    return place is not None and not any(Path(place).resolve().is_relative_to(f) for f in _installed())


@cache
def _installed() -> frozenset[Path]:
    paths = sysconfig.get_paths()
    folders = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    return frozenset(
        Path(f).resolve() for f in (*folders, *site.getsitepackages(), site.getusersitepackages())
    )


@cache
def _named_in_configs() -> frozenset[str]:
    """Every `_target_` in the config files that Hydra would search: ours, the user's, those of plugins."""
    named: set[str] = set()
    for folder in (config_dir(), *searched()):
        for file in folder.rglob("*.yaml"):
            named.update(_NAMED.findall(file.read_text(errors="replace")))
    return frozenset(named)


def searched() -> Iterator[Path]:
    """The folders in which Hydra looks for configs, but for our own tree."""
    from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    searched = ConfigSearchPathImpl()
    for plugin in Plugins.instance().discover(SearchPathPlugin):
        plugin().manipulate_search_path(searched)  # type: ignore[attr-defined]
    for element in searched.get_path():
        scheme, _, path = str(element.path).partition("://")
        if scheme == "file":
            yield Path(path)
        elif scheme == "pkg":
            yield Path(str(files(path)))
