"""`tlrun`: the command line. Nothing here imports torch before a run really starts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import ConfigError, UserError, nearest

HELP = """\
tlrun: transfer-learning and domain-adaptation experiments from config files

  tlrun                                        the embedded digits shift with MMD: a first run, no data needed
  tlrun method=dann trainer.epochs=20          another method; any key of the config can be set
  tlrun data=office31 data.source=amazon data.target=webcam model=resnet50 tuning=frozen
  tlrun data=folder data.root=photos data.source=old_camera data.target=new_camera
  tlrun -m method=source_only,mmd,dann seed=0,1,2          every combination
  tlrun list [methods|data|models|...]         what can be chosen, with citations
  tlrun resume RUN_DIR                         go on with a killed run

  --cfg job             print the composed config and stop
  -m, --multirun        run every combination of comma-separated values
  --config-dir DIR      a folder with your own configs (./conf is found by itself)
  --hydra-help          all options of the config library

Groups (GROUP=OPTION):
{groups}

Results go to outputs/<date>/<time>/ (multirun/<date>/<time>/<overrides>/ with -m): results.json,
metrics.csv, checkpoints/, config.yaml, run.log, tensorboard/.
"""


def config_dir() -> Path:
    """The config tree: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def own_configs(arguments: Sequence[str]) -> list[Path]:
    """The user's config folders: `--config-dir`, and `conf` in the working folder."""
    found = []
    for i, argument in enumerate(arguments):
        if argument in ("--config-dir", "-cd") and i + 1 < len(arguments):
            found.append(Path(arguments[i + 1]))
        elif argument.startswith("--config-dir="):
            found.append(Path(argument.split("=", 1)[1]))
    here = Path.cwd() / "conf"
    if here.is_dir() and here.resolve() != config_dir().resolve():
        found.append(here)
    return [folder.resolve() for folder in found]


def main() -> None:
    """The console script."""
    arguments = sys.argv[1:]
    own = own_configs(arguments)
    # The user's own modules: beside the configs, and in the working folder.
    for folder in (Path.cwd(), *(f.parent for f in own), *own):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if arguments[:1] == ["list"]:
            from .commands.list import main as list_

            list_(arguments[1:], [*own, config_dir()])
        elif arguments[:1] == ["resume"]:
            from .commands.resume import main as resume

            resume(arguments[1:])
        elif arguments[:1] in (["-h"], ["--help"], ["help"]):
            print(HELP.format(groups=_groups([*own, config_dir()])))
        else:
            _hydra(arguments, own)
    except UserError as error:
        print(f"tlrun: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        print("\ntlrun: interrupted; `tlrun resume RUN_DIR` goes on from the last epoch", file=sys.stderr)
        sys.exit(130)


def _terminate(number: int, frame: Any) -> None:
    print("tlrun: terminated; `tlrun resume RUN_DIR` goes on from the last epoch", file=sys.stderr)
    sys.exit(128 + number)


def _groups(folders: list[Path]) -> str:
    import textwrap

    from .commands.list import groups

    lines = []
    for group, options in groups(folders).items():
        text = ", ".join(options)
        lines += textwrap.wrap(text, 108, initial_indent=f"  {group:<16}", subsequent_indent=" " * 18)
    return "\n".join(lines)


def _hydra(arguments: list[str], own: list[Path]) -> None:
    import hydra

    if own and not any(a.startswith("hydra.searchpath") for a in arguments):
        paths = ",".join(f"'file://{folder}'" for folder in own)
        arguments = [*arguments, f"hydra.searchpath=[{paths}]"]
    if not any(a.startswith(("--hydra-help", "--version", "-sc", "--shell-completion")) for a in arguments):
        _preflight(arguments)
    sys.argv = [sys.argv[0], *arguments]
    # Errors reach main(), which prints a sentence for those of the user's making.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(_job)()


def _job(config: Any) -> None:
    """One job of Hydra's: a run."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    from .run import run

    run({str(k): v for k, v in plain.items()}, Path(HydraConfig.get().runtime.output_dir))


def _preflight(arguments: list[str]) -> None:
    """Compose as Hydra will, and report everything that is wrong at once.

    Raises:
        ConfigError: with all problems that show without importing a class.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    flags = {
        "--config-dir",
        "-cd",
        "--cfg",
        "-c",
        "--package",
        "-p",
        "--info",
        "-i",
        "--config-name",
        "-cn",
        "--config-path",
        "-cp",
    }
    overrides: list[str] = []
    skip = False
    for argument in arguments:
        if skip or argument in flags:
            skip = not skip
        elif not argument.startswith("-"):
            overrides.append(argument)
    problems: list[str] = []
    parser = OverridesParser.create()
    variants: list[list[str]] = []
    for override in overrides:
        try:
            parsed = parser.parse_override(override)
        except HydraException as error:
            problems.append(f"'{override}' cannot be read: {str(error).splitlines()[0]}")
            continue
        if parsed.is_discrete_sweep() and {"-m", "--multirun"} & set(arguments):
            variants.append(
                [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]
            )
        elif not parsed.is_sweep_override():
            variants.append([override])
    # Groups first: whether a key exists depends on what was chosen.
    variants.sort(key=lambda v: not _is_group(v[0]))

    def problem(chosen: list[str]) -> str | None:
        try:
            compose("config", overrides=chosen)
        except (HydraException, OmegaConfBaseException) as error:
            return _sentence(error, chosen[-1])
        return None

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        first = [v[0] for v in variants]
        good: list[str] = []
        if problem(first) is None:
            good = first
        else:
            for override in first:
                found = problem([*good, override])
                if found is None:
                    good.append(override)
                else:
                    problems.append(found)
        for options in variants:
            base = [o for o in good if o != options[0]]
            problems += [p for p in (problem([*base, option]) for option in options[1:]) if p]
        from .schema import check_root

        config = compose("config", overrides=good)
        plain = OmegaConf.to_container(config, resolve=False)
        assert isinstance(plain, dict)
        problems += check_root({str(k): v for k, v in plain.items()})
    GlobalHydra.instance().clear()
    if problems:
        raise ConfigError(problems)


def _is_group(override: str) -> bool:
    name = override.lstrip("+~").split("=")[0].split("@")[0]
    return override.startswith("hydra.searchpath") or (config_dir() / name).is_dir()


def _sentence(error: Exception, override: str) -> str:
    """What Hydra found wrong with an override, with the nearest right name."""
    from .schema import ROOT

    text = str(error)
    key, _, value = override.lstrip("+~").partition("=")
    if "Available options in" in text:
        options = [
            line.strip()
            for line in text.split("Available options in")[1].splitlines()[1:]
            if line.startswith("\t")
        ]
        public = [o for o in options if not o.startswith("_")]
        return f"{key}: there is no '{value}'{nearest(value, public)}"
    if "is not in struct" in text or "Could not override" in text:
        parent, _, last = key.rpartition(".")
        return f"unknown key '{key}'{nearest(last if parent else key, _siblings(parent) or ROOT)}"
    lines = [line for line in text.splitlines() if line.strip()]
    return f"'{override}': {' '.join(lines[:2])}" + (f" ({error.__cause__})" if error.__cause__ else "")


def _siblings(parent: str) -> list[str]:
    """Keys of the default composition's node at `parent`."""
    from hydra import compose
    from omegaconf import DictConfig, OmegaConf

    node = OmegaConf.select(compose("config"), parent) if parent else None
    return [str(k) for k in node] if isinstance(node, DictConfig) else []


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
