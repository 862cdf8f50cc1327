"""Processes that train together: each in a thread here, with its connections."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from xecml.errors import InputError
from xecml.recipes import load_config
from xecml.training.processes import devices, launch, peers
from xecml.training.processes.devices import check_devices
from xecml.training.processes.peers import Peers, listen
from xecml.training.processes.rank import SRUN, TORCHRUN, Place, place_of


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Exit statuses with which processes would have been ended from outside; beats are quick."""
    seen: list[int] = []
    monkeypatch.setattr(os, "_exit", seen.append)
    monkeypatch.setattr(peers, "_BEAT_S", 0.05)
    monkeypatch.setattr(peers, "_SILENT_BEATS", 6)
    monkeypatch.setattr(peers, "_GRACE_S", 0.3)
    return seen


def company(world: int, patience: float = 5.0) -> tuple[list[Peers], list[Future[int]]]:
    """All processes of a training, on their way to meet."""
    first = Place(per_node=world, patience=patience)
    server = listen(first)
    members = [
        Peers(Place(rank=r, local_rank=r, per_node=world, port=first.port, patience=patience)) for r in range(world)
    ]
    pool = ThreadPoolExecutor(world)
    meetings = [pool.submit(p.meet, server=server if p is members[0] else None) for p in members]
    pool.shutdown(wait=False)
    return members, meetings


def until(true: object, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.01)


def test_all_meet_and_leave(ended: list[int]) -> None:
    members, meetings = company(3)
    ports = {meeting.result() for meeting in meetings}
    assert len(ports) == 1
    time.sleep(0.5)  # longer than a silence may be
    for member in members:
        member.finish()
    time.sleep(0.5)
    assert [member.lost for member in members] == [None] * 3
    assert ended == []


def test_what_ends_one_is_told_to_all(ended: list[int]) -> None:
    members, meetings = company(3)
    [meeting.result() for meeting in meetings]
    members[2].fail(InputError("No such file: a.root; check the path."))
    for member in members[:2]:
        assert member.wait_for_loss(5) == "Process 2 of 3 ended: No such file: a.root; check the path."
        member.fail(RuntimeError("gloo"))
    time.sleep(0.5)
    assert ended == []


