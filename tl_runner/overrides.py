"""What a command line says in short, in Hydra's own words.

Each stage of a recipe is set as the run is: `recipe.stages.full.tuning=lora` chooses, and
`recipe.stages.full.optim.lr=0.001` changes what the stage inherits. In a sweep, a folder of experiments stands
for all that are in it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from .errors import ConfigError

_STAGE = re.compile(r"recipe\.stages\.([^.=@]+)\.([^=@]+)=(.*)", re.DOTALL)


def of_stage(override: str) -> tuple[str, str, str] | None:
    """The stage, the key and the value of an override of a stage; None for any other, and for Hydra's own
    `+`, `++`, `~` and `group@place`.

    >>> of_stage("recipe.stages.full.optim.lr=0.1")
    ('full', 'optim.lr', '0.1')
    """
    found = _STAGE.fullmatch(override)
    return (found[1], found[2], found[3]) if found else None


def written_out(override: str, chosen: Collection[str], known: Collection[str]) -> str:
    """An override of a stage as Hydra wants it: a choice where the key is a group, else a value.

    Args:
        chosen: what the recipe chooses, as `group@place`. known: the groups that there are.

    >>> written_out("recipe.stages.full.tuning=lora", ["tuning@recipe.stages.full.tuning"], ["tuning"])
    'tuning@recipe.stages.full.tuning=lora'
    >>> written_out("recipe.stages.full.optim.lr=0.1", [], ["optim", "optim/schedule"])
    '++recipe.stages.full.optim.lr=0.1'
    """
    parts = of_stage(override)
    assert parts is not None
    stage, key, value = parts
    group, place = key.replace(".", "/"), f"recipe.stages.{stage}.{key}"
    if group not in known or value == "null" or not value[:1].isalnum():
        return f"++{override}"
    choice = f"{group}@{place}"
    return f"{'' if choice in chosen else '+'}{choice}={value}"


def quoted(override: str) -> str:
    """A value with `{domain}` in it as a text: to Hydra, braces are a mapping.

    >>> quoted("data.layout={domain}/{class}/*")
    'data.layout="{domain}/{class}/*"'
    >>> quoted("data.layout={default: '{domain}/*'}")
    "data.layout={default: '{domain}/*'}"
    """
    key, _, value = override.partition("=")
    bare = re.search(r"(?<!\$)\{\w+\}", value) and not re.match(r"""\s*(['"\[]|\{[^{}]*:)""", value)
    return f'{key}="{value}"' if bare and '"' not in value else override


def unfolded(override: str, options: Mapping[str, Collection[str]], sweep: bool) -> str:
    """`experiment=tour/office31`, a folder, as the experiments in it.

    Args:
        options: of each group. sweep: whether several are wanted.

    Raises:
        ConfigError: if they are not.

    >>> unfolded("experiment=tour", {"experiment": ["tour/a", "tour/b", "c"]}, True)
    'experiment=tour/a,tour/b'
    """
    group, _, value = override.partition("=")
    found = options.get(group, ())
    names = []
    for name in value.split(","):
        inside = [option for option in found if option.startswith(f"{name}/")] if name not in found else []
        if inside and not sweep:
            chosen = f"add -m to run each, or choose one of {', '.join(inside)}"
            raise ConfigError([f"{group}={name} is a folder of {len(inside)}: {chosen}"])
        names += inside or [name]
    return f"{group}={','.join(names)}" if found else override
