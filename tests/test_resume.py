"""A run that was killed and resumed ends bit for bit where the uninterrupted one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from xecml.inference import checkpoint_reading
from xecml.recipes.shipped import shipped

pytestmark = pytest.mark.slow
TINY = shipped()["tiny"].path

# a process that trains and is killed at once after its n-th saving
KILLED = """
import os, signal, sys
from xecml.recipes import load_config
from xecml.training import checkpoint_writing, loop
n, name, settings = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
save, saved = checkpoint_writing.save, []
def save_and_die(path, content):
    save(path, content)
    saved.append(path)
    if len(saved) == n:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint_writing.save = save_and_die
loop.train(load_config("TINY", settings), name=name, quiet=True)
""".replace("TINY", str(TINY))


def settings(sample: Path, out: Path, *more: str) -> list[str]:
    return [
        f"data.train_path={sample}/train.root",
        f"data.val_path={sample}/val.root",
        f"checkpoint.save_dir={out}",
        "checkpoint.save_every_steps=5",
        "training.channel_dropout_rate=0.1",
        "model.head_dropout=0.1",
        "model.drop_path_rate=0.1",
        "augmentation.mirror_z=0.5",
        "data.buffer_mb=8",
        *more,
    ]


def run(n: int, name: str, given: list[str], script: str = KILLED) -> int:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", script, str(n), name, *given]
    return subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False).returncode


def result(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if not k.startswith("system/")} for line in lines]
    return checkpoint_reading.load(folder / "checkpoint_last.pth"), kept


def assert_equal(one: Any, two: Any, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_equal(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for i, pair in enumerate(zip(one, two, strict=True)):
            assert_equal(*pair, f"{where}[{i}]")
    else:
        assert one == two, where


@pytest.fixture(scope="module")
def uninterrupted(
    sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("whole")
    assert run(0, "run", settings(sample, out)) == 0
    return result(out / "run")


@pytest.mark.parametrize(("saving", "workers"), [(1, 0), (4, 2), pytest.param(6, 0, marks=pytest.mark.long)])
def test_killed_and_resumed(
    sample: Path, tmp_path: Path, uninterrupted: tuple[dict[str, Any], list[dict[str, Any]]], saving: int, workers: int
) -> None:
    """Killed in the middle of the first epoch, after it, and in the middle of the second."""
    given = settings(sample, tmp_path, f"data.num_workers={workers}")
    assert run(saving, "run", given) == -signal.SIGKILL
    assert run(0, "run", [*given, f"checkpoint.resume_from={tmp_path}/run/checkpoint_last.pth"]) == 0
    whole, whole_lines = uninterrupted
    resumed, resumed_lines = result(tmp_path / "run")
    for part in ("model_state", "ema_state", "optimizer_state", "random_states", "ema_updates", "best", "epoch"):
        assert_equal(whole[part], resumed[part], part)
    clean = [
        {k: v for k, v in m.items() if not k.startswith("system/")} for m in (whole["metrics"], resumed["metrics"])
    ]
    assert clean[0] == clean[1]
    assert whole_lines == resumed_lines


# a process that trains and gets a signal in the middle of its n-th batch
SIGNALLED = """
import os, signal, sys
from xecml.recipes import load_config
from xecml.training import loop
from xecml.training.epoch_metrics import Sums
n, name, settings = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
add, batches = Sums.add, []
def add_and_ask(self, values, events=1):
    add(self, values, events)
    if "loss" in values:
        batches.append(events)
        if len(batches) == n:
            os.kill(os.getpid(), signal.SIGTERM)
Sums.add = add_and_ask
loop.train(load_config("TINY", settings), name=name, quiet=True)
""".replace("TINY", str(TINY))


def test_a_signal_ends_a_run_that_goes_on_exactly(sample: Path, tmp_path: Path) -> None:
    """In an epoch's last group of accumulated batches, which is finished first: no batch is left of it."""
    given = settings(sample, tmp_path, "training.accumulate=5", "data.num_workers=2")
    for name, script, number in (("whole", KILLED, 0), ("run", SIGNALLED, 11)):
        assert run(number, name, given, script) == 0
    stopped = checkpoint_reading.load(tmp_path / "run" / "checkpoint_last.pth")
    assert (stopped["epoch"], stopped["batch_in_epoch"]) == (1, 12)
    assert run(0, "run", [*given, f"checkpoint.resume_from={tmp_path}/run/checkpoint_last.pth"]) == 0
    (whole, whole_lines), (resumed, resumed_lines) = (result(tmp_path / name) for name in ("whole", "run"))
    for part in ("model_state", "ema_state", "optimizer_state", "random_states", "ema_updates", "best", "epoch"):
        assert_equal(whole[part], resumed[part], part)
    assert whole_lines == resumed_lines


def test_a_signal_saves_and_stops_within_a_step(sample: Path, tmp_path: Path) -> None:
    given = settings(sample, tmp_path, "training.epochs=500", "checkpoint.save_every_steps=0")
    script = KILLED.replace("len(saved) == n", "False")
    command = [sys.executable, "-W", "ignore", "-c", script, "0", "run", *given]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == 0
    content = checkpoint_reading.load(tmp_path / "run" / "checkpoint_last.pth")
    assert content["epoch"] < 500
