"""JupyterLab on a compute node: start it with a token, wait until it answers, and print the tunnel to it."""

from __future__ import annotations

import getpass
import importlib.util
import json
import os
import platform
import secrets
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from xecml.cluster.job_records import Record
from xecml.cluster.status import status, tail
from xecml.errors import InputError

LOCAL_PORT = 8888
"""On the machine from which one looks."""
_ASK_S, _LOOK_S, _ANSWER_S = 1.0, 5.0, 5.0


@dataclass(frozen=True)
class Session:
    """A server.

    Attributes:
        host: machine that it runs on.
        port: that it answers at.
        token: that it asks for.
    """

    host: str
    port: int
    token: str

    def tunnel(self, login: str | None = None) -> str:
        """The command that brings the server to one's own machine, by way of a login node, or else of this machine."""
        return f"ssh -N -L {LOCAL_PORT}:{self.host}:{self.port} {getpass.getuser()}@{login or socket.getfqdn()}"

    def address(self) -> str:
        """Where a browser finds it then."""
        return f"http://localhost:{LOCAL_PORT}/lab?token={self.token}"

    def answers(self) -> bool:
        """Whether it answers to its token."""
        request = urllib.request.Request(
            f"http://{self.host}:{self.port}/api/status", headers={"Authorization": f"token {self.token}"}
        )
        # a proxy for the outside does not know the nodes
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_ANSWER_S) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError, ValueError):
            return False


def serve(file: Path) -> NoReturn:
    """Become JupyterLab in the current folder, and say in a file, for the user alone, where it is.

    Raises:
        InputError: it is not installed, or the file cannot be written.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise InputError(
            "JupyterLab is not installed in this environment; install it with: pip install 'xecml[notebook]'"
        )
    host = platform.node()
    try:
        address = socket.gethostbyname(host)
    except OSError:
        host = address = "127.0.0.1"
    with socket.socket() as free:
        free.bind((address, 0))
        port = free.getsockname()[1]
    session = Session(host, port, secrets.token_hex(24))
    _write(file, session)
    # minutes before the end of the job SLURM would end it by this; the server is to live until then
    for name in ("SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    options = {"ip": address, "port": port, "port_retries": 0, "open_browser": False, "allow_remote_access": True}
    words = ["-m", "jupyterlab", *(f"--ServerApp.{name}={value}" for name, value in options.items())]
    words += ["--allow-root"] if os.geteuid() == 0 else []
    print(f"xec: JupyterLab on {host}, port {port}", flush=True)
    # of the token neither the list of processes nor the log has anything
    os.execve(sys.executable, [sys.executable, *words], os.environ | {"JUPYTER_TOKEN": session.token})


def read(file: Path) -> Session | None:
    """The session that is recorded in a file; None if there is none yet."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Session(str(values["host"]), int(values["port"]), str(values["token"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def wait_for(file: Path, folder: Path, record: Record, say: Callable[[Sequence[str]], None]) -> Session:
    """Wait until the server of a job answers.

    Args:
        file: in which the server says where it is.
        folder: of the job's record.
        record: of the job.
        say: prints lines; is told when the state of the job changes.

    Raises:
        InputError: the job has ended; the end of its log is said.
    """
    before, looked = "", 0.0
    while True:
        session = read(file)
        if session is not None and session.answers():
            return session
        if time.monotonic() - looked >= _LOOK_S:
            looked = time.monotonic()
            (one,) = [one for one in status([folder]) if one.record.number == record.number]
            if not one.open:
                said = " ".join(tail(one.log, 3)).strip()
                raise InputError(
                    f"Job {record.id} ended before JupyterLab answered ({one.state}); its log, {one.log}, ends: {said}"
                )
            if one.state != before:
                before = one.state
                say([f"job {record.id}: {one.state}"])
        time.sleep(_ASK_S)


def _write(file: Path, session: Session) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            json.dump(asdict(session), opened)
        temporary.replace(file)
    except OSError as error:
        raise InputError(f"The session cannot be kept in {file}: {error.strerror}; name another --session.") from error
