"""Trained models as functions of raw arrays, from checkpoints and from exported files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from xecml import cpu_load, geometry
from xecml.data.coverage import coverage, short_faces, short_times
from xecml.errors import InputError
from xecml.events import TASKS, branch_names
from xecml.files import regular_file
from xecml.inference.arithmetic import Arithmetic, arithmetic, as_array
from xecml.inference.calibration_record import Correction, calibration_of
from xecml.inference.checkpoint_reading import restored
from xecml.inference.checkpoint_schema import understood
from xecml.inference.onnx_files import OUTLIER, OUTLIER_NUMBERS, EncoderMetadata, PredictionMetadata, open_onnx
from xecml.inference.training_comparison import Compared, Training
from xecml.inference.training_said import as_compared, split, training_of, training_said
from xecml.models import cpu
from xecml.models.answerable import answerable
from xecml.models.newer.checkpoints import load_newer
from xecml.models.newer.network import NewerModel
from xecml.models.normalise import validity
from xecml.models.original.checkpoints import load_original, recognise
from xecml.models.original.network import OriginalModel
from xecml.models.regressor import ENDED, SENSORS_SEEN, UNBOUNDED, Regressor
from xecml.models.training_distribution import Judged
from xecml.models.weight_files import read
from xecml.pretrained import model_file

_BATCH = 256


class Model(Protocol):
    """A trained model, wherever it comes from."""

    tasks: tuple[str, ...]
    branches: tuple[str, str]
    """Branches that hold its counts and times."""
    names: dict[str, str]
    """Canonical branch name -> name in the files, where it was trained on others."""
    truth_means: dict[str, float]
    """Mean of the training truth by column (theta, ..., w): what a predictor that knows nothing would say."""
    truth_ends: dict[str, tuple[float, float]]
    """Least and greatest training truth by task, of tasks whose answers saturate beyond; empty where not known."""
    calibration: dict[str, Correction]
    """Corrections by task that `xec calibrate` wrote into it, which are in its answers; empty where it wrote none."""
    device: str
    """`cpu` or `cuda`: where it is computed."""
    precision: str
    """Of `xecml.inference.arithmetic.PRECISIONS`; of an exported file `float32`, whatever its matrices are kept in."""

    @property
    def usual_sensors(self) -> NDArray[np.float32]:
        """What the training sample had (4, 6), as `xecml.data.coverage.usual`; zeros where it is not known."""

    def predict(self, npho: ArrayLike, time: ArrayLike) -> dict[str, NDArray[Any]]:
        """Answers by task from raw counts and times (B, 4760), in the units of `xecml.events.TASKS`.

        `sigma_<task>` stands beside tasks that the model predicts a width for. An event without any valid count is
        answered by NaN in everything, one without any valid time by NaN in `timing`. `outlier` (B,) says how far each
        event lies from the training sample: 1 % of events of the training kind have more than 1. Models made before
        it was known leave it out.
        """

    @property
    def training(self) -> Training | None:
        """The distribution of the training events, for comparison with files; None if it is not known."""

    def judge(self, npho: ArrayLike, time: ArrayLike) -> tuple[dict[str, NDArray[Any]], Compared | None]:
        """Answers as `predict` gives them, and how the events compare with the training sample where that is known."""

    def few_sensors(self, npho: ArrayLike, time: ArrayLike | None = None) -> NDArray[np.bool_]:
        """Faces (B, 6) on which events (B, 4760) have fewer counts, or times, than the training sample's events had.

        In the order of `xecml.geometry.FACES`; see `xecml.data.coverage`. Times are looked at where they are given.
        Nothing is marked by a model of a file that does not say what its training sample had.
        """

    def compare(self, npho: ArrayLike, time: ArrayLike) -> tuple[NDArray[np.float32], Compared] | None:
        """`outlier` (B,) as `predict` gives it, and how events compare with the training sample; none if not known."""


class TorchModel:
    """A checkpoint's averaged weights, ready to predict; threads may share it.

    Args:
        network: on the processor.
        content: of the checkpoint.
        computing: where and how exactly it is computed.
    """

    def __init__(
        self, network: Regressor | OriginalModel, content: Mapping[str, Any], computing: Arithmetic | None = None
    ) -> None:
        self.network = network.eval()
        self.computing = computing or Arithmetic()
        self.content = content
        self.tasks = network.tasks
        self.calibration = calibration_of(content)
        data = content["config"]["data"]
        self.branches, self.names = branch_names(data["npho_branch"], data["time_branch"], data.get("branches", {}))
        self.truth_means = {
            column: float(mean)
            for task in self.tasks
            if len(TASKS[task].columns) == TASKS[task].size and task != "n_gamma"
            for column, mean in zip(TASKS[task].columns, network.get_buffer(f"{task}_truth_mean"), strict=True)
        }
        self.truth_ends = _truth_ends(network)
        self.device, self.precision = self.computing.device, self.computing.precision
        self.computing.placed(network)

    def exact(self) -> TorchModel:
        """The same model in 32 bits, with the same weights in memory."""
        return TorchModel(self.network, self.content, replace(self.computing, precision="float32"))

    def widths(self) -> dict[str, NDArray[Any]]:
        """Widths of the training targets by task, in the units of the task, in which differences are given."""
        return {task: as_array(self.network.get_buffer(f"{task}_width")) for task in self.tasks}

    @property
    def usual_sensors(self) -> NDArray[np.float32]:
        """See `Model`."""
        return as_array(self.network.get_buffer(SENSORS_SEEN))

    def few_sensors(self, npho: ArrayLike, time: ArrayLike | None = None) -> NDArray[np.bool_]:
        """See `Model`."""
        return _few_sensors(npho, time, self.usual_sensors)

    @property
    def training(self) -> Training | None:
        """See `Model`."""
        return training_of(self.network.training_distribution)

    def predict(self, npho: ArrayLike, time: ArrayLike) -> dict[str, NDArray[Any]]:
        """See `Model`."""
        return self.judge(npho, time)[0]

    def judge(self, npho: ArrayLike, time: ArrayLike) -> tuple[dict[str, NDArray[Any]], Compared | None]:
        """See `Model`."""
        with self.computing.active():
            return self._judge(*_inputs(npho, time))

    def _judge(self, n: NDArray[np.float32], t: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], Compared | None]:
        batch = self.computing.batch
        names, fitted = self.network.outputs(), self.network.training_distribution.fitted
        if not len(n):
            return _of_no_event([*names, *([OUTLIER] if fitted else [])]), None
        parts: list[dict[str, Tensor]] = []
        compared: list[Judged] = []
        for start in range(0, len(n), batch):
            cpu_load.look()
            a, b = (self.computing.tensor(values[start : start + batch]) for values in (n, t))
            inputs = (a, b, *validity(a, b))
            if fitted:
                answers, judged = self.network.judged(*inputs)
                parts.append(answers | {OUTLIER: judged.outlier})
                compared.append(judged)
            else:
                parts.append(self.network(*inputs))
        every = (*names, OUTLIER) if fitted else names
        joined = {name: as_array(torch.cat([p[name] for p in parts])) for name in every}
        return joined, as_compared(compared) if fitted else None

    def compare(self, npho: ArrayLike, time: ArrayLike) -> tuple[NDArray[np.float32], Compared] | None:
        """See `Model`."""
        answers, compared = self.judge(npho, time)
        return None if compared is None else (answers[OUTLIER], compared)


class OnnxModel:
    """An exported file, run by ONNX Runtime; threads may share it.

    Args:
        path: of the file.
        device: of `xecml.inference.arithmetic.DEVICES`.
        precision: of `xecml.inference.arithmetic.PRECISIONS`; a file has its own, so only `float32` can be asked for.
        threads: of ONNX Runtime; those of `cpu_load` by default.
    """

    precision = "float32"

    def __init__(
        self, path: str | Path, device: str = "cpu", precision: str = "float32", threads: int | None = None
    ) -> None:
        self.session, said = open_onnx(path, device, precision, threads)
        self.device, self.own_threads = self.session.device, threads != 1
        if not isinstance(said, PredictionMetadata):
            what = "fills dead sensors and predicts nothing; use it with 'xec inpaint'"
            if isinstance(said, EncoderMetadata):
                what = "is an encoder and predicts nothing; export a regression without --encoder"
            raise InputError(f"{path} {what}.")
        if said.form == "packed":
            raise InputError(
                f"{path} takes packed, normalised values, for code that makes them itself; for files, export the model "
                "without --packed."
            )
        self.metadata = self.session.metadata
        self.tasks: tuple[str, ...] = tuple(said.tasks)
        self._outputs = [name for name in self.session.outputs if name != OUTLIER_NUMBERS]
        self.training = training_said(said)
        self.branches, self.names = said.pair, said.names
        self.truth_means = said.truth_means
        self.truth_ends = {task: (low, high) for task, (low, high) in said.truth_ends.items()}
        self.calibration: dict[str, Correction] = said.calibration
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
        return self._run(npho, time, self._outputs)

    def judge(self, npho: ArrayLike, time: ArrayLike) -> tuple[dict[str, NDArray[Any]], Compared | None]:
        """See `Model`."""
        if self.training is None:
            return self.predict(npho, time), None
        answers = self._run(npho, time, [*self._outputs, OUTLIER_NUMBERS])
        return answers, split(answers.pop(OUTLIER_NUMBERS))

    def compare(self, npho: ArrayLike, time: ArrayLike) -> tuple[NDArray[np.float32], Compared] | None:
        """See `Model`."""
        if self.training is None:
            return None
        answers = self._run(npho, time, [OUTLIER, OUTLIER_NUMBERS])
        return answers[OUTLIER], split(answers[OUTLIER_NUMBERS])

    def _run(self, npho: ArrayLike, time: ArrayLike, names: list[str]) -> dict[str, NDArray[Any]]:
        n, t = _inputs(npho, time)
        if not len(n):  # which the graph itself refuses
            shapes = self.session.outputs
            return {name: np.empty((0, *shapes[name]), np.float32) for name in names}
        parts = []
        for start in range(0, len(n), _BATCH):
            feed = {"npho": n[start : start + _BATCH], "time": t[start : start + _BATCH]}
            parts.append(self.session.run(names, feed))
        answers = {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}
        # graphs that say what their training had say NaN themselves; those before them said a number
        return answers if self._sensors_seen is not None else _only_of_measured(answers, n, t)


def load_model(
    path: str | Path,
    *,
    said: Mapping[str, Any] | None = None,
    device: str = "cpu",
    precision: str = "float32",
    threads: int | None = None,
) -> Model:
    """Load a checkpoint (`.pth`), an exported model (`.onnx`), or a shipped one (`pretrained:signal`).

    Args:
        path: of the file.
        said: what a checkpoint of the replaced system's newest version leaves open, by key of its `config`, and
            `log_transform`: tasks that were trained on logarithms, as ["energy"].
        device: `cpu`, `cuda`, or `auto`, which is a GPU where there is one.
        precision: `float32`, or `bf16` where the device computes in it; of checkpoints.
        threads: of ONNX Runtime; 1 where several threads of the caller share the model.

    Raises:
        InputError: missing, damaged, of another kind, version or geometry; no such device or precision here.
    """
    path = model_file(path)
    regular_file(path, "model")
    if Path(path).suffix == ".onnx":
        if said:
            raise InputError(f"{path} already says all that is needed; leave {', '.join(said)} out.")
        return OnnxModel(path, device, precision, threads)
    computing = arithmetic(device, precision)
    cpu.keep_memory()
    file = read(path)
    kind = recognise(file)
    if kind == "newer":
        return _newer(file, path, said, computing)
    if said:
        raise InputError(f"{path} already says all that is needed; leave {', '.join(said)} out.")
    if kind is not None:
        return _original(file, path, computing)
    content = understood(file, path)
    if content["kind"] != "regress":
        raise InputError(
            f"{path} is a checkpoint of '{content['kind']}', which predicts no physical quantities; train a regression "
            f"from it with: xec train regress --resume_from {path}"
        )
    network = restored(content, path)
    assert isinstance(network, Regressor)
    return TorchModel(network, content, computing)


def _original(content: Mapping[str, Any], path: str | Path, computing: Arithmetic) -> TorchModel:
    """A model of the replaced system; it takes relative counts and times."""
    network = load_original(path, content)
    if not isinstance(network, OriginalModel):
        raise InputError(
            f"{path} has an encoder but no heads; train from it with --resume_from and model.layout=original."
        )
    data = {"npho_branch": "relative_npho", "time_branch": "relative_time"}
    return TorchModel(network, {"config": {"data": data}}, computing)


def _newer(
    content: Mapping[str, Any], path: str | Path, said: Mapping[str, Any] | None, computing: Arithmetic
) -> TorchModel:
    """A model of the replaced system's newest version; it takes the branches that its file names."""
    network = load_newer(path, content, said=said)
    if not isinstance(network, NewerModel):
        raise InputError(
            f"{path} predicts no physical quantities; train a regression from it with --resume_from and "
            "model.layout=newer, or fill dead sensors with it: xec inpaint."
        )
    npho, time = network.branches
    return TorchModel(network, {"config": {"data": {"npho_branch": npho, "time_branch": time}}}, computing)


