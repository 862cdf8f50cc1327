"""A SLURM cluster of two nodes on this machine, from Debian's packages, for as long as tests run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
StateSaveLocation={folder}/state
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MpiDefault=none
ReturnToService=2
KillWait=240
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{second}] CPUs=4 RealMemory=16000 Gres=gpu:2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
"""
_SITES = """
default_site: tests
tests:
  partition: main
  time: "20"
  setup: [export MASTER_ADDR=127.0.0.1]   # names of these nodes are known to SLURM alone
  partitions:
    main: {cpus_per_gpu: 1, mem_per_gpu: 2G}
"""


def missing() -> list[str]:
    """Programs of SLURM that are not installed; those of the system are found without being in the path."""
    return [name for name in PROGRAMS if found(name) is None]


def found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin:/usr/local/sbin")


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Run a cluster with its files in a folder whose name is short; `SLURM_CONF` and the user's sites name it."""
    import getpass
    import platform

    host, user = platform.node().split(".")[0], getpass.getuser()
    for name in ("munge", "state", "node1", "node2", "config/xecml"):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o700)
    (folder / "munge" / "key").write_bytes(os.urandom(128))
    (folder / "munge" / "key").chmod(0o600)
    # devices that every machine has stand for GPUs, which nothing opens
    (folder / "gres.conf").write_text(
        "NodeName=node[1-2] Name=gpu File=/dev/null\nNodeName=node[1-2] Name=gpu File=/dev/zero\n"
    )
    port = 20000 + os.getpid() % 10000
    values = {"host": host, "user": user, "folder": folder, "port": port, "first": port + 1, "second": port + 2}
    (folder / "slurm.conf").write_text(_CONF.format(**values))
    (folder / "config" / "xecml" / "sites.yaml").write_text(_SITES)
    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "XDG_CONFIG_HOME")}
    os.environ |= {"SLURM_CONF": str(folder / "slurm.conf"), "XDG_CONFIG_HOME": str(folder / "config")}
    running: list[subprocess.Popen[bytes]] = []
    try:
        munge = folder / "munge"
        options = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        _start(running, "munged", "--foreground", "--force", *(f"--{k}={munge / v}" for k, v in options.items()))
        until(lambda: (munge / "socket").exists(), 30, "munged")
        _start(running, "slurmctld", "-D", "-c", "-L", str(folder / "slurmctld.log"))
        for node in ("node1", "node2"):
            _start(running, "slurmd", "-D", "-N", node, "-L", str(folder / f"{node}.log"))
        until(lambda: _nodes() == ["idle", "idle"], 120, f"two nodes; its logs are in {folder}")
        yield
    finally:
        subprocess.run(["scancel", f"--user={user}"], check=False, capture_output=True)
        if running:
            until(lambda: not call("squeue", "--noheader"), 60, "the end of all jobs", strict=False)
        for process in reversed(running):
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if not done.returncode else ""


def until(there: Callable[[], object], seconds: float, what: str, *, strict: bool = True, every_s: float = 1.0) -> None:
    """Wait for something, looking every so many seconds."""
    deadline = time.monotonic() + seconds
    while not there():
        if time.monotonic() > deadline:
            assert not strict, f"waited {seconds:g} s in vain for {what}"
            return
        time.sleep(every_s)


def process_of(name: str) -> int | None:
    """The Python process of a run, on whatever node of this machine."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            program = (folder / "exe").readlink().name
        except OSError:
            continue
        if program.startswith("python") and b"train" in words and name.encode() in words:
            return int(folder.name)
    return None


def keepers_of(job: str) -> list[int]:
    """Processes by which the nodes of this machine keep a job's script and its steps (`slurmstepd: [12.batch]`)."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                title = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(f"slurmstepd: [{job}.".encode()):
                found.append(int(folder.name))
    return found


def waits_for(process: int, number: int) -> bool:
    """Whether a stopped process has a signal before it, or SLURM has let it go on to obey the signal."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True
    pending = [int(line.split()[1], 16) for line in text.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in pending)


def _nodes() -> list[str]:
    return call("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").split()


def _start(running: list[subprocess.Popen[bytes]], program: str, *options: str) -> None:
    path = found(program)
    assert path is not None
    running.append(subprocess.Popen([path, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
