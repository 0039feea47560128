"""What a validator is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ..types import Collected


class Validator(Protocol):
    """Scores a model without target labels; higher is better."""

    def __call__(self, collected: Mapping[str, Collected]) -> float: ...
