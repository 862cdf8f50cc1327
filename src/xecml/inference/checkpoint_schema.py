"""Metadata of a checkpoint, checked before they are used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from xecml import geometry
from xecml.errors import InputError
from xecml.events import TaskName
from xecml.inference.calibration_record import Calibration, check_corrections
from xecml.models.weight_files import check_weights
from xecml.schema import Described, Text, checked, one_line

FORMAT = "xecml-checkpoint"
FORMAT_VERSION = 1
STATES = ("model_state", "ema_state", "loss_state")
_RUN_ID = r"^[0-9A-Za-z_-]{1,128}$"
_ADVICE = "use another checkpoint of this run"

Count = Annotated[int, Field(ge=0, lt=2**53)]
Number = Annotated[float, Field(allow_inf_nan=True)]


def _score(value: float) -> float:
    if math.isnan(value):
        raise ValueError("it must be a number")
    return value


def _scalar(value: Tensor) -> Tensor:
    if value.ndim or value.layout != torch.strided or value.is_meta or value.is_complex():
        raise ValueError("it must be one number")
    return value


def _check_random_state(value: Tensor) -> None:
    try:
        torch.Generator().set_state(value)
    except (RuntimeError, TypeError) as error:
        raise ValueError("'random_states' is of no random generator") from error


Scalar = Annotated[Tensor, AfterValidator(_scalar)]


class _Head(Described):
    """What a checkpoint of any version says."""

    format_version: int = Field(ge=1)
    xecml: Text
    geometry_hash: Text


class _Data(Described):
    npho_branch: Text
    time_branch: Text
    branches: dict[Text, Text] = Field({})


class _Normalization(Described):
    npho_scheme: Text = "log1p"


class _Model(Described):
    preset: Text
    outer_fine_pool: list[int] | None = None


class _Training(Described):
    count_scale: Text = "transformed"


class _Recipe(Described):
    """The keys of a recipe that are used without building its network."""

    data: _Data
    normalization: _Normalization = _Normalization()
    model: _Model
    training: _Training


class _Taken(Described):
    cut: Text
    events: Count
    left: Count


class Content(_Head):
    """What every use needs; the rest is of the right type if it is there."""

    torch: Text
    revision: Text = ""
    kind: Literal["regress", "mae", "inpaint"]
    config: _Recipe
    tasks: list[TaskName] = Field([])
    run_name: Text = ""
    run_id: Annotated[str, Field(pattern=_RUN_ID)] | None = None
    epoch: int = Field(1, ge=1, lt=2**31)
    batch_in_epoch: Count = 0
    best: Annotated[Number, AfterValidator(_score)] = math.inf
    since_best: Count = 0
    metrics: dict[Text, Number] = Field({})
    ema_updates: Count = 0
    data_fingerprint: Text = ""
    threads: Annotated[int, Field(ge=1, lt=2**16)] | None = None
    made_by: Text = ""
    calibration: Calibration = Field({})
    selected: dict[Text, _Taken] = Field({})


_ONLY_NEWER = ("threads", "made_by", "calibration", "selected")
"""What checkpoints of older versions lack, and nothing is lost without."""


class _Sums(Described):
    sums: dict[Text, Scalar]
    counts: dict[Text, Annotated[int, Field(ge=1, lt=2**63)]]

    @model_validator(mode="after")
    def _alike(self) -> _Sums:
        if self.sums.keys() != self.counts.keys():
            raise ValueError("its sums and counts are of different quantities")
        return self


class _Group(Described):
    params: list[Count]


class _Optimizer(Described):
    state: dict[int, dict[Text, Tensor]]
    param_groups: list[_Group]

    @model_validator(mode="after")
    def _each_once(self) -> _Optimizer:
        numbers = [number for group in self.param_groups for number in group.params]
        if len(set(numbers)) < len(numbers) or self.state.keys() - set(numbers):
            raise ValueError("its state is of other weights than its groups")
        return self


class _Run(Content):
    """What going on with a training needs."""

    tasks: list[TaskName]
    epoch: int = Field(ge=1, lt=2**31)
    batch_in_epoch: Count
    best: Annotated[Number, AfterValidator(_score)]
    since_best: Count
    metrics: dict[Text, Number]
    run_id: Annotated[str, Field(pattern=_RUN_ID)] | None
    data_fingerprint: Text
    sums: _Sums
    random_states: list[list[Tensor] | Tensor] = Field(min_length=1)
    optimizer_state: _Optimizer
    loss_state: dict[str, Tensor]
    model_state: dict[str, Tensor]

    @model_validator(mode="after")
    def _begun(self) -> _Run:
        if self.batch_in_epoch and "loss" not in self.sums.sums:
            raise ValueError("it stands within an epoch, and has no sums of it")
        for states in self.random_states:
            own, *of_gpus = [states] if isinstance(states, Tensor) else states or [torch.empty(0)]
            _check_random_state(own)
            if any(state.dtype != torch.uint8 or state.ndim != 1 for state in of_gpus):
                raise ValueError("'random_states' is of no random generator")
        return self


def understood(content: Any, path: str | Path) -> dict[str, Any]:
    """The content of a file, if it is a checkpoint of this package with all required metadata.

    Raises:
        InputError: something else, damaged, of a newer format, or of another geometry.
    """
    if not isinstance(content, dict) or not _is(content.get("format"), FORMAT):
        raise InputError(
            f"{path} is not a checkpoint of this package; name a checkpoint_best.pth or checkpoint_last.pth."
        )
    said = f"{path} is damaged", _ADVICE
    head = checked(_Head, content, *said)
    if head.format_version > FORMAT_VERSION:
        raise InputError(
            f"{path} has checkpoint format {head.format_version} of xecml {one_line(head.xecml)}; this version reads "
            f"up to {FORMAT_VERSION}: update xecml."
        )
    if head.geometry_hash != geometry.geometry_hash():
        raise InputError(
            f"{path} was made for sensor geometry {one_line(head.geometry_hash)}, not {geometry.geometry_hash()}; "
            "use a model trained with this geometry."
        )
    checked(Content, content, *said)
    given = [key for key in STATES if content.get(key) is not None]
    if not {"model_state", "ema_state"} & set(given):
        raise InputError(f"{path} is damaged: 'model_state' is missing; {_ADVICE}.")
    for key in given:
        check_weights(content[key], path, key)
    check_corrections(content, path)
    return content


def check_run(content: Mapping[str, Any], path: str | Path) -> None:
    """See that a checkpoint has all that a training needs to go on.

    Raises:
        InputError: names what is missing or wrong.
    """
    checked(_Run, content, f"{path} is damaged", _ADVICE)
    if content.get("ema_state") is not None and "ema_updates" not in content:
        raise InputError(f"{path} is damaged: 'ema_updates' is missing; {_ADVICE}.")


def missing(content: Mapping[str, Any]) -> list[str]:
    """What going on with a training needs and a checkpoint lacks."""
    return [name for name in _Run.model_fields if name not in content and name not in _ONLY_NEWER]


def _is(value: Any, text: str) -> bool:
    return isinstance(value, str) and value == text
