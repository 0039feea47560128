"""What a config may say, and everything that is wrong with one, before any data is read."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .errors import ConfigError, nearest
from .parts import of_extra, stages
from .signatures import located, mismatches

ROOT = (
    *("data", "model", "method", "tuning", "optim", "augment", "trainer"),
    *("validators", "metrics", "recipe", "sweep", "objective", "report", "predictions"),
    *("init_from", "init_parts", "paths", "seed"),
)
SWEEP_ONLY = ("launcher",)
"""Keys of the root that are no matter of a single run."""
PARTS = ("backbone", "neck", "head")
PREDICTIONS = ("none", "csv", "parquet")
STAGE = ("method", "tuning", "optim", "augment", "trainer", "epochs")

# Arguments that the runner gives, by the node's place in the config.
_GIVEN: dict[str, frozenset[str]] = {
    "method": frozenset({"model", "info"}),
    "model": frozenset({"info"}),
    "model.backbone": frozenset({"shape"}),
    "metrics.*": frozenset({"num_classes", "classes", "sentences"}),
    "optim.optimizer": frozenset({"params", "lr", "weight_decay", "fused"}),
}


def check_root(config: Mapping[str, Any]) -> list[str]:
    """Problems that can be found without importing any class."""
    known = (*ROOT, *SWEEP_ONLY)
    problems = [f"unknown key '{key}'{nearest(key, known)}" for key in config if key not in known]
    problems += [f"missing key '{key}'" for key in ROOT if key not in config]
    seed = config.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        problems.append(f"seed: expected a whole number >= 0, got {seed!r}")
    if not isinstance(config.get("init_from"), str | None):
        problems.append(f"init_from: expected a run folder or a checkpoint, got {config['init_from']!r}")
    scores = ["source_val", "labeled_val", "oracle"]
    scores += [*(config.get("validators") or {}), *(config.get("metrics") or {})]
    if (name := config.get("objective")) not in scores:
        hint = nearest(str(name), scores)
        problems.append(f"objective: expected a validator or a metric, got {name!r}{hint}")
    parts = config.get("init_parts")
    if not isinstance(parts, list) or not parts or not set(map(str, parts)) <= set(PARTS):
        problems.append(f"init_parts: expected some of {', '.join(PARTS)}, got {parts!r}")
    wanted = config.get("predictions")
    if wanted not in PREDICTIONS:
        problems.append(f"predictions: expected {', '.join(PREDICTIONS)}, got {wanted!r}")
    elif wanted == "parquet" and importlib.util.find_spec("pyarrow") is None:
        problems.append("predictions=parquet needs pyarrow: pip install 'tl-runner[parquet]', or write csv")
    if not isinstance(retry := (config.get("sweep") or {}).get("retry_failed", True), bool):
        problems.append(f"sweep.retry_failed: expected true or false, got {retry!r}")
    if not (recipe := stages(config)):
        return [*problems, "recipe.stages: expected at least one stage"]
    problems += [
        f"{group}: a name becomes a file's: expected letters, digits, _ and -, got {name!r}"
        for group, names in (
            *(("validators", config.get("validators")), ("metrics", config.get("metrics"))),
            ("recipe.stages", recipe),
        )
        for name in names or ()
        if not re.fullmatch(r"[\w-]+", str(name))
    ]
    for name, stage in recipe.items():
        for key in stage or {}:
            if key not in STAGE:
                problems.append(f"recipe.stages.{name}: unknown key '{key}'{nearest(key, STAGE)}")
        epochs = (stage or {}).get("epochs")
        if epochs is not None and (not isinstance(epochs, int) or epochs < 1):
            problems.append(f"recipe.stages.{name}.epochs: expected a whole number >= 1, got {epochs!r}")
    problems += [f"{path}: needs a value" for path, value in _leaves(config) if value == "???"]
    return problems


def check(config: Mapping[str, Any]) -> None:
    """Bind every node of a composed, resolved config to the signature it names.

    Raises:
        ConfigError: with all problems.
    """
    problems = check_root(config)
    for path, node in _nodes(config):
        problems += _check_node(path, node)
    if problems:
        raise ConfigError(problems)
    from .validators import RankEnsemble

    name = config["objective"]
    if name in config["validators"] and located(config["validators"][name]["_target_"]) is RankEnsemble:
        raise ConfigError(
            [f"objective: the ranks of '{name}' compare epochs of one run, not runs; take im, say"]
        )


def check_plugin(path: str, node: Mapping[str, Any], kind: type) -> list[str]:
    """Problems of what Hydra itself will build, a sweeper or a launcher: `kind`."""
    target = str(node.get("_target_"))
    try:
        found = located(target)
    except LookupError as error:
        return [f"{path}._target_: {error.args[0]}"]
    if not (isinstance(found, type) and issubclass(found, kind)):
        return [f"{path}._target_: '{target}' is not a {kind.__module__}.{kind.__qualname__}"]
    return mismatches(path, found, dict(node), frozenset())


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        here = f"{path}.{key}" if path else str(key)
        yield here, value
        yield from _leaves(value, here)


def _nodes(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every mapping that names a class, and what stands where there should be one."""
    for path, value in _leaves(config):
        place = _place(path)
        # A stage leaves to the run what is null in it; without a schedule the rate is constant.
        optional = place == "optim.schedule" or (path.startswith("recipe.") and path.count(".") == 3)
        if (place in _PLACES and not (value is None and optional)) or (
            isinstance(value, dict) and "_target_" in value
        ):
            yield path, value


