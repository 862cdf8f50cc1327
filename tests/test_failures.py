"""How commands end that cannot go on: one sentence, a status, nothing half-written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xecml import files
from xecml.cli import failures
from xecml.cli.failures import run
from xecml.errors import InputError
from xecml.files import atomic_path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XECML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["xec", "predict", "a.root"])
    return tmp_path / "cache"


def _raising(error: BaseException) -> Callable[[], object]:
    def command() -> None:
        raise error

    return command


def _torch_memory() -> RuntimeError:
    return RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ...")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InputError("No such file: a.root; check the path."), 2, "No such file: a.root"),
        (FloatingPointError("loss is not finite"), 1, "loss is not finite"),
        (MemoryError(), 71, "Out of memory; use a smaller batch"),
        (_torch_memory(), 71, "Out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 71, "Out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/out.root"), 74, "disk is full at /data/out.root"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 74, "make room"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 4096 vs 3990"), 74, "disk is full"),
        (KeyboardInterrupt(), 130, "interrupted (Ctrl-C)"),
        (failures.Ended(signal.SIGTERM), 143, "ended by SIGTERM"),
        (failures.Ended(signal.SIGHUP), 129, "terminal was closed"),
    ],
)
def test_what_can_be_foreseen_is_one_sentence(
    error: BaseException, status: int, words: str, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    assert run(_raising(error)) == status
    said = capsys.readouterr().err
    assert said.startswith("xec: ")
    assert words in said
    assert said.count("\n") == 1
    assert not cache.exists()


def test_a_full_disk_is_seen_behind_the_error_of_a_library(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("basket was not written") from error

    assert run(command) == 74
    assert "disk is full" in capsys.readouterr().err


def test_the_unexpected_is_one_sentence_and_its_traceback_a_file(
    capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    assert run(_raising(KeyError("n_tried"))) == 70
    said = capsys.readouterr().err
    (file,) = (cache / "failures").iterdir()
    expected = f"Something went wrong while running 'xec predict' (KeyError); details in {file}; please report them."
    assert said == f"xec: {expected}\n"
    text = file.read_text()
    assert text.startswith("xec predict a.root\nxecml ")
    assert "Traceback" in text
    assert "KeyError: 'n_tried'" in text


def test_debug_shows_the_traceback_and_writes_no_file(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    assert run(_raising(KeyError("n_tried")), debug=True) == 70
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("the traceback stands above, please report it.\n")
    assert not cache.exists()


def test_without_a_cache_folder_the_sentence_says_how_to_see_more(
    capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    cache.write_text("a file")
    assert run(_raising(KeyError("n_tried"))) == 70
    assert "run it again with --debug" in capsys.readouterr().err


def test_old_tracebacks_go(cache: Path) -> None:
    for _ in range(3):
        run(_raising(KeyError("first")))
    folder = cache / "failures"
    for i in range(30):
        (folder / f"xec_2001_{i:02d}.txt").write_text("old")
    run(_raising(KeyError("last")))
    left = sorted(path.name for path in folder.iterdir())
    assert len(left) == failures._KEPT
    assert left[0] == "xec_2001_14.txt"


def test_messages_stay_one_line_whatever_a_name_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(_raising(InputError("No such file: a\nb\x1b[31m\udcff.root"))) == 2
    assert capsys.readouterr().err == "xec: No such file: a\\nb\\x1b[31m\\udcff.root\n"


@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1), (None, 0), (75, 75)])
def test_a_command_may_choose_its_status(code: int | None, status: int) -> None:
    assert run(_raising(SystemExit(code))) == status


def test_handlers_of_signals_come_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert run(lambda: None) == 0
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no such signals")
def test_a_schedulers_warning_ends_no_command() -> None:
    """A prediction that is warned five minutes before its limit may yet be done in time."""
    before = signal.getsignal(signal.SIGUSR1)
    heard: list[int] = []

    def command() -> None:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            os.kill(os.getpid(), number)
            heard.append(number)

    assert run(command) == 0
    assert heard == [signal.SIGUSR1, signal.SIGUSR2]
    assert signal.getsignal(signal.SIGUSR1) == before


# ---------------------------------------------------------------------------------------------- real processes

_WRITING = """
import sys, time
from xecml.cli import failures
from xecml.files import atomic_path
failures._GRACE_S = 0.5

def command():
    with atomic_path(sys.argv[1] + "/out.root") as path:
        path.write_text("half")
        print("writing", flush=True)
        {wait}

sys.exit(failures.run(command))
"""
_SLEEPING = "time.sleep(60)"
# a lock that is taken twice in C hears no signal, as compiled code does not
_DEAF = (
    "import ctypes; lock = ctypes.create_string_buffer(64); "
    "[ctypes.CDLL(None).pthread_mutex_lock(lock) for _ in range(2)]"
)


def _started(folder: Path, wait: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITING.format(wait=wait), str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGTERM, "ended by SIGTERM"),
        (signal.SIGHUP, "terminal was closed"),
        (signal.SIGINT, "interrupted (Ctrl-C)"),
    ],
)
def test_a_signal_ends_a_command_and_leaves_nothing(tmp_path: Path, number: signal.Signals, words: str) -> None:
    process = _started(tmp_path, _SLEEPING)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert said.startswith("xec: ")
    assert words in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_compiled_code_that_hears_no_signal_is_ended_too(tmp_path: Path) -> None:
    process = _started(tmp_path, _DEAF)
    time.sleep(1)  # until it is in the lock
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "ended by SIGTERM" in said
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = _started(tmp_path, _SLEEPING)
    process.kill()
    process.communicate(timeout=30)
    (left,) = tmp_path.iterdir()
    monkeypatch.setattr(files, "_SWEPT", set())
    # of this process, of another machine, and the user's own: all stay
    others = [f".out.xec-{files._host()}-{os.getpid()}.abc.root", f".out.xec-elsewhere-{process.pid}.abc.root", ".own"]
    for name in others:
        (tmp_path / name).write_text("x")
    with atomic_path(tmp_path / "out.root") as path:
        path.write_text("whole")
    assert not left.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "out.root"])


def test_a_long_name_is_written_atomically_too(tmp_path: Path) -> None:
    name = "x" * 245 + ".root"
    with atomic_path(tmp_path / name) as path:
        path.write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["x" * 300 + ".root", "a\0b.root"])
def test_an_impossible_name_is_refused(tmp_path: Path, name: str) -> None:
    def write() -> Any:
        with atomic_path(tmp_path / name) as path:
            path.write_text("whole")

    with pytest.raises(InputError, match="choose another output path"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_the_backend_of_a_notebook_is_no_matter() -> None:
    """A notebook hands its backend to the commands that it runs, in whose environment it need not be installed."""
    code = (
        "import atexit, sys\n"
        "from xecml.cli import main\n"
        "atexit.register(lambda: print(__import__('matplotlib').get_backend()))\n"
        "sys.argv = ['xec', '--version']\n"
        "main()\n"
    )
    environment = os.environ | {"MPLBACKEND": "module://of_a_notebook.backend"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["agg"]), done.stderr
