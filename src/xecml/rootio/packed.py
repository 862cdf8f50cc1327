"""Float16_t and Double32_t: how ROOT packs them; for arrays of these, uproot's own guess is wrong.

ROOT writes the packing into a title: `npho[4760]/[0,100,12]` of a leaf, `f[0,100,12]` in older versions, or the comment
of a class's member. A range [low, high, bits] is stored as integers of 4 bytes; [0, 0, bits] as an exponent and
a mantissa of so many bits in 3 bytes; without either, a Float16_t has 12 bits and a Double32_t is a float
(TStreamerElement's GetRange and TBufferFile's WriteFastArrayFloat16, WriteFastArrayDouble32). What is above a range is
stored as its upper end: the 1e10 of a sensor that was not measured, too.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import uproot

_LEAVES = {"TLeafF16": "Float16_t", "TLeafD32": "Double32_t"}
_MEMBERS = {uproot.const.kFloat16: "Float16_t", uproot.const.kDouble32: "Double32_t"}
_FLOAT16_BITS = 12
_FLOAT32_STEPS = 1e-6
_MOST_MANTISSA_BITS = 14
"""Of more bits without a range ROOT takes no notice."""


def packed(branch: Any) -> Any | None:
    """How uproot is to interpret a TBranch of one Float16_t or Double32_t, or an array of them; None for others.

    Args:
        branch: a TBranch of uproot.

    Returns:
        An interpretation for `branch.array`.
    """
    leaves = branch.member("fLeaves") if isinstance(branch, uproot.TBranch) else []
    if len(leaves) != 1 or branch.branches or (kind := _kind(leaves[0])) is None:
        return None
    leaf = leaves[0]
    title = leaf.member("fTitle") if leaf.classname in _LEAVES else getattr(branch.streamer, "title", "")
    content = _interpretation(kind, str(title), _dimensions(str(leaf.member("fTitle")), int(leaf.member("fLen"))))
    return content if leaf.member("fLeafCount") is None else uproot.AsJagged(content)


def upper_end(how: Any) -> float:
    """Number from which a value is at the upper end of its range, where ROOT puts all above it; infinity without one.

    Args:
        how: an interpretation of `packed`, or any other.
    """
    content = how.content if isinstance(how, uproot.AsJagged) else how
    if not isinstance(content, uproot.AsFloat16 | uproot.AsDouble32) or content.is_truncated:
        return math.inf
    span = float(content.high) - float(content.low)
    # uproot computes in float32
    return float(content.high - span * max(0.5 / 2**content.num_bits, _FLOAT32_STEPS))


def _kind(leaf: Any) -> str | None:
    if leaf.classname == "TLeafElement":
        kind = int(leaf.member("fType"))
        # an array's number is that of its items and an offset
        return _MEMBERS.get(kind - uproot.const.kOffsetL if kind > uproot.const.kOffsetL else kind)
    return _LEAVES.get(leaf.classname)


def _dimensions(title: str, length: int) -> tuple[int, ...]:
    """Shape of an entry, from the title where this agrees with the leaf's length."""
    shape = tuple(int(n) for n in re.findall(r"\[(\d+)\]", title))
    if math.prod(shape) == length:
        return shape
    return (length,) if length > 1 else ()


def _interpretation(kind: str, title: str, shape: tuple[int, ...]) -> Any:
    low, high, bits = _range(title)
    packing = uproot.AsFloat16 if kind == "Float16_t" else uproot.AsDouble32
    if low < high:
        return packing(low, high, bits, shape)
    if bits <= _MOST_MANTISSA_BITS:
        return packing(0.0, 0.0, bits, shape)
    if kind == "Float16_t":
        return packing(0.0, 0.0, _FLOAT16_BITS, shape)
    return uproot.AsDtype(np.dtype((">f4", shape)), np.dtype(("f8", shape)))


def _range(title: str) -> tuple[float, float, int]:
    """Lower and upper end and bits of the range in a title; (0, 0, 32) where there is none."""
    _, slash, after = title.partition("/[")
    # the first bracket may be a dimension; ROOT looks no further than the second
    brackets = re.findall(r"\[([^\]]*)\]", "[" + after if slash else title)
    parts = next((b.split(",") for b in brackets[:2] if "," in b), None)
    if parts is None:
        return 0.0, 0.0, 32
    bits = _number(parts[2]) if len(parts) > 2 else 32
    return _number(parts[0]), _number(parts[1]), int(bits) if 2 <= bits <= 32 else 32


def _number(text: str) -> float:
    """A number as ROOT reads it: decimal, or with pi, 2pi, twopi, pi/2, pi/4."""
    bare = text.lower().replace(" ", "")
    if "pi" in bare:
        factors = {"2pi": 2.0, "2*pi": 2.0, "twopi": 2.0, "pi/2": 0.5, "pi/4": 0.25, "pi": 1.0}
        size = math.pi * next(factor for name, factor in factors.items() if name in bare)
        return -size if "-" in bare else size
    found = re.match(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", bare)
    return float(found.group()) if found else 0.0
