"""Two processes on a CPU give what one gives, for the same global batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import point_sources
from xecml import rootio
from xecml.config import Config
from xecml.errors import InputError
from xecml.inference import checkpoint_reading
from xecml.recipes import load_config
from xecml.recipes.shipped import shipped
from xecml.training import loop
from xecml.training.epoch_metrics import Watch
from xecml.training.processes import launch
from xecml.training.processes.devices import make_fabric

pytestmark = pytest.mark.slow
TINY = shipped()["tiny"].path

# trains, and leaves the loss of every step of every process
SCRIPT = """
import json, os, sys
import torch
from xecml.recipes import load_config
from xecml.data.batch import Batch
from xecml.training import loop, setup
from xecml.training.processes import devices
from xecml.training.epoch_metrics import Sums
out, double, settings = sys.argv[1], sys.argv[2] == "double", sys.argv[3:]
losses, add = [], Sums.add
def keep(self, values, events=1):
    if "loss" in values:
        losses.append(float(values["loss"].detach()))
    add(self, values, events)
Sums.add = keep
# streams give each process its own events; here each takes its slice of the batches that one process would have
original = setup.streams
def sliced(config, fabric, reweighting, **more):
    if fabric is None or fabric.world_size == 1:
        return original(config, fabric, reweighting, **more)
    whole = config.model_copy(deep=True)
    whole.data.batch_size *= fabric.world_size
    training, _ = original(whole, None, reweighting, **more)
    _, validation = original(config, fabric, reweighting, **more)
    epoch, size = training.epoch, config.data.batch_size
    part = slice(fabric.global_rank * size, (fabric.global_rank + 1) * size)
    def epoch_of_slices(number, first=0):
        for batch in epoch(number, first):
            truth = {t: y[part] for t, y in batch.truth.items()}
            inputs = (x[part] for x in batch.inputs())
            yield Batch(*inputs, truth, batch.run[part], batch.event[part], batch.weight[part])
    training.epoch, training.batch_size = epoch_of_slices, config.data.batch_size
    return training, validation
setup.streams = sliced
if double:
    torch.set_default_dtype(torch.float64)
    devices.precision = lambda amp, accelerator="auto": "64-true"
    inputs, make = Batch.inputs, setup.make_job
    Batch.inputs = lambda batch: tuple(x.double() if x.is_floating_point() else x for x in inputs(batch))
    def in_double(config, kind):
        job = make(config, kind)
        job.step.double()
        return job
    setup.make_job = in_double
kind = os.environ.get("JOB", "regress")
loop.train(load_config("TINY", settings, job=kind), name="run", kind=kind, quiet=True)
names = ("RANK", "SLURM_PROCID")  # of torchrun, of srun
rank = next((os.environ[name] for name in names if name in os.environ), "0")
with open(f"{out}/losses_{rank}.json", "w") as file:
    json.dump(losses, file)
""".replace("TINY", str(TINY))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of uneven sizes."""
    folder = tmp_path_factory.mktemp("uneven")
    events = point_sources(1011, seed=6)
    for name, part in (("a", slice(0, 333)), ("b", slice(333, 340)), ("c", slice(340, 1011))):
        rootio.write(folder / f"{name}.root", {k: v[part] for k, v in events.items()})
    rootio.write(folder / "val" / "val.root", point_sources(131, seed=7))
    return folder


def train(
    files: Path,
    out: Path,
    processes: int,
    *,
    double: bool = False,
    batch: int = 40,
    slices: bool = True,
    launcher: str = "torchrun",
    job: str = "regress",
    more: tuple[str, ...] = (),
) -> list[list[float]]:
    settings = [
        f"data.train_path={files}/*.root",
        f"data.val_path={files}/val",
        f"data.batch_size={batch // processes}",
        f"checkpoint.save_dir={out}",
        "training.channel_dropout_rate=0",
        "training.accelerator=cpu",
        "training.epochs=1",
        *more,
    ]
    script = out / "train.py"
    script.write_text(SCRIPT if slices else SCRIPT.replace("setup.streams = sliced", ""))
    command = [str(script), str(out), "double" if double else "single", *settings]
    environments: list[dict[str, str]] = [{}]
    if processes > 1 and launcher == "torchrun":
        command = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--master_port=29517", *command]
    elif processes > 1:
        environments = [slurm_environment(rank, processes) for rank in range(processes)]
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | {"OMP_NUM_THREADS": "1", "JOB": job} | environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    for process in started:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]
    return [json.loads((out / f"losses_{rank}.json").read_text()) for rank in range(processes)]


