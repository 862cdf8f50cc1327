"""Tables of conditions in files: YAML, or a ROOT tree; and what was applied, in the metadata of ROOT files.

In YAML a table is a list `ranges`; in ROOT a tree `conditions` with an entry for each range and the branches
`first_run`, `last_run`, `dead` (4760) and those of `xecml.conditions.QUANTITIES` (4760).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from xecml import geometry, rootio
from xecml.conditions import QUANTITIES, Conditions, Correction, default_of, parse_corrections, run_range
from xecml.errors import InputError, nearest
from xecml.geometry import FACES, N_SENSORS, N_SIPM, Floats
from xecml.limits import LARGEST_INT32, cut, error_key, error_reason, first_problem, shown
from xecml.sensor_lists import read_dead_list, read_sensor_values
from xecml.yamlfile import read_yaml

TREE = "conditions"
"""Tree of a table in ROOT, and name of the text in outputs that says what was applied."""
_MOST_RANGES = 2000
_EXAMPLE = "a list 'ranges' of runs with dead sensors, gains, ..."
_KINDS = ("sipm", "pmt", *FACES)


def _runs(value: Any) -> tuple[int, int]:
    pair = [value, value] if isinstance(value, int) else value
    if (
        not isinstance(pair, list | tuple)
        or len(pair) != 2
        or any(type(run) is not int or not 0 <= run <= LARGEST_INT32 for run in pair)
        or pair[0] > pair[1]
    ):
        raise ValueError("it must be the first and the last run, both included, such as [430000, 430499], or one run")
    return pair[0], pair[1]


def _dead(value: Any) -> tuple[int, ...] | str:
    if isinstance(value, str) and value.strip():
        return value
    if not isinstance(value, list | tuple) or any(type(i) is not int or not 0 <= i < N_SENSORS for i in value):
        raise ValueError(f"it must be a list of sensor ids from 0 to {N_SENSORS - 1}, or the name of a file with them")
    return tuple(value)


def _values(value: Any) -> Any:
    """A number for all sensors, numbers by kind or face, pairs of id and number, or the name of a file of such."""
    if _is_number(value) or (isinstance(value, str) and value.strip()):
        return value
    if isinstance(value, dict):
        for kind, number in value.items():
            if kind not in _KINDS:
                raise ValueError(f"'{cut(kind)}' is no kind of sensor{nearest(kind, _KINDS)}; give {', '.join(_KINDS)}")
            if not _is_number(number):
                raise ValueError(f"{kind} is {shown(number)}; give a number")
        return value
    if isinstance(value, list) and all(
        isinstance(p, list) and len(p) == 2 and type(p[0]) is int and 0 <= p[0] < N_SENSORS and _is_number(p[1])
        for p in value
    ):
        return value
    raise ValueError(
        "it must be a number, numbers by kind ({sipm: 1.02, pmt: 0.98}) or face, pairs of sensor id and number, or the "
        "name of a file with an id and a number a line"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _ranges(value: Any) -> Any:
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST_RANGES:
        raise ValueError(
            f"'ranges' must be a list of 1 to {_MOST_RANGES} ranges of runs, each with 'runs: [FIRST, LAST]'"
        )
    return value


_Values = Annotated[Any, BeforeValidator(_values)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Range(_Section):
    runs: Annotated[tuple[int, int], BeforeValidator(_runs)]
    dead: Annotated[tuple[int, ...] | str, BeforeValidator(_dead)] = ()
    gains: _Values | None = None
    efficiencies: _Values | None = None
    time_offsets_ns: _Values | None = None
    noise_photoelectrons: _Values | None = None


class _Table(_Section):
    ranges: Annotated[tuple[_Range, ...], BeforeValidator(_ranges)]

    @model_validator(mode="after")
    def _apart(self) -> _Table:
        ordered = sorted(part.runs for part in self.ranges)
        for before, after in pairwise(ordered):
            if after[0] <= before[1]:
                both = run_range(after[0], min(before[1], after[1]))
                raise ValueError(
                    f"the ranges {run_range(*before)} and {run_range(*after)} overlap in {both}; "
                    "a run can be in one only"
                )
        return self


def load_conditions(path: str | Path) -> Conditions:
    """Read a table of conditions from a YAML or a ROOT file.

    Raises:
        InputError: the file is missing or damaged, holds an unknown key or a wrong value, or ranges that overlap.
    """
    path = Path(path)
    if path.suffix == ".root":
        return _from_root(path)
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(
            f"{path} cannot be a table of conditions, because its name does not end in .yaml or .root; give such a "
            "file."
        )
    content, lines = read_yaml(path, "table of conditions", _EXAMPLE)
    try:
        table = _Table.model_validate(content)
    except ValidationError as error:
        raise _sentence(error, path, lines) from None
    parts = sorted(table.ranges, key=lambda part: part.runs)
    dead = np.zeros((len(parts), N_SENSORS), bool)
    values: dict[str, NDArray[np.float32]] = {}
    given = {name: np.array([getattr(part, name) is not None for part in parts]) for name in QUANTITIES}
    for name in QUANTITIES:
        values[name] = np.stack([_array(part, name, path) for part in parts]).astype(np.float32)
    for row, part in enumerate(parts):
        ids = read_dead_list(path.parent / part.dead) if isinstance(part.dead, str) else part.dead
        dead[row, list(ids)] = True
    return _checked(path, np.array([part.runs for part in parts], np.int64), dead, values, given)


def _array(part: _Range, name: str, path: Path) -> Floats:
    """Values (4760,) of a quantity of a range."""
    default, given = default_of(name), getattr(part, name)
    if given is None:
        return default
    if isinstance(given, str):
        return np.where(np.isnan(found := read_sensor_values(path.parent / given, np.nan)), default, found)
    if isinstance(given, dict):
        for kind in (kind for kind in _KINDS if kind in given):  # a face says more than a kind
            default[_sensors_of(kind)] = given[kind]
    elif isinstance(given, list):
        for sensor, number in given:
            default[sensor] = number
    else:
        default[:] = given
    return default


def _sensors_of(kind: str) -> slice | NDArray[Any]:
    if kind in FACES:
        return geometry.face_sensors(kind)
    return slice(0, N_SIPM) if kind == "sipm" else slice(N_SIPM, None)


def _sentence(error: ValidationError, path: Path, lines: dict[str, int]) -> InputError:
    first = next((p for p in error.errors(include_url=False) if p["type"] == "extra_forbidden"), first_problem(error))
    key = error_key(first)
    number = next((int(part) for part in first["loc"] if isinstance(part, int)), None)
    place = f"{path}, line {lines['ranges']}" if "ranges" in lines and number is None else str(path)
    place += f", range {number + 1}" if number is not None else ""
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        known = _Table.model_fields if len(first["loc"]) == 1 else _Range.model_fields
        return InputError(f"Unknown key '{cut(name)}' in {place}{nearest(name, known)}; remove or rename it.")
    if first["type"] == "missing":
        return InputError(f"{place}: '{key.rpartition('.')[2]}' is missing; add it.")
    what = f"{key.rpartition('.')[2]} is {shown(first['input'])}, but " if number is not None else ""
    return InputError(f"{place}: {what}{error_reason(first)}.")


def _from_root(path: Path) -> Conditions:
    with rootio.open_tree(path, TREE) as reader:
        wanted = [name for name in ("dead", *QUANTITIES) if reader.has(name)]
        if unknown := sorted(reader.in_file - {"first_run", "last_run", "dead", *QUANTITIES}):
            known = ("first_run", "last_run", "dead", *QUANTITIES)
            raise InputError(
                f"{path}: '{cut(unknown[0])}' is no branch of conditions{nearest(unknown[0], known)}; it may have "
                f"{', '.join(known)}."
            )
        if not 1 <= reader.n_events <= _MOST_RANGES:
            raise InputError(f"{path} has {reader.n_events} ranges of runs; give 1 to {_MOST_RANGES}.")
        chunk = reader.arrays(["first_run", "last_run", *wanted], 0, reader.n_events)
    for name, values in chunk.items():
        wanted_shape = () if name.endswith("_run") else (N_SENSORS,)
        if values.shape[1:] != wanted_shape or values.dtype.kind not in "fiub":
            raise InputError(
                f"{path}: '{name}' has shape {values.shape[1:]} an entry; it must be numbers of shape {wanted_shape}."
            )
    runs = np.stack([chunk["first_run"], chunk["last_run"]], 1).astype(np.int64)
    order = np.argsort(runs[:, 0], kind="stable")
    try:
        ranges = [{"runs": pair.tolist()} for pair in runs[order]]
        _Table.model_validate({"ranges": ranges})
    except ValidationError as error:
        raise _sentence(error, path, {}) from None
    dead = chunk["dead"][order] != 0 if "dead" in chunk else np.zeros((len(runs), N_SENSORS), bool)
    numbers: dict[str, NDArray[np.float32]] = {}
    given: dict[str, NDArray[np.bool_]] = {}
    for name in QUANTITIES:
        given[name] = np.full(len(runs), name in chunk)
        whole = chunk[name][order] if name in chunk else np.broadcast_to(default_of(name), (len(runs), N_SENSORS))
        numbers[name] = np.asarray(whole, np.float32)
    return _checked(path, runs[order], dead, numbers, given)


def _checked(
    path: Path,
    runs: NDArray[np.int64],
    dead: NDArray[np.bool_],
    values: dict[str, NDArray[np.float32]],
    given: dict[str, NDArray[np.bool_]],
) -> Conditions:
    """A table whose numbers are within their bounds."""
    for row, (first, last) in enumerate(runs.tolist()):
        where = f"{path}, runs {run_range(first, last)}"
        if dead[row].all():
            raise InputError(
                f"{where}: all {N_SENSORS} sensors are dead; leave out the range, or list fewer dead sensors."
            )
        for name, quantity in QUANTITIES.items():
            numbers = values[name][row]
            slack = 1e-6 * max(abs(quantity.low), abs(quantity.high))  # of single precision
            wrong = ~((numbers >= quantity.low - slack) & (numbers <= quantity.high + slack))
            if wrong.any():
                sensor = int(np.argmax(wrong))
                raise InputError(
                    f"{where}: {name} of sensor {sensor} is {numbers[sensor]:g}; it must be a number from "
                    f"{quantity.low:g} to {quantity.high:g}."
                )
    digest = hashlib.sha256(runs.tobytes() + dead.tobytes())
    for name in QUANTITIES:
        digest.update(values[name].tobytes() + given[name].tobytes())
    return Conditions(path, digest.hexdigest()[:16], runs[:, 0], runs[:, 1], dead, values, given)


def write_conditions(path: str | Path, conditions: Conditions) -> None:
    """Write a table as a ROOT file, atomically; quantities that no range gives are left out.

    Raises:
        InputError: some ranges give a quantity and others do not, which the ROOT form cannot say.
    """
    arrays: dict[str, NDArray[Any]] = {
        "first_run": conditions.first.astype(np.int32), "last_run": conditions.last.astype(np.int32),
        "dead": conditions.dead,
    }  # fmt: skip
    for name, values in conditions.values.items():
        some = conditions.given[name]
        if some.any() and not some.all():
            lacking = conditions.named(np.flatnonzero(~some).tolist())
            raise InputError(f"{conditions.path} has {name} for some runs but not for {lacking}; give them for all.")
        if some.all():
            arrays[name] = values
    rootio.write(path, arrays, tree=TREE)


# ------------------------------------------------------------------------------------- what was applied, in outputs


def correction(path: str | Path | None, apply: str = "") -> Correction | None:
    """The correction that a command line asks for; none without a table.

    Args:
        path: of the table.
        apply: what besides dead sensors is corrected for.

    Raises:
        InputError: the table is unusable, does not give what is asked for, or there is none to apply from.
    """
    if path is None:
        if apply:
            raise InputError("--apply needs a table of conditions; name one with --conditions.")
        return None
    return Correction(load_conditions(path), parse_corrections(apply))


def earlier(path: str | Path) -> list[dict[str, Any]]:
    """Conditions that were applied to a file before, from its metadata; empty if there are none."""
    text = rootio.read_text(path, TREE) if Path(str(path)).suffix == ".root" else None
    try:
        found = json.loads(text) if text else []
    except ValueError:
        return []
    known = found if isinstance(found, list) else []
    return [one for one in known if isinstance(one, dict) and isinstance(one.get("applied"), list)]


def earlier_of(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """What conditions were applied to any of some files, each once."""
    found: list[dict[str, Any]] = []
    for path in paths:
        found += [one for one in earlier(path) if one not in found]
    return found


def refuse_twice(paths: Sequence[str | Path], what: Collection[str]) -> None:
    """Make sure that no correction is applied twice; dead sensors may be.

    Raises:
        InputError: names the file, what, and by which command and table.
    """
    for path in paths:
        for one in earlier(path):
            again = [name for name in what if name != "dead" and name in one["applied"]]
            if again and one.get("command") != "simulate":
                command, table = (cut(str(one.get(key))) for key in ("command", "table"))
                raise InputError(
                    f"{path} was corrected for {' and '.join(again)} before (by 'xec {command}' with {table}); leave "
                    "that out of --apply."
                )


def as_text(records: Sequence[dict[str, Any]]) -> str:
    """Records as the text that stands in outputs."""
    return json.dumps(list(records))
