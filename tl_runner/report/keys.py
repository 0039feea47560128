"""Config keys of many runs: in which they differ, and what tells them apart."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ..errors import DataError, nearest
from .runs import Run, flat

Config = Mapping[str, Any]
"""Leaves of a config by their dotted keys."""

# Where a run took place and what was made of it, not what it was.
PLACE = (
    *("paths", "data.cache", "data.cache_dir", "data.workers"),
    *("report", "predictions", "sweep", "launcher", "objective"),
    *("trainer.accelerator", "trainer.log_every", "trainer.eval_batch_size"),
)


def config_of(run: Run) -> dict[str, Any]:
    """A run's config by dotted keys, without what says only where things lie."""
    config = flat(run.config)
    for name in ("data", "cache"):
        root = str(config.get(f"paths.{name}") or "\0").rstrip("/")
        for key, value in config.items():
            if isinstance(value, str) and f"{value}/".startswith(f"{root}/"):
                config[key] = f"<{name}>{value[len(root) :]}"
    if config.get("data.seed") == config.get("seed"):
        config.pop("data.seed", None)
    return config


def check_keys(keys: Iterable[str], configs: Iterable[Config]) -> None:
    """Of keys that a user gave.

    Raises:
        DataError: if no config has one of them.
    """
    known = {".".join(parts[:i]) for c in configs for k in c for parts in [k.split(".")] for i in range(1, 9)}
    for key in keys:
        if key not in known and key != "experiment":  # It is chosen, and leaves other keys.
            parent = key.rpartition(".")[0]
            beside = [k for k in known if k.rpartition(".")[0] == parent] or [
                k for k in known if "." not in k
            ]
            raise DataError(f"no run's config has the key '{key}'{nearest(key, beside)}")


def within(key: str, groups: Collection[str]) -> bool:
    """Whether a key is one of some, or below one."""
    return any(key == group or key.startswith(f"{group}.") for group in groups)


def label(run: Run, keys: Sequence[str]) -> str:
    """What a run has at the keys: `mcc`, `amazon → webcam`, `mcc, lr=0.01`."""
    ends = [key for key in keys if key in ("data.source", "data.target")]
    there = [key for key in ends if run.value(key)] or ends
    parts = [" → ".join(map(run.name, there))] if ends else []
    for key in keys:
        if key not in ("data.source", "data.target"):
            plain = key in ("method", "experiment") or isinstance(run.value(key), Mapping)
            parts.append(run.name(key) if plain else f"{key.rpartition('.')[2]}={run.name(key)}")
    return ", ".join(parts) or "all"


def tell_apart(runs: Sequence[Run], labels: Sequence[str], configs: Sequence[Config]) -> list[str]:
    """Labels of runs; those of different configs with the keys that tell these apart, as few as will do."""
    told = list(labels)
    for name in dict.fromkeys(labels):
        same = [i for i, other in enumerate(labels) if other == name]
        distinct = {text_of(configs[i]): configs[i] for i in same}
        of = {text_of(configs[i]): runs[i] for i in same}
        keys: list[str] = []
        apart = 1
        for key in sorted(differing(list(distinct.values())), key=_says_little):
            groups = {text_of([c.get(k) for k in (*keys, key)]) for c in distinct.values()}
            if len(groups) > apart:
                keys, apart = [*keys, key], len(groups)
        texts = {
            t: ", ".join([name, *(_told(of[t], key, c.get(key)) for key in keys)])
            for t, c in distinct.items()
        }
        for n, (t, full) in enumerate(texts.items()):
            if list(texts.values()).index(full) < n:  # What was left out of long values told them apart.
                texts[t] = f"{full} ({n + 1})"
        for i in same:
            told[i] = texts[text_of(configs[i])]
    return told


def _says_little(key: str) -> int:
    """What was chosen tells a reader more than the settings that came with it."""
    return 0 if key.endswith("._target_") else 1 if key.endswith(".name") else 2


def _told(run: Run, key: str, value: Any) -> str:
    if key.endswith("._target_") and isinstance(value, str):
        group = key.removesuffix("._target_")
        return f"{group}={run.name(group)}"
    return f"{key}={_short(value)}"


def differing(configs: Sequence[Config]) -> list[str]:
    """Keys whose values differ; a key that is not there is null."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({text_of(c.get(key)) for c in configs}) > 1]


def text_of(value: Any) -> str:
    """By which values are compared."""
    return json.dumps(value, sort_keys=True, default=str)


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:18]}…{text[-18:]}"