def slurm_environment(rank: int, tasks: int) -> dict[str, str]:
    """What srun sets for a task on a single node."""
    return {
        "SLURM_NTASKS": f"{tasks}", "SLURM_NTASKS_PER_NODE": f"{tasks}", "SLURM_NNODES": "1", "SLURM_NODEID": "0",
        "SLURM_PROCID": f"{rank}", "SLURM_LOCALID": f"{rank}", "SLURM_JOB_ID": "4217", "SLURM_JOB_NAME": "train",
        "SLURM_STEP_ID": "0",
        "SLURM_NODELIST": "127.0.0.1",
    }  # fmt: skip


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_streams_of_several_processes_end_together(files: Path, tmp_path: Path, launcher: str) -> None:
    """Each process has its own events, all make as many steps, none waits for another at the end."""
    steps = [len(losses) for losses in train(files, tmp_path, 2, slices=False, launcher=launcher)]
    assert steps == [25, 25]


def test_a_batch_script_is_not_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees most variables of its job; one process in it must not wait for three others."""
    for name, value in slurm_environment(0, 4).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_STEP_ID")
    assert make_fabric(load_config(TINY, ["training.accelerator=cpu"])).world_size == 1


@pytest.mark.parametrize(
    ("change", "advice"),
    [({"SLURM_JOB_NAME": "bash"}, "--job-name"), ({"SLURM_NTASKS_PER_NODE": None}, "--ntasks-per-node")],
)
def test_tasks_that_would_not_find_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str | None], advice: str
) -> None:
    for name, value in (slurm_environment(0, 2) | change).items():
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=advice):
        make_fabric(load_config(TINY, ["training.accelerator=cpu"]))


@pytest.mark.long  # the same as in 64 bits, within the rounding of 32
def test_two_processes_equal_one(files: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (one,) = train(files, tmp_path / "one", 1)
    both = np.mean(train(files, tmp_path / "two", 2), axis=0)
    assert len(one) == len(both) == 25
    assert abs(one[0] - both[0]) < 1e-6 * abs(one[0])
    np.testing.assert_allclose(both[:20], one[:20], rtol=1e-4)
    lines = [json.loads((tmp_path / n / "run" / "metrics.jsonl").read_text()) for n in ("one", "two")]
    for name in ("val/loss", "val/u_s68_mm", "val/timing_s68_ps", "val/val_resolution_deg"):
        assert lines[1][name] == pytest.approx(lines[0][name], rel=2e-3), name


def test_two_processes_equal_one_to_64_bits(files: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (one,) = train(files, tmp_path / "one", 1, double=True)
    both = np.mean(train(files, tmp_path / "two", 2, double=True), axis=0)
    np.testing.assert_allclose(both[:20], one[:20], rtol=1e-9)


def test_two_processes_rebuild_as_one_does(files: Path, tmp_path: Path) -> None:
    """They hide the same sensors, and each of these counts alike, wherever it is."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    more = (
        "model.freeze_encoder=false",
        "checkpoint.save_predictions=0",
        "masking.clusters=1",
        "model.mask_ratio=0.02",
    )
    (one,) = train(files, tmp_path / "one", 1, job="inpaint", more=more)
    both = np.mean(train(files, tmp_path / "two", 2, job="inpaint", more=more), axis=0)
    assert abs(one[0] - both[0]) < 1e-6 * abs(one[0])
    np.testing.assert_allclose(both[:20], one[:20], rtol=1e-4)
    lines = [json.loads((tmp_path / n / "run" / "metrics.jsonl").read_text()) for n in ("one", "two")]
    assert lines[0]["val/n_masked_total"] == lines[1]["val/n_masked_total"]
    for name in ("train/total_loss", "val/loss", "val/relative_error_npho"):
        assert lines[1][name] == pytest.approx(lines[0][name], rel=1e-3), name


