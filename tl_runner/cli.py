"""`tlrun`: the command line. Nothing here imports torch before a run really starts."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .errors import ConfigError, UserError, nearest
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
  tlrun status|resume DIR                      how a run or a sweep stands; go on with what is not done

  --cfg job             print the composed config and stop
  -m, --multirun        run every combination of comma-separated values
  --config-dir DIR      a folder with your own configs (./conf is found by itself)
  --hydra-help          all options of the config library

Groups (GROUP=OPTION):
{groups}

Results go to outputs/<date>/<time>/ (multirun/<date>/<time>/<overrides>/ with -m): results.json,
metrics.csv, checkpoints/, config.yaml, run.log, tensorboard/; after a single run report.html, after -m report/.
"""

COMMANDS = ("diagnose", "list", "predict", "report", "resume", "status", "study")
"""`tlrun COMMAND ...`: each a module of `commands` with `main(arguments, own)`, `own` being the user's own
config folders. What it returns, if anything, is a command line to be run."""


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
        if _one_of_several():
            from .processes import attend

            with attend() as first:
                if first:
                    _obey(arguments, others, own)
        else:
            _obey(arguments, others, own)
    except UserError as error:
        print(f"tlrun: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        looks = arguments[:1] and arguments[0] in COMMANDS and arguments[0] != "resume"
        hint = "" if looks else "; `tlrun resume RUN_DIR` goes on from the last epoch"
        print(f"\ntlrun: interrupted{hint}", file=sys.stderr)
        sys.exit(130)


def _one_of_several() -> bool:
    """Whether `torchrun` or `srun` has started this more than once; a batch script of SLURM's is one process."""
    count = os.environ.get("WORLD_SIZE") or ("SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_NTASKS"))
    return bool(count) and count != "1"


def _obey(arguments: list[str], others: list[str], own: list[Path]) -> None:
    """Args: what was typed; the same without the user's own config folders; and those."""
    if others[:1] and others[0] in COMMANDS:
        again = import_module(f".commands.{others[0]}", __package__).main(others[1:], own)
        if again is not None:
            compose_and_run(again, own)
    elif others[:1] in (["-h"], ["--help"], ["help"]):
        print(HELP.format(groups=_groups([config_dir(), *own])))
    elif others == ["--version"]:
        print(f"tl-runner {version('tl-runner')}")
    elif others and re.fullmatch(r"[a-z]+", others[0]):
        hint = nearest(others[0], COMMANDS)
        raise ConfigError([f"there is no command '{others[0]}'{hint}; a setting is KEY=VALUE"])
    else:
        compose_and_run(arguments, own)


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


def compose_and_run(arguments: list[str], own: list[Path]) -> None:
    """Run what a command line says, or each job of what it says with `-m`."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    register(own)
    OmegaConf.register_new_resolver("folder_name", _folder_name, replace=True)
    if not any(a.startswith(("--hydra-help", "--version", "-sc", "--shell-completion")) for a in arguments):
        from .preflight import preflight

        arguments = preflight(arguments)
    sys.argv = [sys.argv[0], *arguments]
    # Errors reach main(), which prints a sentence for those of the user's making.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    wrong: list[UserError] = []

    def job(config: Any) -> float | None:
        told = HydraConfig.get()
        folder, multirun = Path(told.runtime.output_dir), told.mode == RunMode.MULTIRUN
        try:
            return _job(config, folder, multirun)
        except UserError as error:
            if multirun:
                raise
            wrong.append(error)  # Hydra would print a line of its own before it.
            if isinstance(error, ConfigError):
                _forget(folder)
            return None

    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(job)()
    except Exception:
        _after_sweep()
        raise
    _after_sweep()
    if wrong:
        raise wrong[0]


def _after_sweep() -> None:
    """Compare what a sweep has left, say what has become of its jobs, and whether that is good."""
    from .sweep import SweepFolder

    if SweepFolder.folder is None or not SweepFolder.folder.is_dir():
        return
    from .commands.report import after_sweep
    from .commands.status import show_sweep

    after_sweep(SweepFolder.folder)
    outcomes = SweepFolder.outcomes
    show_sweep(outcomes)
    if SweepFolder.note:
        print(SweepFolder.note)
    if bad := [o for o in outcomes if o.bad]:
        again = f"`tlrun resume {SweepFolder.folder}` goes on with what is not done"
        print(f"tlrun: {len(bad)} of {len(outcomes)} jobs are not done; {again}", file=sys.stderr)
        sys.exit(1)


def _folder_name(overrides: list[str]) -> str:
    """A sweep job's overrides as one folder's name, however many and whatever is in them.

    The same for the same overrides, wherever and in whatever sweep the job runs.
    """
    # Where Hydra puts a choice, and that it adds a key, is no reader's concern.
    kept = sorted(o for o in overrides if not re.match(r"\+*(sweep|launcher)[.=]", o))
    parts = [re.sub(r"^\++", "", re.sub(r"[\w/]+@", "", o)).replace("/", "+") for o in kept]
    name = ",".join(parts)
    if len(name) > 200:  # Then the last word of each key has to do, so that as many as can be are told.
        short = ",".join(
            f"{key.rpartition('.')[2]}={value}" for key, _, value in (p.partition("=") for p in parts)
        )
        name = f"{short[:180]},{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return name or "job"


def _forget(folder: Path) -> None:
    """Remove the folder that Hydra has made for a run that never began, if it holds nothing else."""
    if {file.name for file in folder.iterdir()} <= {".hydra", ".lock", "run.log", "status.json"}:
        shutil.rmtree(folder)


def _job(config: Any, folder: Path, multirun: bool) -> float | None:
    """A single run; what it returns, another library's sweeper may maximise. Our launchers run `jobs`."""
    from omegaconf import OmegaConf

    from .jobs import ready
    from .status import digest, done, locked, recorded

    with locked(folder):
        plain: Any = OmegaConf.to_container(config, resolve=True)
        plain = ready(plain, multirun)
        if not multirun and done(folder) not in (None, digest(plain)):
            raise UserError(
                f"{folder} holds a finished run of another config: choose another hydra.run.dir, or delete it"
            )
        with recorded(folder, digest(plain)):
            from .run import run

            value: float | None = run(plain, folder)["objective"]["value"]
    return value


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
