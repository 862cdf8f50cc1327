"""What stands in an ONNX file, found without running it: operators, weights, and what leads out of it.

An ONNX file is one message of protocol buffers: fields of a number, a kind and a value. Only the few fields that matter
are looked at (onnx.proto of ONNX 1.23), so a file of weights costs one reading of these and no copy.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xecml.errors import InputError
from xecml.schema import one_line

_MODEL = {"graph": 7, "functions": 25}
_GRAPH = {"node": 1, "initializer": 5, "sparse_initializer": 15}
_NODE = {"op_type": 4, "attribute": 5}
_ATTRIBUTE = {"g": 6, "graphs": 11}
_TENSOR = {"data_type": 2, "name": 8, "external_data": 13, "data_location": 14}
_NUMBERS = {4: {1: "<f4"}, 9: {1: "<f4", 10: "<f2", 11: "<f8"}, 10: {11: "<f8"}}
"""Fields that hold numbers (float_data, raw_data, double_data): type of the tensor -> type of the numbers."""
_MOST_NODES = 200_000
"""Ten times those of the largest network of this package."""


@dataclass
class Contents:
    """What was found.

    Attributes:
        nodes: number of operators.
        inner: names of operators that run a graph of their own, as loops do.
        functions: whether it defines operators of its own.
        outside: names of weights that are in other files.
        not_finite: names of weights with NaN, or of several numbers with infinity.
    """

    nodes: int = 0
    inner: list[str] = field(default_factory=list)
    functions: bool = False
    outside: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)


def check_graph(path: Path) -> None:
    """Refuse a file that an export of this package cannot be.

    Loops may never end, operators that a file defines itself may unfold without end, weights elsewhere are any file.

    Raises:
        InputError: it has one of these, or weights that are no finite numbers; names them.
    """
    if not path.stat().st_size:
        return  # the runtime says so
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = memoryview(data)
        try:
            found = _contents(view)
        except (ValueError, IndexError):
            return  # what is no ONNX file the runtime says with its reason
        finally:
            view.release()
    for names, what in (
        (found.inner, "runs graphs within its graph"),
        (["it"] if found.functions else [], "defines operators of its own"),
        (found.outside, "keeps weights in other files"),
        (found.not_finite, "has weights that are no finite numbers"),
        (["it"] if found.nodes > _MOST_NODES else [], f"has more than {_MOST_NODES} operators"),
    ):
        if names:
            which = f" ({one_line(', '.join(names[:4]))})" if names != ["it"] else ""
            raise InputError(f"{path} {what}{which}, which no export of this package does; export the model again.")


def _contents(model: memoryview) -> Contents:
    found = Contents()
    for number, value in _fields(model):
        if number == _MODEL["functions"]:
            found.functions = True
        elif number == _MODEL["graph"] and isinstance(value, memoryview):
            _look_at_graph(value, found)
    return found


def _look_at_graph(graph: memoryview, found: Contents) -> None:
    for number, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == _GRAPH["node"]:
            found.nodes += 1
            _look_at_node(value, found)
        elif number == _GRAPH["initializer"]:
            _look_at_tensor(value, found)
        elif number == _GRAPH["sparse_initializer"]:
            found.outside.append("sparse")


def _look_at_node(node: memoryview, found: Contents) -> None:
    name, inner = "", False
    for number, value in _fields(node):
        if isinstance(value, memoryview) and number == _NODE["op_type"]:
            name = _text(value)
        elif isinstance(value, memoryview) and number == _NODE["attribute"]:
            inner |= any(n in _ATTRIBUTE.values() for n, _ in _fields(value))
    if inner:
        found.inner.append(name)


def _look_at_tensor(tensor: memoryview, found: Contents) -> None:
    name, kind, outside = "", 0, False
    parts: list[tuple[int, memoryview]] = []
    for number, value in _fields(tensor):
        if number == _TENSOR["data_type"] and isinstance(value, int):
            kind = value
        elif number == _TENSOR["data_location"]:
            outside |= bool(value)
        elif number == _TENSOR["external_data"]:
            outside = True
        elif isinstance(value, memoryview) and number == _TENSOR["name"]:
            name = _text(value)
        elif isinstance(value, memoryview) and number in _NUMBERS:
            parts.append((number, value))
    if outside:
        found.outside.append(name)
    if not all(_is_finite(part, _NUMBERS[number][kind]) for number, part in parts if kind in _NUMBERS[number]):
        found.not_finite.append(name)


def _is_finite(part: memoryview, dtype: str) -> bool:
    """Whether numbers are finite; a single one may be infinite, as the bound of a range is."""
    values = np.frombuffer(part, dtype) if len(part) % np.dtype(dtype).itemsize == 0 else np.empty(0)
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum(dtype=np.float64)):
            return True
    return not np.isnan(values).any() and (len(values) == 1 or not np.isinf(values).any())


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Numbers and values of a message's fields.

    Raises:
        ValueError, IndexError: it is none.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind, number = key & 7, key >> 3
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        length, at = (8, at) if kind == 1 else (4, at) if kind == 5 else _length(message, at, kind)
        if at + length > len(message):
            raise ValueError("cut off")
        yield number, message[at : at + length]
        at += length


def _length(message: memoryview, at: int, kind: int) -> tuple[int, int]:
    if kind != 2:
        raise ValueError("no message")
    return _varint(message, at)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        byte = message[at + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise ValueError("no number")


def _text(value: memoryview) -> str:
    return bytes(value[:200]).decode("utf-8", "replace")
