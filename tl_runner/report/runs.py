"""Folders of runs, read as data: nothing in them is executed, and a broken file breaks nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NotRequired

import pandas as pd
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from .. import status
from ..errors import DataError, reason
from ..parts import named

Status = Literal["done", "waiting", "running", "unfinished", "pruned", "failed", "broken"]

_OPEN = ConfigDict(extra="allow", strict=False)


class Pick(TypedDict):
    """An epoch, and how the model stood there; metrics and validators by name."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    epoch: int
    target: dict[str, float | None]
    validators: dict[str, float | None]


class StageResults(TypedDict):
    """Picks: `last`, `source_val`, each validator, `oracle`. Timing: see `stage.fit`."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    method: str
    epochs: int
    picks: dict[str, Pick]
    timing: dict[str, float]


class Results(TypedDict):
    """What `results.json` holds."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    data: str
    stages: dict[str, StageResults]
    seconds: float
    config: dict[str, Any]
    environment: NotRequired[dict[str, Any]]
    source_accuracy: NotRequired[dict[str, float]]
    objective: NotRequired[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder.

    Attributes:
        status: `broken` if a file of it cannot be read.
        why: it is not done, in a line.
        config: as far as it is known; empty if it is not.
        results: `results.json` of a run that is done; None otherwise.
    """

    folder: Path
    status: Status
    why: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    results: Results | None = None

    def value(self, key: str, default: Any = None) -> Any:
        """Of a dotted key of the config: `seed`, `data.target`; a group is a mapping."""
        node: Any = self.config
        for part in key.split("."):
            if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, Mapping) and part in node:
                node = node[part]
            else:
                return default
        return node

    def name(self, key: str) -> str:
        """Of a dotted key's value, in a word: a method's as results have it, a group's as it was chosen."""
        if key == "method":
            return self.method
        if key == "experiment":
            return str(self._choices.get(key)).rpartition("/")[2]
        value = self.value(key)
        if isinstance(value, Mapping):
            if key.endswith(".method") and "_target_" in value:
                return named(dict(value))
            return str(self._choices.get(key) or named({"_target_": value.get("_target_", "?")}))
        if isinstance(value, list):
            return "+".join(map(str, value))
        return "null" if value is None else str(value)

    @property
    def method(self) -> str:
        """The method of the last stage that takes the run's (`method=`); if none does, of the last stage."""
        stages = self.value("recipe.stages")
        stages = stages if isinstance(stages, Mapping) else {}
        own = [name for name, stage in stages.items() if not _given(stage)]
        if self.results is not None:
            found = self.results["stages"]
            return found[next((s for s in reversed(own) if s in found), list(found)[-1])]["method"]
        node = self.value("method") if own or not stages else _given(list(stages.values())[-1])
        try:
            return named(node)
        except (AttributeError, KeyError, TypeError):
            return "?"

    @property
    def transfer(self) -> str:
        """`source -> target`; one of them alone where there is no other."""
        if self.results is not None:
            return self.results["data"]
        return " -> ".join(self.name(end) for end in ("data.source", "data.target") if self.value(end))

    @property
    def stage(self) -> StageResults:
        """Of a run that is done: its last stage, which is what it is judged by."""
        if self.results is None:
            raise DataError(f"{self.folder}: the run is not done ({self.status})")
        return list(self.results["stages"].values())[-1]

    def history(self) -> dict[str, pd.DataFrame]:
        """A row per epoch, by stage: `epoch`, `loss/…`, `val/…`, `test/…`. Empty before the first stage ended.

        Raises:
            DataError: if metrics.csv is broken.
        """
        file = self.folder / "metrics.csv"
        if not file.is_file():
            return {}
        try:
            rows = pd.read_csv(file)
            rows["epoch"] = rows["epoch"].astype(int)
            stages = rows["stage"].astype(str)
            numbers = rows.drop(columns="stage").apply(pd.to_numeric)
        except (OSError, ValueError, KeyError) as error:  # pandas' parser raises ValueErrors
            raise DataError(f"{file} is broken ({reason(error)})") from error
        return {
            str(name): part.dropna(axis="columns", how="all").reset_index(drop=True)
            for name, part in numbers.groupby(stages, sort=False)
        }

    @cached_property
    def _choices(self) -> Mapping[str, Any]:
        """What was chosen in each group of the config, as Hydra wrote it down."""
        try:
            chosen = yaml.safe_load((self.folder / ".hydra" / "hydra.yaml").read_text())
            return dict(chosen["hydra"]["runtime"]["choices"])
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, RecursionError):
            return {}