def test_a_signal_to_one_process_stops_all(files: Path, tmp_path: Path) -> None:
    settings = [f"data.train_path={files}/*.root", f"data.val_path={files}/val", "data.batch_size=20",
                f"checkpoint.save_dir={tmp_path}", "training.epochs=500", "training.accelerator=cpu",
                "training.devices=2"]  # fmt: skip
    # no file of a script: the others are started all the same
    script = SCRIPT.replace("setup.streams = sliced", "")
    command = [sys.executable, "-c", script, str(tmp_path), "single", *settings]
    started = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)  # the others hear of it from this one
    _, said = started.communicate(timeout=60)
    assert started.returncode == 0, said[-3000:]
    content = checkpoint_reading.load(tmp_path / "run" / "checkpoint_last.pth")
    assert content["epoch"] < 500
    assert len(content["random_states"]) == 2
    steps = len(json.loads((tmp_path / "losses_0.json").read_text()))
    assert steps == 25 * (content["epoch"] - 1) + content["batch_in_epoch"]


def test_a_warning_to_one_task_ends_all_with_75(files: Path, tmp_path: Path) -> None:
    """As srun starts them, by the command line: every rank tells the batch system that it should go on."""
    settings = [
        f"data.train_path={files}/*.root", f"data.val_path={files}/val", "data.batch_size=20", "training.epochs=500",
        "training.accelerator=cpu", f"checkpoint.save_dir={tmp_path}",
    ]  # fmt: skip
    xec = [sys.executable, "-c", "from xecml.cli.commands import main; main()"]
    words = ["train", "regress", "--config", "tiny", "--name", "run", "--resume_from", "auto", "--json"]
    command = [*xec, *words, *(word for setting in settings for word in ("--set", setting))]
    environments = [os.environ | {"OMP_NUM_THREADS": "1"} | slurm_environment(rank, 2) for rank in range(2)]
    started = [
        subprocess.Popen(command, env=one, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        for one in environments
    ]
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    started[1].send_signal(signal.SIGUSR2)
    said = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [75, 75], said
    assert json.loads(said[0][0])["stopped"] == "SIGUSR2"
    assert said[1][0] == ""
    assert 1 < checkpoint_reading.load(tmp_path / "run" / "checkpoint_last.pth")["epoch"] < 500


def recipe(files: Path, out: Path, *more: str) -> Config:
    settings = ["data.batch_size=20", "training.accelerator=cpu", "training.devices=2", "training.epochs=1", *more]
    paths = {"data.train_path": f"{files}/*.root", "data.val_path": f"{files}/val", "checkpoint.save_dir": str(out)}
    return load_config(TINY, settings, paths)


def test_a_recipe_starts_its_processes_from_python(files: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    result = loop.train(recipe(files, tmp_path), name="run", quiet=True)
    content = checkpoint_reading.load(tmp_path / "run" / "checkpoint_last.pth")
    assert len(content["random_states"]) == 2
    assert content["ema_updates"] == 25
    assert result.metrics["epoch"] == 1
    assert not torch.distributed.is_initialized()
    assert torch.get_num_threads() == threads


def test_a_killed_process_ends_the_others(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[subprocess.Popen[str]] = []
    start, advance = launch._start, Watch.step

    def starting(*given: Any, **named: Any) -> subprocess.Popen[str]:
        children.append(start(*given, **named))
        return children[-1]

    def killing(self: Watch, norm: Any) -> None:
        children[0].kill()
        advance(self, norm)

    monkeypatch.setattr(launch, "_start", starting)
    monkeypatch.setattr(Watch, "step", killing)
    with pytest.raises(
        InputError, match=r"Process 1 of 2 ended without a word; it was killed.* this process ends too\."
    ):
        loop.train(recipe(files, tmp_path, "training.epochs=100"), name="run", quiet=True)
    assert children[0].returncode == -signal.SIGKILL
    assert not torch.distributed.is_initialized()
