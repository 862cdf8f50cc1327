"""What a finished training leaves besides its checkpoints: predictions, resolutions, saliency, worst events, exports.

One reading of the validation files serves all of it. What fails is named in one line and costs nothing else: a
training of days does not end in a traceback because of a plot.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xecml import rootio
from xecml.config import Config
from xecml.data import source
from xecml.data.coverage import coverage
from xecml.data.selected_events import Cut, look_at_files, read_selected
from xecml.errors import InputError
from xecml.evaluation.light_columns import light_columns
from xecml.evaluation.saliency import Saliency, saliency
from xecml.evaluation.tables import Columns
from xecml.events import TASKS, Chunk, branch_names, number_of
from xecml.figures import resolution_pages
from xecml.figures.event_display import display_event
from xecml.figures.reweighted_sample import save_reweighting
from xecml.figures.saliency import save_face_weights, save_saliency
from xecml.figures.worst_events import Event, EventLosses, WorstEvents, save_worst
from xecml.files import atomic_path
from xecml.inference.checkpoint_reading import load as load_checkpoint
from xecml.inference.export import export
from xecml.inference.prediction_columns import PREDICTION_TREE, prediction_columns
from xecml.inference.trained_model import TorchModel, load_model
from xecml.outputs import making, may_replace
from xecml.progress import progress
from xecml.reports.page.material import of_tables
from xecml.reports.page.model_facts import model_facts, recipe_text
from xecml.reports.page.rebuilding import of_rebuilding
from xecml.reports.page.report_page import write_page
from xecml.reports.page.run_folder import read_epochs
from xecml.reports.page.shown_events import Found, random_rows, row_of
from xecml.stopwatch import Stopwatch
from xecml.training.loop import Result
from xecml.training.metrics_logging import add_artifacts

MOST_EVENTS = 20_000
"""Validation events that are looked at: they give a resolution to half a percent of itself."""
SALIENCY_EVENTS = 128
"""Of these the derivatives are taken; each costs as much as a training step for every answer."""
WORST_EVENTS, RANDOM_EVENTS = 5, 3
_PARTS = {".pdf": "pictures", ".png": "pictures", ".html": "pictures", ".onnx": "export"}
"""Under which name the time of a file is shown."""
_CHUNK = 1024
_EXTRA = ("run", "event", "xyzTruth", "xyzVTX")


Writer = Callable[[Path], object]


@dataclass(frozen=True)
class Validation:
    """What a model says of validation events.

    Attributes:
        table: columns of the prediction tree, truth included.
        npho: counts (at most `SALIENCY_EVENTS`, 4760) of the first events.
        time: their times, seconds.
        worst: events of the highest loss, the worst first.
    """

    table: Columns
    npho: NDArray[np.float32]
    time: NDArray[np.float32]
    worst: list[Event]


def write_finished(recipe: Config, result: Result, run_name: str, *, force: bool = False) -> list[Path]:
    """Write the artifacts of a run beside its checkpoints; what fails is named in one line and costs nothing else.

    Args:
        recipe: of the run.
        result: of its training.
        run_name: part of the files' names.
        force: replace files of these names that no training made.

    Returns:
        The files written; none for a run that a signal stopped, or by any but the first of several processes.
    """
    if result.stopped is not None or not result.first_process:
        return []
    more: dict[str, Writer] = {}
    if (reweighting := result.reweighting) is not None:
        more["reweighting.pdf"] = lambda out: save_reweighting(reweighting, out)
    if recipe.export.onnx:
        more[Path(recipe.export.onnx).name] = lambda out: export(result.best, out)
    if result.kind == "regress":
        options: dict[str, Any] = {"more": more, "force": force, "spent": result.spent}
        return write_artifacts(result.best, recipe, result.folder, run_name=run_name, **options)
    examples = sorted(result.folder.glob("mae_predictions_epoch_*.root"), key=lambda path: path.stat().st_mtime)
    if examples:
        more["rebuilt_event.png"] = lambda out: display_event(str(examples[-1]), 0, out)
    more["report.html"] = lambda out: write_page(of_rebuilding(result.best, result.folder, run_name), out)
    return write_more(result.best, result.folder, more, force=force, spent=result.spent)


def write_artifacts(
    checkpoint: Path,
    config: Config,
    folder: Path,
    *,
    run_name: str,
    most_events: int = MOST_EVENTS,
    more: Mapping[str, Writer] | None = None,
    force: bool = False,
    spent: Stopwatch | None = None,
) -> list[Path]:
    """Write a regression's artifacts to its folder, and copy them to its MLflow run.

    Args:
        checkpoint: whose averaged weights predict.
        config: the recipe; its validation files are read.
        folder: of the run.
        run_name: part of the files' names.
        most_events: number of validation events looked at, taken from all files alike.
        more: further files by name and what writes them, such as an export.
        force: replace files of these names that no training made.
        spent: counts the seconds of each part.

    Returns:
        The files written; what could not be written is named on standard error.
    """
    clock = spent or Stopwatch()
    writers: dict[str, Writer] = {}
    run_id = None
    try:
        model = _checkpoint(checkpoint)
        run_id = model.content.get("run_id")
        with clock.part("predictions"):
            seen = predict_validation(model, config, most_events=most_events)
        with clock.part("saliency"):
            looked_at = _looked_at(model, seen)
        pages: list[Figure] = []
        writers = _writers(model, seen, looked_at, run_name, pages)
        page = Page(checkpoint, folder, run_name, str(config.data.val_path))
        writers["report.html"] = partial(
            write_report, page=page, model=model, seen=seen, looked_at=looked_at, pages=pages
        )
    except Exception as error:  # whatever it is, the training before it is not lost
        _left_out("predictions and plots", error)
    return _write(folder, writers | dict(more or {}), run_id, force=force, clock=clock)


@dataclass(frozen=True)
class Page:
    """What the report of a training says that the model does not: its file, the run's folder and name, the sample."""

    checkpoint: Path
    folder: Path
    run_name: str
    sample: str


