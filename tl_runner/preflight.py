"""Everything that is wrong with a command line, found without importing a class."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from .errors import ConfigError, nearest
from .overrides import of_stage, quoted, unfolded, written_out
from .parts import check_names, stages
from .schema import ROOT, SWEEP_ONLY, check_plugin, check_root
from .search import config_dir, groups, own_configs

# Options of Hydra's that take the next argument.
_WITH_VALUE = frozenset(
    [
        *("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"),
        *("--cfg", "-c", "--package", "-p", "--info", "-i"),
    ]
)


def preflight(arguments: list[str]) -> list[str]:
    """Compose as Hydra will, and report everything that is wrong at once.

    Returns:
        The arguments, with what they say in short written out for Hydra.

    Raises:
        ConfigError: with all problems that show without importing a class.
    """
    multirun = bool({"-m", "--multirun"} & set(arguments))
    if multirun and {"--cfg", "-c"} & set(arguments):
        raise ConfigError(["--cfg prints one job's config: leave out -m, and give each key one value"])
    own = own_configs(arguments)[0]
    _name_shadowed(own)
    options = groups([config_dir(), *own])
    where: list[int] = []
    skip = False
    for i, argument in enumerate(arguments):
        if skip or argument in _WITH_VALUE:
            skip = not skip
        elif not argument.startswith("-"):
            where.append(i)
    full = list(arguments)
    for i in where:
        full[i] = unfolded(quoted(arguments[i]), options, multirun)
    of_stages = [i for i in where if of_stage(full[i])]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        problems, good, configs = _compose([full[i] for i in where if i not in of_stages], multirun)
        config, recipes = configs[0], [list(map(str, stages(_plain(c)))) for c in configs]
        for i in sorted(of_stages, key=lambda i: full[i].count(".")):
            stage = full[i].split(".")[2]
            # In a sweep over recipes each must have the stage.
            if lacking := [recipe for recipe in recipes if stage not in recipe]:
                problems.append(f"recipe.stages: there is no stage '{stage}'{nearest(stage, lacking[0])}")
                continue
            full[i] = written_out(full[i], config.hydra.runtime.choices, options)
            wrong, good, (config, *_) = _compose([full[i]], multirun, good)
            problems += wrong
        named = {str(k): v for k, v in _plain(config).items() if k != "hydra"}
        problems += check_root(named) + check_names(named, options["method"])
        problems += _check_plugins(config) + _unresolved(config, list(named))
    GlobalHydra.instance().clear()
    if problems:
        raise ConfigError(problems)
    return full


def _plain(config: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return dict(plain)


def _unresolved(config: DictConfig, keys: list[str]) -> list[str]:
    """Problems of `${...}` that point nowhere."""
    problems = []
    for key in keys:
        try:
            if OmegaConf.is_config(node := OmegaConf.select(config, key)):
                OmegaConf.to_container(node, resolve=True)
        except InterpolationResolutionError as error:
            problems.append(f"{error.full_key or key}: {str(error).splitlines()[0]}")
    return problems


def _check_plugins(config: DictConfig) -> list[str]:
    """Problems of the sweeper and the launcher that were chosen, if they are ours."""
    problems = []
    for path, kind in (("sweep", Sweeper), ("launcher", Launcher)):
        if path not in config:  # Hydra's node refers to it; of a root key it has been said.
            problems += [f"missing key '{path}'"] if path in SWEEP_ONLY else []
            continue
        node: Any = OmegaConf.to_container(
            config.hydra[f"{path}er" if path == "sweep" else path], resolve=True
        )
        if str(node.get("_target_")).startswith("hydra_plugins.tlrun_"):
            problems += check_plugin(path, node, kind)
    return problems


def _compose(
    overrides: list[str], multirun: bool, base: Sequence[str] = ()
) -> tuple[list[str], list[str], list[DictConfig]]:
    """Overrides on top of others that compose.

    Returns:
        What is wrong with them; those that compose, at their first value; and their configs: of the first
        values, then with each other value in turn.
    """
    problems: list[str] = []
    parser = OverridesParser.create()
    variants: list[list[str]] = []
    for override in overrides:
        try:
            parsed = parser.parse_override(override)
        except HydraException as error:
            problems.append(f"'{override}' cannot be read: {str(error).splitlines()[0]}")
            continue
        if parsed.is_sweep_override() and not multirun:
            problems.append(f"'{override}' has several values: add -m to run each, or quote it")
        elif parsed.is_discrete_sweep():
            variants.append(
                [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]
            )
        elif parsed.is_sweep_override():
            problems += _check_interval(parsed, [*base, *overrides])
            variants.append([f"{parsed.get_key_element()}={parsed.value().start}"])  # type: ignore[union-attr]
        else:
            variants.append([override])
    # Groups first: whether a key exists depends on what was chosen.
    variants.sort(key=lambda v: not _is_group(v[0]))

    def attempt(chosen: list[str]) -> DictConfig | str:
        try:
            return compose("config", overrides=chosen, return_hydra_config=True)
        except Exception as error:  # Hydra meets what it does not expect with errors of any kind.
            return _sentence(error, chosen[-1])

    good = [*base, *(v[0] for v in variants)]
    found = attempt(good)
    if isinstance(found, str):
        good = list(base)
        for v in variants:
            if isinstance(found := attempt([*good, v[0]]), str):
                problems.append(found)
            else:
                good.append(v[0])
        found = compose("config", overrides=good, return_hydra_config=True)
    configs = [found]
    for options in variants:
        others = [o for o in good if o != options[0]]
        for option in options[1:]:
            if isinstance(found := attempt([*others, option]), str):
                problems.append(found)
            else:
                configs.append(found)
    return problems, good, configs


def _check_interval(parsed: Override, overrides: list[str]) -> list[str]:
    """Problems of `key=interval(a,b)`."""
    interval: Any = parsed.value()
    problems = []
    if not any(o.startswith(("sweep=", "hydra/sweeper=")) and o != "sweep=grid" for o in overrides):
        problems.append("an interval is drawn from, not run through: add sweep=random")
    if not interval.start < interval.end:
        problems.append(f"expected an interval of rising numbers, got {interval.start} to {interval.end}")
    if "log" in interval.tags and interval.start <= 0:
        problems.append(f"a logarithmic interval begins above 0, got {interval.start}")
    return [f"'{parsed.input_line}': {p}" for p in problems]


def _name_shadowed(own: list[Path]) -> None:
    """Say which of the user's configs are not read, because a shipped one has the name."""
    for folder in own:
        for file in sorted(folder.glob("*/*.yaml")):
            name = file.relative_to(folder)
            if name.parts[0] in (*ROOT, *SWEEP_ONLY) and (config_dir() / name).is_file():
                print(
                    f"tlrun: {file} is not read: tlrun ships a {name.parts[0]} of that name", file=sys.stderr
                )


