"""Trained models as functions of raw arrays, and their answers as the columns of a prediction tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from xecml import geometry, rootio
from xecml.data import source
from xecml.data.coverage import Coverage, coverage, short_faces, short_times
from xecml.errors import InputError
from xecml.evaluation.answered import Answered
from xecml.evaluation.onnxfiles import PredictionMetadata, open_onnx
from xecml.events import TASKS, Chunk, branch_names
from xecml.files import regular_file
from xecml.models import cpu
from xecml.models.normalise import validity
from xecml.models.original import OriginalModel
from xecml.models.originalfiles import load_original, recognise
from xecml.models.regressor import SENSORS_SEEN, Regressor, answerable
from xecml.models.weightfiles import read
from xecml.training.contents import understood
from xecml.training.starting import restored

PREDICTION_TREE = "predictions"
_BATCH = 256
_EXTRA_TRUTH = ("xyzTruth", "xyzVTX")
RECONSTRUCTED = {"energy": ["energyReco"], "timing": ["timeReco"], "uvwFI": ["uvwRecoFI"]}
"""Branches of reconstructed quantities by task."""


class Model(Protocol):
    """A trained model, wherever it comes from."""

    tasks: tuple[str, ...]
    branches: tuple[str, str]
    """Branches that hold its counts and times."""
    names: dict[str, str]
    """Canonical branch name -> name in the files, where it was trained on others."""
    truth_means: dict[str, float]
    """Mean of the training truth by column (theta, ..., w): what a predictor that knows nothing would say."""

    @property
    def usual_sensors(self) -> NDArray[np.float32]:
        """What the training sample had (4, 6), as `xecml.data.coverage.usual`; zeros where it is not known."""

    def predict(self, npho: ArrayLike, time: ArrayLike) -> dict[str, NDArray[Any]]:
        """Answers by task from raw counts and times (B, 4760), in the units of `xecml.events.TASKS`.

        `sigma_<task>` stands beside tasks that the model predicts a width for. An event without any valid count is
        answered by NaN in everything, one without any valid time by NaN in `timing`.
        """

    def few_sensors(self, npho: ArrayLike, time: ArrayLike | None = None) -> NDArray[np.bool_]:
        """Faces (B, 6) on which events (B, 4760) have fewer counts, or times, than the training sample's events had.

        In the order of `xecml.geometry.FACES`; see `xecml.data.coverage`. Times are looked at where they are given.
        Nothing is marked by a model of a file that does not say what its training sample had.
        """


class TorchModel:
    """A checkpoint's averaged weights, ready to predict."""

    def __init__(self, network: Regressor | OriginalModel, content: Mapping[str, Any]) -> None:
        self.network = network.eval()
        self.content = content
        self.tasks = network.tasks
        data = content["config"]["data"]
        self.branches, self.names = branch_names(data["npho_branch"], data["time_branch"], data.get("branches", {}))
        self.truth_means = {
            column: float(mean)
            for task in self.tasks
            if len(TASKS[task].columns) == TASKS[task].size and task != "n_gamma"
            for column, mean in zip(TASKS[task].columns, network.get_buffer(f"{task}_truth_mean"), strict=True)
        }

    @property
    def usual_sensors(self) -> NDArray[np.float32]:
        """See `Model`."""
        return self.network.get_buffer(SENSORS_SEEN).numpy()

    def few_sensors(self, npho: ArrayLike, time: ArrayLike | None = None) -> NDArray[np.bool_]:
        """See `Model`."""
        return _few_sensors(npho, time, self.usual_sensors)

    @torch.no_grad()
    def predict(self, npho: ArrayLike, time: ArrayLike) -> dict[str, NDArray[Any]]:
        """See `Model`."""
        n, t = (torch.from_numpy(a) for a in _inputs(npho, time))
        if not len(n):
            return _of_no_event(self.network.outputs())
        parts = []
        for start in range(0, len(n), _BATCH):
            a, b = n[start : start + _BATCH], t[start : start + _BATCH]
            parts.append(self.network(a, b, *validity(a, b)))
        return {name: torch.cat([p[name] for p in parts]).numpy() for name in self.network.outputs()}


class OnnxModel:
    """An exported file, run by ONNX Runtime."""

    def __init__(self, path: str | Path) -> None:
        self.session, said = open_onnx(path)
        if not isinstance(said, PredictionMetadata):
            raise InputError(f"{path} fills dead sensors and predicts nothing; use it with 'xec inpaint'.")
        self.metadata = self.session.metadata
        self.tasks: tuple[str, ...] = tuple(said.tasks)
        self._outputs = list(self.session.outputs)
        self.branches, self.names = said.pair, said.names
        self.truth_means = said.truth_means
        self._sensors_seen = said.sensors_seen

    @property
    def usual_sensors(self) -> NDArray[np.float32]:
        """See `Model`."""
        said = self._sensors_seen
        return np.zeros((4, len(geometry.FACES)), np.float32) if said is None else np.array(said, np.float32)

    def few_sensors(self, npho: ArrayLike, time: ArrayLike | None = None) -> NDArray[np.bool_]:
        """See `Model`."""
        return _few_sensors(npho, time, self.usual_sensors)

    def predict(self, npho: ArrayLike, time: ArrayLike) -> dict[str, NDArray[Any]]:
        """See `Model`."""
        n, t = _inputs(npho, time)
        if not len(n):  # which the graph itself refuses
            return _of_no_event(self._outputs)
        parts = []
        for start in range(0, len(n), _BATCH):
            feed = {"npho": n[start : start + _BATCH], "time": t[start : start + _BATCH]}
            parts.append(self.session.run(self._outputs, feed))
        answers = {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(self._outputs)}
        # graphs that say what their training had say NaN themselves; those before them said a number
        return answers if self._sensors_seen is not None else _only_of_measured(answers, n, t)


