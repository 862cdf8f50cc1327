"""Processes that train together: they meet in time, and none outlives another that died.

The first process listens, each other one holds a connection to it, and all say every two seconds that they are there.
A connection that ends, or a silence, is a process that is lost; the first one tells the others. A process that is told
so has some seconds to come out of what it does, where a broken collective call helps; else it is ended, since calls
of a GPU's library can wait for ever.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

import xecml
from xecml.errors import InputError
from xecml.training.processes.rank import OWN, Place

_BEAT_S = 2.0
_SILENT_BEATS = 15
"""Without a word of a process it is lost; own beats are counted, so that a machine that slept loses nobody."""
_GRACE_S = 20.0
"""For coming out of a call that others do not answer."""
_LOST_STATUS = 2


class Peers:
    """The other processes, as this one sees them.

    Args:
        place: of this process.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.lost: str | None = None
        """What became of another process, in a sentence; none while all are there."""
        self.at_forced_end: list[Callable[[], object]] = []
        """What is still to be done where this process has to be ended from outside of what it does."""
        self._links: dict[int, _Link] = {}
        self._over = threading.Event()
        self._found = threading.Event()

    def meet(self, check: Callable[[], None] = lambda: None, server: socket.socket | None = None) -> int:
        """Wait for all processes, at the place's address and port.

        Args:
            check: called while waiting; raises where it is in vain.
            server: listens already, in the first process.

        Returns:
            A port of the first process that was free a moment ago, the same for all.

        Raises:
            InputError: not all came within `place.patience`; the port or the address cannot be used; or they do not fit
                together.
        """
        deadline = time.monotonic() + self.place.patience
        try:
            if self.place.rank == 0:
                port = self._gather(server or listen(self.place), deadline, check)
            else:
                port = self._come(deadline, check)
        except BaseException as error:
            self.fail(error)
            raise
        threading.Thread(target=self._watch, name="xecml-peers", daemon=True).start()
        return port

    def finish(self) -> None:
        """Say that this process is through, as all are."""
        self._leave({"through": True})

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process ends."""
        lines = str(error).splitlines() if isinstance(error, Exception) else ["it was interrupted."]
        self._leave({"ended": (lines or [type(error).__name__])[0][:1000]})

    def wait_for_loss(self, seconds: float) -> str | None:
        """What became of another process, if that is known within some seconds."""
        self._found.wait(seconds)
        return self.lost

    def _leave(self, word: dict[str, Any]) -> None:
        self._over.set()
        for link in list(self._links.values()):
            link.say(word)
            link.close()

    # ------------------------------------------------------------------------------------------------------- meeting

    def _gather(self, server: socket.socket, deadline: float, check: Callable[[], None]) -> int:
        """Of the first process: wait for the others to come in."""
        with server:
            server.settimeout(0.2)
            while len(self._links) < self.place.world - 1:
                check()
                if time.monotonic() > deadline:
                    raise InputError(self._absent())
                with contextlib.suppress(TimeoutError):
                    self._welcome(_Link(server.accept()[0]))
        port = _free_port()
        for link in self._links.values():
            link.say({"welcome": port})
        return port

    def _welcome(self, link: _Link) -> None:
        hello = link.listen(2.0)
        rank, world = hello.get("rank"), hello.get("world")
        if hello.get("hello") != "xecml" or not isinstance(rank, int):
            link.close()  # something else that tries ports
            return
        wrong = ""
        if (world, hello.get("version")) != (self.place.world, xecml.__version__):
            wrong = (
                f"Process {rank} is one of {world} of xecml {hello.get('version')}, and this one of "
                f"{self.place.world} of {xecml.__version__}; start all of them with the same recipe and version."
            )
        elif rank in self._links or not 0 < rank < self.place.world:
            wrong = f"Two processes are number {rank}; give each machine its own NODE_RANK."
        if wrong:
            link.say({"ended": wrong})
            link.close()
            raise InputError(wrong)
        self._links[rank] = link

    def _absent(self) -> str:
        missing = [rank for rank in range(1, self.place.world) if rank not in self._links]
        what = f"process {missing[0]}" if len(missing) == 1 else f"processes {', '.join(map(str, missing))}"
        where = "" if self.place.nodes == 1 else f" at {self.place.address} port {self.place.port}"
        return (
            f"Of {self.place.world} processes, {what} did not come{where} within {self.place.patience:g} s; start all "
            "of them, or give them more time with training.join_timeout."
        )

    def _come(self, deadline: float, check: Callable[[], None]) -> int:
        """Of all but the first: go there, and wait for the others."""
        link = None
        while link is None:
            check()
            try:
                link = _Link(socket.create_connection((self.place.address, self.place.port), timeout=5.0))
            except OSError as error:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"Process {self.place.rank} of {self.place.world} did not reach the first one at "
                        f"{self.place.address} port {self.place.port} within {self.place.patience:g} s "
                        f"({error.strerror or error}); start all of them, and look at MASTER_ADDR and MASTER_PORT."
                    ) from error
                time.sleep(0.2)
        self._links[0] = link
        link.say({"hello": "xecml", "rank": self.place.rank, "world": self.place.world, "version": xecml.__version__})
        # the first one waits for the last to come, and knows best who is missing
        answer = link.listen(self.place.patience + 10.0)
        if "welcome" not in answer:
            raise InputError(answer.get("ended") or "The first process ended before all had come; look at its output.")
        return int(answer["welcome"])

    # ------------------------------------------------------------------------------------------------------ watching

    def _watch(self) -> None:
        """Say every two seconds that this process is there, and look whether the others do."""
        silent, beat = dict.fromkeys(self._links, 0), time.monotonic()
        while self._links and not self._over.is_set() and self.lost is None:
            links: dict[Any, int] = {link.socket: rank for rank, link in self._links.items()}
            try:
                ready = wait(list(links), _BEAT_S)
            except (OSError, ValueError):  # closed by this process itself
                return
            for rank in [links[found] for found in ready]:
                silent[rank] = 0
                self._hear(rank)
            if time.monotonic() - beat >= _BEAT_S:
                beat = time.monotonic()
                for rank, link in list(self._links.items()):
                    link.say({})
                    silent[rank] += 1
                    if silent[rank] > _SILENT_BEATS:
                        self._lose(f"{self._name(rank)} has said nothing for {_SILENT_BEATS * _BEAT_S:g} s.")

    def _hear(self, rank: int) -> None:
        words = self._links[rank].read()
        for word in words or ():
            if word.get("through"):
                self._links.pop(rank).close()
                return
            if "ended" in word:
                self._lose(word.get("told") or f"{self._name(rank)} ended: {word['ended']}")
                return
        if words is None:
            self._lose(f"{self._name(rank)} ended without a word; it was killed, or out of memory: look at its output.")

    def _name(self, rank: int) -> str:
        return f"Process {rank} of {self.place.world}"

    def _lose(self, sentence: str) -> None:
        if self.lost is not None or self._over.is_set():
            return
        self.lost = sentence
        self._found.set()
        if self.place.rank == 0:
            for link in self._links.values():
                link.say({"ended": sentence, "told": sentence})
        threading.Thread(target=self._end, name="xecml-end", daemon=True).start()

    def _end(self) -> None:
        """End this process, if it does not come out by itself."""
        if self._over.wait(_GRACE_S):
            return
        for action in self.at_forced_end:
            last = threading.Thread(target=action, daemon=True)
            last.start()
            last.join(5.0)
        print(f"xec: {self.lost}", file=sys.stderr, flush=True)
        os._exit(_LOST_STATUS)


class _Link:
    """A connection to another process: lines of JSON, of which an empty one says that it is there."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        connected.settimeout(5.0)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._rest = b""
        self._lock = threading.Lock()

    def say(self, word: dict[str, Any]) -> None:
        """Send a word; where nobody listens any more, that is noticed in reading."""
        with self._lock, contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(word).encode() + b"\n")

    def read(self) -> list[dict[str, Any]] | None:
        """Words that have come; none where the connection has ended."""
        try:
            part = self.socket.recv(65536)
        except TimeoutError:
            return []
        except OSError:
            part = b""
        if not part:
            return None
        *lines, self._rest = (self._rest + part).split(b"\n")
        return [_parsed(line) for line in lines]

    def listen(self, seconds: float) -> dict[str, Any]:
        """The first word within some seconds; an empty one where there is none."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            words = self.read()
            if words is None:
                break
            if words:
                self.socket.settimeout(5.0)
                return words[0]
        return {}

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self.socket.close()


def _parsed(line: bytes) -> dict[str, Any]:
    """A word; an empty one where it is none of ours."""
    try:
        word = json.loads(line)
    except ValueError:
        return {}
    return word if isinstance(word, dict) else {}


def listen(place: Place) -> socket.socket:
    """A socket of the first process at the place's port, or at a free one, which the place then names.

    Raises:
        InputError: the port cannot be used.
    """
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(("127.0.0.1" if place.started_by == OWN and place.nodes == 1 else "", place.port))
    except OSError as error:
        server.close()
        raise InputError(
            f"Port {place.port} of this machine cannot be used: {error.strerror}; set MASTER_PORT to a free one."
        ) from error
    server.listen(place.world)
    place.port = server.getsockname()[1]
    return server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
