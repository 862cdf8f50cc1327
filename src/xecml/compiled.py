"""The compiler's options, in one place.

numba turns the decorated functions into machine code at their first call and keeps it on disk. `nogil` lets threads
run them side by side; the error model of numpy (no exception at a division by zero) is what vector instructions need.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numba

# numba's own types do not know all of its options
_njit: Any = numba.njit
_Function = TypeVar("_Function", bound=Callable[..., Any])
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}


def compiled(function: _Function) -> _Function:
    """Compile a function that Python may call."""
    result: _Function = _njit(**_OPTIONS)(function)
    return result


def inner(function: _Function) -> _Function:
    """Compile a function that only compiled functions call; this spares the compiler a wrapper."""
    result: _Function = _njit(no_cpython_wrapper=True, **_OPTIONS)(function)
    return result


def vectorised(function: _Function) -> _Function:
    """Compile a function whose sums may be reordered, so that loops become vector instructions."""
    result: _Function = _njit(fastmath=True, no_cpython_wrapper=True, **_OPTIONS)(function)
    return result


def fast(function: _Function) -> _Function:
    """Compile a function that Python may call and whose sums may be reordered; what is no number stays none."""
    result: _Function = _njit(fastmath={"reassoc", "contract", "arcp", "nsz"}, **_OPTIONS)(function)
    return result


def side_by_side(work: Callable[[slice], None], events: int, threads: int, block: int = 64) -> None:
    """Do work that lets go of the interpreter on blocks of events, in some threads; one needs none beside it.

    Args:
        work: takes the events of a block, as a slice.
        events: number of them.
        threads: at the same time.
        block: events of a block.
    """
    blocks = [slice(start, min(start + block, events)) for start in range(0, events, block)]
    if threads <= 1 or len(blocks) < 2:
        for one in blocks:
            work(one)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, blocks))
