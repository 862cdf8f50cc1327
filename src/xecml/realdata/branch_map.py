"""The branch map: a YAML file with the names and units of the quantities in a rec file, and the selection of events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from xecml.errors import InputError, nearest
from xecml.events import INVALID_ABOVE
from xecml.limits import (
    FilePath,
    Int32,
    NotNegative,
    Positive,
    Real,
    Text,
    cut,
    error_key,
    error_reason,
    first_problem,
    shown,
)
from xecml.recipes.shipped import find, shipped
from xecml.yamlfile import read_yaml

DEFAULT_MAP = "prepare"
"""Name of the shipped map, whose values a map keeps that does not change them."""
_MOST_NAMES = 20
_MOST_VALUES = 1000

Names = Annotated[tuple[Text, ...], Field(max_length=_MOST_NAMES)]
Values = Annotated[tuple[Int32, ...], Field(min_length=1, max_length=_MOST_VALUES)]
Energy = Annotated[NotNegative, Field(le=1e6)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BranchEntry(_Section):
    """Where a quantity stands in a rec file; nowhere if there are neither names nor parts."""

    branch: Names = ()
    """names, of which the first is read that a file has"""
    parts: tuple[Text, Text, Text] | None = None
    """branches of x, y and z, read where no name is there"""
    factor: Annotated[Real, Field(ge=-1e15, le=1e15)] = 1.0
    """multiplies the file's numbers"""
    limit: Annotated[Positive, Field(le=INVALID_ABOVE)] = INVALID_ABOVE
    """numbers of this size and larger, after the factor, are not measured"""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if value is None:
            return {}
        return {"branch": value} if isinstance(value, str | list | tuple) else value

    @field_validator("branch", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else () if value is None else value

    @field_validator("factor")
    @classmethod
    def _not_zero(cls, value: float) -> float:
        if value == 0:
            raise ValueError("a factor of 0 would leave nothing; give what the file's numbers are multiplied by")
        return value

    @property
    def given(self) -> bool:
        """Whether it names anything."""
        return bool(self.branch or self.parts)

    def named(self) -> str:
        """The names, for messages."""
        return " or ".join([*(f"'{name}'" for name in self.branch), *([f"{list(self.parts)}"] if self.parts else [])])


class Branches(_Section):
    """Quantities by name; those of `xecml.events` are written, the others decide what is."""

    run: BranchEntry = BranchEntry()
    event: BranchEntry = BranchEntry()
    npho: BranchEntry = BranchEntry()
    nphe: BranchEntry = BranchEntry()
    time: BranchEntry = BranchEntry()
    energyReco: BranchEntry = BranchEntry()
    timeReco: BranchEntry = BranchEntry()
    xyzRecoFI: BranchEntry = BranchEntry()
    uvwRecoFI: BranchEntry = BranchEntry()
    xyzVTX: BranchEntry = BranchEntry()
    pair_photon: BranchEntry = BranchEntry()
    pair_vertex: BranchEntry = BranchEntry()
    trigger: BranchEntry = BranchEntry()
    pileup: BranchEntry = BranchEntry()
    n_photons: BranchEntry = BranchEntry()
    dead: BranchEntry = BranchEntry()

    @model_validator(mode="after")
    def _consistent(self) -> Branches:
        for name in ("npho", "time"):
            if not getattr(self, name).given:
                raise ValueError(f"{name} names no branch, but event files need counts and times")
        if self.pair_photon.given != self.pair_vertex.given:
            raise ValueError("pair_photon and pair_vertex belong together; name both, or neither")
        for name, entry in self:
            if entry.parts and name not in _VECTORS:
                raise ValueError(f"{name} is one number, and has no parts; name its branch")
            if name in _WHOLE and (entry.factor != 1 or entry.limit != INVALID_ABOVE):
                raise ValueError(f"{name} is a number without a unit; leave its factor and limit out")
        return self


_VECTORS = ("xyzRecoFI", "uvwRecoFI", "xyzVTX")
_WHOLE = ("run", "event", "pair_photon", "pair_vertex", "trigger", "pileup", "n_photons", "dead")


class Selection(_Section):
    """Which events are kept; null or false switches a cut off."""

    repeated: bool = True
    """leave events out that were there before"""
    trigger: Values | None = (0,)
    """numbers of the trigger that are kept"""
    one_photon: bool = True
    """keep events with exactly one photon"""
    energy_mev: tuple[Energy, Energy] | None = (35.0, 65.0)
    """MeV, of the photon, ends included"""
    fiducial: bool = True
    """first interaction in the acceptance"""
    pileup: Values | None = (0,)
    """values of the flag of pile-up that are kept"""
    vertex: bool = True
    """a vertex was measured"""
    measured: bool = True
    """a sensor has a valid count, and one a valid time"""

    @field_validator("energy_mev")
    @classmethod
    def _rising(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise ValueError(f"the range of energies must rise, not be {list(value)}; give MeV, such as [35, 65]")
        return value


NO_CUTS: dict[str, Any] = {
    "repeated": False, "trigger": None, "one_photon": False, "energy_mev": None, "fiducial": False, "pileup": None,
    "vertex": False, "measured": False,
}  # fmt: skip
"""All cuts of a selection switched off."""


class BadSensors(_Section):
    """Which sensors are bad, besides those that the branch `dead` flags."""

    list: FilePath | None = None
    """text file, one id a line, # for comments"""
    find: bool = False
    """whether to find bad sensors in the data of each file"""


class RecMap(_Section):
    """The branch map: all settings of `xec prepare`."""

    tree: Text = "rec"
    """name of the tree"""
    photons: Literal["highest", "all"] = "highest"
    """of several in an event: the one of highest energy, or all of them, an entry each"""
    branches: Branches
    """where quantities stand"""
    selection: Selection = Selection()
    """which events are kept"""
    bad_sensors: BadSensors = BadSensors()
    """which sensors are bad"""

    @model_validator(mode="after")
    def _consistent(self) -> RecMap:
        needs = (
            ("trigger", self.selection.trigger is not None, ("trigger",)),
            ("energy_mev", self.selection.energy_mev is not None, ("energyReco",)),
            ("fiducial", self.selection.fiducial, ("xyzRecoFI", "uvwRecoFI")),
            ("pileup", self.selection.pileup is not None, ("pileup",)),
            ("vertex", self.selection.vertex, ("xyzVTX",)),
        )
        for cut_name, used, branches in needs:
            if used and not any(getattr(self.branches, name).given for name in branches):
                raise ValueError(f"the cut '{cut_name}' needs {branches[0]}; name its branch, or switch the cut off")
        if self.photons == "all" and self.selection.one_photon:
            raise ValueError("photons: all and the cut one_photon exclude one another; switch the cut off")
        return self


def load_map(path: str | Path | None = None, changes: Mapping[str, Any] | None = None) -> RecMap:
    """Read a branch map; what it leaves out is as in the shipped one.

    Args:
        path: YAML file, or the name of a shipped map; none is the shipped one.
        changes: values of the keys `tree`, `photons`, `selection`, `bad_sensors` that take precedence, sections in
            part.

    Raises:
        InputError: the file is missing, is not YAML, or holds an unknown name or a wrong value.
    """
    base, _ = read_yaml(shipped()[DEFAULT_MAP].path, "branch map", _EXAMPLE)
    given, lines = ({}, {}) if path is None else read_yaml(find(path, "prepare"), "branch map", _EXAMPLE)
    where = "the command line" if path is None else str(path)
    for key in given:
        if key not in RecMap.model_fields:
            raise _unknown(key, f"{where}, line {lines[key]}", RecMap)
    merged = _merged(_merged(base, given), changes or {})
    try:
        return RecMap.model_validate(merged)
    except ValidationError as error:
        raise _sentence(error, where, lines) from None


_EXAMPLE = "names and values, such as 'tree: rec'"
_SECTIONS: dict[str, type[BaseModel]] = {"branches": Branches, "selection": Selection, "bad_sensors": BadSensors}


def _merged(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values that are given; sections are merged key by key, of branches each as a whole."""
    merged = dict(base)
    for key, value in given.items():
        is_section = key in _SECTIONS and isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        if value is None and key in _SECTIONS:  # a section whose keys are all commented out
            continue
        merged[key] = {**base[key], **value} if is_section else value
    return merged


def _sentence(error: ValidationError, where: str, lines: Mapping[str, int]) -> InputError:
    first = first_problem(error)
    key = error_key(first)
    steps = key.split(".")
    known = next((".".join(steps[:n]) for n in range(len(steps), 0, -1) if ".".join(steps[:n]) in lines), None)
    place = f"{where}, line {lines[known]}" if known else where
    if first["type"] == "extra_forbidden":
        section = BranchEntry if len(steps) > 2 else _SECTIONS.get(steps[0], RecMap)
        return _unknown(key, place, section)
    what = f"{shown(first['input'])} of {key}" if key and not isinstance(first["input"], BaseModel) else ""
    if not what or isinstance(first["input"], dict):  # several keys together
        return InputError(f"{place}: {error_reason(first)}.")
    return InputError(f"Wrong value {what} in {place}: {error_reason(first)}.")


def _unknown(key: str, place: str, section: type[BaseModel]) -> InputError:
    hint = nearest(key.rpartition(".")[2], section.model_fields)
    return InputError(f"Unknown key '{cut(key)}' in {place}{hint}; remove or rename it.")