def find(folders: Iterable[Path]) -> list[Run]:
    """The runs in the folders given: run folders, or any that hold some. Each once, in order of their names.

    Raises:
        DataError: for a folder that is not there or holds no run.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "does not exist"
            raise DataError(f"'{folder}' {what}: expected a run's folder, or one that holds runs")
        inside = list(_search(folder))
        if not inside:
            raise DataError(
                f"no run in '{folder}': a run's folder holds config.yaml, status.json, results.json"
            )
        for each in inside:
            if each.resolve() not in found:
                found[each.resolve()] = read(each)
    return list(found.values())


def read(folder: Path) -> Run:
    """The run in its folder, whatever state it is in."""
    file = folder / "results.json"
    if file.is_file():
        try:
            results = _RESULTS.validate_json(file.read_bytes())
            _check(results)
        except (OSError, ValueError, RecursionError) as error:
            return Run(folder, "broken", f"{file.name}: {_told(error)}", _config(folder)[0])
        return Run(folder, "done", "", results["config"], results)
    config, trouble = _config(folder)
    try:
        stands = status.read(folder)
    except (OSError, ValueError, RecursionError) as error:
        return Run(folder, "broken", f"{status.NAME}: {reason(error)}", config)
    state, why = stands or ("unfinished", "")
    if state == "done":
        return Run(folder, "broken", "results.json is missing", config)
    return Run(folder, "broken" if trouble and state != "failed" else state, trouble or why, config)


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves of a config by their dotted keys; empty mappings and lists are leaves.

    >>> flat({"a": {"b": 1, "c": [2, {}]}})
    {'a.b': 1, 'a.c.0': 2, 'a.c.1': {}}
    """
    return dict(_leaves(config, ""))


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    inner = dict(enumerate(node)) if isinstance(node, list) else node
    if not isinstance(inner, Mapping) or not inner:
        yield path, node
        return
    for key, value in inner.items():
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


_RESULTS = TypeAdapter(Results)


def _check(results: Results) -> None:
    """What a shape cannot say."""
    if not results["stages"]:
        raise ValueError("it has no stage")
    for name, stage in results["stages"].items():
        if "last" not in stage["picks"]:
            raise ValueError(f"stages.{name}.picks lacks 'last'")


def _told(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    return reason(error)


def _config(folder: Path) -> tuple[dict[str, Any], str]:
    """What the run was told, and what is wrong with the file; Hydra's copy where the run left none."""
    for file in (folder / "config.yaml", folder / ".hydra" / "config.yaml"):
        if file.is_file():
            try:
                config = yaml.safe_load(file.read_text())
                if isinstance(config, dict):
                    return {str(k): v for k, v in config.items()}, ""
                return {}, f"{file.name}: not a run's config"
            except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
                return {}, f"{file.name}: {reason(error)}"
    return {}, ""


def _given(stage: Any) -> Any:
    """The method that a stage of the recipe names for itself."""
    return stage.get("method") if isinstance(stage, Mapping) else None


def _search(folder: Path) -> Iterator[Path]:
    for place, inside, files in os.walk(folder):
        names = {*inside, *files}
        # A config.yaml alone may be anybody's.
        if {"results.json", status.NAME} & names or (
            "config.yaml" in files and {"data.json", "metrics.csv", "checkpoints", "run.log"} & names
        ):
            yield Path(place)
            inside.clear()
        inside[:] = sorted(name for name in inside if not name.startswith("."))
