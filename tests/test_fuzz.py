"""Whatever is wrong with a command line, the user gets a sentence that names the key, and never a traceback."""

from __future__ import annotations

import random
import string
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIGS, composed
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from tl_runner.building import build, build_stage, check_start
from tl_runner.errors import UserError
from tl_runner.jobs import ready
from tl_runner.preflight import preflight
from tl_runner.report.runs import flat
from tl_runner.schema import check
from tl_runner.search import config_dir

NASTY = (
    *(
        "",
        "null",
        "true",
        "false",
        "-1",
        "0",
        "1",
        "2",
        "1.5",
        "-0.5",
        "1e400",
        "nan",
        "-inf",
        str(10**30),
        "abc",
    ),
    *("[]", "[1,2]", "[a,[b]]", "{}", "{a: 1}", "{_target_: os.system}", "???", "'${seed}'", "'${nope}'"),
    *(
        "../../etc/passwd",
        "/",
        ".",
        "~",
        "'two words'",
        "é",
        '"\\"',
        "'a,b'",
        "x" * 300,
        "'\\n'",
        "'%s'",
        "'[bold]'",
    ),
)
GROUPS = ("method", "data", "model", "tuning", "optim", "augment", "trainer", "validators", "metrics")
GROUPS += ("recipe", "report", "sweep", "paths", "launcher", "optim/schedule", "experiment")


@cache
def keys() -> tuple[str, ...]:
    """Dotted keys of some configs, of nodes and of leaves."""
    found: dict[str, None] = {}
    choices = (
        (),
        ("method=dann", "optim=adam", "tuning=lora"),
        ("method=sdat", "model=timm", "recipe=lp_ft"),
    )
    for overrides in choices:
        for leaf in flat(composed(*overrides)):
            parts = leaf.split(".")
            found |= {".".join(parts[: i + 1]): None for i in range(len(parts))}
    return tuple(k for k in found if not k.startswith(("paths", "validators.rank", "recipe.stages.")))


def typo(rng: random.Random, name: str) -> str:
    i = rng.randrange(len(name))
    return (
        rng.choice([name[:i] + name[i + 1 :], name[:i] + rng.choice(string.ascii_lowercase) + name[i:]])
        or "x"
    )


def wrong(rng: random.Random) -> str:
    """An override that is wrong, or odd."""
    key, value = rng.choice(keys()), rng.choice(NASTY)
    parent, _, last = key.rpartition(".")
    group = rng.choice(GROUPS)
    match rng.randrange(9):
        case 0 | 1 | 2:
            return f"{key}={value}"
        case 3:
            return f"{parent}.{typo(rng, last)}={value}".lstrip(".")
        case 4:
            return f"{group}={rng.choice([value, typo(rng, rng.choice(list(CONFIGS[group])))])}"
        case 5:
            return f"{rng.choice(['+', '++', '~'])}{rng.choice([key, group])}{rng.choice(['', f'={value}'])}"
        case 6:
            return f"recipe.stages.{rng.choice(['adapt', 'adapt', 'full'])}.{key}={value}"
        case 7:
            return f"+{rng.choice(['method.extra', 'metrics', 'validators', 'optim', 'new'])}.{typo(rng, last)}={value}"
        case _:
            return "".join(rng.choice("abc=.,[]{}()'\"$@+~:/ \\") for _ in range(rng.randint(1, 12)))


def command_lines(seed: int, count: int) -> Iterator[list[str]]:
    for i in range(count):
        rng = random.Random(f"{seed} {i}")
        multirun = ["-m"] if rng.random() < 0.15 else []
        yield [*multirun, *(wrong(rng) for _ in range(rng.choice([1, 1, 1, 2, 3])))]


def run_without_training(arguments: list[str]) -> None:
    """As the command line does, up to where data would be read."""
    GlobalHydra.instance().clear()
    full = [a for a in preflight(arguments) if a != "-m"]
    if "-m" in arguments:
        return
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        plain: Any = OmegaConf.to_container(compose("config", overrides=full), resolve=True)
        config = ready(plain, multirun=False)
    check(config)
    stages = {name: build_stage(name, config) for name in config["recipe"]["stages"]}
    check_start(stages, config["init_from"])
    build(config["report"])
    build(config["data"])


def named(arguments: list[str], message: str) -> bool:
    """Whether some argument, or a part of some key that was given, is in the message."""
    keys = [argument.lstrip("+~").partition("=")[0].rpartition("@")[2] for argument in arguments]
    parts = {part for key in keys for part in key.removeprefix("recipe.stages.").split(".") if part}
    whole = [*arguments, *(f"'{key}'" for key in keys)]
    return any(a in message for a in whole) or any(part in message for part in parts)


def look(arguments: list[str]) -> str | None:
    """What is wrong with how a command line ends; None if nothing is."""
    try:
        run_without_training(arguments)
    except UserError as error:
        if not named([a for a in arguments if a != "-m"], str(error)):
            return f"{arguments}: names no key: {error}"
        return None
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{arguments}: {type(error).__name__}: {str(error)[:300]} ({place.filename}:{place.lineno})"
    return None


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 25), pytest.param(1, 1000, marks=pytest.mark.slow)], ids=["some", "thousand"]
)
def test_no_command_line_ends_in_a_traceback(
    seed: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = [told for arguments in command_lines(seed, count) if (told := look(arguments))]
    assert not found, f"{len(found)} of {count}:\n" + "\n".join(found)
    assert not list(tmp_path.iterdir()), "something was written"
