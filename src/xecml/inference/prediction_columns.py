"""Answers of a model as the columns of a prediction tree, with the truth beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml import geometry, rootio
from xecml.conditions import Correction
from xecml.data import source
from xecml.data.coverage import Coverage, coverage
from xecml.data.selected_events import Chosen, read_selected
from xecml.events import TASKS, Chunk
from xecml.inference.answer_counts import Answered
from xecml.inference.onnx_files import OUTLIER
from xecml.inference.trained_model import Model

PREDICTION_TREE = "predictions"
_EXTRA_TRUTH = ("xyzTruth", "xyzVTX")
_CORRECTED = ("npho", "time", "nphe")
"""What relative counts and times are made anew of, where conditions change it."""
RECONSTRUCTED = {name: task.reconstructed for name, task in TASKS.items() if task.reconstructed}
"""Branches of reconstructed quantities by task."""
READ_BESIDE = ("run", "event", *sorted({task.truth for task in TASKS.values()}), *_EXTRA_TRUTH, *RECONSTRUCTED.values())
"""Branches that are read of files besides counts and times, where they have them."""


def table_columns(answers: Mapping[str, NDArray[Any]], prefix: str = "pred_") -> Chunk:
    """Columns of a prediction tree from answers by task: `pred_theta`, `pred_phi`, `pred_u`, ...; `outlier` as is."""
    columns: Chunk = {}
    for name, values in answers.items():
        if name == OUTLIER:
            columns[OUTLIER] = np.asarray(values, np.float32)
            continue
        task = name.removeprefix("sigma_")
        names = [("sigma_" if name != task else prefix) + column for column in TASKS[task].columns]
        if len(names) == 1:
            columns[names[0]] = np.asarray(values, np.float32)
        else:
            columns |= {name: np.ascontiguousarray(values[:, i], np.float32) for i, name in enumerate(names)}
    return columns


def true_columns(chunk: Mapping[str, NDArray[Any]], tasks: Sequence[str]) -> Chunk:
    """Columns of truth for the tasks whose truth a chunk has, and the vertex and position where it has them."""
    present = {task: chunk[TASKS[task].truth] for task in tasks if TASKS[task].truth in chunk}
    columns = table_columns(present, prefix="true_")
    return columns | {name: chunk[name] for name in _EXTRA_TRUTH if name in chunk}


def predict_chunks(
    model: Model,
    files: str | Path | Sequence[str | Path],
    *,
    tree: str = rootio.DEFAULT_TREE,
    chunk_events: int = 2048,
    answered: Answered | None = None,
    chosen: Mapping[str, Chosen] | None = None,
    correction: Correction | None = None,
) -> Iterator[tuple[Chunk, Chunk]]:
    """Predict files chunk by chunk: yields the input chunk, and the columns of the prediction tree.

    Truth and reconstructed values of every quantity that the file has are carried along, whether the model predicts it
    or not. `answered` counts what could not be answered. Of files in `chosen` only those events are there. A
    `correction` is made before anything else, by the runs of the events.
    """
    optional = READ_BESIDE
    if correction is not None:
        optional = (*optional, *_CORRECTED)
    before = 0
    options: dict[str, Any] = {"tree": tree, "chunk_events": chunk_events, "optional": optional}
    for path in source.expand(files):
        options |= {"names": source.names_here(path, tree, model.names)}
        for entries, chunk in read_selected(path, model.branches, (chosen or {}).get(path), **options):
            if correction is not None:
                chunk |= correction(path, chunk)
            npho, time = (chunk[branch] for branch in model.branches)
            found = coverage(npho, time)
            answers, compared = model.judge(npho, time)
            if answered is not None:
                answered.add(found, model)
                answered.compare(model.training, compared, answers.get(OUTLIER))
            yield chunk, prediction_columns(chunk, answers, found, numbers=before + entries)
        before += source.count_events(path, tree)


def prediction_columns(
    chunk: Chunk, answers: Mapping[str, NDArray[Any]], found: Coverage, *, numbers: NDArray[np.int64]
) -> Chunk:
    """Columns of the prediction tree for a chunk and its answers; of a file without them, events get `numbers` (N,).

    Numbers, sensors with a valid count and with a valid time, `outlier` of models that know their training, answers,
    truth and reconstructed values of every quantity that the chunk has, and the opening angle in degrees.
    """
    events = len(found.n_timed)
    columns: Chunk = {
        "run": chunk.get("run", np.zeros(events, np.int32)),
        "event": chunk.get("event", numbers.astype(np.int32)),
        "n_valid": found.n_valid.sum(1, dtype=np.int32),
        "n_timed": found.n_timed.sum(1, dtype=np.int32),
        # how far an event lies from the training stands beside what it was measured with
        **table_columns({name: values for name, values in answers.items() if name == OUTLIER}),
        **table_columns(answers),
        **true_columns(chunk, list(TASKS)),
        **table_columns({t: chunk[b] for t, b in RECONSTRUCTED.items() if b in chunk}, prefix="reco_"),
    }
    if "angle" in answers and "emiAng" in chunk:
        columns["opening_angle"] = geometry.opening_angle(answers["angle"], chunk["emiAng"]).astype(np.float32)
    return columns
