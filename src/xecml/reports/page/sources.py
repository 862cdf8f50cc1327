"""`xec report`: pages of folders that trainings and evaluations left, and of prediction files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xecml import rootio
from xecml.errors import InputError
from xecml.evaluation.saliency import saliency
from xecml.evaluation.stored_tables import StoredTable
from xecml.evaluation.tables import PREFIX, Reference, Table, quantities
from xecml.events import number_of
from xecml.files import is_folder
from xecml.inference.checkpoint_reading import load
from xecml.inference.prediction_columns import PREDICTION_TREE
from xecml.inference.trained_model import Model, TorchModel, load_model
from xecml.outputs import claim, making
from xecml.reports.page.material import Material, of_tables
from xecml.reports.page.model_facts import file_facts, model_facts, recipe_text
from xecml.reports.page.rebuilding import of_rebuilding
from xecml.reports.page.report_page import html_name, write_page
from xecml.reports.page.run_folder import checkpoint_in, read_epochs
from xecml.reports.page.shown_events import find_light, random_rows, shown, worst_rows

SALIENCY_EVENTS = 32
"""Events that derivatives are taken at; each costs as much as a training step for every answer."""


@dataclass(frozen=True)
class Origin:
    """Where a table comes from.

    Attributes:
        predictions: prediction files.
        model: file of the model; none if it is not known.
        files: event files that were predicted, if known.
        tree: name of the tree in them.
        epochs: lines of the training's `metrics.jsonl`.
    """

    predictions: Path
    model: Path | None = None
    files: tuple[str, ...] = ()
    tree: str = rootio.DEFAULT_TREE
    epochs: tuple[dict[str, Any], ...] = ()


@making("report")
def report_on(
    inputs: Sequence[str | Path], out: str | Path, *, reference: Reference = "truth", force: bool = False
) -> Material:
    """Write the page of folders or prediction files, the model's first, others beside it on the same events.

    Args:
        inputs: folders of trainings or evaluations, or prediction files, one of each model.
        out: `.html` to write.
        reference: what residuals are taken to.
        force: replace a file that this command did not make.

    Raises:
        InputError: an input holds no predictions, they are of other events than the first's, or cannot be written.
    """
    path = html_name(out)
    if len(inputs) == 1 and (checkpoint := _of_rebuilding(folder := Path(inputs[0]))) is not None:
        claim([path], inputs=[checkpoint], force=force)
        material = of_rebuilding(checkpoint, folder, folder.resolve().name)
        write_page(material, path)
        return material
    origins = [_origin(Path(one)) for one in inputs]
    # the page of a folder may lie in it, so it is the files in it that must stay
    claim([path], inputs=[*(o.predictions for o in origins), *(o.model for o in origins)], force=force)
    names = _names([Path(one) for one in inputs])
    tables: dict[str, Table] = {
        name: StoredTable(origin.predictions, PREDICTION_TREE) for name, origin in zip(names, origins, strict=True)
    }
    for name, table in tables.items():
        if not quantities(table, reference):
            raise InputError(
                f"{name} has no quantity with both pred_ and {PREFIX[reference]} columns; "
                + ("predict files that have the truth." if reference == "truth" else "name predictions that have it.")
            )
    first = tables[names[0]]
    assert isinstance(first, StoredTable)
    sample = number_of(first.n_events) + (f" of {', '.join(origins[0].files[:4])}" if origins[0].files else "")
    material = of_tables(f"Report of {names[0]}", sample, tables, reference)
    describe(material, origins[0])
    write_page(material, path)
    return material


def describe(material: Material, origin: Origin) -> None:
    """Add the facts about the first table's model: description, curves, saliency, events."""
    material.epochs = origin.epochs
    model = None
    if origin.model is None:
        material.facts = file_facts(origin.predictions)
        material.missing.append(
            "Model, training and saliency: a prediction file does not say which model made it; give the folder of a "
            "training or of an evaluation."
        )
    else:
        try:
            model = load_model(origin.model)
        except InputError as error:
            material.missing.append(f"Model and saliency: {error}")
    if model is not None and origin.model is not None:
        material.facts, material.recipe = model_facts(origin.model, model), recipe_text(model)
    if not origin.files:
        material.missing.append("Events: the predictions do not say which files they were made from.")
    else:
        try:
            look_at_events(material, origin.files, origin.tree, model)
        except InputError as error:
            material.missing.append(f"Events and saliency: {error}")