def test_who_does_not_come_out_by_itself_is_ended(ended: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    """A process that was killed, whose connection ends without a word."""
    members, meetings = company(2)
    [meeting.result() for meeting in meetings]
    done: list[str] = []
    members[0].at_forced_end.append(lambda: done.append("tidied"))
    members[1]._over.set()
    members[1]._links[0].socket.shutdown(socket.SHUT_RDWR)
    until(lambda: ended)
    assert ended == [2]
    assert done == ["tidied"]
    assert "xec: Process 1 of 2 ended without a word; it was killed" in capsys.readouterr().err
    for member in members:
        member.finish()


def test_silence_is_a_loss(ended: list[int]) -> None:
    members, meetings = company(2)
    [meeting.result() for meeting in meetings]
    members[1]._over.set()  # its thread stops, the connection stays
    assert members[0].wait_for_loss(5) == "Process 1 of 2 has said nothing for 0.3 s."
    for member in members:
        member.fail(RuntimeError())


def test_who_does_not_come_is_named_to_all() -> None:
    first = Place(per_node=3, patience=0.5)
    server = listen(first)
    second = Peers(Place(rank=1, local_rank=1, per_node=3, port=first.port, patience=5))
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(second.meet)
        with pytest.raises(InputError, match="Of 3 processes, process 2 did not come within 0.5 s"):
            Peers(first).meet(server=server)
        with pytest.raises(InputError, match="Of 3 processes, process 2 did not come within 0.5 s"):
            coming.result(5)
    with pytest.raises(InputError, match=r"did not reach the first one at 127.0.0.1 port \d+ within 0.1 s"):
        Peers(Place(rank=1, per_node=2, port=first.port, patience=0.1)).meet()


@pytest.mark.parametrize(
    ("rank", "world", "message"), [(1, 4, "is one of 4 of xecml"), (7, 2, "Two processes are number 7")]
)
def test_who_does_not_fit_is_refused(rank: int, world: int, message: str) -> None:
    first = Place(per_node=2, patience=5)
    server = listen(first)
    with socket.create_connection(("127.0.0.1", first.port)) as stranger, ThreadPoolExecutor(1) as pool:
        stranger.sendall(b"GET / HTTP/1.1\n")
        other = pool.submit(Peers(Place(rank=rank, per_node=world, port=first.port, patience=5)).meet)
        with pytest.raises(InputError, match=message):
            Peers(first).meet(server=server)
        with pytest.raises(InputError):
            other.result(10)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        with pytest.raises(InputError, match=r"Port \d+ of this machine cannot be used: .*; set MASTER_PORT"):
            listen(Place(nodes=2, port=busy.getsockname()[1]))


def test_a_child_that_ends_at_once_is_noticed() -> None:
    children = launch._Children()
    children.running.append(subprocess.Popen(["false"], stdin=subprocess.PIPE, text=True))
    children.running[0].wait()
    with pytest.raises(InputError, match="Process 1 ended with status 1 before the training began"):
        children.check()
    children.end(1.0)


def test_an_error_of_the_first_is_said_once(ended: list[int]) -> None:
    """By the first process, not by those that it started."""
    members, meetings = company(2)
    [meeting.result() for meeting in meetings]
    error = InputError("No such file: a.root; check the path.")
    threading.Timer(0.1, members[0].fail, [error]).start()
    assert launch._said_by_first(members[1], error)
    members[1].fail(error)


# ------------------------------------------------------------------------------------------------ the environment

TORCH = {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1",
         "MASTER_ADDR": "a", "MASTER_PORT": "7"}  # fmt: skip
SLURM = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2",
         "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_NODELIST": "gpu[03-04]",
         "SLURM_JOB_ID": "81234"}  # fmt: skip


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(None, ["training.devices=2", "training.num_nodes=3", "training.join_timeout=9"])
    for name, value in {"MASTER_ADDR": "a", "MASTER_PORT": "7", "NODE_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    assert place_of(config) == Place(rank=4, node=2, per_node=2, nodes=3, address="a", port=7, patience=9)
    for name, value in TORCH.items():
        monkeypatch.setenv(name, value)
    assert place_of(config) == Place(TORCHRUN, 3, 1, 1, 2, 2, "a", 7, 9)
    for name in TORCH:
        monkeypatch.delenv(name)
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert place_of(config) == Place(SRUN, 3, 1, 1, 2, 2, "gpu03", 16234, 9)
    # as Fabric had it
    assert (SLURMEnvironment().main_address, SLURMEnvironment().main_port) == ("gpu03", 16234)
    monkeypatch.delenv("MASTER_ADDR")
    monkeypatch.delenv("MASTER_PORT")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (TORCH | {"LOCAL_WORLD_SIZE": "x"}, "LOCAL_WORLD_SIZE='x' in the environment is no whole number from 1"),
        (TORCH | {"LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE='' in the environment"),
        (TORCH | {"RANK": "4"}, "RANK='4' in the environment is no whole number from 0 to 3"),
        (TORCH | {"RANK": None}, "RANK is not set in the environment"),
        (TORCH | {"WORLD_SIZE": "5"}, "LOCAL_WORLD_SIZE=2 does not divide WORLD_SIZE=5"),
        (TORCH | {"MASTER_PORT": "1e4"}, "MASTER_PORT='1e4'"),
        (SLURM | {"SLURM_NTASKS": "-2"}, "SLURM_NTASKS='-2'"),
        (SLURM | {"SLURM_NTASKS": "3"}, "SLURM_NTASKS=3 is not 2 tasks on each of 2 nodes"),
        (SLURM | {"SLURM_PROCID": "9" * 30}, "SLURM_PROCID="),
        ({"MASTER_ADDR": "a"}, "training.num_nodes=3 needs MASTER_PORT, NODE_RANK set on each machine"),
        ({"MASTER_ADDR": "a", "MASTER_PORT": "7", "NODE_RANK": "3"}, "NODE_RANK='3' .* from 0 to 2"),
    ],
)
def test_a_wrong_environment_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str | None], message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=message):
        place_of(load_config(None, ["training.num_nodes=3"]))


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(None, ["training.accelerator=cpu"])
    with pytest.raises(InputError, match="128 processes on a machine of"):
        check_devices(config, Place(per_node=128))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    cuda = load_config(None, ["training.accelerator=cuda"])
    check_devices(cuda, Place())
    with pytest.raises(InputError, match="needs 2 GPUs on this machine, one a process, and PyTorch sees 1"):
        check_devices(cuda, Place(per_node=2))


@pytest.mark.parametrize(
    ("place", "names", "settings", "line"),
    [
        (Place(), ["no GPU"], (), ""),
        (Place(), ["A100"], (), "Found 1 process on 1 node; with A100; a step is of 256 events"),
        (
            Place(SRUN, per_node=4, nodes=2), ["A100"] * 8, ("data.batch_size=32",),
            "Found 8 processes on 2 nodes, started by srun; each with A100; a step is of 8 x 32 = 256 events",
        ),
        (
            Place(TORCHRUN, per_node=2), ["A100", "H100"], ("training.accumulate=3", "data.batch_size=10"),
            "Found 2 processes on 1 node, started by torchrun; 1 with A100, 1 with H100; a step is of "
            "2 x 3 x 10 = 60 events",
        ),
        (Place(per_node=2), ["no GPU"] * 2, (), "Found 2 processes on 1 node; each with no GPU; a step is of 2 x 256 = "
         "512 events"),
    ],
)  # fmt: skip
def test_what_was_found_is_one_line(
    monkeypatch: pytest.MonkeyPatch, place: Place, names: list[str], settings: tuple[str, ...], line: str
) -> None:
    class Fabric:
        device = torch.device("cpu" if "no GPU" in names else "cuda")

    asked: list[str] = []
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: names[0])
    monkeypatch.setattr(devices, "gather_objects", lambda _, own: asked.append(own) or names)
    assert devices.found(Fabric(), place, load_config(None, settings)) == line  # type: ignore[arg-type]
    assert asked == ([names[0]] if line else [])


def test_deterministic_products_of_a_gpu_get_the_memory_that_they_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        devices.make_deterministic(False)
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
        devices.make_deterministic(True)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
