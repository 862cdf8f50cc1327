"""Selections of events: conditions on branches, written as physicists write them, such as `energyTruth > 0.045`.

The text is parsed by Python's own parser to a syntax tree, of which a few kinds of nodes have a meaning here; nothing
of it is ever run. What was not measured (1e10), is not finite, or comes of a division by zero is unknown. A condition
on what is unknown is unknown, unless the rest of it decides (`a or b` is met where `a` is), and an event of which it is
unknown whether it meets the selection is not selected. So `not (x > 5)` selects no event without an x.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from xecml.errors import InputError, printable
from xecml.events import measured
from xecml.geometry import is_fiducial, uvw_from_xyz
from xecml.selection_grammar import (
    WrongSelectionError,
    close_names,
    component,
    constant,
    dotted,
    names_in,
    parse,
    shown,
)
from xecml.selection_values import ARITHMETIC, COMPARISONS, FUNCTIONS, Condition, Numbers, Value, both, either, negated

_POSITIONS = ("uvwTruth", "xyzTruth", "uvwRecoFI", "xyzRecoFI")
"""Where the first interaction of the fiducial cut is looked for, in this order."""
NAMED = {"fiducial": "|u| < 23.9 cm, |v| < 67.9 cm and w >= 0 of the first interaction, true or else reconstructed"}
"""Cuts by name, with their meaning."""


Answer = TypeVar("Answer", bound=Value)


class Step(NamedTuple):
    """One of the conditions that `and` joins at the top of a selection."""

    text: str
    node: ast.expr


@dataclass(frozen=True)
class Selection:
    """A condition on events.

    Args:
        text: the condition, such as `energyTruth > 0.045 and abs(uvwTruth[:,0]) < 23.9`.

    Raises:
        InputError: it is no condition in the grammar of selections.
    """

    text: str
    _parsed: ast.expr = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "_parsed", parse(self.text))
        except WrongSelectionError as error:
            raise self._wrong(error) from None

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The conditions that `and` joins at its top, or itself, in their order."""
        top = self._parsed
        nodes = top.values if isinstance(top, ast.BoolOp) and isinstance(top.op, ast.And) else [top]
        return tuple(Step(ast.unparse(node), node) for node in nodes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of branches and named cuts in it."""
        return tuple(dict.fromkeys(names_in(self._parsed)))

    def branches(self, path: str, has: Callable[[str], bool], in_file: Collection[str]) -> list[str]:
        """Branches that it needs of a file.

        Args:
            path: of the file, for messages.
            has: whether the file has a branch, by its canonical name or its own.
            in_file: names of the file's branches, for messages.

        Raises:
            InputError: the file lacks one.
        """
        needed = []
        for name in self.names:
            if name in NAMED:
                place = next((branch for branch in _POSITIONS if has(branch)), None)
                if place is None:
                    raise InputError(
                        f"{path} has no position ({', '.join(_POSITIONS)}) for '{name}' in the selection "
                        f"{self.quoted()}; leave it out."
                    )
                needed.append(place)
            elif has(name):
                needed.append(name)
            else:
                raise InputError(
                    f"{path} has no branch '{printable(name, 80)}'{close_names(name, [*in_file, *NAMED])}, which the "
                    f"selection {self.quoted()} names; name one that is there."
                )
        return list(dict.fromkeys(needed))

    def masks(self, chunk: Mapping[str, NDArray[Any]], events: int) -> list[NDArray[np.bool_]]:
        """Masks (N,) of the events that pass the steps up to each one; the last mask is that of the whole selection.

        Args:
            chunk: the branches of `branches`, (N, ...).
            events: N.

        Raises:
            InputError: it answers with something else than yes or no an event.
        """
        kept, masks = np.ones(events, bool), []
        try:
            for step in self.steps:
                yes = _answer(_Evaluation(chunk).value(step.node), step.text)
                kept = kept & np.broadcast_to(yes.yes & yes.known, (events,))
                masks.append(kept)
        except WrongSelectionError as error:
            raise self._wrong(error) from None
        return masks

    def quoted(self) -> str:
        """Itself in a message."""
        return f"'{printable(self.text, 120)}'"

    def _wrong(self, error: WrongSelectionError) -> InputError:
        return InputError(f"The selection {self.quoted()} {error}.")


class _Evaluation:
    """Values of the parts of a selection for a chunk of events."""

    def __init__(self, chunk: Mapping[str, NDArray[Any]]) -> None:
        self._chunk = chunk

    def value(self, node: ast.expr) -> Value:
        """Numbers or a condition, an event each."""
        match node:
            case ast.Constant():
                flag = isinstance(node.value, bool)
                number = constant(node)
                return Condition(np.array(bool(number)), np.array(True)) if flag else Numbers(number)
            case ast.Name() | ast.Attribute():
                return self._of_name(dotted(node))
            case ast.BoolOp(op=op, values=parts):
                word = "and" if isinstance(op, ast.And) else "or"
                conditions = [self._condition(part, word) for part in parts]
                found = conditions[0]
                for other in conditions[1:]:
                    found = _joined(both if word == "and" else either, found, other, word)
                return found
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=part):
                return negated(self._condition(part, "not"))
            case ast.UnaryOp(op=op, operand=part):
                numbers = self.value(part).as_numbers()
                return Numbers(-numbers.values) if isinstance(op, ast.USub) else numbers
            case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() as op, right=right):
                sign = "&" if isinstance(op, ast.BitAnd) else "|"
                pair = (self._condition(left, sign), self._condition(right, sign))
                return _joined(both if sign == "&" else either, *pair, sign)
            case ast.BinOp(left=left, op=op, right=right):
                return _joined(ARITHMETIC[type(op)], self.value(left), self.value(right), "")
            case ast.Compare():
                return self._compared(node)
            case ast.Subscript(value=value, slice=place):
                return _taken(self.value(value), component(place), shown(value))
            case ast.Call(func=ast.Name(id=name), args=parts):
                return _joined(FUNCTIONS[name].does, *(self.value(part) for part in parts), f"{name}()")
        raise AssertionError(f"{node} was let through")  # pragma: no cover

    def _of_name(self, name: str) -> Value:
        if name in NAMED:
            place = next(branch for branch in _POSITIONS if branch in self._chunk)
            where = self._chunk[place].astype(np.float64)
            known = measured(where).all(-1)
            with np.errstate(all="ignore"):
                uvw = uvw_from_xyz(where) if place.startswith("xyz") else where
                return Condition(np.asarray(is_fiducial(uvw)), np.asarray(known))
        values = self._chunk[name]
        if values.dtype.kind == "b":
            return Condition(values, np.ones(values.shape, bool))
        if values.dtype.kind not in "fiu":
            raise WrongSelectionError(f"names '{name}', which holds no numbers; name another branch")
        numbers = values.astype(np.float32 if values.dtype == np.float32 else np.float64)
        numbers[~measured(numbers)] = np.nan
        return Numbers(numbers)

    def _condition(self, node: ast.expr, word: str) -> Condition:
        found = self.value(node)
        if isinstance(found, Condition):
            return found
        hint = (
            "put each in parentheses, as in (a > 1) & (b < 2)"
            if word in "&|"
            else "compare them, as in 'energyTruth > 0'"
        )
        raise WrongSelectionError(f"joins numbers ('{shown(node)}') by '{word}', which joins conditions; {hint}")

    def _compared(self, node: ast.Compare) -> Condition:
        left, found = node.left, None
        for op, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                assert isinstance(right, ast.List | ast.Tuple)
                one = self._listed(left, right)
                one = negated(one) if isinstance(op, ast.NotIn) else one
            else:
                one = _joined(COMPARISONS[type(op)], self.value(left), self.value(right), "comparison")
            found = one if found is None else _joined(both, found, one, "comparison")
            left = right
        assert found is not None
        return found

    def _listed(self, node: ast.expr, listed: ast.List | ast.Tuple) -> Condition:
        numbers = [self.value(part).as_numbers().values for part in listed.elts]
        if any(np.ndim(number) for number in numbers):
            raise WrongSelectionError(f"lists what is no number in '{shown(listed)}'; list numbers")
        values = np.asarray(self.value(node).as_numbers().values)
        return Condition(np.isin(values, np.array(numbers, values.dtype)), ~np.isnan(values))


def _joined(function: Callable[..., Answer], *parts: Any) -> Answer:
    """A function of values whose shapes an event fit, a number an event beside a vector's components included."""
    *values, what = parts
    sizes = {value.shape[1:] for value in values if value.shape[1:]}
    if len(sizes) > 1:
        first, second = sorted(int(np.prod(size)) for size in sizes)[:2]
        by = f" by {what}" if what else ""
        raise WrongSelectionError(f"joins {first} components with {second}{by}; take one of each, such as [:,0]")
    return function(*(value.beside(len(next(iter(sizes), ()))) for value in values))


def _taken(value: Value, place: int | slice, name: str) -> Value:
    if len(value.shape) < 2:
        raise WrongSelectionError(
            f"takes a component of '{name}', which is one number an event; write it without [...]"
        )
    size = value.shape[1]
    if isinstance(place, int) and not -size <= place < size:
        raise WrongSelectionError(f"takes component {place} of '{name}', which has {size} (0 to {size - 1})")
    return value.component(place)


def _answer(found: Value, text: str) -> Condition:
    if not isinstance(found, Condition):
        raise WrongSelectionError(
            f"gives numbers ('{printable(text, 40)}') where yes or no is needed; compare them, as in '... > 0'"
        )
    if len(found.shape) > 1:
        raise WrongSelectionError(
            f"gives {int(np.prod(found.shape[1:]))} answers an event ('{printable(text, 40)}'); take a component such "
            "as [:,0], or write any(...) or all(...)"
        )
    return found
