"""Exported models in ONNX Runtime; the metadata, inputs and outputs of a file are checked first."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, field_validator, model_validator

from xecml import cpu_load, geometry
from xecml.data.event_numbers import CONDITIONS, KEYS
from xecml.errors import InputError
from xecml.events import INVALID, SENSOR_BRANCHES, TASKS, TaskName
from xecml.files import regular_file
from xecml.geometry import FACES, N_SENSORS
from xecml.inference.arithmetic import CUDA_PROVIDER, no_cuda_provider, onnx_providers, say
from xecml.inference.calibration_record import Calibration
from xecml.inference.onnx_graph import check_graph
from xecml.schema import Described, Text, checked, one_line, parsed_json

OUTLIER, OUTLIER_NUMBERS = "outlier", "outlier_numbers"
"""Outputs of graphs that know their training: how far each event lies from it, and what this is made of."""
_ADVICE = "export the model again"
_SILENT = 4
FILLED = ("npho_filled", "time_filled")
PACKED_INPUT, PACKED_OUTPUT, CODE = "input", "output", "code"
"""Of packed graphs and of encoders, see `xecml.inference.export_graphs`."""
_MOST_BYTES = 8 * 2**30
"""Of memory for the numbers between layers; the reference network takes 5 GB for 256 events."""
_REGISTERED = "session.use_env_allocators"


def _parsed(value: Any) -> Any:
    return parsed_json(value) if isinstance(value, str | bytes) else value


Branch = Annotated[str, Field(pattern=f"^({'|'.join(SENSOR_BRANCHES)})$")]
Json = BeforeValidator(_parsed)
Ends = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=2, max_length=2)]


class _Normalization(Described):
    """Constants of the input transform, for those who read the file."""

    npho_scale: float = Field(gt=0)
    npho_scale2: float = Field(gt=0)
    time_scale: float = Field(gt=0)
    time_shift: float
    sentinel: float
    npho_scheme: Text


_KEY = f"^({'|'.join(map(re.escape, KEYS))})$"
Numbers = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1, max_length=1000)]
ByDepth = Annotated[list[Numbers], Field(min_length=1, max_length=100)]


class TrainingMetadata(Described):
    """What the training sample was like, see `xecml.inference.training_comparison.Training`."""

    keys: Annotated[list[Annotated[str, Field(pattern=_KEY)]], Field(min_length=1)]
    events: int = Field(ge=1, lt=2**53)
    medians: ByDepth
    lows: ByDepth
    highs: ByDepth
    between: Numbers
    depth_edges: Numbers
    extremes: Annotated[
        list[Annotated[Numbers, Field(min_length=len(CONDITIONS), max_length=len(CONDITIONS))]],
        Field(min_length=2, max_length=2),
    ]

    @model_validator(mode="after")
    def _of_one_shape(self) -> TrainingMetadata:
        keys, depths = len(self.keys), len(self.depth_edges) - 1
        tables = (self.medians, self.lows, self.highs)
        rows = [self.between, *(row for table in tables for row in table)]
        if len(set(self.keys)) < keys or any(len(t) != depths for t in tables) or any(len(r) != keys for r in rows):
            raise ValueError("its tables are of different sizes")
        if any(b < a for a, b in pairwise(self.depth_edges)):
            raise ValueError("its depths do not rise")
        return self


class Metadata(Described):
    """What every exported file says of itself; structures are JSON."""

    geometry_hash: Text
    version: Text
    branches: Annotated[list[Branch], Json, Field(min_length=2, max_length=2)]
    names: Annotated[dict[Text, Text], Json] = Field({})
    normalization: Annotated[_Normalization, Json]
    invalid_value: Annotated[float, Json]
    units: Annotated[dict[Text, Text], Json]
    run_name: Text = ""
    revision: Text = ""
    made_by: Text = ""
    form: Literal["raw", "packed"] = "raw"
    """whether it takes values as files have them, or one array of normalised ones"""
    training: Annotated[TrainingMetadata | None, Json] = None
    """what the training sample was like; none in older files"""

    @field_validator("invalid_value")
    @classmethod
    def _as_files_have_it(cls, value: float) -> float:
        if value != INVALID:
            raise ValueError(f"it must be {INVALID:g}, as in files")
        return value

    @property
    def pair(self) -> tuple[str, str]:
        """Branches that hold counts and times."""
        return self.branches[0], self.branches[1]


Faces = Annotated[
    list[Annotated[float, Field(ge=0, le=N_SENSORS)]], Field(min_length=len(FACES), max_length=len(FACES))
]


class PredictionMetadata(Metadata):
    """What a model that predicts says besides."""

    tasks: Annotated[list[TaskName], Json]
    truth_means: Annotated[dict[Text, float], Json]
    truth_ends: Annotated[dict[TaskName, Ends], Json] = Field({})
    """least and greatest training truth of tasks whose answers saturate beyond; none in older files"""
    sensors_seen: Annotated[Annotated[list[Faces], Field(min_length=4, max_length=4)] | None, Json] = None
    """shares of sensors by face that training events had, see `xecml.inference.answer_counts`; none in older files"""
    calibration: Annotated[Calibration, Json] = Field({})
    """corrections in the graph by task, see `xecml.inference.calibration_record`"""

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, tasks: list[str]) -> list[str]:
        if not tasks or len(set(tasks)) < len(tasks):
            raise ValueError("it must name at least one task, and each once")
        return tasks

    @field_validator("truth_ends")
    @classmethod
    def _in_order(cls, ends: dict[str, list[float]]) -> dict[str, list[float]]:
        if any(not low < high for low, high in ends.values()):
            raise ValueError("an end is not below the other")
        return ends

    @model_validator(mode="after")
    def _ends_of_tasks(self) -> PredictionMetadata:
        if odd := self.truth_ends.keys() - set(self.tasks):
            raise ValueError(f"it has ends of '{one_line(min(odd))}', which it does not predict")
        return self

    @field_validator("truth_means")
    @classmethod
    def _of_columns(cls, means: dict[str, float]) -> dict[str, float]:
        known = {column for task in TASKS.values() for column in task.columns}
        if odd := means.keys() - known:
            raise ValueError(f"'{one_line(min(odd))}' is no column of predictions")
        return means


class RepairMetadata(Metadata):
    """What a model that fills dead sensors says besides."""

    repairs: Annotated[list[Literal["npho", "time"]], Json, Field(min_length=2, max_length=2)]


class EncoderMetadata(Metadata):
    """What an encoder without heads says besides."""

    encodes: Annotated[int, Json, Field(gt=0, le=2**20)]
    """numbers of its code"""


def packed_names(names: Sequence[str], tasks: Sequence[str]) -> dict[str, str]:
    """Name of each answer of a packed graph: `output_<task>`, and `output` where there is only one task."""
    if len(tasks) == 1:
        return {name: PACKED_OUTPUT if name in tasks else f"{PACKED_OUTPUT}_sigma" for name in names}
    return {name: PACKED_OUTPUT if name == CODE else f"{PACKED_OUTPUT}_{name}" for name in names}


class Session:
    """A session of ONNX Runtime: raw counts and times in, numbers of the expected shapes out.

    Attributes:
        outputs: name of each answer -> shape of one event's.
        metadata: of the file, as it stands there.
        device: `cpu` or `cuda`.
    """

    def __init__(self, path: Path, device: str = "cpu", precision: str = "float32", threads: int | None = None) -> None:
        self._path, self._session = path, _session(path, device, precision, threads)
        self.device = "cuda" if CUDA_PROVIDER in self._session.get_providers() else "cpu"
        try:
            self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is damaged: its metadata are not UTF-8; {_ADVICE}.") from error
        self.outputs: dict[str, tuple[int, ...]] = {}

    def expect(
        self,
        inputs: Mapping[str, str],
        outputs: Mapping[str, tuple[int, ...]],
        required: Sequence[str],
        *,
        channels: tuple[int, ...] = (),
    ) -> None:
        """Check the inputs and outputs of the graph, for any number of events.

        Args:
            inputs: name -> type of the runtime, each (B, 4760, *channels).
            channels: see there.
            outputs: name -> shape of one event's float32 answers, of all that may be there.
            required: those that must be.

        Raises:
            InputError: it does not.
        """
        taken = {i.name: i for i in self._session.get_inputs()}
        if taken.keys() != inputs.keys():
            self._refuse(f"takes {', '.join(taken)} in place of {', '.join(inputs)}")
        for name, kind in inputs.items():
            self._check(taken[name], kind, (geometry.N_SENSORS, *channels), "takes")
        given = {o.name: o for o in self._session.get_outputs()}
        if odd := [*(given.keys() - outputs.keys()), *(set(required) - given.keys())]:
            self._refuse(f"gives {', '.join(given)}; by what it says {', '.join(sorted(odd))} is wrong or missing")
        for name, value in given.items():
            self._check(value, "tensor(float)", outputs[name], "gives")
        self.outputs = {name: outputs[name] for name in given}

    def _check(self, value: Any, kind: str, shape: tuple[int, ...], verb: str) -> None:
        wanted = f"{kind} of shape (events{''.join(f', {n}' for n in shape)})"
        if value.type != kind or len(value.shape) != 1 + len(shape) or list(value.shape[1:]) != list(shape):
            self._refuse(f"{verb} {value.name} as {value.type} of shape {value.shape} in place of {wanted}")
        if isinstance(value.shape[0], int):
            self._refuse(f"{verb} {value.name} for exactly {value.shape[0]} events, and not for any number")

    def _refuse(self, what: str) -> None:
        raise InputError(f"{self._path} {one_line(what)}; {_ADVICE}.")

    def run(self, names: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Answers by name of some events.

        Raises:
            InputError: the graph fails, takes too much memory, or answers in another shape than it says.
        """
        try:
            answers: list[NDArray[np.float32]] = self._session.run(list(names), dict(feed))
        except Exception as error:  # the runtime has its own exception types
            raise InputError(f"{self._path} cannot be run by ONNX Runtime: {reason(error)}; {_ADVICE}.") from error
        events = len(next(iter(feed.values())))
        for name, answer in zip(names, answers, strict=True):
            if answer.shape != (events, *self.outputs[name]):
                self._refuse(f"answers {name} in shape {answer.shape} for {events} events")
        return answers


