"""What a builder will build, known before there is a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from .base import Method
from .combined import Combined, Extra


def classes(builder: Any) -> list[type[Method]]:
    """The methods that a builder will build, wrapped and added ones included."""
    return [kind for kind, _ in _built(builder)]


def sees_images(builder: Any) -> bool:
    """Whether any of them needs the images themselves."""
    return any(
        given.get(kind.sees_images) is not None if isinstance(kind.sees_images, str) else kind.sees_images
        for kind, given in _built(builder)
    )


def _built(
    builder: Any, given: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[tuple[type[Method], Any]]:
    """The methods, and what each is given."""
    if isinstance(builder, Extra):
        yield from _built(builder.method)
    elif isinstance(builder, partial):
        yield from _built(builder.func, builder.keywords)
        inside = [*builder.keywords.values()]
        for part in (*inside, *(e for value in inside if isinstance(value, Mapping) for e in value.values())):
            yield from _built(part)
    elif isinstance(builder, type) and issubclass(builder, Method) and builder is not Combined:
        yield builder, given
