"""Memory that was freed and is needed again at once: streams of chunks take and give the same megabytes."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGEST_KEPT_BYTES = 128 << 20, 32 << 20


@cache
def keep_freed_memory() -> bool:
    """Ask the C library to keep up to 128 MB of freed memory, and say whether it does.

    A decompressed cluster is 10 MB, used once. By default glibc may give such a piece back to the system each time, and
    getting the next one, page by page, takes as long as decompressing LZ4 into it. Other C libraries are left alone.
    """
    return keep_blocks(_LARGEST_KEPT_BYTES, _KEPT_BYTES)


def keep_blocks(largest: int, in_all: int) -> bool:
    """Ask glibc to keep freed blocks of up to `largest` bytes, and `in_all` of them; say whether it does."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # either call switches off glibc's own adaptation, so both are needed
    done = [int(mallopt(name, value)) for name, value in ((_M_MMAP_THRESHOLD, largest), (_M_TRIM_THRESHOLD, in_all))]
    return done == [1, 1]
