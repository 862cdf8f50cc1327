"""Any branch of a tree by the name that physicists know, as numbers with the lengths of its lists.

A branch of the same content comes in many forms: as an array of fixed or variable length, as a `std::vector`, of
vectors too, as a member of split objects, alone or in a TClonesArray, as a leaf of several, as a field of an RNTuple.
Here all of them are numbers and, level by level, how many belong together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from xecml.errors import InputError
from xecml.rootio.treereader import TreeReader

_SHAPE = re.compile(r"(\[\w*\])+$")


@dataclass(frozen=True)
class Nested:
    """Numbers of N entries.

    Attributes:
        values: (M, ...): all numbers, of a fixed shape each.
        lengths: how many belong together: of each entry (N,), then of each of its parts, and so on; where there are
            none, M is N.
    """

    values: NDArray[Any]
    lengths: tuple[NDArray[np.int64], ...] = ()

    @property
    def entries(self) -> int:
        """Number N of entries."""
        return len(self.lengths[0]) if self.lengths else len(self.values)

    @property
    def axes(self) -> int:
        """Axes of one entry: 0 of a number, 1 of a list or array, 2 of a list of lists."""
        return len(self.lengths) + self.values.ndim - 1

    def form(self) -> str:
        """What an entry is, for messages: `number`, `4760 numbers`, `list of 3 numbers`."""
        fixed = " x ".join(map(str, self.values.shape[1:]))
        inside = f"{fixed} numbers" if fixed else "numbers" if self.lengths else "a number"
        return ("a list of " + "lists of " * (len(self.lengths) - 1) if self.lengths else "") + inside


@dataclass(frozen=True)
class Place:
    """Where in a tree something is: a branch, and what of its records.

    Attributes:
        branch: name in the file, with the way to it.
        fields: of records, one in the other; none of most branches.
    """

    branch: str
    fields: tuple[str, ...] = ()


class BranchFinder:
    """Finds branches of a tree by name: `xeccl.npho` is the member of split objects however ROOT called its branch.

    That may be `xeccl/xeccl.npho`, `xeccl./npho`, or `xeccl.npho[4760]`: a shape in a name is no part of it.
    """

    def __init__(self, reader: TreeReader) -> None:
        self._reader = reader
        self._by_name: dict[str, list[str]] = {}
        for branch in sorted(reader.in_file):
            for name in {_dotted(branch), _bare(_dotted(branch))}:
                self._by_name.setdefault(name, []).append(branch)

    @property
    def names(self) -> list[str]:
        """The names of all branches, without their shapes."""
        return sorted({_bare(name) for name in self._by_name})

    def find(self, name: str) -> Place | None:
        """Where something of a name is; None if it is nowhere.

        Raises:
            InputError: several branches are called so.
        """
        if self._reader.has(name):
            return Place(name)
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            head = ".".join(parts[:end])
            found = self._by_name.get(head) or self._by_name.get(_bare(head)) or []
            if len(found) > 1:
                raise InputError(
                    f"{self._reader.path}: '{name}' may be {' or '.join(found)}; write the one that you mean."
                )
            if found and (end == len(parts) or self._has_fields(found[0], parts[end:])):
                return Place(found[0], tuple(_bare(part) for part in parts[end:]))
        return None

    def _has_fields(self, branch: str, fields: list[str]) -> bool:
        try:
            values = self._reader.stored(branch, 0, 0)
        except InputError:  # whole objects, which need their own code
            return False
        for field in fields:
            if isinstance(values, np.ndarray) or _bare(field) not in ak.fields(values):
                return False
            values = values[_bare(field)]
        return True

    def nested(self, place: Place, start: int, stop: int) -> Nested:
        """Numbers of events `start` to `stop`; they may be a view of the file in its byte order.

        Raises:
            InputError: it holds no numbers, or cannot be read.
        """
        if not place.fields and (behind := self._reader.behind_pointers(place.branch, start, stop)) is not None:
            return Nested(behind[2], (behind[0], behind[1]))
        values = self._reader.stored(place.branch, start, stop)
        for field in place.fields:
            values = values[field]
        found = values if isinstance(values, np.ndarray) else _peeled(values)
        nested = Nested(found) if isinstance(found, np.ndarray) else found
        if nested is None or nested.values.dtype.kind not in "fiub":
            raise InputError(
                f"{self._reader.path}: '{'.'.join([place.branch, *place.fields])}' holds no numbers; name a branch "
                "of numbers, or of lists of them."
            )
        return nested


def _dotted(branch: str) -> str:
    """The name of a branch without the way to it: `xeccl/xeccl.npho` and `xeccl./npho` are `xeccl.npho`."""
    name = ""
    for part in branch.split("/"):
        parent = _bare(name.rstrip("."))
        name = part if not parent or part.startswith(f"{parent}.") else f"{parent}.{part}"
    return name


def _bare(name: str) -> str:
    """A name without the shape that stands in it."""
    return _SHAPE.sub("", name)


def _peeled(array: Any) -> Nested | None:
    """Numbers in lists; None if something else is in there."""
    layout, lengths = ak.to_packed(array).layout, []
    while isinstance(layout, ak.contents.ListOffsetArray) and "__array__" not in layout.parameters:
        offsets = np.asarray(layout.offsets.data, np.int64)
        lengths.append(np.diff(offsets))
        layout = layout.content[int(offsets[0]) : int(offsets[-1])]
    try:
        values = ak.to_numpy(layout, allow_missing=False)
    except (ValueError, TypeError):
        return None
    return None if values.dtype.names else Nested(values, tuple(lengths))
