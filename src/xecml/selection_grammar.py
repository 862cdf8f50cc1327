"""The grammar of selections: which parts of Python's syntax are allowed, and the error messages for the others."""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Collection

from xecml.errors import printable
from xecml.selection_values import ARITHMETIC, COMPARISONS, FUNCTIONS

_LONGEST = 2000
_MOST_NODES, _DEEPEST = 500, 60
_CLOSE = 3


class WrongSelectionError(Exception):
    """What is wrong with a selection, as the end of a sentence."""


def parse(text: str) -> ast.expr:
    """The syntax tree of a selection, all of whose nodes have a meaning."""
    if not text.strip():
        raise WrongSelectionError("is empty; write a condition, such as 'energyTruth > 0.045'")
    if len(text) > _LONGEST:
        raise WrongSelectionError(f"has more than {_LONGEST} characters; shorten it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's own habits, such as 1or 2
            top = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        near = text.strip()[max((error.offset or 1) - 1, 0) :][:20].strip()
        at = f" near '{printable(near)}'" if near else ", it ends too early"
        raise WrongSelectionError(
            f"cannot be understood{at}; write it as 'energyTruth > 0.045 and abs(uvwTruth[:,0]) < 23.9'"
        ) from None
    except (ValueError, MemoryError, RecursionError):
        raise WrongSelectionError(
            "cannot be understood; write conditions on branches, joined by and, or, not"
        ) from None
    if sum(1 for _ in ast.walk(top)) > _MOST_NODES:
        raise WrongSelectionError("has too many parts; shorten it")
    _check(top)
    return top


def _check(node: ast.expr, deep: int = 0) -> None:
    """Refuse what has no meaning in a selection, by name."""
    if deep > _DEEPEST:
        raise WrongSelectionError("is nested too deeply; shorten it")
    deep += 1
    match node:
        case ast.Constant(value=bool() | int() | float()):
            constant(node)
        case ast.Name() | ast.Attribute() if dotted(node):
            name = dotted(node)
            if name in FUNCTIONS:
                raise WrongSelectionError(f"names the function '{name}' without what it is of; write {name}(...)")
        case ast.BoolOp(values=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts):
            for part in parts:
                _check(part, deep)
        case ast.UnaryOp(operand=part):
            _check(part, deep)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC or isinstance(
            op, ast.BitAnd | ast.BitOr
        ):
            _check(left, deep)
            _check(right, deep)
        case ast.Compare(left=left, ops=ops, comparators=others):
            for sign, other in zip(ops, others, strict=True):
                _check_comparison(sign, other)
            for part in (left, *others):
                _check(part, deep)
        case ast.Subscript(value=value, slice=place):
            component(place)
            _check(value, deep)
        case ast.Call(func=ast.Name(id=name), args=parts, keywords=[]):
            _check_call(name, len(parts))
            for part in parts:
                _check(part, deep)
        case _:
            raise WrongSelectionError(f"holds '{shown(node)}', which has no meaning in it; {_ALLOWED}")


_ALLOWED = "it may have branches, numbers, comparisons, and, or, not, in, + - * / % **, and functions such as abs()"


def _check_comparison(op: ast.cmpop, other: ast.expr) -> None:
    listed = isinstance(other, ast.List | ast.Tuple)
    if isinstance(op, ast.In | ast.NotIn):
        if not listed:
            raise WrongSelectionError(
                "asks with 'in' for something else than a list of numbers; write such as 'run in [430000, 430001]'"
            )
    elif type(op) not in COMPARISONS or listed:
        raise WrongSelectionError(
            f"compares in a way that has no meaning in it ('{shown(other)}'); use < <= > >= == != or in [...]"
        )


def _check_call(name: str, given: int) -> None:
    if name not in FUNCTIONS:
        raise WrongSelectionError(
            f"calls '{printable(name, 40)}'{close_names(name, FUNCTIONS)}, which is no function of selections; "
            f"there are {', '.join(FUNCTIONS)}"
        )
    least, most = FUNCTIONS[name].arguments
    if not least <= given <= most:
        raise WrongSelectionError(
            f"gives {name}() {given} numbers; it takes {least if least == most else f'{least} or more'}"
        )


def dotted(node: ast.expr) -> str:
    """A name with its dots, as rec files have them; empty if it is none."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def names_in(node: ast.AST) -> list[str]:
    """Branches and named cuts below a node."""
    if isinstance(node, ast.Name | ast.Attribute) and (name := dotted(node)):
        return [name]
    inside = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    return [name for part in inside for name in names_in(part)]


def component(place: ast.expr) -> int | slice:
    """What `[:, i]` or `[:, i:j]` takes of the components."""
    match place:
        case ast.Tuple(elts=[ast.Slice(lower=None, upper=None, step=None), ast.Slice(step=None) as part]):
            return slice(*(None if end is None else _whole(end) for end in (part.lower, part.upper)))
        case ast.Tuple(elts=[ast.Slice(lower=None, upper=None, step=None), part]):
            return _whole(part)
    raise WrongSelectionError(f"has '[{shown(place)}]' where a component belongs; write [:,0] for the first")


def _whole(node: ast.expr) -> int:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        value = None
    if type(value) is not int or abs(value) > 10**6:
        raise WrongSelectionError(f"has '{shown(node)}' where the number of a component belongs; write such as [:,0]")
    return value


def constant(node: ast.Constant) -> float:
    """The number that stands there; 1 and 0 for True and False."""
    try:
        return float(node.value)  # type: ignore[arg-type]  # which is a number here
    except OverflowError:
        raise WrongSelectionError(f"holds a number that is too large, {str(node.value)[:20]}...") from None


def shown(node: ast.AST) -> str:
    """A part of a selection, in a message."""
    return printable(ast.unparse(node), 40)


def close_names(name: str, known: Collection[str]) -> str:
    """` (did you mean 'a' or 'b'?)` for the names nearest to one, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=_CLOSE, cutoff=0.5)
    said = " or ".join(f"'{printable(one, 80)}'" for one in close)
    return f" (did you mean {said}?)" if close else ""