def _place(path: str) -> str:
    """A node's role: `recipe.stages.adapt.method` is a `method`, `validators.im` a `validators.*`."""
    parts = path.split(".")
    if parts[:2] == ["recipe", "stages"]:
        parts = parts[3:]
    if len(parts) == 2 and parts[0] in ("validators", "metrics"):
        parts[1] = "*"
    if parts[:2] == ["augment", "views"] and len(parts) == 3:
        parts[2] = "*"
    while parts[:2] == ["method", "method"]:  # A method within a method is a method.
        parts = parts[1:]
    if parts[:2] == ["method", "extra"] and len(parts) == 3:
        parts = ["method"]
    return ".".join(parts)


def _kinds() -> dict[str, Any]:
    from torch.optim import Optimizer
    from torchmetrics import Metric

    from .data.augment import Augment, View
    from .data.domains import DomainData
    from .methods.base import Method
    from .nn.model import Model
    from .optim import Optim
    from .reporting import Reporting
    from .trainer import TrainerSettings
    from .tuning import Tuning

    return {
        "data": DomainData,
        "model": Model,
        "method": Method,
        "tuning": Tuning,
        "optim": Optim,
        "optim.optimizer": Optimizer,
        "augment": Augment,
        "augment.views.*": View,
        "trainer": TrainerSettings,
        "report": Reporting,
        "metrics.*": Metric,
        # Anything of the right shape: what matters is that it can be called, or read from.
        "data.reader": "read",
        "model.backbone": "__call__",
        "optim.schedule": "__call__",
        "validators.*": "__call__",
    }


_PLACES = frozenset(
    [
        *("data", "data.reader", "model", "model.backbone", "method", "tuning", "trainer"),
        *("optim", "optim.optimizer", "optim.schedule", "augment", "augment.views.*"),
        *("validators.*", "metrics.*", "report"),
    ]
)


def _check_node(path: str, node: Any) -> list[str]:
    place = _place(path)
    if not isinstance(node, dict) or not isinstance(target := node.get("_target_"), str):
        got = "" if isinstance(node, dict) else f", got {node!r}"
        return [f"{path}: expected a mapping with _target_, the class to build{got}"]
    try:
        found = located(target)
    except LookupError as error:
        return [f"{path}._target_: {error.args[0]}"]
    kind = _kinds().get(place)
    if isinstance(kind, type) and not (isinstance(found, type) and issubclass(found, kind)):
        return [f"{path}._target_: '{target}' is not a {kind.__module__}.{kind.__qualname__}"]
    if isinstance(kind, str) and isinstance(found, type) and not hasattr(found, kind):
        return [f"{path}._target_: '{target}' has no method '{kind}'"]
    if not callable(found):
        return [f"{path}._target_: '{target}' cannot be called"]
    problems = []
    if place == "method" and path.split(".")[-2:-1] == ["extra"]:
        from .methods.combined import Extra

        share, node = of_extra(node)
        problems = mismatches(path, Extra, share, frozenset({"method"}))
    elif place == "method":  # What is added to it are nodes of their own.
        node = {k: v for k, v in node.items() if k != "extra"}
    return problems + mismatches(path, found, node, _GIVEN.get(place, frozenset()))