def load_model(path: str | Path) -> Model:
    """Load a checkpoint (`.pth`) or an exported model (`.onnx`).

    Raises:
        InputError: missing, damaged, of another kind, version or geometry.
    """
    regular_file(path, "model")
    if Path(path).suffix == ".onnx":
        return OnnxModel(path)
    cpu.keep_memory()
    file = read(path)
    if recognise(file) is not None:
        return _original(file, path)
    content = understood(file, path)
    if content["kind"] != "regress":
        raise InputError(
            f"{path} is a checkpoint of '{content['kind']}', which predicts no physical quantities; train a regression "
            f"from it with: xec train regress --resume_from {path}"
        )
    network = restored(content, path)
    assert isinstance(network, Regressor)
    return TorchModel(network, content)


def _original(content: Mapping[str, Any], path: str | Path) -> TorchModel:
    """A model of the replaced system; it takes relative counts and times."""
    network = load_original(path, content)
    if not isinstance(network, OriginalModel):
        raise InputError(
            f"{path} has an encoder but no heads; train from it with --resume_from and model.layout=original."
        )
    return TorchModel(network, {"config": {"data": {"npho_branch": "relative_npho", "time_branch": "relative_time"}}})


def _inputs(npho: ArrayLike, time: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    n, t = (np.ascontiguousarray(a, np.float32) for a in (npho, time))
    for name, array in (("npho", n), ("time", t)):
        if array.ndim != 2 or array.shape[1] != geometry.N_SENSORS or array.shape != n.shape:
            raise InputError(
                f"{name} has shape {array.shape}; it must be (events, {geometry.N_SENSORS}), as the counts."
            )
    return n, t


def _only_of_measured(
    answers: dict[str, NDArray[Any]], npho: NDArray[np.float32], time: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    """The answers with NaN where nothing was measured, as a model of this version gives them."""
    known = answerable(answers, *validity(torch.from_numpy(npho), torch.from_numpy(time)))
    for name, values in answers.items():
        values[~known[name].numpy()] = np.nan
    return answers


def _few_sensors(npho: ArrayLike, time: ArrayLike | None, usual: NDArray[np.float32]) -> NDArray[np.bool_]:
    found = coverage(*_inputs(npho, npho if time is None else time))
    short = short_faces(found, usual)
    return short if time is None else short | short_times(found, usual)


def _of_no_event(names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Answers by name to no event: arrays (0, size), or (0,) for scalars."""
    sizes = {name: TASKS[name.removeprefix("sigma_")].size for name in names}
    return {name: np.empty((0, size) if size > 1 else 0, np.float32) for name, size in sizes.items()}


def table_columns(answers: Mapping[str, NDArray[Any]], prefix: str = "pred_") -> Chunk:
    """Columns of a prediction tree from answers by task: `pred_theta`, `pred_phi`, `pred_u`, ..."""
    columns: Chunk = {}
    for name, values in answers.items():
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
) -> Iterator[tuple[Chunk, Chunk]]:
    """Predict files chunk by chunk: yields the input chunk, and the columns of the prediction tree.

    Truth and reconstructed values of every quantity that the file has are carried along, whether the model predicts it
    or not. `answered` counts what could not be answered.
    """
    truths = sorted({TASKS[task].truth for task in TASKS})
    optional = ("run", "event", *truths, *_EXTRA_TRUTH, *(b for branches in RECONSTRUCTED.values() for b in branches))
    entry = 0
    options: dict[str, Any] = {"tree": tree, "chunk_events": chunk_events, "optional": optional}
    for path in source.expand(files):
        for chunk in source.read([path], model.branches, names=source.names_here(path, tree, model.names), **options):
            npho, time = (chunk[branch] for branch in model.branches)
            answers, found = model.predict(npho, time), coverage(npho, time)
            if answered is not None:
                answered.add(found, model)
            yield chunk, prediction_columns(chunk, answers, found, first=entry)
            entry += len(npho)


def prediction_columns(chunk: Chunk, answers: Mapping[str, NDArray[Any]], found: Coverage, *, first: int) -> Chunk:
    """Columns of the prediction tree for a chunk and its answers; of a file without numbers, events count from `first`.

    Numbers, sensors with a valid count and with a valid time, answers, truth and reconstructed values of every quantity
    that the chunk has, and the opening angle in degrees.
    """
    events = len(found.n_timed)
    columns: Chunk = {
        "run": chunk.get("run", np.zeros(events, np.int32)),
        "event": chunk.get("event", np.arange(first, first + events, dtype=np.int32)),
        "n_valid": found.n_valid.sum(1, dtype=np.int32),
        "n_timed": found.n_timed.sum(1, dtype=np.int32),
        **table_columns(answers),
        **true_columns(chunk, list(TASKS)),
        **table_columns({t: chunk[b] for t, (b,) in RECONSTRUCTED.items() if b in chunk}, prefix="reco_"),
    }
    if "angle" in answers and "emiAng" in chunk:
        columns["opening_angle"] = geometry.opening_angle(answers["angle"], chunk["emiAng"]).astype(np.float32)
    return columns
