"""Predict files of any size to a ROOT file, in a stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xecml import rootio
from xecml.data import source
from xecml.errors import InputError
from xecml.evaluation.answered import Answered
from xecml.evaluation.predictions import PREDICTION_TREE, Model, predict_chunks
from xecml.progress import progress
from xecml.treewriter import named_root


@dataclass(frozen=True)
class Report:
    """What a prediction run did."""

    out: Path
    events: int
    seconds: float
    tasks: tuple[str, ...]
    answered: Answered


def predict_files(
    model: Model, files: Sequence[str | Path], out: str | Path, *, tree: str = rootio.DEFAULT_TREE
) -> Report:
    """Write the prediction tree of all events of files to `out`, atomically; memory does not grow with the input.

    Raises:
        InputError: input or output are unusable, or there are no events.
    """
    named_root(out)
    started = time.monotonic()
    total = source.count_events(files, tree)
    if total == 0:
        raise InputError(f"{files[0]} holds no events; nothing was written.")
    answered = Answered()
    with rootio.TreeWriter(out, PREDICTION_TREE) as writer, progress(total, "predict") as bar:
        for _, columns in predict_chunks(model, files, tree=tree, answered=answered):
            writer.extend(columns)
            bar.advance(len(columns["run"]))
    return Report(Path(out), total, time.monotonic() - started, model.tasks, answered)
