"""Start the other processes of a machine, connect to those of other machines, and end all if one ends.

    python -m xecml.training.processes.launch

is what each process but the first runs; it reads what to do from its standard input, and the end of that is the end of
the process that started it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed

import xecml
from xecml.config import Config
from xecml.errors import InputError
from xecml.training.processes.peers import Peers, listen
from xecml.training.processes.rank import OWN, TORCHRUN, Place

_END_S = 20.0
"""For the others to end by themselves."""
_BROKEN = re.compile(r"gloo|nccl|connection|socket|peer|timed out", re.IGNORECASE)
"""In what PyTorch says where a process that it waits for is gone."""


@contextmanager
def together(place: Place, config: Config, *, name: str, kind: str) -> Iterator[Peers]:
    """Start all processes of a training, and end all of them if one fails.

    Args:
        place: of this process; its port becomes the one where PyTorch's processes meet.
        config: the recipe, for processes that are started here.
        name: of the run.
        kind: of job.

    Raises:
        InputError: a process did not come, or ended.
    """
    peers = Peers(place)
    if place.world == 1:
        yield peers
        return
    threads = torch.get_num_threads()
    with _started(place, config, name=name, kind=kind) as children:
        peers.at_forced_end += [child.kill for child in children.running]
        try:
            if place.started_by != TORCHRUN:
                place.port = peers.meet(children.check, children.server)
            yield peers
        except BaseException as error:
            reason = _because_of_others(peers, error)
            if place.started_by == OWN and place.rank and _said_by_first(peers, error):
                sys.exit(2)
            peers.fail(error)
            _forget_group()
            if reason is not None:
                raise InputError(f"{reason.rstrip('.')}; this process ends too.") from error
            raise
        finally:
            torch.set_num_threads(threads)


def _because_of_others(peers: Peers, error: BaseException) -> str | None:
    """What became of another process, where that is why an error came up here."""
    own = not isinstance(error, RuntimeError) or isinstance(error, InputError)
    if own or not (isinstance(error, distributed.DistError) or _BROKEN.search(str(error))):
        return None
    # the connection that is watched tells more, and at nearly the same time
    lost = peers.wait_for_loss(5.0)
    first = (str(error).splitlines() or [""])[0]
    return lost or f"The connection to another process broke ({first[:160]})"


def _said_by_first(peers: Peers, error: BaseException) -> bool:
    """Whether the first process, which started this one, says the same of what all meet alike."""
    return isinstance(error, InputError) and str(error) in (peers.wait_for_loss(3.0) or "")


def _forget_group() -> None:
    """Leave PyTorch's processes, so that this one could train again; a GPU's library would wait for those lost."""
    if distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()


class _Children:
    """Processes that this one started."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[str]] = []
        self.server: Any = None

    def check(self) -> None:
        """Look whether all are there.

        Raises:
            InputError: one has ended.
        """
        for number, child in enumerate(self.running, 1):
            if (status := child.poll()) is not None:
                how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
                raise InputError(f"Process {number} {how} before the training began; read its output.")

    def end(self, seconds: float) -> None:
        """Wait for all to end by themselves, and end those that do not."""
        for child in self.running:
            assert child.stdin is not None
            child.stdin.close()
        for child in self.running:
            try:
                child.wait(seconds)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextmanager
def _started(place: Place, config: Config, *, name: str, kind: str) -> Iterator[_Children]:
    """Start the other processes of this machine, where nobody else does."""
    children = _Children()
    if place.started_by != OWN or place.local_rank:
        yield children
        return
    if place.rank == 0:
        children.server = listen(place)
    try:
        for local in range(1, place.per_node):
            own = replace(place, local_rank=local, rank=place.rank + local)
            children.running.append(_start(own, config, name=name, kind=kind))
        yield children
    except BaseException as error:
        children.end(_END_S if isinstance(error, Exception) else 2.0)
        raise
    children.end(_END_S)


def _start(place: Place, config: Config, *, name: str, kind: str) -> subprocess.Popen[str]:
    # the package is found wherever this process found it
    path = os.pathsep.join(filter(None, (str(Path(xecml.__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    child = subprocess.Popen(
        [sys.executable, "-m", "xecml.training.processes.launch"],
        stdin=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert child.stdin is not None
    order = {"place": asdict(place), "config": config.model_dump(mode="json"), "name": name, "kind": kind}
    child.stdin.write(json.dumps(order) + "\n")
    child.stdin.flush()
    return child


def main() -> None:
    """Be one of the processes that another one started."""
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from xecml.training.loop import train

    try:
        result = train(
            Config.model_validate(order["config"]),
            name=order["name"],
            kind=order["kind"],
            place=Place(**order["place"]),
        )
        status = 75 if result.stopped else 0
    except (InputError, FloatingPointError) as error:
        print(f"xec: process {order['place']['rank']}: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    except SystemExit as end:
        status = int(end.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the first process waits for this one, which has nothing left to tidy up


def _end_with_parent() -> None:
    # not by a buffered read, whose lock a thread like this would hold at the end of the interpreter
    while os.read(sys.stdin.fileno(), 1):
        pass
    threading.Event().wait(_END_S)
    os._exit(1)


if __name__ == "__main__":
    main()