Said = PredictionMetadata | RepairMetadata | EncoderMetadata


def open_onnx(
    path: str | Path, device: str = "cpu", precision: str = "float32", threads: int | None = None
) -> tuple[Session, Said]:
    """Open a file that this package exported: the session that runs it, and its metadata.

    Args:
        path: of the file.
        device: of `xecml.inference.arithmetic.DEVICES`.
        precision: of `xecml.inference.arithmetic.PRECISIONS`; only `float32` is one of files.
        threads: of the runtime; those of `cpu_load` by default.

    Raises:
        InputError: missing runtime, damaged file, a file of another origin or geometry, or one that does not do what it
            says.
    """
    file = regular_file(path, "model")
    session = Session(file, device, precision, threads)
    said = {k.removeprefix("xecml."): v for k, v in session.metadata.items() if k.startswith("xecml.")}
    if "geometry_hash" not in said:
        raise InputError(f"{path} was not exported by this package; use a file made by 'xec export'.")
    if said["geometry_hash"] != geometry.geometry_hash():
        raise InputError(f"{path} was made for another sensor geometry; export a model of this geometry.")
    inputs = {"npho": "tensor(float)", "time": "tensor(float)"}
    damaged = f"{path} is damaged", _ADVICE
    if "repairs" in said:
        repair = checked(RepairMetadata, said, *damaged)
        filled = dict.fromkeys(FILLED, (geometry.N_SENSORS,))
        judged = _judged(repair)
        session.expect(inputs | {"dead": "tensor(bool)"}, filled | judged, [*FILLED, *judged])
        return session, repair
    packed = {PACKED_INPUT: "tensor(float)"}
    if "encodes" in said:
        encoder = checked(EncoderMetadata, said, *damaged)
        code = PACKED_OUTPUT if encoder.form == "packed" else CODE
        _expect(session, encoder, inputs, packed, {code: (encoder.encodes,)}, [code])
        return session, encoder
    prediction = checked(PredictionMetadata, said, *damaged)
    answers, judged = _answers(prediction.tasks), _judged(prediction)
    required = [*prediction.tasks, *judged]
    if prediction.form == "packed":
        names = packed_names(list(answers), prediction.tasks)
        answers, required = ({names[k]: v for k, v in answers.items()}, [names[task] for task in prediction.tasks])
    _expect(session, prediction, inputs, packed, answers | judged, required)
    return session, prediction


