"""A finished run, looked at again: what its checkpoints say of the evaluation rows."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rich
import torch
from PIL import Image
from torch import Tensor

from .data.domains import Prepared
from .data.loader import EvalLoader, Rows, generator
from .errors import DataError, UserError, nearest, reason
from .fitted import finished, restore
from .nn.model import Model
from .nn.weights import read as read_weights
from .report import outputs, predictions
from .report.outputs import About, StageOutputs
from .reporting import Reporting
from .stage import Stage, cached_backbone
from .types import Outputs

log = logging.getLogger(__name__)

Predict = Callable[[Tensor], Outputs]
Array = npt.NDArray[np.int64]

THUMBNAIL = 96
"""Largest side in pixels of the images in a report."""


@dataclass
class Finished:
    """A run whose checkpoints are there.

    Attributes:
        model: builds the model as the run began with it.
        head_trained: whether that one could already classify.
    """

    folder: Path
    stages: dict[str, Stage]
    data: Prepared
    model: Callable[[], Model]
    head_trained: bool = False

    def walk(self) -> Iterator[tuple[str, Model]]:
        """Each stage, with the model as it found it.

        Raises:
            UserError: at a stage that is not finished, when asked for what follows it.
        """
        model = self.model()
        for name in self.stages:
            yield name, model
            if restore(self.folder, name, model) is None:
                raise UserError(f"the run in {self.folder} has not finished its stage {name}")
            model.past[name] = self.checkpoint(name, "last")

    def checkpoint(self, stage: str, pick: str) -> Path:
        """The file of the weights that a criterion picked.

        Raises:
            UserError: if there is no such stage or checkpoint.
        """
        if stage not in self.stages:
            raise UserError(f"the run has no stage '{stage}'{nearest(stage, self.stages)}")
        folder = self.folder / "checkpoints" / stage
        known = {file.stem: file for file in sorted(folder.glob("*.ckpt"))}
        if pick not in known:
            raise UserError(f"stage {stage} left no checkpoint '{pick}'{nearest(pick, known)}")
        return known[pick]

    def epoch(self, stage: str, pick: str) -> int:
        """Which epoch a criterion picked."""
        return int(json.loads(finished(self.folder, stage).read_text())["picks"][pick]["epoch"])

    def rows(self) -> str:
        """The evaluation rows that matter: the target's, if there are any."""
        return next(name for name in ("target", "labeled_val", "source_val") if name in self.data.evaluation)

    def names(self, rows: Rows) -> list[str]:
        """Of samples: paths below the data's folder, say."""
        return [
            self.data.names[rows.names[d]][i]
            for d, i in zip(rows.domain.tolist(), rows.index.tolist(), strict=True)
        ]

    def truth(self, name: str) -> Tensor | None:
        """Labels of evaluation rows."""
        return self.data.truth if name == "target" else self.data.evaluation[name].y


@dataclass
class View:
    """A stage's evaluation rows as its models see them."""

    stage: Stage
    data: Prepared
    device: torch.device

    def ask(self, predict: Predict, rows: Rows, limit: int | None = None) -> Iterator[tuple[Tensor, Outputs]]:
        """(row, outputs) of batches, in order, on the CPU in float32."""
        settings = self.stage.trainer
        precision = settings.lightning_precision(self.device)
        half = torch.bfloat16 if precision.startswith("bf16") else torch.float16
        loader = EvalLoader(rows, settings.eval_batch_size, self.stage.augment, self.device, limit)
        for batch in loader:
            with torch.no_grad(), torch.autocast(self.device.type, half, enabled="mixed" in precision):
                out = predict(batch.x)
            yield batch.row.cpu(), Outputs(out.features.float().cpu(), out.logits.float().cpu())

    def trained(self, model: Model, file: Path) -> Predict:
        """What a checkpoint of the stage predicts; its weights are then the model's.

        Raises:
            DataError: if it does not fit.
        """
        method = self.stage.method(model, self.data.info)
        state = {
            k.removeprefix("method."): v for k, v in read_weights(file).items() if k.startswith("method.")
        }
        try:
            method.load_state_dict(state)
        except RuntimeError as error:
            raise DataError(f"{file} does not fit the run's method ({reason(error)})") from error
        method.to(self.device).eval()
        return method.predict


@contextmanager
def view(stage: Stage, model: Model, data: Prepared) -> Iterator[View]:
    """The stage as it was run: with the parameters that it trained, and a frozen backbone's cached features."""
    device = stage.trainer.device()
    stage.tuning.apply(model)
    with cached_backbone(stage, model, data, device) as seen:
        model.to(device).eval()
        yield View(stage, seen, device)
    model.cpu()


