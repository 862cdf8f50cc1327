"""Constants of the conventional reconstruction: a file of JSON, checked before use; those of the default detector.

A file holds coefficients by the names of the columns that they belong to, the windows by depth, the velocity of light
and the walk of the times, and what they were calibrated on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from xecml import geometry
from xecml.conventional import direction, energy, position, timing, uncertainty
from xecml.conventional.local_fit import FIT_COLUMNS
from xecml.conventional.robust_fit import CONSTANT
from xecml.conventional.two_points import CHI2
from xecml.conventional.window_ladder import WIDEST, WINDOWS
from xecml.errors import InputError
from xecml.events import TASKS
from xecml.files import atomic_path
from xecml.outputs import mark
from xecml.schema import Described, Events, Text, checked, read_json

FORMAT, VERSION = "xecml-conventional", 1
FOLDER = Path(__file__).parent / "shipped"
DEFAULT = "signal"
"""Shipped constants that serve where none are named."""
RECONSTRUCTED_TASKS = ("angle", "energy", "timing", "uvwFI")
_DIGITS = 12

Coefficients = dict[str, float]


class PositionConstants(Described):
    """Window by bin of depth, coefficients of the corrections."""

    windows: list[Annotated[int, Field(ge=0, lt=WIDEST)]] = Field(
        min_length=len(position.DEPTH_EDGES), max_length=len(position.DEPTH_EDGES)
    )
    u: Coefficients
    v: Coefficients
    w: Coefficients


class EnergyConstants(Described):
    """Coefficients of both forms of the energy."""

    weighted_sum: Coefficients
    light_centre: Coefficients


class TimingConstants(Described):
    """Velocity (cm/ns), walk of SiPMs and PMTs (ns at the knots), coefficients of the correction (ns)."""

    velocity: float = Field(gt=0.1, lt=100)
    walk: list[Annotated[list[float], Field(min_length=timing.KNOTS, max_length=timing.KNOTS)]] = Field(
        min_length=2, max_length=2
    )
    correction: Coefficients


class DirectionConstants(Described):
    """Coefficients of the local components of the direction."""

    u: Coefficients
    v: Coefficients
    w: Coefficients


class WidthConstants(Described):
    """Coefficients of a logarithm of a standard deviation, and its bounds."""

    coefficients: Coefficients
    least: float
    most: float


class Sample(Described):
    """What the constants were calibrated on."""

    files: list[Text]
    events: Events
    energy_mev: list[float] = Field(min_length=0, max_length=2)


class Constants(Described):
    """Everything that the reconstruction needs to know besides the geometry."""

    format: Literal["xecml-conventional"]
    version: int = Field(ge=1)
    geometry_hash: Text
    made_by: Text
    sample: Sample
    position: PositionConstants
    energy: EnergyConstants | None = None
    timing: TimingConstants | None = None
    direction: DirectionConstants | None = None
    widths: dict[str, WidthConstants]

    @model_validator(mode="after")
    def _columns_are_those_of_this_version(self) -> Constants:
        for block, parts in expected_columns().items():
            holder = getattr(self, block)
            for part, names in parts.items() if holder is not None else ():
                _agree(f"{block}.{part}", getattr(holder, part), names)
        for name, width in self.widths.items():
            _agree(f"widths.{name}", width.coefficients, _WIDTH_COLUMNS)
        if missing := sorted({c for task in self.tasks for c in TASKS[task].columns} - self.widths.keys()):
            raise ValueError(f"there is no width of {', '.join(missing)}")
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        """Quantities that there are constants for."""
        there = {"angle": self.direction, "energy": self.energy, "timing": self.timing, "uvwFI": self.position}
        return tuple(task for task in RECONSTRUCTED_TASKS if there[task] is not None)


def _agree(where: str, coefficients: Coefficients, names: frozenset[str]) -> None:
    if odd := sorted(coefficients.keys() ^ names):
        word = "has no" if odd[0] in names else "has an unknown"
        raise ValueError(f"{where} {word} coefficient '{odd[0]}'")


def _no_event() -> tuple[Any, ...]:
    return np.ones((1, 3)), np.ones((1, len(WINDOWS), FIT_COLUMNS)), np.ones((1, CHI2 + 1)), np.ones((1, 6))


def expected_columns() -> dict[str, dict[str, frozenset[str]]]:
    """Names of the coefficients by block and part, as the code has them."""
    uvw, fits, pairs, sums = _no_event()
    light = position.Light(uvw, uvw, uvw)
    of_position = position.columns(light)
    weights = {w for g in energy.GROUPS[1:] for w in (g, f"s x {g}")}
    of_direction = frozenset({CONSTANT, *direction.columns(uvw, fits, pairs)})
    return {
        "position": {axis: frozenset({CONSTANT, *x}) for axis, x in zip("uvw", of_position, strict=True)},
        "energy": {
            "weighted_sum": frozenset({CONSTANT, *weights, *energy.powers(uvw)}),
            "light_centre": frozenset({CONSTANT, *weights, *energy.powers(uvw), *energy.light_centre(sums, uvw)}),
        },
        "timing": {"correction": frozenset({CONSTANT, *timing.columns(uvw, np.ones(1), light, sums)})},
        "direction": dict.fromkeys("uvw", of_direction),
    }


_WIDTH_COLUMNS = frozenset({CONSTANT, *uncertainty.columns(position.Light(*[np.ones((1, 3))] * 3), np.ones(1))})


def shipped_names() -> list[str]:
    """Names of the constants that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_constants(given: str | Path) -> Constants:
    """Constants by the name of shipped ones, or from a file.

    Raises:
        InputError: there is no such file, or it holds something else, or is of another version or geometry.
    """
    shipped = str(given) in shipped_names()
    path = FOLDER / f"{given}.json" if shipped else Path(given)
    if not shipped and len(path.parts) == 1 and not path.suffix and not path.exists():
        raise InputError(
            f"There are no constants '{given}'; choose {' or '.join(shipped_names())}, or a file of 'xec baseline "
            "--calibrate'."
        )
    advice = "make it anew with 'xec baseline FILE... --out OUT.root --calibrate'"
    where = f"{path} is no file of constants"
    content = read_json(path, "file of constants", where, advice)
    if content.get("format") != FORMAT:
        raise InputError(f"{where}: its format is not '{FORMAT}'; {advice}.")
    if content.get("version") != VERSION:
        raise InputError(f"{path} is of version {str(content.get('version'))[:20]}, not {VERSION}; {advice}.")
    found = checked(Constants, content, f"{path} is damaged", advice)
    if found.geometry_hash != geometry.geometry_hash():
        raise InputError(f"{path} was made for another geometry of the sensors; {advice}.")
    return found


def write_constants(path: str | Path, constants: Constants) -> None:
    """Write constants as JSON, atomically."""
    with atomic_path(path) as temporary:
        content = {"made_by": mark()} | {k: v for k, v in constants.model_dump().items() if k != "made_by"}
        temporary.write_text(json.dumps(_rounded(content), indent=1) + "\n", encoding="utf-8")


def _rounded(content: Any) -> Any:
    """Numbers to twelve digits; coefficients of columns that are nearly alike cancel."""
    if isinstance(content, dict):
        return {key: _rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_rounded(value) for value in content]
    return float(f"{content:.{_DIGITS}g}") if isinstance(content, float) else content
