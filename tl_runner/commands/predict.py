"""`tlrun predict RUN_DIR`: what a run's checkpoint says of the samples, as a table."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..report import predictions, runs
from ..search import register
from ..terminal import Handler
from ..trust import check_trust

WHOLE = {"source": None, "labeled_per_class": 0, "label_fraction": 0.0, "protocol": "transductive"}
"""Of `data`, where other samples than the run's are to be predicted: all of them, and they alone."""

EPILOG = """\
The samples are those that the run was tested on. Other ones of the same classes: name them as in the run's
command line, e.g. data.target=new_camera data.layout='{domain}/*' --output new.csv. Then all of them are predicted,
and neither the source nor labels are read.

Columns: name, domain, true (empty where unknown), predicted, probability, stage, checkpoint, p_<class> ...
"""


def main(arguments: list[str], own: list[Path]) -> None:
    """Write a table of predictions.

    Raises:
        UserError: if the folder holds no run, or the run no such checkpoint.
    """
    parser = argparse.ArgumentParser(
        "tlrun predict",
        description="Predictions of a run's checkpoint, as a table.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    parser.add_argument("data", nargs="*", metavar="data.KEY=VALUE", help="other samples than the run's")
    parser.add_argument("--pick", help="a criterion's checkpoint: last (default), im, source_val, ...")
    parser.add_argument("--stage", help="default: the last one")
    parser.add_argument(
        "--format",
        choices=predictions.FORMATS,
        help="default: the suffix of --output, if it is one; else csv",
    )
    parser.add_argument("--output", type=Path, help="default: RUN_DIR/predictions/STAGE-PICK.FORMAT")
    parser.add_argument(
        "--report", action="store_true", help="also keep what report.html shows, and write it anew"
    )
    told = parser.parse_args(arguments)
    config, changed = _config(told.run), told.data
    _check(changed)
    if told.report and changed:
        raise UserError("tlrun predict: --report is of the run's own samples; leave out the data.* arguments")
    if told.report and not (told.run / "results.json").is_file():
        raise UserError(f"tlrun predict: --report needs a finished run, and {told.run} has no results.json")
    if changed and told.output is None:
        raise UserError("tlrun predict: say with --output where predictions of other samples go")
    kind = _format(told.format, told.output)
    predictions.check_format(kind)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[Handler()])

    from ..building import build
    from ..presentation import write_predictions, write_report
    from ..run import reopen

    register(own)
    check_trust(config, told.run / "config.yaml")
    merged = _changed(config, changed)
    run = reopen(told.run, merged)
    stage = told.stage or list(run.stages)[-1]
    pick = told.pick or merged["report"]["checkpoint"]
    write_predictions(run, stage, pick, kind, told.output)
    if told.report:
        logging.getLogger(__name__).info("report: %s", write_report(run, build(merged["report"])))


def _format(told: predictions.Format | None, output: Path | None) -> predictions.Format:
    suffix = output.suffix[1:].lower() if output else ""
    named = next((kind for kind in predictions.FORMATS if kind == suffix), None)
    if told and named and told != named:
        raise UserError(f"tlrun predict: --output {output} names another format than --format {told}")
    return told or named or "csv"


def _config(folder: Path) -> dict[str, Any]:
    run = runs.read(folder)
    if not run.config:
        raise UserError(f"tlrun predict: '{folder}' is no run's folder: {run.why or 'it has no config.yaml'}")
    return dict(run.config)


def _check(changes: list[str]) -> None:
    for change in changes:
        if not change.startswith("data.") or "=" not in change:
            raise UserError(f"tlrun predict: expected data.KEY=VALUE, got '{change}'")


def _changed(config: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    node = OmegaConf.create(config)
    for key, value in WHOLE.items():
        if changes and key in node.data:
            node.data[key] = value
    for key, _, text in (change.partition("=") for change in changes):
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:  # `{domain}/*`: braces that make no mapping.
            value = text
        OmegaConf.update(node, key, value, force_add=True)
    merged: Any = OmegaConf.to_container(node)
    return dict(merged)