def _expect(
    session: Session,
    said: Metadata,
    raw: Mapping[str, str],
    packed: Mapping[str, str],
    outputs: Mapping[str, tuple[int, ...]],
    required: Sequence[str],
) -> None:
    if said.form == "packed":
        session.expect(packed, outputs, required, channels=(2,))
    else:
        session.expect(raw, outputs, required)


def _judged(said: Metadata) -> dict[str, tuple[int, ...]]:
    """Shape of what a graph that knows its training says of an event."""
    return (
        {}
        if said.training is None
        else {OUTLIER: (), OUTLIER_NUMBERS: (3 * len(said.training.keys) + len(CONDITIONS),)}
    )


def _answers(tasks: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shape of one event's answer, and of its width, of each task."""
    shapes: dict[str, tuple[int, ...]] = {t: (TASKS[t].size,) if TASKS[t].size > 1 else () for t in tasks}
    return shapes | {f"sigma_{task}": shape for task, shape in shapes.items()}


def _session(path: Path, device: str, precision: str, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path} needs ONNX Runtime; install it with: pip install 'xecml[onnx]'.") from error
    providers = onnx_providers(path, device, precision)
    check_graph(path)
    options = onnxruntime.SessionOptions()
    if threads := threads or cpu_load.threads_for_libraries():
        options.intra_op_num_threads = threads
    options.log_severity_level = _SILENT  # what it has to say is in its errors
    if _bounded_memory():
        options.add_session_config_entry(_REGISTERED, "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # the runtime has its own exception types
        raise InputError(f"{path} cannot be loaded as an ONNX model: {reason(error)}; {_ADVICE}.") from error
    if CUDA_PROVIDER in providers and CUDA_PROVIDER not in session.get_providers():  # its libraries are not there
        if device == "cuda":
            raise InputError(no_cuda_provider(path))
        say(no_cuda_provider(path))
    return session


@cache
def _bounded_memory() -> bool:
    """Give ONNX Runtime memory of its own that ends before the machine's does; false if it has some already."""
    import onnxruntime as ort

    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else _MOST_BYTES
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"max_mem": min(_MOST_BYTES, pages * 3 // 4)}))
    except Exception:  # someone else in this process has done so
        return False
    return True


def reason(error: Exception) -> str:
    """Why ONNX Runtime refuses, in a line: its code, paths and places in its own source left out."""
    text = one_line(str(error)[:2000]) if len(str(error)) < 200 else " ".join(str(error)[:2000].split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^Load model from .*? failed:", "", text)
    text = re.sub(r"/onnxruntime_src/\S+ .*?\) (?=[A-Z])", "", text)
    text = text.removeprefix("This is an invalid model. ").removeprefix("Error: ")
    return one_line(text).rstrip(". ") or type(error).__name__
