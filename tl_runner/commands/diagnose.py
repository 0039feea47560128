"""`tlrun diagnose data=… model=…`: what can be said of a transfer before any training."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from ..errors import ConfigError, UserError
from ..files import make_folder, replace_bytes, replace_text
from ..parts import expand
from ..preflight import preflight
from ..search import config_dir, register
from ..terminal import Handler

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..data.domains import Prepared
    from ..data.rows import Rows
    from ..diagnosis import Diagnosis, Domain, Settings
    from ..nn.model import Model

log = logging.getLogger(__name__)

Config = dict[str, Any]


@dataclass
class Candidate:
    """A backbone to be diagnosed, under the name that tells it from the others; None for vectors."""

    name: str
    config: Config
    data: Prepared
    model: Model | None


def main(arguments: list[str], own: list[Path]) -> None:
    """Diagnose the transfer that a run's command line describes.

    Raises:
        UserError: for anything the user can mend.
    """
    options = _parser().parse_intermixed_args(arguments)
    register(own)
    folder, configs = _compose(_preflight(_variants(options.overrides), own))
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[Handler()])

    import rich

    from ..building import build
    from ..diagnosis import Settings, ranked
    from ..environment import environment
    from ..report.diagnosis import as_json, page, show
    from ..report.diagnosis_plot import draw

    settings = Settings(
        rows=options.rows,
        repeats=options.repeats,
        class_repeats=min(options.repeats, Settings.class_repeats),
        seed=next(iter(configs.values()))["seed"],
    )
    candidates = [_candidate(name, config) for name, config in configs.items()]
    if len(candidates) > 1 and candidates[0].model is None:
        raise UserError(
            "tlrun diagnose: this data is vectors, which are compared as they are: name no more than one model"
        )
    device = build(candidates[0].config["trainer"]).device()
    make_folder(folder)
    found = ranked([_diagnose(candidate, settings, options.labels) for candidate in candidates])
    written = {
        "diagnoses": [as_json(d) for d in found],
        "settings": asdict(settings),
        "environment": environment(candidates[0].data.fingerprint, device),
        "configs": configs,
    }
    replace_text(folder / "diagnosis.json", json.dumps(written, indent=2))
    replace_bytes(folder / "diagnosis.png", draw(found[0]))
    replace_text(folder / "diagnosis.md", page(found, "diagnosis.png"))
    show(found, rich.get_console())
    rich.get_console().print(f"Diagnosis: {folder}", markup=False, highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tlrun diagnose",
        allow_abbrev=False,
        description="Distances between the domains, bounds, class priors, transferability of backbones, and a "
        "verdict, from the features of the frozen backbone. See docs/diagnose.md.",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="GROUP=OPTION",
        help="as for a run: data=office31 data.source=amazon; model=a,b,c ranks several backbones",
    )
    parser.add_argument("--no-labels", dest="labels", action="store_false", help="look at no target label")
    parser.add_argument(
        "--rows", type=_at_least(10), default=5000, help="of each domain at most (default: 5000)"
    )
    parser.add_argument("--repeats", type=_at_least(2), default=100, help="of the bootstrap (default: 100)")
    return parser


def _at_least(least: int) -> Any:
    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number >= {least}, got '{text}'")
        return int(text)

    return whole


def _variants(overrides: Sequence[str]) -> dict[str, list[str]]:
    """A command line for each combination of the model's values, by what varies; only the model may."""
    parser = OverridesParser.create()
    options: list[list[str]] = []
    varied: list[int] = []
    for override in overrides:
        try:
            parsed = parser.parse_override(override)
        except HydraException:  # preflight says what is wrong with it.
            options.append([override])
            continue
        if not parsed.is_sweep_override():
            options.append([override])
            continue
        key = parsed.get_key_element()
        if key.partition(".")[0].lstrip("+") != "model" or not parsed.is_discrete_sweep():
            raise ConfigError(
                [
                    f"'{override}' has several values: tlrun diagnose compares models, model=a,b, and nothing else"
                ]
            )
        varied.append(len(options))
        options.append([f"{key}={value}" for value in parsed.sweep_string_iterator()])
    found = {}
    for choice in itertools.product(*options):
        name = " ".join(choice[i].removeprefix("model=").removeprefix("model.backbone.") for i in varied)
        found[name] = list(choice)
    return found


