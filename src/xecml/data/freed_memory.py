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
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # either call switches off glibc's own adaptation, so both are needed
    settings = ((_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES), (_M_TRIM_THRESHOLD, _KEPT_BYTES))
    done = [int(mallopt(name, value)) for name, value in settings]
    return done == [1, 1]
