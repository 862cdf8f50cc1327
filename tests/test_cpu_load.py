"""Threads follow what other processes leave of the cores."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from xecml import cpu_load
from xecml.cpu_load import CoresOfOthers, ThreadsByLoad, threads_beside


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    cpu_load.stop_following()


@pytest.mark.parametrize(
    ("used", "cores", "most", "threads"),
    [
        (0.0, 2, 2, 2),
        (0.4, 2, 2, 2),
        (0.9, 2, 2, 1),
        (1.9, 2, 2, 1),
        (2.5, 2, 2, 1),
        (30.2, 64, 32, 32),
        (60, 64, 32, 4),
    ],
)
def test_a_thread_for_each_core_that_is_left(used: float, cores: int, most: int, threads: int) -> None:
    assert threads_beside(used, cores, most) == threads


class Others(CoresOfOthers):
    """A machine of two cores, of which others use what the test says."""

    def __init__(self, used: float) -> None:
        self.used, self.cores, self.waited = used, {0, 1}, 10.0

    def seconds(self) -> float:
        return self.waited

    def since_last_look(self) -> tuple[float, float]:
        return self.used, self.waited


def test_the_first_look_counts_at_once_and_later_ones_when_they_agree(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(2)
    machine = Others(1.0)
    follower = ThreadsByLoad(machine)
    follower.look()
    assert torch.get_num_threads() == 1
    assert "other processes use 1.0 of 2 cores; going on with 1 thread (OMP_NUM_THREADS" in capsys.readouterr().err
    machine.used = 0.0
    follower.look()
    assert torch.get_num_threads() == 1
    follower.look()
    assert torch.get_num_threads() == 2
    assert "going on with 2 threads" in capsys.readouterr().err
    machine.waited, machine.used = 1.0, 2.0
    follower.look()
    follower.look()
    assert torch.get_num_threads() == 2  # it is not time to look again


def test_a_run_that_is_gone_on_with_keeps_its_number() -> None:
    torch.set_num_threads(2)
    machine = Others(0.0)
    follower = ThreadsByLoad(machine)
    follower.go_on_with(1)
    follower.look()
    assert torch.get_num_threads() == 1  # one look does not change it
    follower.go_on_with(64)
    assert torch.get_num_threads() == 2
    machine.used = 1.0
    follower = ThreadsByLoad(machine)
    follower.look()  # as a training does before it reads its checkpoint
    assert torch.get_num_threads() == 1
    follower.go_on_with(2)
    follower.look()
    assert torch.get_num_threads() == 2
    follower.look()
    assert torch.get_num_threads() == 1


def test_onnx_runtime_takes_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cpu_load.threads_for_libraries() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert cpu_load.threads_for_libraries() is None
    cpu_load.follow()
    torch.set_num_threads(2)
    monkeypatch.setattr(cpu_load, "_following", ThreadsByLoad(Others(1.0)))
    assert cpu_load.threads_for_libraries() == 1


def test_a_number_that_the_user_fixed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cpu_load.follow()
    assert cpu_load._following is None
    cpu_load.look()
    monkeypatch.delenv("OMP_NUM_THREADS")
    cpu_load.follow()
    assert cpu_load._following is not None


def test_other_systems_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cpu_load, "_STATISTICS", tmp_path / "none")
    cpu_load.follow()
    assert cpu_load._following is None


def test_a_busy_neighbour_is_seen_and_oneself_is_not() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core alone has no room for a neighbour")
    others = CoresOfOthers()
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        sum(range(10_000))
    alone, seconds = others.since_last_look()
    assert seconds == pytest.approx(0.6, abs=0.5)
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        others.since_last_look()
        time.sleep(1.5)
        beside, _ = others.since_last_look()
    finally:
        neighbour.kill()
        neighbour.wait()
    # a machine that is busy with other things has no core left to give
    assert beside > min(alone + 0.4, len(others.cores) - 0.7)
