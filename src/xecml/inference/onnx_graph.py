"""The content of an ONNX file, read without running it: operators, weights, and references to other files.

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

_MODEL = {"graph": 7, "opset_import": 8, "functions": 25}
_GRAPH = {"node": 1, "initializer": 5, "sparse_initializer": 15}
_DOMAIN, _OPERATOR = 1, 4
"""Fields: name of a set of operators, name of a node's operator."""
_LOOPS = ("If", "Loop", "Scan", "SequenceMap")
"""All operators of ONNX itself that run a graph of their own."""
_TENSOR = {"dims": 1, "data_type": 2, "name": 8, "external_data": 13, "data_location": 14}
_NUMBERS = {4: {1: "<f4"}, 9: {1: "<f4", 10: "<f2", 11: "<f8"}, 10: {11: "<f8"}}
"""Fields that hold numbers (float_data, raw_data, double_data): type of the tensor -> type of the numbers."""
_MOST_NODES = 200_000
"""Ten times those of the largest network of this package."""


@dataclass
class Contents:
    """What was found.

    Attributes:
        nodes: number of operators.
        loops: names of operators that run a graph of their own.
        foreign: names of sets of operators that are not those of ONNX.
        functions: whether it defines operators of its own.
        outside: names of weights that are in other files.
        not_finite: names of weights with NaN or infinity. Constants (numbers without dimensions) may be so: they are
            bounds of ranges, and what an event without a measurement gets for an answer.
    """

    nodes: int = 0
    loops: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
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
        (found.loops, "runs graphs within its graph"),
        (found.foreign, "uses operators that are not those of ONNX"),
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
        elif number == _MODEL["opset_import"] and isinstance(value, memoryview):
            domains = [_text(v) for n, v in _fields(value) if n == _DOMAIN and isinstance(v, memoryview)]
            found.foreign += [domain for domain in domains if domain not in ("", "ai.onnx")]
        elif number == _MODEL["graph"] and isinstance(value, memoryview):
            _look_at_graph(value, found)
    return found


def _look_at_graph(graph: memoryview, found: Contents) -> None:
    names = [name.encode() for name in _LOOPS]
    for number, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == _GRAPH["node"]:
            found.nodes += 1
            node = bytes(value)
            if any(name in node for name in names):  # a few nodes, whose fields are then looked at
                operators = [_text(v) for n, v in _fields(value) if n == _OPERATOR and isinstance(v, memoryview)]
                found.loops += [operator for operator in operators if operator in _LOOPS]
        elif number == _GRAPH["initializer"]:
            _look_at_tensor(value, found)
        elif number == _GRAPH["sparse_initializer"]:
            found.outside.append("sparse")


def _look_at_tensor(tensor: memoryview, found: Contents) -> None:
    name, kind, outside, is_constant = "", 0, False, True
    parts: list[tuple[int, memoryview]] = []
    for number, value in _fields(tensor):
        if number == _TENSOR["data_type"] and isinstance(value, int):
            kind = value
        elif number == _TENSOR["dims"]:
            is_constant = False
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
    numbers = [(part, _NUMBERS[number][kind]) for number, part in parts if kind in _NUMBERS[number]]
    if not is_constant and not all(_is_finite(part, dtype) for part, dtype in numbers):
        found.not_finite.append(name)


def _is_finite(part: memoryview, dtype: str) -> bool:
    values = np.frombuffer(part, dtype) if len(part) % np.dtype(dtype).itemsize == 0 else np.empty(0)
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum()):  # then all are, and one reading shows it
            return True
    return bool(np.isfinite(values).all())


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Numbers and values of a message's fields.

    Raises:
        ValueError, IndexError: it is none.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        kind = key & 7
        if kind not in (0, 1, 2, 5):
            raise ValueError("no message")
        length = {1: 8, 5: 4}.get(kind, 0)
        if not length:
            length, at = _varint(message, at)
        if kind == 0:
            yield key >> 3, length
            continue
        if at + length > end:
            raise ValueError("cut off")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = message[at]
    if value < 128:  # nearly all are
        return value, at + 1
    value = 0
    for i in range(10):
        byte = message[at + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise ValueError("no number")


def _text(value: memoryview) -> str:
    return bytes(value[:200]).decode("utf-8", "replace")