def _is_group(override: str) -> bool:
    name = _group(override)
    return override.startswith("hydra.searchpath") or (config_dir() / name).is_dir()


def _group(override: str) -> str:
    """The group that it chooses from, if it does."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _sentence(error: Exception, override: str) -> str:
    """What Hydra found wrong with an override, with the nearest right name."""
    text = str(error)
    key, _, value = override.lstrip("+~").partition("=")
    if (options := _options(_group(override))) and value not in options:
        key = key.rpartition("@")[2]
        return f"{key}: there is no '{value}'{nearest(value, options)}"
    if "is not in struct" in text or "Could not override" in text:
        parent, _, last = key.rpartition(".")
        return f"unknown key '{key}'{nearest(last if parent else key, _siblings(parent) or (*ROOT, *SWEEP_ONLY))}"
    lines = [line for line in text.splitlines() if line.strip()]
    return f"'{override}': {' '.join(lines[:2])}" + (f" ({error.__cause__})" if error.__cause__ else "")


def _options(key: str) -> list[str]:
    """What a group offers, in subgroups too; nothing for a key that is no group."""
    found = groups([config_dir(), *own_configs(sys.argv[1:])[0]])
    inside = {group: options for group, options in found.items() if f"{group}/".startswith(f"{key}/")}
    return [
        f"{group}/{option}".removeprefix(f"{key}/") for group, options in inside.items() for option in options
    ]


def _siblings(parent: str) -> list[str]:
    """Keys of the default composition's node at `parent`."""
    node = OmegaConf.select(compose("config"), parent) if parent else None
    return [str(k) for k in node] if isinstance(node, DictConfig) else []
