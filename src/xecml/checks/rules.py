"""Rules for the values of an event file: units, ranges and agreement of its branches, as a table.

Each rule names the branches that it looks at and marks values that break it. What was not measured takes no
part. A rule is broken when more than a given share of values is marked; the sentence says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xecml.geometry import (
    HALF_OPENING_DEG,
    INNER_RADIUS,
    OUTER_RADIUS,
    half_length,
    opening_angle,
    uvw_from_xyz,
    xyz_from_uvw,
)

Severity = Literal["error", "warning"]
Marks = NDArray[np.bool_]

_LISTED = 10
NORMALISATION = {
    "npho": (1000.0, 4.08),
    "relative_npho": (0.58, 1.0),
    "time": (1.14e-7, -0.46),
    "relative_time": (6.5e-8, 0.5),
}
"""Default constants: log1p(npho / a) / b of counts, time / a - b of times (s)."""
NORMALISED_RANGE = (-1.0, 3.0)
"""Networks see most values of a healthy file in this range."""


@dataclass(frozen=True)
class Finding:
    """Something wrong or remarkable: severity, the branch, face or tree it is about, and one sentence."""

    severity: Severity
    where: str
    message: str


@dataclass(frozen=True)
class Rule:
    """A rule on values of one branch, or on the agreement of two.

    `broken` takes the measured values of each branch, (n,) of sensor branches and (events, ...) of others,
    and marks the bad ones, (n,). The rule counts as broken if their share exceeds `above`.
    """

    branches: tuple[str, ...]
    broken: Callable[..., Marks]
    above: float
    severity: Severity
    sentence: str


def listing(items: Iterable[Any]) -> str:
    """Write the first ten items, and how many more there are."""
    names = [str(i) for i in items]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def normalised(branch: str, values: NDArray[Any]) -> NDArray[Any]:
    """Values of a sensor branch as networks see them with the default constants."""
    a, b = NORMALISATION[branch]
    return np.asarray(np.log1p(values / a) / b if branch.endswith("npho") else values / a - b)


def _normalised(branch: str) -> Callable[[NDArray[Any]], Marks]:
    low, high = NORMALISED_RANGE

    def outside(x: NDArray[Any]) -> Marks:
        value = normalised(branch, x)
        return np.asarray((value < low) | (value > high))

    return outside


def _inside(uvw: NDArray[Any], margin: float = 0.05) -> Marks:
    """Whether points (n, 3) lie in the active xenon, but for the rounding of single precision."""
    u, v, w = np.moveaxis(uvw, -1, 0)
    depth = OUTER_RADIUS - INNER_RADIUS
    half_v = INNER_RADIUS * np.radians(HALF_OPENING_DEG)
    inside = (w > -margin) & (w < depth + margin) & (np.abs(v) < half_v + margin)
    return np.asarray(inside & (np.abs(u) < half_length(INNER_RADIUS + w) + margin))


def _position_rules(branch: str, uvw: Callable[[NDArray[Any]], NDArray[Any]]) -> tuple[Rule, ...]:
    def outside(x: NDArray[Any]) -> Marks:
        return ~_inside(uvw(x))

    def as_millimetres(x: NDArray[Any]) -> Marks:
        return outside(x) & _inside(uvw(x / 10))

    def as_metres(x: NDArray[Any]) -> Marks:
        # a few shallow events near the middle are that small in cm too
        return np.asarray(np.abs(x).max(axis=-1) < 1.1)

    return (
        Rule((branch,), as_millimetres, 0.5, "error", "{branch} looks like mm; it must be in cm."),
        Rule((branch,), as_metres, 0.9, "error", "{branch} looks like metres; it must be in cm."),
        Rule(
            (branch,),
            outside,
            0.5,
            "error",
            "{branch} lies outside the active xenon in {share} of events; check its unit (cm) and frame.",
        ),
        Rule(
            (branch,),
            outside,
            1e-3,
            "warning",
            "{branch} lies outside the active xenon in {share} of events.",
        ),
    )


def _time_rules(branch: str, unit_only: bool = False) -> tuple[Rule, ...]:
    unit = Rule(
        (branch,),
        lambda t: np.asarray(np.abs(t) > 1e-3),
        0.5,
        "error",
        "{branch} is typically above 1e-3, which looks like nanoseconds; it must be in seconds.",
    )
    return (unit,) if unit_only else (unit, _range_rule(branch))


def _range_rule(branch: str) -> Rule:
    low, high = NORMALISED_RANGE
    return Rule(
        (branch,),
        _normalised(branch),
        0.01,
        "warning",
        f"{{branch}} leaves the range {low:g} to {high:g} of the default normalisation in {{share}} of "
        "values; set the constants of the section normalization to this file.",
    )


def _energy_rules(branch: str) -> tuple[Rule, ...]:
    return (
        Rule(
            (branch,),
            lambda e: np.asarray(e > 1.0),
            0.5,
            "error",
            "{branch} is typically above 1, which looks like MeV; it must be in GeV.",
        ),
        Rule(
            (branch,),
            lambda e: np.asarray(e <= 0),
            0.0,
            "error",
            "{branch} is not positive in {share} of events.",
        ),
    )


_COUNT_RULES = (
    Rule(
        ("npho",),
        lambda n: np.asarray(n <= 1.001),
        0.999,
        "error",
        "npho never exceeds 1, which looks like relative_npho; it must be in photons.",
    ),
    _range_rule("npho"),
    Rule(
        ("relative_npho",),
        lambda n: np.asarray(n > 1.001),
        0.0,
        "error",
        "relative_npho exceeds 1 in {share} of values; it must be npho over the event's largest.",
    ),
    _range_rule("relative_npho"),
)

_ANGLE_RULES = (
    Rule(
        ("emiAng",),
        lambda a: np.asarray((np.abs(a) <= np.pi + 1e-3).all(axis=-1)),
        0.99,
        "error",
        "emiAng looks like radians; it must be in degrees.",
    ),
    Rule(
        ("emiAng",),
        lambda a: np.asarray((a[:, 0] < 0) | (a[:, 0] > 180) | (np.abs(a[:, 1]) > 180.001)),
        0.0,
        "error",
        "emiAng leaves 0..180 (theta) or -180..180 degrees (phi) in {share} of events.",
    ),
    Rule(
        ("emiVec",),
        lambda d: np.asarray(np.abs(np.linalg.norm(d, axis=-1) - 1) > 1e-3),
        0.0,
        "error",
        "emiVec is not of unit length in {share} of events.",
    ),
    Rule(
        ("emiAng", "emiVec"),
        lambda a, d: np.asarray(opening_angle(a, d) > 0.1),
        1e-3,
        "error",
        "emiAng and emiVec differ by more than 0.1 degrees in {share} of events; check their conventions.",
    ),
)

_OTHER_RULES = (
    Rule(
        ("uvwTruth", "xyzTruth"),
        lambda uvw, xyz: np.asarray(np.linalg.norm(xyz_from_uvw(uvw) - xyz, axis=-1) > 0.1),
        1e-3,
        "error",
        "uvwTruth and xyzTruth are more than 1 mm apart in {share} of events; check their conventions.",
    ),
    Rule(
        ("xyzVTX",),
        lambda x: np.asarray(np.abs(x).max(axis=-1) > 150),
        0.2,
        "warning",
        "xyzVTX is further than 150 cm from the centre in {share} of events; it must be in cm.",
    ),
    Rule(
        ("nGamma",),
        lambda n: np.asarray((n < 0) | (n > 4)),
        0.0,
        "error",
        "nGamma leaves 0..4 in {share} of events.",
    ),
)

RULES = (
    *_COUNT_RULES,
    *_time_rules("time"),
    *_time_rules("relative_time"),
    *_time_rules("timeTruth", unit_only=True),
    *_time_rules("timeReco", unit_only=True),
    *_energy_rules("energyTruth"),
    *_energy_rules("energyReco"),
    *_ANGLE_RULES,
    *_position_rules("uvwTruth", lambda uvw: uvw),
    *_position_rules("xyzTruth", uvw_from_xyz),
    *_position_rules("uvwRecoFI", lambda uvw: uvw),
    *_position_rules("xyzRecoFI", uvw_from_xyz),
    *_OTHER_RULES,
)
"""In order of weight: after the first error of a branch its other rules say nothing new."""
