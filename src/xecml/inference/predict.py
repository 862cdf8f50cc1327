"""Predict files of any size to a ROOT file, in a stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xecml import rootio
from xecml.conditions import Correction
from xecml.conditions_file import TREE, as_text, earlier_of, refuse_twice
from xecml.data import source
from xecml.data.runs_of_files import check_covered
from xecml.errors import InputError
from xecml.inference.answer_counts import Answered
from xecml.inference.prediction_columns import PREDICTION_TREE, predict_chunks
from xecml.inference.trained_model import Model
from xecml.outputs import claim, making
from xecml.progress import progress
from xecml.rootio.treewriter import named_root


@dataclass(frozen=True)
class Report:
    """What a prediction run did."""

    out: Path
    events: int
    seconds: float
    tasks: tuple[str, ...]
    answered: Answered
    corrected: tuple[dict[str, Any], ...] = ()
    """Conditions that were applied, here or before."""


@making("predict")
def predict_files(
    model: Model,
    files: Sequence[str | Path],
    out: str | Path,
    *,
    tree: str = rootio.DEFAULT_TREE,
    model_path: str | Path | None = None,
    correction: Correction | None = None,
    force: bool = False,
) -> Report:
    """Write the prediction tree of all events of files to `out`, atomically; memory does not grow with the input.

    Args:
        model: what predicts.
        files: event files.
        out: ROOT file to write.
        tree: name of the tree in the event files.
        model_path: file that the model comes from, which `out` must not be.
        correction: of counts and times by the conditions of their runs; what was applied stands in the output.
        force: replace an existing file that this function did not make.

    Raises:
        InputError: input or output are unusable, or there are no events.
    """
    named_root(out)
    started = time.monotonic()
    table = None if correction is None else correction.conditions.path
    claim([out], inputs=[model_path, table, *files], force=force)
    total = source.count_events(files, tree)
    if total == 0:
        raise InputError(f"{files[0]} holds no events; nothing was written.")
    answered, paths = Answered(), source.expand(files)
    records = earlier_of(paths)
    if correction is not None:
        refuse_twice(paths, correction.what)
        check_covered(correction.conditions, paths, tree, model.names)
    with rootio.TreeWriter(out, PREDICTION_TREE) as writer, progress(total, "predict") as bar:
        for _, columns in predict_chunks(model, files, tree=tree, answered=answered, correction=correction):
            writer.extend(columns)
            bar.advance(len(columns["run"]))
        if correction is not None:
            records.append(correction.record("predict"))
        if records:
            writer.add_text(TREE, as_text(records))
    return Report(Path(out), total, time.monotonic() - started, model.tasks, answered, tuple(records))