def observe(run: Finished, reporting: Reporting, name: str, model: Model) -> StageOutputs:
    """What a report shows of a stage: outputs before it and after it.

    Args:
        model: as the stage found it; afterwards it has other weights.
    """
    stage, kind, pick = run.stages[name], run.rows(), _pick(run, name, reporting.checkpoint)
    rows, truth, source = run.data.evaluation[kind], run.truth(kind), _source(run.data)
    count = min(len(rows), stage.trainer.eval_rows or len(rows))
    sample = _some(count, reporting.rows // 2, stage.seed)
    of_source = _some(0 if source is None else len(source), reporting.rows - len(sample), stage.seed)
    with view(stage, model, run.data) as seen:
        asked, embedded = seen.data.evaluation[kind], _source(seen.data)
        others = None if embedded is None else _subset(embedded, of_source)
        before = _look(seen, model, asked, count, sample, others)
        predict = seen.trained(model, run.checkpoint(name, pick))
        after = _look(seen, predict, asked, count, sample, others)
        y = None if truth is None else truth[:count].numpy()
        shown = telling(after.predicted, after.confidence, y, reporting.images)
        probabilities = [out.logits.softmax(1) for _, out in seen.ask(predict, _subset(asked, shown))]
    classes, none = list(run.data.info.classes), np.zeros(0, np.int64)
    about = About(
        rows=kind,
        checkpoint=pick,
        epoch=run.epoch(name, pick),
        classes=classes,
        domains=list(rows.names),
        source_domains=[] if source is None else list(source.names),
        names=run.names(_subset(rows, np.arange(count))),
        total=len(rows),
        source_rows=0 if source is None else len(source),
    )
    found = StageOutputs(
        about,
        domain=rows.domain[:count].numpy(),
        predicted=after.predicted,
        confidence=after.confidence,
        sample=sample,
        features_before=before.features,
        features=after.features,
        source_y=none if source is None else source.y[of_source].numpy(),
        source_domain=none if source is None else source.domain[of_source].numpy(),
        shown=shown,
        probabilities=torch.cat(probabilities).numpy() if len(shown) else np.zeros((0, len(classes))),
        y=y,
        predicted_before=before.predicted if run.head_trained or name != next(iter(run.stages)) else None,
        thumbnails=_thumbnails(_subset(rows, shown)),
    )
    if reporting.baseline is not None:
        compare(found, Path(reporting.baseline).expanduser())
    return found


def telling(predicted: Array, confidence: npt.NDArray[np.float32], y: Array | None, most: int) -> Array:
    """The rows worth a look: the most confident mistakes, at most two of a kind; without labels, the least
    confident predictions.

    Args:
        predicted, confidence, y: (N,). most: rows at most.
    """
    if y is None:
        return np.argsort(confidence, kind="stable")[:most]
    seen: Counter[tuple[int, int]] = Counter()
    chosen: list[int] = []
    for row in np.argsort(-confidence, kind="stable"):
        mistake = int(y[row]), int(predicted[row])
        if mistake[0] != mistake[1] and seen[mistake] < 2 and len(chosen) < most:
            seen[mistake] += 1
            chosen.append(int(row))
    return np.array(chosen, dtype=np.int64)


def compare(found: StageOutputs, folder: Path) -> None:
    """Add what another run predicts of the same samples.

    Raises:
        UserError: if it has other classes, or none of the samples.
    """
    files = sorted((folder / "evaluation").glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise UserError(f"report.baseline: {folder} kept no outputs")
    other = outputs.read(files[-1])
    if other.about.classes != found.about.classes:
        raise UserError(f"report.baseline: {folder} has other classes")
    theirs = {
        (other.about.domains[d], name): int(predicted)
        for d, name, predicted in zip(other.domain, other.about.names, other.predicted, strict=True)
    }
    ours = [(found.about.domains[d], name) for d, name in zip(found.domain, found.about.names, strict=True)]
    predicted = np.array([theirs.get(sample, -1) for sample in ours], dtype=np.int64)
    if not (predicted >= 0).any():
        raise UserError(f"report.baseline: {folder} has predictions of other samples")
    found.predicted_baseline, found.about.baseline = predicted, folder.name


@dataclass
class _Look:
    predicted: Array
    confidence: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]


def _look(seen: View, predict: Predict, rows: Rows, count: int, sample: Array, source: Rows | None) -> _Look:
    """Every row's prediction; features of the sample alone, which bounds the memory."""
    predicted, confidence = np.zeros(count, np.int64), np.zeros(count, np.float32)
    wanted = np.isin(np.arange(count), sample)
    kept = [out.features for _, out in seen.ask(predict, source)] if source is not None else []
    for row, out in seen.ask(predict, rows, count):
        best = out.logits.softmax(1).max(1)
        predicted[row], confidence[row] = best.indices, best.values
        kept.append(out.features[torch.from_numpy(wanted[row])])
    return _Look(predicted, confidence, torch.cat(kept).numpy())


def _pick(run: Finished, stage: str, wanted: str) -> str:
    if wanted == "last" or (run.folder / "checkpoints" / stage / f"{wanted}.ckpt").is_file():
        return wanted
    log.info("stage %s has no pick '%s': its last epoch is reported", stage, wanted)
    return "last"


def _source(data: Prepared) -> Rows | None:
    return data.roles.get("source", data.evaluation.get("source_val"))


def _some(count: int, most: int, seed: int) -> Array:
    """At most so many of the numbers below `count`, in order."""
    drawn = torch.randperm(count, generator=generator(seed, "report"))[:most]
    return np.sort(drawn.numpy())


def _subset(rows: Rows, which: Array) -> Rows:
    kept = torch.from_numpy(which)
    return replace(rows, domain=rows.domain[kept], index=rows.index[kept], y=rows.y[kept])


def _thumbnails(rows: Rows) -> npt.NDArray[np.uint8] | None:
    if len(rows.stores[0].shape) != 3 or not len(rows):
        return None
    pixels = rows.gather(torch.arange(len(rows))).cpu().numpy()
    side = max(pixels.shape[1:3])
    if side <= THUMBNAIL:
        return pixels  # type: ignore[no-any-return]
    small = []
    for image in pixels:
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        picture = picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
        small.append(np.asarray(picture).reshape(THUMBNAIL, THUMBNAIL, image.shape[-1]))
    return np.stack(small)


def predict(run: Finished, name: str, pick: str) -> Iterator[predictions.Part]:
    """A table of predictions on the evaluation rows, batch by batch.

    Columns: name, domain, true (empty where unknown), predicted, probability (of that class), stage,
    checkpoint, and p_<class> for every class.
    """
    file = run.checkpoint(name, pick)
    model = next(model for stage, model in run.walk() if stage == name)
    kind, classes = run.rows(), run.data.info.classes
    rows, truth = run.data.evaluation[kind], run.truth(kind)
    with view(run.stages[name], model, run.data) as seen:
        trained = seen.trained(model, file)
        for row, out in seen.ask(trained, seen.data.evaluation[kind], run.stages[name].trainer.eval_rows):
            p, part = out.logits.softmax(1), _subset(rows, row.numpy())
            best = p.max(1)
            yield {
                "name": list(run.names(part)),
                "domain": [rows.names[d] for d in part.domain],
                "true": [None] * len(row) if truth is None else [classes[k] for k in truth[row]],
                "predicted": [classes[k] for k in best.indices],
                "probability": best.values.numpy(),
                "stage": [name] * len(row),
                "checkpoint": [pick] * len(row),
                **{f"p_{c}": p[:, k].numpy() for k, c in enumerate(classes)},
            }


def write_predictions(
    run: Finished, name: str, pick: str, kind: predictions.Format, file: Path | None = None
) -> Path:
    """Predictions of a stage's checkpoint, by default as `predictions/<stage>-<pick>.<format>`.

    Raises:
        UserError: if there is no such checkpoint.
    """
    file = file or run.folder / "predictions" / f"{name}-{pick}.{kind}"
    predictions.write(file, kind, predict(run, name, pick))
    log.info("predictions: %s", file)
    return file


def write_report(run: Finished, reporting: Reporting) -> Path:
    """Keep what each stage's outputs were, and write `report.html`."""
    from .report import page

    with rich.get_console().status("report.html") as status:
        for name, model in run.walk():
            status.update(f"report.html: outputs before and after stage {name}")
            outputs.write(outputs.path(run.folder, name), observe(run, reporting, name, model))
    return page.write(run.folder)


def finish(run: Finished, reporting: Reporting, wanted: str) -> None:
    """What a run leaves to be looked at. Its numbers are safe: a failure here is told, not raised.

    Args:
        wanted: format of the predictions, or `none`.
    """
    last = list(run.stages)[-1]
    try:
        with _told_once():
            if wanted in predictions.FORMATS:
                write_predictions(run, last, _pick(run, last, reporting.checkpoint), wanted)
            if reporting.write == "always":
                write_report(run, reporting)
    except Exception as error:
        log.warning("the run is done, but not what it leaves to be looked at: %s", reason(error))
        log.debug("", exc_info=True)


@contextmanager
def _told_once() -> Iterator[None]:
    """What the run has said of its parts, it need not say again."""
    package, own = logging.getLogger(__package__), log
    levels = package.level, own.level
    package.setLevel(logging.WARNING)
    own.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.setLevel(levels[0])
        own.setLevel(levels[1])
