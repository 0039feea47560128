"""Which epoch is picked, and by what: criteria, what they look at, and the number that a sweep maximises."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch

from .data.augment import Augment
from .data.domains import Prepared
from .data.loader import EvalLoader, MixedLoader, generator
from .data.rows import Rows
from .errors import UserError, nearest
from .validators import LABELLED, Probe, RankEnsemble, Validator, needs

log = logging.getLogger(__name__)

Row = Mapping[str, float]
Criterion = Callable[[Sequence[Row]], Sequence[float]]
"""Scores of epochs, higher is better; only those of one call can be compared."""


def oracle(rows: Sequence[Row]) -> list[float]:
    """True target accuracy, which nobody has who needs to select."""
    return [row.get("test/accuracy", math.nan) for row in rows]


def _score_of(name: str) -> Criterion:
    return lambda rows: [row.get(f"val/{name}", math.nan) for row in rows]


def usable(
    validators: Mapping[str, Validator | RankEnsemble], data: Prepared
) -> dict[str, Validator | RankEnsemble]:
    """The validators whose needs the data can meet; the log names the others.

    Raises:
        UserError: if a rank ensemble has no members, or names an unknown one.
    """
    if "target" not in data.evaluation:
        return {}
    single = [name for name, v in validators.items() if not isinstance(v, RankEnsemble)]
    kept = {}
    for name, validator in validators.items():
        if isinstance(validator, RankEnsemble):
            members = single if validator.members is None else validator.members
            if not members:
                raise UserError(f"validators.{name}: there is no validator to rank by")
            for unknown in set(members) - set(single):
                hint = nearest(unknown, single)
                raise UserError(f"validators.{name}.members: there is no validator '{unknown}'{hint}")
        if missing := [m for need in needs(validator) if (m := _missing(need, data))]:
            log.info("validator %s is left out: it looks at %s, which this stage lacks", name, missing[0])
        else:
            kept[name] = validator
    return kept


def _missing(need: str | Probe, data: Prepared) -> str | None:
    """What the data lacks for it."""
    if isinstance(need, Probe) and need.mix is not None and len(data.info.shape) == 2:
        return "blended samples (texts cannot be)"
    if isinstance(need, Probe) and need.of == "source":
        return None if "source" in data.roles else "source"
    name = need.of if isinstance(need, Probe) else need
    return None if name in data.evaluation else name


def criteria(
    validators: Mapping[str, Validator | RankEnsemble], data: Prepared, metrics: Mapping[str, Any]
) -> dict[str, Criterion]:
    """What picks an epoch: held-out labels, each (usable) validator, and the oracle if there is one."""
    found: dict[str, Criterion] = {n: _score_of(n) for n in LABELLED if n in data.evaluation}
    for name, validator in validators.items():
        found[name] = validator if isinstance(validator, RankEnsemble) else _score_of(name)
    if data.truth is not None and "accuracy" in metrics:
        found["oracle"] = oracle
    return found


def probes(
    validators: Mapping[str, Validator | RankEnsemble],
    roles: Mapping[str, Rows],
    target: EvalLoader | None,
    batch_size: int,
    augment: Augment,
    device: torch.device,
    seed: int,
) -> dict[str, EvalLoader]:
    """Loaders of the probes that some validator looks at, by name.

    Args:
        roles: training rows. target: evaluates it.
    """
    found: dict[str, EvalLoader] = {}
    for probe in {n: None for v in validators.values() for n in needs(v) if isinstance(n, Probe)}:
        if probe.of == "target":
            assert target is not None
            rows, count = target.rows, target.count
        else:
            rows, count = roles["source"], len(roles["source"])
        chosen = torch.randperm(count, generator=generator(seed, "probe", probe.name))[: probe.rows]
        if probe.mix is None:
            found[probe.name] = EvalLoader(rows, batch_size, augment, device, only=chosen.sort().values)
        else:
            found[probe.name] = MixedLoader(rows, batch_size, augment, device, chosen, probe.mix)
    return found


def better(criterion: Criterion, rows: Sequence[Row], pick: int | None) -> bool:
    """Whether the last row is to be picked instead of an earlier one; of equals the earlier stays."""
    scores = criterion(rows)
    return math.isfinite(scores[-1]) and (pick is None or scores[-1] > scores[pick])


def sees_target_labels(objective: str, metrics: Collection[str]) -> bool:
    """Whether what a sweep maximises is the oracle's, or a metric of the target; a warning says so."""
    if sees := objective == "oracle" or objective in metrics:
        log.warning(
            "objective=%s looks at target labels: what is chosen by it is no honest result, and results.json "
            "says so",
            objective,
        )
    return sees


def scored_by(objective: str, metrics: Collection[str]) -> str:
    """The column of a run's history in which the objective's scores are."""
    if objective == "oracle":
        return "test/accuracy"
    return f"{'test' if objective in metrics else 'val'}/{objective}"


def value_of(objective: str, picks: Mapping[str, Mapping[str, Any]], sees: bool) -> float | None:
    """The number that a sweep maximises, None if there is none.

    Args:
        objective: a validator's name or that of held-out labels: the score of its own pick; `oracle`: the target
            accuracy of its pick; a metric: its value at the last epoch.
        picks: of the last stage.
        sees: target labels.
    """
    if objective == "oracle":
        found, name = picks.get("oracle", {}).get("target", {}), "accuracy"
    elif sees:
        found, name = picks["last"]["target"], objective
    else:
        found, name = picks.get(objective, {}).get("validators", {}), objective
    value: float | None = found.get(name)
    return value