def _preflight(variants: Mapping[str, list[str]], own: list[Path]) -> dict[str, list[str]]:
    """The variants, checked as a run is, and written out for Hydra."""
    problems: list[str] = []
    full = {}
    for name, overrides in variants.items():
        try:
            told = preflight([*(f"--config-dir={f}" for f in own if f != Path.cwd() / "conf"), *overrides])
        except ConfigError as error:
            problems += [p for p in error.problems if p not in problems]
        else:
            full[name] = told[-len(overrides) :] if overrides else []
    if problems:
        raise ConfigError(problems)
    return full


def _compose(variants: Mapping[str, list[str]]) -> tuple[Path, dict[str, Config]]:
    """Where the run would write, and the resolved config of each variant; a single one is named by its model."""
    configs: dict[str, Config] = {}
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        for name, overrides in variants.items():
            composed = compose("config", overrides=overrides, return_hydra_config=True)
            folder, choices = Path(composed.hydra.run.dir), composed.hydra.runtime.choices
            OmegaConf.set_struct(composed, False)
            del composed["hydra"]
            plain: Any = OmegaConf.to_container(composed, resolve=True)
            configs[name or str(choices["model"])] = expand(plain)
    return folder, configs


def _candidate(name: str, config: Config) -> Candidate:
    """Data and model as a run would have them."""
    from ..building import build, build_model, sample_shape
    from ..schema import check

    check(config)
    for role, other in (("source", "target"), ("target", "source")):
        if not config["data"][role]:
            raise UserError(
                f"tlrun diagnose compares two domains, and there is only a {other}: set data.{role}"
            )
    data: Prepared = build(config["data"]).prepare()
    data = replace(data, info=replace(data.info, shape=sample_shape(data, build(config["augment"]))))
    vectors = len(data.info.shape) == 1
    return Candidate(name, config, data, None if vectors else build_model(config, data))


def _diagnose(candidate: Candidate, settings: Settings, labels: bool) -> Diagnosis:
    from ..building import build
    from ..diagnosis import diagnose

    data, config = candidate.data, candidate.config
    # Labels belong to the rows that a run would be tested on; without them, the rows it would adapt to.
    truth = data.truth if labels else None
    target = (
        data.evaluation["target"] if truth is not None or "target" not in data.roles else data.roles["target"]
    )
    held = [data.evaluation["source_val"]] if "source_val" in data.evaluation else []
    rows = {"target": target, **{f"source {i}": r for i, r in enumerate([data.roles["source"], *held])}}
    if candidate.model is not None:
        from ..data.features import cached_features

        rows = cached_features(
            rows,
            data.contents,
            candidate.model.backbone,
            build(config["augment"]),
            Path(config["paths"]["cache"]).expanduser() / "features",
            build(config["trainer"]).device(),
        )
    sources = [r for name, r in rows.items() if name != "target"]
    model, backbone = candidate.model, config["model"]["backbone"]
    trained = (
        model is None
        or "backbone" in model.trained
        or not str(backbone["_target_"]).startswith("tl_runner.nn.")
        or backbone.get("weights", "none") != "none"
    )
    # Once the backbone has been trained on, the classifier that it came with no longer fits.
    classifier = (
        None if model is None or "backbone" in model.trained else getattr(model.backbone, "classifier", None)
    )
    head = None if classifier is None else classifier()
    return diagnose(
        _drawn("source", sources, [r.y for r in sources], head, settings),
        _drawn("target", [rows["target"]], None if truth is None else [truth], head, settings),
        data.info.classes,
        settings,
        "" if model is None else candidate.name,
        trained,
    )


def _drawn(
    role: str, parts: list[Rows], labels: list[Tensor] | None, head: nn.Module | None, settings: Settings
) -> Domain:
    """Some rows of a role, at random and in random order, with their features in memory.

    Args:
        head: the classifier that the backbone was pretrained with, if it is known.
    """
    import torch

    from ..data.loader import generator
    from ..diagnosis import Domain

    total = sum(len(part) for part in parts)
    chosen = torch.randperm(total, generator=generator(settings.seed, "diagnose", role))[: settings.rows]
    first, found, order = 0, [], []
    for part in parts:
        here = ((chosen >= first) & (chosen < first + len(part))).nonzero()[:, 0]
        found.append(part.gather(chosen[here] - first).float())
        order.append(here)
        first += len(part)
    # Each part's rows go back to where they were drawn.
    features = torch.cat(found)[torch.cat(order).argsort()]
    with torch.inference_mode():
        pretrained = None if head is None else head.eval()(features).softmax(1).numpy()
    y = None if labels is None else torch.cat(labels)[chosen].numpy()
    return Domain("+".join(parts[0].names), features.numpy(), y, total, pretrained)