def write_report(
    out: Path,
    *,
    page: Page,
    model: TorchModel,
    seen: Validation,
    looked_at: Saliency | None,
    pages: list[Figure],
) -> None:
    """Write the page of a training: its curves, and what its best checkpoint says of the validation events."""
    sample = f"{number_of(len(seen.table['run']))} of validation: {page.sample}"
    material = of_tables(f"Training {page.run_name}", sample, {page.run_name: seen.table})
    material.facts, material.recipe = model_facts(page.checkpoint, model), recipe_text(model)
    material.epochs, material.saliency, material.pages = read_epochs(page.folder), looked_at, pages
    for place, event in enumerate(seen.worst, 1):
        parts = ", ".join(f"{task} {loss:.3g}" for task, loss in event.parts.items())
        material.events.append(Found(f"worst event {place}: loss {event.loss:.4g} ({parts})", event))
    # of those whose light is kept, the first ones of the files
    for row in random_rows({"run": seen.table["run"][: len(seen.npho)]}, RANDOM_EVENTS):
        event = Event(0.0, {}, seen.npho[row], seen.time[row], row_of(seen.table, row))
        material.events.append(Found("random event", event))
    write_page(material, out)


def write_more(
    checkpoint: Path,
    folder: Path,
    more: Mapping[str, Writer],
    *,
    force: bool = False,
    spent: Stopwatch | None = None,
) -> list[Path]:
    """Write files by name to a run's folder, and copy them to the checkpoint's MLflow run; returns those written."""
    return _write(folder, more, load_checkpoint(checkpoint).get("run_id"), force=force, clock=spent or Stopwatch())


def _write(
    folder: Path, writers: Mapping[str, Writer], run_id: str | None, *, force: bool, clock: Stopwatch
) -> list[Path]:
    written = []
    for name, write in writers.items():
        with clock.part(_PARTS.get(Path(name).suffix, "predictions")):
            if _written(folder / name, write, force=force):
                written.append(folder / name)
    if run_id:
        with clock.part("MLflow"):
            add_artifacts(run_id, written)
    return written


def _checkpoint(path: Path) -> TorchModel:
    model = load_model(path)
    if not isinstance(model, TorchModel) or "loss_state" not in model.content:
        raise InputError(f"{path} is not the checkpoint of a training; name one to describe it.")
    return model


def _written(path: Path, write: Writer, *, force: bool) -> bool:
    try:
        with making("train"):
            if not force:
                may_replace(path)
            write(path)
    except Exception as error:  # libraries that draw and export raise what they like
        _left_out(path.name, error)
        return False
    return True


def _left_out(what: str, error: Exception) -> None:
    why = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    print(f"{what} left out: {why}", file=sys.stderr, flush=True)


def _looked_at(model: TorchModel, seen: Validation) -> Saliency | None:
    """Derivatives of the first events; none where they cannot be taken."""
    try:
        return saliency(model, seen.npho, seen.time)
    except Exception as error:
        _left_out("saliency and face weights", error)
        return None


