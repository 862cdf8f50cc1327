"""How a failing command ends: one sentence, an exit status, no incomplete file, a traceback only if it helps.

status  1  the answer is no, or a training met numbers that are not finite
status  2  bad input: a sentence says what, where, what to do
status 70  something unexpected: the traceback is in a file, or on the terminal with --debug
status 71  out of memory
status 74  the disk is full or failed
128 + n    signal n: 129 closed terminal, 130 Ctrl-C, 143 ended by a batch system
"""

from __future__ import annotations

import errno
import os
import platform
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from xecml.errors import InputError, printable
from xecml.files import cache_dir, remove_temporaries

INPUT, UNEXPECTED, MEMORY, DISK = 2, 70, 71, 74
_ENDING = {
    "SIGINT": "interrupted (Ctrl-C)",
    "SIGTERM": "ended by SIGTERM, which batch systems send",
    "SIGHUP": "ended because its terminal was closed (SIGHUP)",
}
_NOT_HEEDED = ("SIGUSR1", "SIGUSR2")
"""A scheduler's warning that time is nearly over: a training has handlers of its own, and others may yet be done."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FAILED = (errno.EIO, errno.EROFS)
# what allocators and writers of torch say in a RuntimeError
_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")
_NOT_WRITTEN = ("PytorchStreamWriter failed", "unexpected pos")
_GRACE_S = 10.0
"""Compiled code does not hear signals; after this long the process ends without it."""
_KEPT = 20
"""Files with tracebacks in the cache folder."""


class Ended(BaseException):
    """A signal asks the command to end; everything half-written is removed on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run(command: Callable[[], object], *, debug: bool = False) -> int:
    """Run a command and return its exit status; whatever goes wrong is one sentence on standard error.

    Args:
        command: what to run; it may end by `sys.exit`.
        debug: show tracebacks instead of writing them to a file.
    """
    try:
        with _signals():
            command()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(bool(done.code))
    except BrokenPipeError:
        # the reader of our output went away, as `head` does
        sys.stderr.close()
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return _say(f"{_ENDING['SIGINT']}; nothing half-written is left", 128 + signal.SIGINT)
    except Ended as ended:
        return _say(f"{_ENDING[str(ended)]}; nothing half-written is left", 128 + ended.number)
    except BaseException as error:
        if debug:
            traceback.print_exc()
        sentence, status = _described(error)
        return _say(sentence or _unexpected(error, shown=debug), status)
    return 0


def _say(sentence: str, status: int) -> int:
    print(f"xec: {printable(sentence)}", file=sys.stderr, flush=True)
    return status


def _described(error: BaseException) -> tuple[str, int]:
    """A sentence and a status for what can be foreseen; no sentence for what cannot."""
    if isinstance(error, InputError):
        return str(error), INPUT
    if isinstance(error, FloatingPointError):
        return str(error), 1
    for cause in _causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        if isinstance(cause, MemoryError) or any(words in str(cause).lower() for words in _NO_MEMORY):
            return (
                "Out of memory; use a smaller batch (--batch, data.batch_size), a smaller data.buffer_mb or fewer "
                "--jobs, or a machine with more.",
                MEMORY,
            )
        if number in _FULL or any(words in str(cause) for words in _NOT_WRITTEN):
            where = f" at {cause.filename}" if isinstance(cause, OSError) and cause.filename else ""
            return f"The disk is full{where} (or a quota is); make room, or choose another output folder.", DISK
        if number in _FAILED:
            return f"The disk failed: {cause}; try another folder.", DISK
    return "", UNEXPECTED


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it came of."""
    seen: set[int] = set()
    left: BaseException | None = error
    while left is not None and id(left) not in seen:
        seen.add(id(left))
        yield left
        left = left.__cause__ or left.__context__


def _unexpected(error: BaseException, *, shown: bool) -> str:
    what = f"Something went wrong while running '{_command()}' ({type(error).__name__})"
    if shown:
        return f"{what}; the traceback stands above, please report it."
    try:
        file = _write_traceback(error)
    except (OSError, InputError):
        return f"{what}; run it again with --debug to see the details, and please report them."
    return f"{what}; details in {file}; please report them."


def _command() -> str:
    return " ".join(["xec", *sys.argv[1:2]])


def _write_traceback(error: BaseException) -> Path:
    """Write what a report needs to the cache folder; the oldest such files go."""
    import xecml

    folder = cache_dir() / "failures"
    folder.mkdir(exist_ok=True)
    for old in sorted(folder.glob("xec_*.txt"))[: -_KEPT + 1]:
        old.unlink(missing_ok=True)
    file = folder / f"xec_{time.strftime('%Y%m%d_%H%M%S')}_{time.time_ns() % 10**9:09d}.txt"
    versions = f"xecml {xecml.__version__}, Python {platform.python_version()}, {platform.platform()}"
    trace = "".join(traceback.format_exception(error))
    file.write_text(f"{shlex.join(sys.argv)}\n{versions}\n\n{trace}", encoding="utf-8", errors="backslashreplace")
    return file


# ------------------------------------------------------------------------------------------------------- signals


@contextmanager
def _signals() -> Iterator[None]:
    """While active, the signals that end a command raise `Ended`; the old handlers come back after.

    Compiled code hears a signal only when it returns. A thread that hears it at once waits for ten seconds, then
    removes temporary files and ends the process.
    """
    numbers = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    try:
        # what is ignored stays ignored, as under nohup
        before = {n: signal.signal(n, _raise) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
        for name in _NOT_HEEDED:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, _pass)
    except ValueError:  # not the main thread: signals are another's
        yield
        return
    listening, written = os.pipe()
    os.set_blocking(written, False)
    wakeup, done = signal.set_wakeup_fd(written, warn_on_full_buffer=False), threading.Event()
    threading.Thread(target=_listen, args=(listening, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(written)


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN if number != signal.SIGINT else signal.SIG_DFL)
    raise Ended(number)


def _pass(number: int, frame: FrameType | None) -> None:
    pass


def _listen(pipe: int, done: threading.Event) -> None:
    while heard := os.read(pipe, 1):
        number = signal.Signals(heard[0])
        # a training has handlers of its own, and ends when it has saved
        if number.name in _ENDING and signal.getsignal(number) in _OURS and not done.wait(_GRACE_S):
            remove_temporaries()
            os._exit(_say(f"{_ENDING[number.name]}; nothing half-written is left", 128 + number))
    os.close(pipe)


_OURS = (_raise, signal.SIG_IGN, signal.SIG_DFL)
