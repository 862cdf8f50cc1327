"""Answers of a model as the columns of a prediction tree, with the truth beside them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml import cpu_load, geometry, rootio
from xecml.conditions import Correction
from xecml.data import source
from xecml.data.coverage import Coverage, coverage
from xecml.data.selected_events import Chosen
from xecml.errors import InputError
from xecml.events import INVALID, TASKS, Chunk, measured
from xecml.inference.answer_counts import Answered, beyond_training
from xecml.inference.event_parts import EXTRA_TRUTH, RECONSTRUCTED, Read, Wanted, read_chosen
from xecml.inference.onnx_files import OUTLIER
from xecml.inference.overlapped import in_order, workers
from xecml.inference.trained_model import Model
from xecml.inference.training_comparison import Compared
from xecml.inference.without_pileup import PILEUP_SHARE

PREDICTION_TREE = "predictions"
OF_EVENTS = (OUTLIER, PILEUP_SHARE)
"""Answers that say what an event is like, and are no quantities of the photon."""
PASSED_THROUGH = ("run", "event", *EXTRA_TRUTH)
"""Columns of predictions that are branches of the input."""
_CHUNK_EVENTS = {"cpu": 128, "cuda": 1024}
"""On a processor few, for each job holds the numbers between layers of so many."""


def table_columns(answers: Mapping[str, NDArray[Any]], prefix: str = "pred_") -> Chunk:
    """Columns of a prediction tree from answers by task: `pred_theta`, `pred_phi`, `pred_u`, ...; `OF_EVENTS` as is."""
    columns: Chunk = {}
    for name, values in answers.items():
        if name in OF_EVENTS:
            columns[name] = np.asarray(values, np.float32)
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
    return columns | {name: chunk[name] for name in EXTRA_TRUTH if name in chunk}


class Answer(NamedTuple):
    """A chunk of events and the predictions of a model for it.

    Attributes:
        read: the chunk.
        columns: of the prediction tree.
    """

    read: Read
    columns: Chunk


def reconstructed_columns(chunk: Mapping[str, NDArray[Any]]) -> Chunk:
    """Columns `reco_...` from the reconstructed quantities in a chunk.

    The direction is that of the line from the vertex to the reconstructed first interaction.
    """
    columns = table_columns({t: chunk[b] for t, b in RECONSTRUCTED.items() if b in chunk}, prefix="reco_")
    where = RECONSTRUCTED["uvwFI"]
    if where in chunk and "xyzVTX" in chunk:
        place, vertex = (chunk[name].astype(np.float64) for name in (where, "xyzVTX"))
        known = np.asarray(measured(place).all(1) & measured(vertex).all(1))
        line = geometry.xyz_from_uvw(np.where(known[:, None], place, 0.0)) - np.where(known[:, None], vertex, 0.0)
        known = known & np.asarray(np.linalg.norm(line, axis=1) > 0)
        angles = geometry.angles_from_direction(np.where(known[:, None], line, 1.0))
        columns |= table_columns({"angle": np.where(known[:, None], angles, INVALID)}, prefix="reco_")
    return columns


def predict_chunks(
    model: Model,
    files: str | Path | Sequence[str | Path],
    *,
    tree: str = rootio.DEFAULT_TREE,
    answered: Answered | None = None,
    chosen: Mapping[str, Chosen] | None = None,
    correction: Correction | None = None,
    jobs: int | None = None,
) -> Iterator[tuple[Chunk, Chunk]]:
    """Predict files chunk by chunk: yields the input chunk, and the columns of the prediction tree.

    Truth and reconstructed values of every quantity that the file has are carried along, whether the model predicts it
    or not. `answered` counts what could not be answered. Of files in `chosen` only those events are there. A
    `correction` is made before anything else, by the runs of the events. `jobs` chunks are computed side by side.
    """
    wanted = Wanted(model.branches, model.names, tree, chunk_events(model))
    reads = read_chosen(source.expand(files), wanted, chosen, correction)
    for read, columns in answers_in_order(model, reads, answered=answered, jobs=jobs):
        yield read.chunk, columns


def answers_in_order(
    model: Model,
    reads: Iterator[Read],
    *,
    answered: Answered | None = None,
    jobs: int | None = None,
    with_events: bool = True,
) -> Generator[Answer]:
    """Answers to chunks in their order, while later ones are read and computed.

    They do not depend on `jobs`: a chunk is computed by one thread, as it is.

    Args:
        model: what predicts.
        reads: chunks with the model's branches.
        answered: counts what could not be answered.
        jobs: chunks that are computed side by side; as many as cores are free by default.
        with_events: whether chunks keep their counts and times, which nobody may need any more.
    """

    def work(read: Read) -> tuple[Answer, Coverage, Compared | None, dict[str, int]]:
        npho, time = (read.chunk[branch] for branch in model.branches)
        found = coverage(npho, time)
        answers, compared = model.judge(npho, time)
        columns = prediction_columns(read.chunk, answers, found, numbers=read.numbers)
        columns |= _passed_on(read, columns)
        answer = Answer(read if with_events else read._replace(chunk={}, kept={}), columns)
        return answer, found, compared, beyond_training(model, answers)

    number = workers(model, jobs)
    with (
        cpu_load.one_thread_each() as begin,
        closing(in_order(reads, work, workers=number, begin=begin)) as results,
    ):
        for answer, found, compared, beyond in results:
            if answered is not None:
                answered.add(found, model, beyond)
                answered.compare(model.training, compared, answer.columns.get(OUTLIER))
            yield answer


def chunk_events(model: Model) -> int:
    """Events that a job computes at once."""
    return _CHUNK_EVENTS[getattr(model, "device", "cpu")]


def _passed_on(read: Read, columns: Chunk) -> Chunk:
    """Branches that are passed through, unless the answers have a column of that name.

    Raises:
        InputError: they have.
    """
    for name in read.kept:
        if name in columns and name not in PASSED_THROUGH:
            raise InputError(
                f"'{name}' of {read.path} cannot be kept, because predictions have a column of that name; leave it "
                "out of --keep."
            )
    return read.kept


def prediction_columns(
    chunk: Chunk, answers: Mapping[str, NDArray[Any]], found: Coverage, *, numbers: NDArray[np.int64]
) -> Chunk:
    """Columns of the prediction tree for a chunk and its answers; of a file without them, events get `numbers` (N,).

    Numbers, sensors with a valid count and with a valid time, `outlier` of models that know their training,
    `pileup_share` of a model that answers without the light of further photons, answers, truth and reconstructed values
    of every quantity that the chunk has, and the opening angle in degrees.
    """
    events = len(found.n_timed)
    columns: Chunk = {
        "run": chunk.get("run", np.zeros(events, np.int32)),
        "event": chunk.get("event", numbers.astype(np.int32)),
        "n_valid": found.n_valid.sum(1, dtype=np.int32),
        "n_timed": found.n_timed.sum(1, dtype=np.int32),
        # what an event is like stands beside what it was measured with
        **table_columns({name: values for name, values in answers.items() if name in OF_EVENTS}),
        **table_columns(answers),
        **true_columns(chunk, list(TASKS)),
        **reconstructed_columns(chunk),
    }
    if "angle" in answers and "emiAng" in chunk:
        columns["opening_angle"] = geometry.opening_angle(answers["angle"], chunk["emiAng"]).astype(np.float32)
    return columns
