"""Values that parts of a selection have: numbers, of which NaN are unknown, and conditions, which may be unknown.

Events lie along the first axis, components along the second; a constant has no axis. Numbers are compared as numpy
compares them: a branch in single precision with a constant in single precision, so that 0.05 there is 0.05 here.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xecml.geometry import Floats

Marks = NDArray[np.bool_]


@dataclass(frozen=True)
class Numbers:
    """Numbers (N,) or (N, K), or one of Python's own for a constant; unknown ones are NaN."""

    values: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values."""
        return np.shape(self.values)

    def as_numbers(self) -> Numbers:
        """Itself."""
        return self

    def beside(self, axes: int) -> Numbers:
        """With as many axes of components as others have."""
        return Numbers(_axes(self.values, axes) if self.shape else self.values)

    def component(self, place: int | slice) -> Numbers:
        """One or several components."""
        return Numbers(self.values[:, place])


@dataclass(frozen=True)
class Condition:
    """Whether something is so, (), (N,) or (N, K), and whether that is known."""

    yes: Marks
    known: Marks

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the answers."""
        return np.broadcast_shapes(self.yes.shape, self.known.shape)

    def as_numbers(self) -> Numbers:
        """1 where it is so, 0 where it is not, NaN where that is unknown."""
        found = np.where(self.known, self.yes.astype(np.float64), np.nan)
        return Numbers(found if found.ndim else float(found))

    def beside(self, axes: int) -> Condition:
        """With as many axes of components as others have."""
        return Condition(_axes(self.yes, axes), _axes(self.known, axes))

    def component(self, place: int | slice) -> Condition:
        """One or several components."""
        return Condition(self.yes[:, place], self.known[:, place])


Value: TypeAlias = Numbers | Condition


def _axes(values: NDArray[Any], axes: int) -> NDArray[Any]:
    """Values with axes for components, where they are of events and have none."""
    return values.reshape(*values.shape, *(1,) * axes) if values.ndim == 1 else values


# ------------------------------------------------------------------------------------- conditions, and numbers


def both(a: Condition, b: Condition) -> Condition:
    """Whether both are so: known where both are known, or one is known not to be."""
    return Condition(a.yes & b.yes, (a.known & b.known) | (a.known & ~a.yes) | (b.known & ~b.yes))


def either(a: Condition, b: Condition) -> Condition:
    """Whether one of both is so: known where both are known, or one is known to be."""
    sure = (a.known & a.yes) | (b.known & b.yes)
    return Condition(sure, sure | (a.known & b.known))


def negated(a: Condition) -> Condition:
    """Whether it is not so."""
    return Condition(~a.yes, a.known)


def _compare(function: Callable[[Floats, Floats], Marks]) -> Callable[[Value, Value], Condition]:
    def compared(a: Value, b: Value) -> Condition:
        x, y = a.as_numbers().values, b.as_numbers().values
        return Condition(np.asarray(function(x, y)), np.asarray(~np.isnan(x) & ~np.isnan(y)))

    return compared


def _finite(function: Callable[..., Any]) -> Callable[..., Numbers]:
    """A function of numbers, whose values that are not finite are unknown: divided by zero, out of range."""

    def numbers(*parts: Value) -> Numbers:
        with np.errstate(all="ignore"):
            found = np.asarray(function(*(part.as_numbers().values for part in parts)))
        known = np.where(np.isfinite(found), found, np.nan)
        return Numbers(known if known.ndim else float(known))

    return numbers


def _over_components(function: Callable[..., Any], empty: float) -> Callable[[Value], Numbers]:
    """Of the components of an event that are known; `empty` where none is."""

    def numbers(part: Value) -> Numbers:
        values = _with_components(part.as_numbers().values)
        known = ~np.isnan(values)
        return Numbers(np.where(known.any(1), function(values, known), empty))

    return numbers


def _with_components(values: Any) -> NDArray[Any]:
    array = np.asarray(values)
    return array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)


def _sum(values: Floats, known: Marks) -> Floats:
    return np.asarray(np.where(known, values, 0.0).sum(1))


def _mean(values: Floats, known: Marks) -> Floats:
    return np.asarray(_sum(values, known) / np.maximum(known.sum(1), 1))


def _smallest(values: Floats, known: Marks) -> Floats:
    return np.asarray(np.where(known, values, np.inf).min(1, initial=np.inf))


def _largest(values: Floats, known: Marks) -> Floats:
    return np.asarray(np.where(known, values, -np.inf).max(1, initial=-np.inf))


