"""ROOT files as other programs leave them, made from those of uproot: short branches, packed numbers, killed jobs."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import uproot

Arrays = Mapping[str, np.ndarray]


def write_pieces(
    path: Path,
    pieces: list[Arrays],
    entries: Mapping[str, int],
    *,
    tree_entries: int | None = None,
    edges: Mapping[str, list[int]] | None = None,
) -> None:
    """Write a tree, a basket a piece, whose branches end where `entries` says: not filled to the end of the loop.

    Args:
        path: file to write.
        pieces: arrays by branch.
        entries: branch -> entries it shall say that it has; it keeps the baskets up to there.
        tree_entries: entries that the tree shall say, if not all.
        edges: branch -> entries at which its baskets shall be said to begin.
    """
    with uproot.recreate(path, compression=None) as file:
        file.mktree("tree", {k: np.dtype((v.dtype, v.shape[1:])) for k, v in pieces[0].items()})
        for piece in pieces:
            file["tree"].extend(dict(piece))
        tree = file["tree"]._cascading
        start = tree._key.seek_location + tree._key.num_bytes
        places = {datum["fName"]: start + datum["metadata_start"] for datum in tree._branch_data}
        header = start + tree._metadata_start
        # a byte and the baskets' sizes come before the entries at which they begin, and another byte
        tables = {
            d["fName"]: start + d["basket_metadata_start"] + 2 + d["fBasketBytes"].nbytes for d in tree._branch_data
        }
    ends = np.cumsum([len(next(iter(piece.values()))) for piece in pieces])
    with path.open("r+b") as out:
        for branch, number in entries.items():
            # three numbers come before fWriteBasket and fEntryNumber; three more of the second part before fEntries
            out.seek(places[branch] + 12)
            out.write(struct.pack(">iq", int((ends <= number).sum()), number))
            out.seek(places[branch] + uproot.models.TBranch._tbranch13_format1.size + 11 + 12)
            out.write(struct.pack(">q", number))
        for branch, begins in (edges or {}).items():
            out.seek(tables[branch])
            out.write(np.array(begins, ">i8").tobytes())
        if tree_entries is not None:
            out.seek(header)
            out.write(struct.pack(">q", tree_entries))


def halves(arrays: Arrays) -> list[Arrays]:
    """Arrays in two pieces."""
    middle = len(next(iter(arrays.values()))) // 2
    return [{k: v[:middle] for k, v in arrays.items()}, {k: v[middle:] for k, v in arrays.items()}]


def not_closed(path: Path) -> None:
    """Make a file like one of a killed job: the header and the folder are those of its beginning, data lie behind."""
    content = bytearray(path.read_bytes())
    # fBEGIN, then fNbytesName: where the folder's record follows its key
    folder = struct.unpack(">i", content[8:12])[0] + struct.unpack(">i", content[28:32])[0]
    # fEND, fSeekFree, fNbytesFree, nfree of the short header; fSeekInfo, fNbytesInfo further on
    content[12:28] = struct.pack(">iiii", folder + 60, 0, 0, 0)
    content[37:45] = bytes(8)
    # fVersion, two dates, fNbytesKeys, fNbytesName, fSeekDir, fSeekParent, fSeekKeys
    content[folder + 10 : folder + 14] = bytes(4)
    content[folder + 26 : folder + 30] = bytes(4)
    path.write_bytes(content)


def autosaved(path: Path, *, more: int = 4096) -> None:
    """Make a file like one whose trees were saved in between, with baskets behind them that no tree knows of."""
    with path.open("ab") as file:
        file.write(bytes(more))


class _Titled(str):
    """A branch's name that gives its leaf a title of some length."""

    title: str

    def __add__(self, other: str) -> str:
        return self.title


def write_packed(path: Path, columns: Mapping[str, tuple[str, str, int, np.ndarray]], others: Arrays) -> None:
    """Write a tree with branches of Float16_t and Double32_t beside others.

    Args:
        path: file to write.
        columns: branch -> (TLeafF16 or TLeafD32, title of the leaf, numbers an entry, their bytes (N, ...)).
        others: further branches.
    """
    names: dict[str, _Titled] = {}
    for branch, (leaf, title, _, _) in columns.items():
        names[branch] = _Titled(branch)
        # as much longer as the other class is: its name by two, its limits by four or six
        names[branch].title = title + "_" * (6 if leaf == "TLeafF16" else 8)
    with uproot.recreate(path, compression=None) as file:
        types = {names[b]: np.dtype(("u1", data.shape[1:])) for b, (*_, data) in columns.items()}
        file.mktree("tree", types | {k: np.dtype((v.dtype, v.shape[1:])) for k, v in others.items()})
        file["tree"].extend({b: data for b, (*_, data) in columns.items()} | dict(others))
    content = path.read_bytes()
    for branch, (leaf, title, length, _) in columns.items():
        old = b"TLeafB\0"
        # name and title of the leaf, with their lengths
        before = b"".join(bytes([len(text)]) + text.encode() for text in (branch, names[branch].title))
        begin = content.rindex(old, 0, content.index(before))
        end = content.index(before) + len(before) + 14 + 4 + 2
        content = content[:begin] + _leaf(leaf, branch, title, length) + content[end:]
    assert len(content) == path.stat().st_size
    path.write_bytes(content)


def _leaf(kind: str, name: str, title: str, length: int) -> bytes:
    """A leaf as ROOT writes it: TNamed, TLeaf, and its limits."""
    texts = b"".join(bytes([len(text)]) + text.encode() for text in (name, title))
    named = _counted(1, struct.pack(">HII", 1, 0, 0x03000000) + texts)
    leaf = _counted(2, named + struct.pack(">iii??i", length, 4 if kind == "TLeafF16" else 8, 0, False, False, 0))
    return kind.encode() + b"\0" + _counted(1, leaf + bytes(6 if kind == "TLeafF16" else 8))


def _counted(version: int, content: bytes) -> bytes:
    return struct.pack(">IH", (len(content) + 2) | 0x40000000, version) + content


def pack_range(values: np.ndarray, low: float, high: float, bits: int) -> np.ndarray:
    """Bytes (N, 4 M) of numbers (N, M) that ROOT packs as integers in a range."""
    factor = (2**bits if bits < 32 else 0xFFFFFFFF) / (high - low)
    return (0.5 + factor * (np.clip(values.astype("f8"), low, high) - low)).astype(">u4").view("u1")


def pack_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """Bytes (N, 3 M) of numbers (N, M) that ROOT packs as an exponent and a rounded mantissa."""
    words = values.astype("f4").view("u4").astype(np.int64)
    mantissa = (((1 << (bits + 1)) - 1) & (words >> (22 - bits))) + 1 >> 1
    mantissa = np.where(mantissa & (1 << bits), (1 << bits) - 1, mantissa) | np.where(values < 0, 1 << (bits + 1), 0)
    out = np.empty((*values.shape, 3), "u1")
    out[..., 0], out[..., 1], out[..., 2] = words >> 23 & 0xFF, mantissa >> 8 & 0xFF, mantissa & 0xFF
    return out.reshape(len(values), -1)
