"""Reading, computing and writing at the same time, each in separate threads, in order, with short queues."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

from xecml import cpu_load

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 2
"""Items that are read before a thread is free to compute with them."""


_JOBS_OF_A_GPU = 4


def workers(model: object, jobs: int | None = None) -> int:
    """Threads that compute with a model side by side.

    Args:
        model: a trained model or a repair.
        jobs: as many as asked for; by default as many as cores are free, of a GPU a few that keep it busy, and one of a
            model that has threads of its own.
    """
    if jobs is None and getattr(model, "own_threads", False):
        return 1
    found = cpu_load.jobs(jobs)
    return min(found, _JOBS_OF_A_GPU) if jobs is None and getattr(model, "device", "cpu") == "cuda" else found


class _Failed(NamedTuple):
    error: BaseException


def in_order(
    items: Iterator[Item],
    work: Callable[[Item], Result],
    *,
    workers: int,
    begin: Callable[[], None] | None = None,
) -> Generator[Result]:
    """What `work` makes of each item, in the order of the items.

    Items are drawn in one thread, `work` runs in others, and who asks for the results does as he likes meanwhile. At
    most `workers` + `AHEAD` items and results wait at a time, so that memory does not grow with their number. What goes
    wrong in any thread is raised here, at its place in the order; all threads have ended when this has ended, whatever
    the reason.

    Args:
        items: closed in its own thread, where it is a generator.
        work: made of Python that lets others run, as numpy and PyTorch do.
        workers: threads for `work`.
        begin: called first in each of them.
    """
    ended, room = threading.Event(), threading.Semaphore(workers + AHEAD)
    line: SimpleQueue[Future[Result] | _Failed | None] = SimpleQueue()
    pool = ThreadPoolExecutor(workers, "compute", initializer=begin)

    def draw() -> None:
        try:
            while room.acquire() and not ended.is_set():
                line.put(pool.submit(work, next(items)))
        except StopIteration:
            line.put(None)
        except BaseException as error:  # whatever it is, it belongs to who asks
            line.put(_Failed(error))
        finally:
            if close := getattr(items, "close", None):
                close()

    reader = threading.Thread(target=draw, name="read", daemon=True)
    reader.start()
    try:
        while (found := line.get()) is not None:
            if isinstance(found, _Failed):
                raise found.error
            result = found.result()
            del found  # it holds the result as long as it lives
            room.release()
            yield result
    finally:
        ended.set()
        room.release()
        pool.shutdown(wait=True, cancel_futures=True)
        reader.join()
