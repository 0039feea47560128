"""Methods that a method's config names: `+method.extra=[mcc]`, `method=sdat method.method=dann`.

Each name stands for that method's own config; keys given with it replace its defaults:
`+method.extra.mcc.weight=0.5`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from .errors import ConfigError, nearest

Node = dict[str, Any]


def stages(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The stages of a config's recipe; none where it has something else in their place."""
    recipe = config.get("recipe")
    found = recipe.get("stages") if isinstance(recipe, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def methods(config: Mapping[str, Any]) -> Iterator[tuple[str, Node]]:
    """The method nodes of a config, by their place."""
    if isinstance(config.get("method"), Mapping):
        yield "method", config["method"]
    for name, stage in stages(config).items():
        if isinstance(stage, Mapping) and isinstance(stage.get("method"), Mapping):
            yield f"recipe.stages.{name}.method", stage["method"]


def named(node: Node) -> str:
    """What results call the method of a node: `cdan`, `cdan+mcc`, `sdat(cdan+mcc)`."""
    # A method is one word for file, class and YAML; in a file of several classes, the class.
    module, _, name = str(node["_target_"]).rpartition(".")
    word = module.rpartition(".")[2]
    word = word if word.replace("_", "").lower() == name.lower() else name
    inside = f"({named(node['method'])})" if isinstance(node.get("method"), dict) else ""
    return "+".join([word + inside, *(node.get("extra") or {})])


def word(kind: type) -> str:
    """What the command line calls a method."""
    return named({"_target_": f"{kind.__module__}.{kind.__name__}"})


def check_names(config: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """Problems of the names that method nodes use, `known` being the methods there are."""
    problems = []
    for place, node in methods(config):
        for key in ("extra", "method"):
            try:
                names = _chosen(node.get(key))
            except TypeError:
                problems.append(f"{place}.{key}: expected names of methods, got {node[key]!r}")
                continue
            problems += [
                f"{place}.{key}: there is no method '{name}'{nearest(name, known)}"
                for name in names
                if name not in known
            ]
            if key == "method" and len(names) > 1:
                problems.append(f"{place}.method: expected one method, got {', '.join(names)}")
    return problems


def of_extra(node: Node) -> tuple[Node, Node]:
    """What the node of an extra says of its share in the loss, and the method's own node."""
    share: Node = {k: node[k] for k in ("schedule", "start") if k in node}
    return share, {k: v for k, v in node.items() if k not in share}


def method_config(name: str) -> Node:
    """A method's own config. Hydra must have been initialised."""
    from hydra import compose
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(compose(f"method/{name}"), resolve=True)
    return dict(plain["method"])


def inherited(config: Node) -> Node:
    """The config with each stage's changes made to what they change: the run's own method, optimiser and so on.

    A stage's mapping without `_target_` is such changes; one with it replaces the run's.
    """
    if not (found := stages(config)):
        return config
    return {
        **config,
        "recipe": {**config["recipe"], "stages": {k: _inherits(v, config) for k, v in found.items()}},
    }


def _inherits(stage: Node | None, config: Node) -> Node | None:
    return stage and {
        key: _merged(dict(config[key]), dict(value))
        if isinstance(value, Mapping) and "_target_" not in value and isinstance(config.get(key), Mapping)
        else value
        for key, value in stage.items()
    }


def _merged(node: Node, changes: Node) -> Node:
    def one(old: Any, new: Any) -> Any:
        both = isinstance(old, Mapping) and isinstance(new, Mapping) and "_target_" not in new
        return _merged(dict(old), dict(new)) if both else new

    return node | {key: one(node.get(key), value) for key, value in changes.items()}


def expand(config: Node, load: Callable[[str], Node] = method_config) -> Node:
    """The config with every name replaced by the config it stands for, and each stage's inheritance filled in.

    Args:
        load: a method's name -> its config.

    Raises:
        ConfigError: if an entry is neither a name nor a mapping.
    """
    config = inherited(config)
    result = {**config}
    for place, node in list(methods(config)):
        try:
            full = _expanded(node, load)
        except TypeError as error:
            raise ConfigError([f"{place}: {error}"]) from None
        if place == "method":
            result["method"] = full
        else:
            stage = place.split(".")[2]
            changed = {**stages(result)}
            changed[stage] = {**changed[stage], "method": full}
            result["recipe"] = {**result["recipe"], "stages": changed}
    return result


def _expanded(node: Node, load: Callable[[str], Node]) -> Node:
    node = {**node}
    wrapped, extra = _chosen(node.pop("method", None)), _chosen(node.pop("extra", None))
    for name, given in wrapped.items():
        # An extra joins what is wrapped: SAM's ascent has to see it.
        inner = load(name) | given | ({"extra": extra} if extra else {})
        node["method"] = _expanded(inner, load)
    if extra and not wrapped:
        node["extra"] = {name: load(name) | given for name, given in extra.items()}
    return node


def _chosen(value: Any) -> dict[str, Node]:
    """`a`, `[a, {b: {weight: 1}}]` and `{a: null, b: {weight: 1}}` alike as a mapping."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, list):
        return {name: node for item in value for name, node in _chosen(item).items()}
    if isinstance(value, Mapping) and all(isinstance(v, Mapping | None) for v in value.values()):
        if "_target_" in value:
            raise TypeError("expected names of methods")
        return {str(name): dict(node or {}) for name, node in value.items()}
    raise TypeError(f"expected names of methods, got {value!r}")
