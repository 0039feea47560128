"""What a finished run leaves to be looked at: `report.html`, and its predictions."""

from __future__ import annotations

import glob
import logging
import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rich
import torch
from PIL import Image
from rich.text import Text

from .data.domains import Prepared
from .data.loader import generator
from .data.passages import passages, texts
from .data.rows import Rows
from .errors import UserError, reason
from .evaluation import Array, Finished, Predict, View, subset, view
from .nn.model import Model
from .report import outputs, predictions, runs
from .report.outputs import About, StageOutputs
from .reporting import Reporting

log = logging.getLogger(__name__)

THUMBNAIL = 96
"""Largest side in pixels of the images in a report."""


def clear(folder: Path, stages: Collection[str], checkpoints: bool) -> None:
    """Remove what an earlier run left in the folder: it would pass for this one's.

    Args:
        checkpoints: too; and what belongs to them.
    """
    if checkpoints:
        for stage in stages:
            shutil.rmtree(folder / "checkpoints" / stage, ignore_errors=True)
        for name in ("data.json", "metrics.csv"):
            (folder / name).unlink(missing_ok=True)
    tables = [f for s in stages for f in folder.glob(f"predictions/{glob.escape(s)}-*") if f.is_file()]
    kept = [outputs.path(folder, s) for s in stages]
    for file in (folder / "results.json", folder / "report.html", *kept, *tables):
        file.unlink(missing_ok=True)


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


def write_report(run: Finished, reporting: Reporting) -> Path:
    """Keep what each stage's outputs were, and write `report.html`."""
    from .report import page

    with rich.get_console().status("report.html") as status:
        for name, model in run.walk():
            status.update(Text(f"report.html: outputs before and after stage {name}"))
            outputs.write(outputs.path(run.folder, name), observe(run, reporting, name, model))
    return page.write(run.folder)


def write_predictions(
    run: Finished, name: str, pick: str, kind: predictions.Format, file: Path | None = None
) -> Path:
    """Predictions of a stage's checkpoint, by default as `predictions/<stage>-<pick>.<format>`.

    Raises:
        UserError: if there is no such checkpoint, or if the file cannot be written.
    """
    file = file or run.folder / "predictions" / f"{name}-{pick}.{kind}"
    predictions.write(file, kind, predict(run, name, pick))
    log.info("predictions: %s", file)
    return file


def predict(run: Finished, name: str, pick: str) -> Iterator[predictions.Part]:
    """A table of predictions on the evaluation rows, batch by batch.

    Columns: name, domain, true (empty where unknown), predicted, probability (of that class), stage,
    checkpoint, text (where rows are texts or words), and p_<class> for every class.
    """
    file = run.checkpoint(name, pick)
    model = next(model for stage, model in run.walk() if stage == name)
    kind, classes = run.rows(), run.data.info.classes
    rows, truth = run.data.evaluation[kind], run.truth(kind)
    with view(run.stages[name], model, run.data) as seen:
        trained = seen.trained(model, file)
        for row, out in seen.ask(trained, seen.data.evaluation[kind], run.stages[name].trainer.eval_rows):
            p, part = out.logits.softmax(1), subset(rows, row.numpy())
            best, words = p.max(1), texts(part)
            yield {
                "name": list(run.names(part)),
                "domain": [rows.names[d] for d in part.domain],
                "true": [None] * len(row) if truth is None else [classes[k] for k in truth[row]],
                "predicted": [classes[k] for k in best.indices],
                "probability": best.values.numpy(),
                "stage": [name] * len(row),
                "checkpoint": [pick] * len(row),
                **({} if words is None else {"text": list(words)}),
                **{f"p_{c}": p[:, k].numpy() for k, c in enumerate(classes)},
            }


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
    classifies = "head" in model.trained
    with view(stage, model, run.data) as seen:
        asked, embedded = seen.data.evaluation[kind], _source(seen.data)
        others = None if embedded is None else subset(embedded, of_source)
        before = _look(seen, model, asked, count, sample, others)
        predict = seen.trained(model, run.checkpoint(name, pick))
        after = _look(seen, predict, asked, count, sample, others)
        y = None if truth is None else truth[:count].numpy()
        shown = telling(after.predicted, after.confidence, y, reporting.images)
        probabilities = [out.logits.softmax(1) for _, out in seen.ask(predict, subset(asked, shown))]
    classes, none = list(run.data.info.classes), np.zeros(0, np.int64)
    about = About(
        rows=kind,
        checkpoint=pick,
        epoch=run.epoch(name, pick),
        classes=classes,
        domains=list(rows.names),
        source_domains=[] if source is None else list(source.names),
        names=run.names(subset(rows, np.arange(count))),
        total=len(rows),
        source_rows=0 if source is None else len(source),
        passages=passages(subset(rows, shown)),
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
        predicted_before=before.predicted if classifies else None,
        thumbnails=_thumbnails(subset(rows, shown)),
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
    run = runs.read(folder)
    if run.results is None:
        raise UserError(f"report.baseline: the run in {folder} is {run.status}")
    other = outputs.read(outputs.path(folder, list(run.results["stages"])[-1]))
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


def _thumbnails(rows: Rows) -> npt.NDArray[np.uint8] | None:
    if len(rows.stores[0].shape) != 3 or not len(rows):
        return None
    pixels = rows.gather(torch.arange(len(rows))).cpu().numpy()
    side = max(pixels.shape[1:3])
    if side <= THUMBNAIL:
        return pixels
    small = []
    for image in pixels:
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        picture = picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
        small.append(np.asarray(picture).reshape(THUMBNAIL, THUMBNAIL, image.shape[-1]))
    return np.stack(small)


@contextmanager
def _told_once() -> Iterator[None]:
    """What the run has said of its parts, it need not say again."""
    package, levels = logging.getLogger(__package__), (logging.getLogger(__package__).level, log.level)
    log.setLevel(log.getEffectiveLevel())
    package.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip((package, log), levels, strict=True):
            logger.setLevel(level)