def look_at_events(material: Material, files: Sequence[str], tree: str, model: Model | None) -> None:
    """Read the light of some events again: the worst, some at random, and those that derivatives are taken at.

    Raises:
        InputError: the files cannot be read.
    """
    table = next(iter(material.tables.values()))
    worst, random = worst_rows(table, material.reference), random_rows(table)
    wanted = isinstance(model, TorchModel) and material.decides is None
    of_saliency = random_rows(table, SALIENCY_EVENTS, seed=1) if wanted else []
    branches, names = (model.branches, model.names) if model is not None else (("npho", "time"), {})
    rows = [row for row, *_ in worst] + random + of_saliency
    light = find_light(table, rows, files, branches, tree=tree, names=names)
    material.events = shown(table, light, worst, random)
    if isinstance(model, TorchModel) and (known := [light[row] for row in of_saliency if row in light]):
        npho, time = (np.stack(part) for part in zip(*known, strict=True))
        try:
            material.saliency = saliency(model, npho, time)
        except (InputError, RuntimeError) as error:  # torch's, of networks that have no derivative
            material.missing.append(f"Saliency: {str(error).splitlines()[0]}")
    elif model is not None and not isinstance(model, TorchModel):
        material.missing.append("Saliency: an exported model has no derivatives; give its checkpoint.")
    if not light:
        material.missing.append(
            f"Events: {files[0]} no longer holds events with the run and event numbers of the predictions."
        )


# ------------------------------------------------------------------------------------------------ what is in a folder


def _of_rebuilding(folder: Path) -> Path | None:
    """The checkpoint of a run that predicts no physical quantities; none of other folders."""
    checkpoint = checkpoint_in(folder) if is_folder(folder) else None
    if checkpoint is None or any(folder.glob("validation_results_*.root")):
        return None
    try:
        return checkpoint if load(checkpoint)["kind"] != "regress" else None
    except InputError:
        return None


def _origin(path: Path) -> Origin:
    if not is_folder(path):
        return Origin(path)
    if (path / "predictions.root").is_file():
        return _of_evaluation(path)
    results = sorted(path.glob("validation_results_*.root"), key=lambda file: file.stat().st_mtime)
    if results:
        return _of_training(path, results[-1])
    raise InputError(
        f"{path} has no predictions: neither predictions.root, as 'xec evaluate' leaves, nor "
        "validation_results_*.root, as a training of 'regress' does; name such a folder or prediction files."
    )


def _of_evaluation(folder: Path) -> Origin:
    said = _json(folder / "evaluation.json").get("inputs", {})
    model, files = said.get("model"), said.get("files", [])
    known = isinstance(model, str) and isinstance(files, list) and all(isinstance(file, str) for file in files)
    if not known:  # made before it was kept
        return Origin(folder / "predictions.root")
    return Origin(folder / "predictions.root", Path(model), tuple(files), str(said.get("tree", rootio.DEFAULT_TREE)))


def _of_training(folder: Path, results: Path) -> Origin:
    checkpoint = checkpoint_in(folder)
    files: tuple[str, ...] = ()
    tree = rootio.DEFAULT_TREE
    if checkpoint is not None:
        try:
            content = getattr(load_model(checkpoint), "content", {})
        except InputError:
            content = {}
        data = content.get("config", {}).get("data", {})
        found = data.get("val_path") or []
        files = tuple(map(str, found if isinstance(found, list | tuple) else [found]))
        tree = data.get("tree_name", tree)
    return Origin(results, checkpoint, files, tree, tuple(read_epochs(folder)))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _names(paths: Sequence[Path]) -> list[str]:
    """Short names that differ from one another."""
    for parts in range(1, 8):
        names = ["/".join(path.resolve().parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise InputError(f"The same predictions are named twice: {paths[0]}.")
