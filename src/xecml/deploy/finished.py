"""What a finished training leaves besides its checkpoints: tables, plots, exports, also in its MLflow run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xecml.config import Config
from xecml.deploy.export import export
from xecml.evaluation.artifacts import write_artifacts, write_more
from xecml.evaluation.show import display_event
from xecml.evaluation.weights import save_reweighting
from xecml.training.loop import Result


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
    more: dict[str, Callable[[Path], object]] = {}
    if (reweighting := result.reweighting) is not None:
        more["reweighting.pdf"] = lambda out: save_reweighting(reweighting, out)
    if recipe.export.onnx:
        more[Path(recipe.export.onnx).name] = lambda out: export(result.best, out)
    if result.kind == "regress":
        return write_artifacts(result.best, recipe, result.folder, run_name=run_name, more=more, force=force)
    examples = sorted(result.folder.glob("mae_predictions_epoch_*.root"), key=lambda path: path.stat().st_mtime)
    if examples:
        more["rebuilt_event.png"] = lambda out: display_event(str(examples[-1]), 0, out)
    return write_more(result.best, result.folder, more, force=force)