def _writers(
    model: TorchModel, seen: Validation, looked_at: Saliency | None, run_name: str, pages: list[Figure]
) -> dict[str, Writer]:
    """Files by name, and what writes each."""
    writers: dict[str, Writer] = {
        f"predictions_{task}.csv": partial(write_csv, table=seen.table, task=task) for task in model.tasks
    }
    writers |= {
        f"validation_results_{run_name}.root": partial(rootio.write, arrays=seen.table, tree=PREDICTION_TREE),
        f"resolution_profile_{run_name}.pdf": partial(
            resolution_pages.save_resolution_plots, tables={run_name: seen.table}, title="validation", drawn=pages
        ),
    }
    if looked_at is not None:
        writers |= {
            f"saliency_profile_{run_name}.pdf": partial(save_saliency, found=looked_at, title=run_name),
            f"face_weights_{run_name}.pdf": partial(save_face_weights, found=looked_at, title=run_name),
        }
    for place, event in enumerate(seen.worst, 1):
        name = f"worst_event_{place}_{run_name}.pdf"
        writers[name] = partial(save_worst, event=event, place=place, title=f"{run_name}: ")
    return writers


# ---------------------------------------------------------------------------------------- reading and predicting


def predict_validation(model: TorchModel, config: Config, *, most_events: int = MOST_EVENTS) -> Validation:
    """Predict a recipe's validation files in one reading, in a stream.

    Raises:
        InputError: the files cannot be read, or hold no events.
    """
    losses, worst = EventLosses(model, config), WorstEvents(WORST_EVENTS)
    parts: list[Chunk] = []
    inputs: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    kept = 0
    data = config.data
    branches, names = branch_names(data.npho_branch, data.time_branch, data.branches)
    for chunk in _chunks(config, branches, names, most_events):
        npho, time = (chunk[name] for name in branches)
        answers = model.predict(npho, time)
        numbers = sum(len(part["run"]) for part in parts) + np.arange(len(npho))
        columns = prediction_columns(chunk, answers, coverage(npho, time), numbers=numbers)
        worst.add(losses(chunk, answers, branches), npho, time, columns)
        parts.append(columns | light_columns(npho))
        if kept < SALIENCY_EVENTS:
            inputs.append((npho[: SALIENCY_EVENTS - kept].copy(), time[: SALIENCY_EVENTS - kept].copy()))
            kept += len(inputs[-1][0])
    if not parts:
        raise InputError(f"{config.data.val_path} holds no events; name validation files with events.")
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    table = {name: np.concatenate([part[name] for part in parts]) for name in shared}
    npho, time = (np.concatenate(arrays) for arrays in zip(*inputs, strict=True))
    return Validation(table, npho, time, worst.events)


def _chunks(config: Config, branches: tuple[str, str], names: Mapping[str, str], most_events: int) -> Iterator[Chunk]:
    """Chunks of the validation events, of every file the same share."""
    files, tree = source.expand(config.data.val_path), config.data.tree_name
    cut = Cut.of(config.data.val_selection, config.data.val_share)
    chosen = look_at_files(files, cut, tree, names)[0] if cut else {}
    numbers = {path: len(chosen[path]) if cut else source.count_events(path, tree) for path in files}
    total = sum(numbers[path] for path in files)
    share = min(1.0, most_events / max(total, 1))
    options: dict[str, Any] = {"tree": tree, "names": names}
    options["optional"] = (*_EXTRA, *sorted({task.truth for task in TASKS.values()}))
    with progress(math.ceil(share * total), "artifacts") as bar:
        for path in files:
            left = math.ceil(share * numbers[path])
            options["chunk_events"] = min(_CHUNK, max(left, 1))
            for _, chunk in read_selected(path, branches, chosen.get(path), **options):
                part = {name: values[:left] for name, values in chunk.items()}
                left -= len(part[branches[0]])
                yield part
                bar.advance(len(part[branches[0]]))
                if left <= 0:
                    break


# ----------------------------------------------------------------------------------------------------- CSV


def write_csv(path: str | Path, table: Columns, task: str) -> None:
    """Write a task's predictions as CSV, atomically: run, event, then true_, pred_ and sigma_ columns.

    Parts of a vector in one column are named as ROOT does, `pred_emiVec[0]`. Digits are those that a float32 needs.

    Raises:
        InputError: the folder cannot be written.
    """
    wanted = [prefix + c for prefix in ("true_", "pred_", "sigma_") for c in TASKS[task].columns]
    flat: dict[str, NDArray[Any]] = {name: table[name] for name in ("run", "event")}
    for name in (name for name in wanted if name in table):
        values = table[name]
        flat |= {name: values} if values.ndim == 1 else {f"{name}[{i}]": v for i, v in enumerate(values.T)}
    formats = ["%d" if values.dtype.kind in "iu" else "%.9g" for values in flat.values()]
    rows = np.stack([values.astype(np.float64) for values in flat.values()], 1)
    with atomic_path(path) as temporary:
        np.savetxt(temporary, rows, fmt=formats, delimiter=",", header=",".join(flat), comments="")