def _truth_ends(network: Regressor) -> dict[str, tuple[float, float]]:
    """See `Model`; files that were made before the ends were kept have ends that no truth has."""
    found = {task: tuple(float(end) for end in network.truth_ends(task)) for task in network.tasks if task in ENDED}
    return {task: (low, high) for task, (low, high) in found.items() if high - low < UNBOUNDED / 2}


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
    names = [name for name in answers if name not in (OUTLIER, OUTLIER_NUMBERS)]
    known = answerable(names, *validity(torch.from_numpy(npho), torch.from_numpy(time)))
    for name, values in ((name, answers[name]) for name in names):
        values[~known[name].numpy()] = np.nan
    return answers


def _few_sensors(npho: ArrayLike, time: ArrayLike | None, usual: NDArray[np.float32]) -> NDArray[np.bool_]:
    found = coverage(*_inputs(npho, npho if time is None else time))
    short = short_faces(found, usual)
    return short if time is None else short | short_times(found, usual)


def _of_no_event(names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Answers by name to no event: arrays (0, size), or (0,) for scalars."""
    sizes = {name: 1 if name == OUTLIER else TASKS[name.removeprefix("sigma_")].size for name in names}
    return {name: np.empty((0, size) if size > 1 else 0, np.float32) for name, size in sizes.items()}