def _least_or_most(function: Any, over: Callable[[Value], Numbers]) -> Callable[..., Numbers]:
    """Of one value the extreme of its components, of several that of each event."""

    def numbers(*parts: Value) -> Numbers:
        if len(parts) == 1:
            return over(parts[0])
        found = parts[0].as_numbers().values
        for part in parts[1:]:
            found = function(found, part.as_numbers().values)
        return Numbers(found if np.ndim(found) else float(found))

    return numbers


def _components_of(part: Value) -> tuple[Marks, Marks]:
    """Answers and whether they are known, (N, K); of numbers whether they are not 0."""
    if isinstance(part, Numbers):
        part = Condition(np.asarray(part.values != 0), np.asarray(~np.isnan(part.values)))
    return _with_components(part.yes & part.known), _with_components(np.broadcast_to(part.known, part.shape))


def _any(part: Value) -> Condition:
    yes, known = _components_of(part)
    some = np.asarray(yes.any(1))
    return Condition(some, some | np.asarray(known.all(1)))


def _all(part: Value) -> Condition:
    yes, known = _components_of(part)
    return Condition(np.asarray(yes.all(1)), np.asarray((known & ~yes).any(1) | known.all(1)))


def _count(part: Value) -> Numbers:
    return Numbers(_components_of(part)[0].sum(1).astype(np.float64))


def _measured(part: Value) -> Condition:
    known = np.asarray(~np.isnan(part.as_numbers().values))
    return Condition(known, np.ones(known.shape, bool))


# --------------------------------------------------------------------------------------------------- registries

COMPARISONS: dict[type[ast.AST], Callable[[Value, Value], Condition]] = {
    ast.Lt: _compare(np.less), ast.LtE: _compare(np.less_equal), ast.Gt: _compare(np.greater),
    ast.GtE: _compare(np.greater_equal), ast.Eq: _compare(np.equal), ast.NotEq: _compare(np.not_equal),
}  # fmt: skip
ARITHMETIC: dict[type[ast.AST], Callable[..., Numbers]] = {
    ast.Add: _finite(np.add), ast.Sub: _finite(np.subtract), ast.Mult: _finite(np.multiply),
    ast.Div: _finite(np.divide), ast.Mod: _finite(np.mod), ast.Pow: _finite(np.power),
    ast.FloorDiv: _finite(np.floor_divide),
}  # fmt: skip


@dataclass(frozen=True)
class Function:
    """A function of selections: what it does, how many values it takes, and what it is for."""

    does: Callable[..., Value]
    arguments: tuple[int, int]
    meaning: str


_MANY = 20
_minimum = _least_or_most(np.minimum, _over_components(_smallest, np.nan))
_maximum = _least_or_most(np.maximum, _over_components(_largest, np.nan))
FUNCTIONS = {
    "abs": Function(_finite(np.abs), (1, 1), "size"),
    "sqrt": Function(_finite(np.sqrt), (1, 1), "square root"),
    "exp": Function(_finite(np.exp), (1, 1), "exponential"),
    "log": Function(_finite(np.log), (1, 1), "natural logarithm"),
    "log10": Function(_finite(np.log10), (1, 1), "logarithm to the base of ten"),
    "sin": Function(_finite(np.sin), (1, 1), "of radians"),
    "cos": Function(_finite(np.cos), (1, 1), "of radians"),
    "tan": Function(_finite(np.tan), (1, 1), "of radians"),
    "atan2": Function(_finite(np.arctan2), (2, 2), "radians, of y and x"),
    "hypot": Function(_finite(np.hypot), (2, 2), "length of two components"),
    "radians": Function(_finite(np.radians), (1, 1), "degrees to radians"),
    "degrees": Function(_finite(np.degrees), (1, 1), "radians to degrees"),
    "min": Function(_minimum, (1, _MANY), "smallest component, or smallest of several values"),
    "max": Function(_maximum, (1, _MANY), "largest component, or largest of several values"),
    "sum": Function(_over_components(_sum, 0.0), (1, 1), "sum over measured components"),
    "mean": Function(_over_components(_mean, np.nan), (1, 1), "mean over measured components"),
    "count": Function(_count, (1, 1), "components of which a condition holds"),
    "any": Function(_any, (1, 1), "whether a condition holds of a component"),
    "all": Function(_all, (1, 1), "whether a condition holds of every component"),
    "measured": Function(_measured, (1, 1), "whether a value was measured"),
}
"""Functions of selections by name; those over components give a number an event."""
