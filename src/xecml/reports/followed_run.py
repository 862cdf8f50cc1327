"""Each new checkpoint of a run evaluated while it trains: a folder an epoch, and a table of all of them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xecml.errors import InputError
from xecml.files import atomic_path, is_folder
from xecml.inference import checkpoint_reading
from xecml.outputs import making, mark

FOLLOWED = "follow.json"
_LOOK_S = 5.0
_DONE = ("evaluation.json", "repair.json")

Evaluate = Callable[[Path, Path], dict[str, Any]]
"""Evaluates a checkpoint into a folder, and returns the numbers of its epoch by name."""


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint as it stands.

    Attributes:
        path: of it.
        epochs: whole ones that it has behind it.
        finished: whether its training has no more.
    """

    path: Path
    epochs: int
    finished: bool


@making("evaluate")
def follow(
    run: str | Path,
    out: str | Path,
    evaluate: Evaluate,
    *,
    patience_s: float = 3600.0,
    say: Callable[[str], None] = print,
    look_s: float = _LOOK_S,
) -> list[dict[str, Any]]:
    """Evaluate checkpoints of a run as they come, until its training has finished, and return the numbers by epoch.

    An epoch is evaluated once, into `out`/epoch_<n>; where checkpoints come faster than they are evaluated, those that
    were replaced meanwhile are left out. Epochs that are there already are not evaluated again.

    Args:
        run: folder of the run.
        out: folder for the results.
        evaluate: does it for one checkpoint.
        patience_s: seconds without a new checkpoint after which it ends all the same.
        say: prints a line.
        look_s: seconds between two looks.

    Raises:
        InputError: there is no such folder, or a checkpoint cannot be evaluated.
    """
    folder, results = Path(run), Path(out)
    if not is_folder(folder):
        raise InputError(f"{folder} is no folder of a run, which --follow needs; name one, such as artifacts/first.")
    results.mkdir(parents=True, exist_ok=True)
    rows = _earlier(results / FOLLOWED)
    known: dict[Path, tuple[int, int]] = {}
    last, finished = time.monotonic(), False
    while True:
        for one in _new(folder, known, results):
            finished |= one.finished
            done = results / f"epoch_{one.epochs:04d}"
            if one.epochs and not any((done / name).exists() for name in _DONE):
                numbers = evaluate(one.path, done)
                rows = sorted([row for row in rows if row["epoch"] != one.epochs] + [{"epoch": one.epochs, **numbers}],
                              key=lambda row: int(row["epoch"]))  # fmt: skip
                with atomic_path(results / FOLLOWED) as temporary:
                    temporary.write_text(json.dumps({"made": mark(), "epochs": rows}, indent=1), encoding="utf-8")
                say(f"epoch {one.epochs}: " + ", ".join(f"{name} {_short(value)}" for name, value in numbers.items()))
            one.path.unlink()
            last = time.monotonic()
        if finished:
            say(f"The training in {folder} has finished.")
            return rows
        if time.monotonic() - last > patience_s:
            say(f"No new checkpoint in {folder} for {patience_s / 60:g} minutes.")
            return rows
        time.sleep(look_s)


def _new(folder: Path, known: dict[Path, tuple[int, int]], results: Path) -> Iterator[Snapshot]:
    """Checkpoints that were not there before, under a name of their own, since a training replaces its own."""
    # numbered ones first, then what may be replaced any moment; of one epoch the first is taken
    for path in sorted(folder.glob("checkpoint_*.pth"), key=lambda path: ("epoch" not in path.name, path.name)):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        seen = (status.st_mtime_ns, status.st_ino)
        if known.get(path) == seen:
            continue
        known[path] = seen
        own = results / f".{path.stem}.{os.getpid()}.pth"
        own.unlink(missing_ok=True)
        try:
            os.link(path, own)
        except FileNotFoundError:
            continue
        except OSError:  # another disk, or one without links
            shutil.copyfile(path, own)
        content = checkpoint_reading.load(own)
        epoch, batch = int(content["epoch"]), int(content["batch_in_epoch"])
        if batch:  # in the middle of an epoch
            own.unlink()
            continue
        named = results / f"epoch_{epoch - 1:04d}.pth"
        own.replace(named)
        yield Snapshot(named, epoch - 1, epoch > int(content["config"]["training"]["epochs"]))


def _earlier(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["epochs"]
        return [row for row in rows if isinstance(row["epoch"], int)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}); move it away, or name another --out.") from error


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
