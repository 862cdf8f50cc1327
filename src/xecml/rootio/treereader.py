"""One open tree, read by entry range: branches as long as their tree, in the vocabulary's types and shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import uproot
from numpy.typing import NDArray

from xecml.errors import InputError, nearest
from xecml.events import BRANCHES, ID_BRANCHES, INVALID, SENSOR_BRANCHES, Chunk, relative_quantities
from xecml.files import is_url
from xecml.rootio.opening import forget_pages, listing, readable
from xecml.rootio.packed import packed, upper_end
from xecml.rootio.pointers import Held, Pointers, as_lists, pointers, unpacked

_MANY_BASKETS = 8
"""Above this number a range is read by uproot as a whole, in one request, and not basket by basket."""
_MOST_EVENTS = 2**31
"""So many have numbers of 32 bits; more is damage, and would fill the memory with ranges to read."""


class _Numbers(uproot.AsDtype):  # type: ignore[misc]
    """Numbers of a fixed shape. Of a basket of one entry uproot would make as many as the tree promises."""

    def final_array(self, basket_arrays: Any, start: int, stop: int, edges: Any, *more: Any) -> Any:
        for index, values in basket_arrays.items():
            _check_basket(index, len(values), edges)
        return super().final_array(basket_arrays, start, stop, edges, *more)


class _Source(NamedTuple):
    """Where a branch is read from.

    Attributes:
        found: uproot's TBranch, or field of an RNTuple.
        how: uproot's interpretation; none of a field.
        edges: entries at which baskets begin, and the number of entries; empty of a field.
    """

    found: Any
    how: Any
    edges: NDArray[np.int64]


class TreeReader:
    """An open tree: its branches, its number of events, and its arrays by entry range; threads may share it.

    Args:
        path: file name or URL, for messages.
        tree: uproot's TTree or RNTuple.
        names: canonical name -> name in the file, for branches under other names.
        lost_bytes: bytes of the file that no tree knows of, since it was not closed.

    Raises:
        InputError: the tree's number of entries is impossible.
    """

    def __init__(self, path: str, tree: Any, names: Mapping[str, str], lost_bytes: int = 0) -> None:
        self.path, self.lost_bytes = path, lost_bytes
        self._tree, self._names = tree, dict(names)
        with readable(path):
            self.tree_name, self.n_events = str(tree.name), int(tree.num_entries)
            # an RNTuple lists the parts of a field too: x and x._0
            self.in_file = frozenset(k for k in tree.keys() if "." not in k or isinstance(tree, uproot.TTree))
        if not 0 <= self.n_events <= _MOST_EVENTS:
            raise InputError(f"{path} is damaged: the tree '{self.tree_name}' claims {self.n_events} entries.")
        if not self.n_events and (filled := self.uneven()):
            name, entries = next(iter(filled.items()))
            raise InputError(
                f"{path}: '{name}' has {entries} entries but its tree '{self.tree_name}' none, as when branches are "
                "filled one by one; call SetEntries() of the tree before it is written."
            )
        self._sources_of: dict[str, _Source] = {}
        self._held: Held = {}
        self._baskets: dict[str, tuple[int, NDArray[Any]]] = {}

    def has(self, branch: str) -> bool:
        """Whether the file holds the branch, under its canonical or its mapped name."""
        return self._name(branch) in self.in_file

    def is_jagged(self, branch: str) -> bool:
        """Whether entries of a branch have lengths of their own, as far as the file says so without being read."""
        with readable(self.path):
            return isinstance(_interpretation(self.path, self._tree[self._name(branch)]), uproot.AsJagged | Pointers)

    def known(self) -> list[str]:
        """Branches of the event vocabulary that the file holds."""
        return [b for b in BRANCHES if self.has(b)]

    def uneven(self) -> dict[str, int]:
        """Entries of those branches, by name in the file, that have more or fewer than the tree."""
        if not isinstance(self._tree, uproot.TTree):
            return {}
        with readable(self.path):
            entries = {name: int(b.num_entries) for name, b in self._tree.items() if not b.branches}
        return {name: number for name, number in entries.items() if number != self.n_events}

    def arrays(self, branches: Sequence[str], start: int, stop: int) -> Chunk:
        """Read branches of the events `start` to `stop`, in the vocabulary's types and shapes.

        `relative_npho` and `relative_time` are derived where the file lacks them. A number that float32 cannot hold
        becomes infinite, which is no measurement and no truth; of sensors, what is at the upper end of a packed range
        was not measured.

        Raises:
            InputError: a branch is missing, is not as long as its tree or of another shape, or the file is damaged.
        """
        stored, derived = self._stored_and_derived(branches)
        chunk = {b: self._converted(b, self._values(b, start, stop)) for b in stored}
        if derived:
            relative = relative_quantities(chunk["npho"], chunk["time"], chunk.get("nphe"))
            chunk |= dict(zip(("relative_npho", "relative_time"), relative, strict=True))
        return {b: chunk[b] for b in branches}

    def raw(self, branch: str, start: int, stop: int) -> NDArray[Any]:
        """Events `start` to `stop` of one branch, in the vocabulary's shape but the file's byte order where it can.

        Unlike `arrays` this may be a view of decompressed data; it is valid while the file is open.
        """
        if not self.has(branch):
            return self.arrays([branch], start, stop)[branch]
        values, wanted = self._values(branch, start, stop), BRANCHES[branch]
        as_it_is = isinstance(self._source(branch).how, _Numbers) and values.shape[1:] == wanted.shape
        if as_it_is and values.dtype.newbyteorder("=") == wanted.dtype:
            return np.asarray(values)
        return self._converted(branch, values)

    def stored(self, branch: str, start: int, stop: int) -> Any:
        """Events `start` to `stop` of a branch as it is: an array of a fixed shape, or awkward's lists or records.

        An array may be a view of decompressed data, in the file's byte order; it is valid while the file is open.

        Raises:
            InputError: the branch is missing, not as long as its tree, of a type that cannot be read, or damaged.
        """
        self._stored_and_derived([branch])
        return self._values(branch, start, stop)

    def unchanged(self, branch: str, start: int, stop: int) -> NDArray[Any]:
        """Events `start` to `stop` of a branch of numbers in its own type and shape, as a new array.

        Raises:
            InputError: as `stored` does; or it holds no numbers, or lists of different lengths.
        """
        values = self.stored(branch, start, stop)
        if not isinstance(values, np.ndarray) and not self.is_jagged(branch):
            with suppress(ValueError, TypeError):  # lists, records, text: said below
                values = np.asarray(ak.to_numpy(values, allow_missing=False))
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
            raise InputError(
                f"{self.path}: '{branch}' does not hold numbers of one shape for every event, so it cannot be passed "
                "through as it is; leave it out."
            )
        return np.array(values, values.dtype.newbyteorder("="), order="C")

    def forget_pages(self) -> None:
        """Give back the memory of what was read; in a long file it would grow to the length of the file."""
        forget_pages(getattr(self._tree, "file", None))

    def behind_pointers(self, branch: str, start: int, stop: int) -> tuple[NDArray[Any], ...] | None:
        """What `xecml.rootio.pointers.unpacked` gives of a branch of arrays behind pointers; None of any other.

        Raises:
            InputError: as `stored` does.
        """
        self._stored_and_derived([branch])
        source = self._source(branch)
        with readable(self.path):
            return self._behind(source, start, stop) if isinstance(source.how, Pointers) else None

    def boundaries(self, branches: Sequence[str]) -> list[int]:
        """Entries from 0 to the number of events between which every branch is stored in whole baskets."""
        edges: set[int] | None = None
        for branch in self._stored_and_derived(branches)[0]:
            own = self._source(branch).edges.tolist()
            if len(own) > 1:  # a branch without baskets has its entries elsewhere
                edges = set(own) if edges is None else edges.intersection(own)
        return sorted((edges or set()) | {0, self.n_events})

    # ----------------------------------------------------------------------------------------- where to read from

    def _name(self, branch: str) -> str:
        return self._names.get(branch, branch)

    def _stored_and_derived(self, branches: Sequence[str]) -> tuple[list[str], list[str]]:
        """Branches to read for those asked for, and those of them to be derived."""
        missing = [b for b in branches if not self.has(b)]
        derived = [b for b in missing if b.startswith("relative_") and self.has("npho") and self.has("time")]
        if len(derived) < len(missing):
            name = self._name(next(b for b in missing if b not in derived))
            raise InputError(
                f"{self.path} has no branch '{name}' in '{self.tree_name}'{nearest(name, self.in_file)}; "
                f"it has {listing(self.in_file)}."
            )
        needed = {b for b in branches if b not in derived}
        needed |= {"npho", "time"} | ({"nphe"} if self.has("nphe") else set()) if derived else set()
        return sorted(needed), derived

    def _source(self, branch: str) -> _Source:
        """Where a branch is read from; it is as long as its tree."""
        if branch not in self._sources_of:
            name = self._name(branch)
            with readable(self.path):
                found = self._tree[name]
                entries = int(found.num_entries)
            if entries != self.n_events:
                raise InputError(
                    f"{self.path}: '{name}' has {entries} entries of the tree's {self.n_events}, so that its values "
                    "belong to no event for certain; fill it with every event, or write the file without it."
                )
            with readable(self.path):
                how, edges = _interpretation(self.path, found), np.array(getattr(found, "entry_offsets", []), np.int64)
                if len(edges) and (edges[0] != 0 or edges[-1] != self.n_events or (np.diff(edges) < 0).any()):
                    raise ValueError(f"the baskets of '{name}' do not follow one another")
            self._sources_of[branch] = _Source(found, how, edges)
        return self._sources_of[branch]

    # ---------------------------------------------------------------------------------------------------- reading

    def _values(self, branch: str, start: int, stop: int) -> Any:
        """Entries of a branch: of numbers of a fixed shape in the file's byte order, else an array of awkward."""
        source, name = self._source(branch), self._name(branch)
        with readable(self.path):
            if isinstance(source.how, _Numbers):
                values = self._numbers(branch, source, start, stop)
            elif isinstance(source.how, Pointers):
                values = as_lists(*self._behind(source, start, stop))
            elif source.how is not None:
                values = source.found.array(source.how, start, stop)
            else:
                values = self._tree.arrays([name], entry_start=start, entry_stop=stop)[name]
            if len(values) != stop - start:
                raise ValueError(f"'{name}' has {len(values)} entries from {start} to {stop}")
        return values

    def _behind(self, source: _Source, start: int, stop: int) -> tuple[NDArray[Any], ...]:
        return unpacked(self._tree, source.found, source.how, start, stop, self._held)

    def _converted(self, branch: str, values: Any) -> NDArray[Any]:
        array = as_vocabulary(self.path, branch, values)
        if branch in SENSOR_BRANCHES and (end := upper_end(self._source(branch).how)) < np.inf:
            array[array >= np.float32(end)] = INVALID
        return array

    def _numbers(self, branch: str, source: _Source, start: int, stop: int) -> NDArray[Any]:
        """Entries in the file's byte order, joined from their baskets where these are several."""
        edges = source.edges
        first, last = int(np.searchsorted(edges, start, "right")) - 1, int(np.searchsorted(edges, stop, "left"))
        if last - first > _MANY_BASKETS or start >= stop or is_url(self.path):
            whole: NDArray[Any] = source.found.array(source.how, start, stop, library="np")
            return whole
        parts = [
            self._basket(branch, source, i, stop)[max(start - int(edges[i]), 0) : stop - int(edges[i])]
            for i in range(first, last)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _basket(self, branch: str, source: _Source, index: int, stop: int) -> NDArray[Any]:
        """A decompressed basket; kept for the next call if it goes on beyond `stop`."""
        held, values = self._baskets.get(branch, (-1, np.empty(0)))
        if held != index:
            basket = source.found.basket(index)
            dtype, shape = source.how.from_dtype, source.how.from_dtype.shape
            values = basket.data.view(dtype.base).reshape(basket.num_entries, *shape)
            _check_basket(index, len(values), source.edges)
        if source.edges[index + 1] > stop:
            self._baskets[branch] = (index, values)
        elif held == index:
            self._baskets.pop(branch, None)
        return values


def _interpretation(path: str, found: Any) -> Any:
    """How a TBranch is read; None for a field of an RNTuple.

    Raises:
        InputError: it is of a type that uproot does not know.
    """
    if not isinstance(found, uproot.TBranch):
        return None
    if (how := packed(found)) is not None:
        return how
    if (behind := pointers(found)) is not None:
        return behind
    how = _in_shape(found, found.interpretation)
    if isinstance(how, Exception):
        raise InputError(f"{path}: '{found.name}' is of a type that cannot be read; write it as numbers.") from how
    if type(how) is uproot.AsDtype and how.from_dtype.names is None:
        return _Numbers(how.from_dtype, how.to_dtype)
    return how


def _in_shape(found: Any, how: Any) -> Any:
    """An interpretation with the shape that the leaf's length tells.

    Of a branch `xyz[3]`, a name with a shape in it, the leaf's title may be `xyz[3][3]`, and uproot takes all of that
    for the shape.
    """
    content = how.content if isinstance(how, uproot.AsJagged) else how
    leaves = found.member("fLeaves") if type(content) is uproot.AsDtype and not found.branches else []
    if len(leaves) != 1 or content.from_dtype.names is not None:
        return how
    shape, length = content.from_dtype.shape, int(leaves[0].member("fLen"))
    right = next((shape[i:] for i in range(len(shape) + 1) if math.prod(shape[i:]) == length), shape)
    if right == shape:
        return how
    mended = uproot.AsDtype(*(np.dtype((kind.base, right)) for kind in (content.from_dtype, content.to_dtype)))
    return uproot.AsJagged(mended, how.header_bytes) if isinstance(how, uproot.AsJagged) else mended


def _check_basket(index: int, entries: int, edges: Sequence[int] | NDArray[np.int64]) -> None:
    promised = edges[index + 1] - edges[index]
    if entries != promised:
        raise ValueError(f"basket {index} has {entries} entries, not {promised}")


def as_vocabulary(path: str, branch: str, values: Any) -> NDArray[Any]:
    """Values of a branch as a new array in its type and shape by the vocabulary, or its own if it is not of it.

    Raises:
        InputError: entries of different lengths or another shape, or whole numbers that do not fit.
    """
    try:
        array = values if isinstance(values, np.ndarray) else np.asarray(ak.to_numpy(values, allow_missing=False))
    except ValueError as error:
        raise InputError(f"{path}: '{branch}' has entries of different lengths; {_shape_hint(branch)}") from error
    if branch not in BRANCHES:
        return np.array(array, array.dtype.newbyteorder("="), order="C")
    wanted = BRANCHES[branch]
    if wanted.shape == () and array.shape[1:] == (1,):
        array = array[:, 0]
    if array.shape == (0, 0):  # jagged arrays of no events do not show their length
        array = np.empty((0, *wanted.shape), wanted.dtype)
    if array.shape[1:] != wanted.shape or array.dtype.kind not in "fiub":
        raise InputError(
            f"{path}: '{branch}' has shape {array.shape[1:]} and type {array.dtype}; {_shape_hint(branch)}"
        )
    if np.dtype(wanted.dtype).kind == "i":
        _check_whole(path, branch, array)
    with np.errstate(over="ignore"):
        # a copy in any case: baskets are views of what may be closed or read-only
        return np.array(array, wanted.dtype, order="C")


def _check_whole(path: str, branch: str, values: NDArray[Any]) -> None:
    """Whether values are whole numbers that the branch's type holds."""
    kind = np.dtype(BRANCHES[branch].dtype)
    bounds = np.iinfo(kind)
    fits = (values >= bounds.min) & (values <= bounds.max)  # not so NaN
    if values.dtype.kind == "f":
        fits &= values == np.trunc(values)
    if not fits.all():
        raise InputError(
            f"{path}: '{branch}' reaches {values[~fits][0]}, which {kind} does not hold; number the events anew."
            if branch in ID_BRANCHES
            else f"{path}: '{branch}' holds {values[~fits][0]}, which is no {kind}; mend or leave out these events."
        )


def _shape_hint(branch: str) -> str:
    if branch not in BRANCHES:
        return "name a branch of fixed length."
    wanted = BRANCHES[branch]
    return f"it must be {np.dtype(wanted.dtype).name} of shape {wanted.shape} an event."
