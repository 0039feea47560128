"""`tlrun`: the command line. Nothing here imports torch before a run really starts."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from .errors import ConfigError, UserError
from .search import config_dir, groups, own_configs, register

HELP = """\
tlrun: transfer-learning and domain-adaptation experiments from config files

  tlrun                                        the embedded digits shift with MMD: a first run, no data needed
  tlrun method=dann trainer.epochs=20          another method; any key of the config can be set
  tlrun data=office31 data.source=amazon data.target=webcam model=resnet50 tuning=frozen
  tlrun data=folder data.root=photos data.source=old_camera data.target=new_camera
  tlrun -m method=source_only,mmd,dann seed=0,1,2          every combination
  tlrun list [methods|data|models|...]         what can be chosen, with citations
  tlrun diagnose data=office31 model=a,b       before training: how far domains are apart, backbones ranked
  tlrun report RUNS ...                        compare runs: tables, tests, figures (folders, searched)
  tlrun study RUNS ...                         how well validators select, over many runs
  tlrun predict RUN_DIR [--pick im]            what its checkpoint says of each sample, as CSV or Parquet
  tlrun resume RUN_DIR                         go on with a killed run

  --cfg job             print the composed config and stop
  -m, --multirun        run every combination of comma-separated values
  --config-dir DIR      a folder with your own configs (./conf is found by itself)
  --hydra-help          all options of the config library

Groups (GROUP=OPTION):
{groups}

Results go to outputs/<date>/<time>/ (multirun/<date>/<time>/<overrides>/ with -m): results.json,
metrics.csv, checkpoints/, config.yaml, run.log, tensorboard/; after a single run report.html, after -m report/.
"""

COMMANDS = ("diagnose", "list", "predict", "report", "resume", "study")
"""`tlrun COMMAND ...`: each a module of `commands` with `main(arguments, own)`, `own` being the user's own
config folders."""


def main() -> None:
    """The console script."""
    arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, _terminate)
    try:
        own, others = own_configs(arguments)
        # The user's own modules: beside the configs, and in the working folder.
        for folder in (Path.cwd(), *(f.parent for f in own), *own):
            if str(folder) not in sys.path:
                sys.path.append(str(folder))
        if others[:1] and others[0] in COMMANDS:
            import_module(f".commands.{others[0]}", __package__).main(others[1:], own)
        elif others[:1] in (["-h"], ["--help"], ["help"]):
            print(HELP.format(groups=_groups([config_dir(), *own])))
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

    lines = []
    for group, options in groups(folders).items():
        # A folder of options stands for them: `tlrun list experiments` has each.
        text = ", ".join(dict.fromkeys(re.sub("/.*", "/...", option) for option in options))
        lines += textwrap.wrap(text, 108, initial_indent=f"  {group:<16}", subsequent_indent=" " * 18)
    return "\n".join(lines)


def _hydra(arguments: list[str], own: list[Path]) -> None:
    import hydra
    from omegaconf import OmegaConf

    register(own)
    OmegaConf.register_new_resolver("folder_name", _folder_name, replace=True)
    if not any(a.startswith(("--hydra-help", "--version", "-sc", "--shell-completion")) for a in arguments):
        from .preflight import preflight

        arguments = preflight(arguments)
    sys.argv = [sys.argv[0], *arguments]
    # Errors reach main(), which prints a sentence for those of the user's making.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(_job)()
    except Exception:
        _compare_sweep()
        raise
    _compare_sweep()


def _compare_sweep() -> None:
    from .sweep import SweepFolder

    if SweepFolder.folder is not None:
        from .commands.report import after_sweep

        after_sweep(SweepFolder.folder)


def _folder_name(overrides: str) -> str:
    """A sweep job's overrides as one folder's name, however many and whatever is in them."""
    # Where Hydra puts a choice, and that it adds a key, is no reader's concern.
    name = re.sub(r"(^|,)\++", r"\1", re.sub(r"[\w/]+@", "", overrides)).replace("/", "+")
    if len(name) > 200:
        name = f"{name[:180]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return name


def _job(config: Any) -> float | None:
    """One job of Hydra's: a run. A sweeper maximises what it returns."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from .parts import expand
    from .status import recorded

    folder = Path(HydraConfig.get().runtime.output_dir)
    with recorded(folder):
        from .run import run

        plain: Any = OmegaConf.to_container(config, resolve=True)
        _decide_report(plain, HydraConfig.get().mode == RunMode.MULTIRUN)
        value: float | None = run(expand(plain), folder)["objective"]["value"]
    return value


def _decide_report(config: dict[str, Any], multirun: bool) -> None:
    """What `report=auto` means: a page for a single run that evaluates all its rows."""
    report, trial = config["report"], config["trainer"].get("eval_rows") is not None
    if isinstance(report, dict) and report.get("write") == "auto":
        report["write"] = "never" if multirun or trial else "always"


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
