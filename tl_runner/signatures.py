"""Whether a node of a config fits the signature that it names."""

from __future__ import annotations

import importlib
import inspect
import json
import typing
from collections.abc import Sequence
from typing import Any

from .errors import nearest

_HYDRAS: dict[str, type] = {
    "_target_": str,
    "_partial_": bool,
    "_recursive_": bool,
    "_convert_": str,
    "_args_": list,
}
_CALLED_LATER = ("model.backbone", "optim.optimizer")


def located(target: str) -> Any:
    """What `package.module.name` names.

    Raises:
        LookupError: with a sentence, if there is no such thing.
    """
    module, _, name = target.rpartition(".")
    if not module:
        raise LookupError(f"'{target}': expected package.module.Class")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise LookupError(f"'{target}': no module '{error.name}'") from error
    except Exception as error:
        raise LookupError(
            f"'{target}': importing {module} failed: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(found, name):
        known = [n for n, v in vars(found).items() if callable(v) and not n.startswith("_")]
        raise LookupError(f"{module} has no '{name}'{nearest(name, known)}")
    return getattr(found, name)


def _parameters(found: Any) -> dict[str, tuple[inspect.Parameter, Any]]:
    """Parameters by name with resolved hints; `**options` stands for the keyword parameters of the parent.

    A parent's positional-only parameters are the subclass's own business.
    """
    functions = (
        [vars(c)["__init__"] for c in found.__mro__ if "__init__" in vars(c)]
        if isinstance(found, type)
        else [found]
    )
    result: dict[str, tuple[inspect.Parameter, Any]] = {}
    for function in functions:
        if function is object.__init__:
            break
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except Exception:
            hints = {}
        parameters = list(inspect.signature(function).parameters.values())
        passes_on = False
        for p in parameters:
            passes_on = passes_on or p.kind is p.VAR_KEYWORD
            if p.name != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                result.setdefault(p.name, (p, hints.get(p.name, Any)))
        if not passes_on:
            break
    return result


def mismatches(path: str, found: Any, node: dict[str, Any], given: frozenset[str]) -> list[str]:
    """What keeps a node from being the arguments of a class or function: unknown names, wrong values, missing ones.

    Args:
        path: of the node in the config. given: names of arguments that do not come from it.
    """
    parameters = _parameters(found)
    problems = []
    known = [name for name in parameters if name not in given]
    for key, value in ((str(k), v) for k, v in node.items()):  # YAML reads `on:` as true
        if key in _HYDRAS:
            if key != "_target_" and not isinstance(value, _HYDRAS[key]):
                problems.append(f"{path}.{key}: expected a {_HYDRAS[key].__name__}, got {value!r}")
        elif key not in known:
            problems.append(f"{path}.{key}: {found.__name__} has no argument '{key}'{nearest(key, known)}")
        elif f"{path}.{key}" in _CALLED_LATER or value == "???":
            continue  # A node, checked by itself; a missing value, of which it has been said.
        elif not (isinstance(value, dict) and "_target_" in value):
            problems += _check_value(f"{path}.{key}", parameters[key][1], value)
    if path in _CALLED_LATER and node.get("_partial_") is not True:
        problems.append(f"{path}._partial_: expected true: the runner gives it more arguments")
    # What a parent needs, a subclass may give it: only the class's own parameters must be there.
    for name in inspect.signature(found).parameters:
        parameter = parameters.get(name, (None, None))[0]
        if parameter and parameter.default is parameter.empty and name not in node and name not in given:
            problems.append(f"{path}.{name}: {found.__name__} needs a value")
    return problems


def _check_value(path: str, hint: Any, value: Any) -> list[str]:
    from pydantic import (
        ConfigDict,
        PydanticSchemaGenerationError,
        PydanticUserError,
        TypeAdapter,
        ValidationError,
    )

    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=False))
        # As JSON, in strict mode: lists are tuples, whole numbers are floats, and "3" is not a number.
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        options = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
        hints = nearest(value, map(str, options)) if options and isinstance(value, str) else ""
        message = first["msg"][0].lower() + first["msg"][1:]
        return [f"{path}: {message}, got {value!r}{hints}"]
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError):
        # Of a class of ours or torch's: a node, checked by itself; or several of them.
        origin = typing.get_origin(hint)
        if isinstance(origin, type) and issubclass(origin, Sequence) and not isinstance(value, list):
            return [f"{path}: expected a list, got {value!r}"]
    return []
