"""The YAML reader for recipes and settings: limits size, depth and aliases, and keeps the line of every key.

Plain values mean what users mean by them: 010 is ten and not eight, and 1:30 and 2024-05-01 are text, not numbers to
the base of sixty and days.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from xecml.errors import InputError
from xecml.files import regular_file

_MOST_BYTES = 300_000
_MOST_VALUES = 10_000
"""Keys and values of a file, those that an alias repeats counted each time."""
_DEEPEST = 16
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_TAKEN = {f"{_TAG}{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
_INTEGER = re.compile(r"^[-+]?[0-9][0-9_]*$|^0x[0-9a-fA-F]+$")
_DECIMAL = re.compile(
    r"^[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?$|^\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?$"
    r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)


def read_yaml(path: str | Path, what: str, example: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Read a YAML file of keys and values.

    Args:
        path: of the file.
        what: the file is, for messages: "recipe", "settings".
        example: of what it holds, for messages.

    Returns:
        Its content, and the line of each dotted key.

    Raises:
        InputError: it is no ordinary file, cannot be read, is not UTF-8 or not YAML, is too large or too deep, or
            names a key twice.
    """
    try:
        with regular_file(path, what).open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"Cannot read the {what} {path}: {error.strerror}; check the path.") from error
    if len(raw) > _MOST_BYTES:
        raise InputError(f"{path} is larger than {_MOST_BYTES / 1e3:g} kB, too large for a {what}; check the path.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line} is not text in UTF-8; save the {what} as UTF-8.") from error
    content, lines = _parse(text, str(path))
    if content is None:
        return {}, {}
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold {example}.")
    return content, lines


def parse_value(text: str, where: str) -> Any:
    """Read one value, such as that of a setting on the command line.

    Raises:
        InputError: it is not YAML, or too large or deep; begins with `where`.
    """
    return _parse(text, f"{where}: the value", with_lines=False)[0]


def lines_of(node: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Every dotted key of a YAML node with its line; keys that a merge brings in come before those that stand there."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if key.tag == _MERGE:
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from lines_of(merged, prefix)
    for key, value in node.value:
        if key.tag != _MERGE:
            dotted = f"{prefix}{key.value}"
            yield dotted, key.start_mark.line + 1
            yield from lines_of(value, f"{dotted}.")


def _parse(text: str, where: str, *, with_lines: bool = True) -> tuple[Any, dict[str, int]]:
    def place(line: int) -> str:
        return f"{where}, line {line}" if with_lines else where

    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        # construction empties the nodes of merges
        lines = dict(lines_of(node))
        return (None if node is None else loader.construct_document(node)), lines
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise InputError(
            f"{place(line)} is not valid YAML: it holds a character that is not allowed in text."
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context).split())
        what = ":" if isinstance(error, _Refused) else " is not valid YAML:"
        raise InputError(f"{place(mark.line + 1 if mark else 1)}{what} {problem}.") from error
    except ValueError as error:  # an escape beyond what characters there are
        raise InputError(f"{where} is not valid YAML: {error}.") from error
    finally:
        if loader is not None:
            loader.dispose()


class _Refused(yaml.MarkedYAMLError):
    """YAML, but none that has a meaning here."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which counts while it reads: nothing is built before it is known to be small."""

    def __init__(self, text: str) -> None:
        self._depth = self._composed = 0
        self._sizes: dict[int, tuple[int, int]] = {}
        """By node: values in it, and levels; none before it is complete."""
        super().__init__(text)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, or take that of an alias."""
        stream: Any = self
        mark, is_alias = stream.peek_event().start_mark, stream.check_event(yaml.AliasEvent)
        self._depth, self._composed = self._depth + 1, self._composed + 1
        if self._depth > _DEEPEST:
            self._refuse(f"it is nested deeper than {_DEEPEST} levels", mark)
        if self._composed > _MOST_VALUES:
            self._refuse(f"it holds more than {_MOST_VALUES} values", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            self._refuse("an alias stands for what it is in itself", mark)
        if not is_alias:
            self._count(node, mark)
        return node

    def _count(self, node: Any, mark: Any) -> None:
        """Take the measure of a node whose parts are complete."""
        inside = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            self._look_at_keys(node)
            inside = [part for pair in inside for part in pair]
        sizes = [self._sizes[id(part)] for part in inside]
        values, levels = 1 + sum(n for n, _ in sizes), 1 + max((d for _, d in sizes), default=0)
        if values > _MOST_VALUES:
            self._refuse(f"it holds more than {_MOST_VALUES} values, aliases counted each time", mark)
        if levels > _DEEPEST:
            self._refuse(f"it is nested deeper than {_DEEPEST} levels by aliases", mark)
        if node.tag not in _TAKEN:
            self._refuse(f"a value of the type {node.tag.replace(_TAG, '!!')[:40]} has no meaning here", mark)
        self._sizes[id(node)] = (values, levels)

    def _look_at_keys(self, node: yaml.MappingNode) -> None:
        """Refuse keys that are no names, and those that stand there twice."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (f"{_TAG}str", _MERGE):
                name = str(key.value)[:40] if isinstance(key, yaml.ScalarNode) else "a list or section"
                self._refuse(f"the key {name} is no name", key.start_mark)
            if key.value in seen:
                self._refuse(f"the key '{key.value}' stands in line {seen[key.value]} too", key.start_mark)
            seen[key.value] = key.start_mark.line + 1

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Make a value of a node."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError, KeyError):
            self._refuse(f"{str(node.value)[:40]} cannot be read as what it is to be", node.start_mark)

    def _refuse(self, problem: str, mark: Any) -> Any:
        raise _Refused(problem=problem, problem_mark=mark)


def _whole(loader: _Loader, node: Any) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    return int(text, 16 if "x" in text.lower() else 10)


_REPLACED = (f"{_TAG}int", f"{_TAG}float", f"{_TAG}timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in _REPLACED]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{_TAG}float", _DECIMAL, list("-+0123456789."))
_Loader.add_implicit_resolver(f"{_TAG}int", _INTEGER, list("-+0123456789"))
_Loader.add_constructor(f"{_TAG}int", _whole)
