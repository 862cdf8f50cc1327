"""On a real SLURM of two nodes on this machine: the time limit, arrays, several nodes, failures, cancelling."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from typer.testing import CliRunner

from tests import slurm_cluster
from tests.conftest import point_sources
from tests.slurm_cluster import call, process_of, until, waits_for
from tests.test_resume import assert_equal
from xecml import rootio
from xecml.cli.commands import app
from xecml.cluster import notebooks
from xecml.inference import checkpoint_reading
from xecml.inference.merge import merge_files
from xecml.inference.predict import predict_files
from xecml.inference.trained_model import load_model
from xecml.recipes import load_config
from xecml.training import loop
from xecml.tuning import study, workers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(slurm_cluster.missing()),
        reason="SLURM is not installed here, and these tests run jobs on it: apt-get install slurm-wlm munge",
    ),
]
SETTINGS = (
    "data.batch_size=16", "model.hidden_dim=8", "training.epochs=16", "training.amp=false", "model.head_dropout=0.2",
    "mlflow.tensorboard=null", "mlflow.enabled=false", "data.train_path=train.root", "data.val_path=val.root",
    "model.preset=tiny",
)  # fmt: skip
PATIENCE_S = 1500.0
"""For a machine that is busy with other things; alone it takes seconds."""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A project's folder with small samples, and a cluster that knows it."""
    # sockets have short names
    with tempfile.TemporaryDirectory(prefix="xec", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        here = Path(folder) / "project"
        here.mkdir()
        patch.chdir(here)
        patch.setenv("PYTHONPATH", f"{Path(__file__).parents[1] / 'src'}:{os.environ.get('PYTHONPATH', '')}")
        patch.setenv("OMP_NUM_THREADS", "1")
        for seed, (name, events) in enumerate((("train", 96), ("val", 48)), 1):
            rootio.write(here / f"{name}.root", point_sources(events, seed))
        with slurm_cluster.cluster(Path(folder) / "c"):
            yield here


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """Folder of the training that nothing interrupts."""
    return loop.train(load_config(None, SETTINGS), name="whole", quiet=True).folder


def submit(*words: str) -> str:
    done = CliRunner().invoke(app, ["submit", *words])
    assert done.exit_code == 0, f"{done.stdout}{done.stderr}{done.exception!r}"
    return done.stdout


def train(name: str, *more: str) -> Path:
    """Submit a training and return the folder of its run."""
    submit("train", "regress", *(word for setting in SETTINGS for word in ("--set", setting)), "--name", name, *more)
    return Path("artifacts") / name


def jobs(run: Path | str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(submit("status", str(run), "--json", "--lines", "40"))["jobs"]
    return found


def ended(run: Path | str) -> list[dict[str, Any]]:
    """States of jobs, when all have ended."""
    until(lambda: not any(job["open"] for job in jobs(run)), PATIENCE_S, f"the end of {run}")
    return jobs(run)


def log_of(run: Path) -> str:
    path = run / "job_1.log"
    return path.read_text() if path.exists() else ""


def test_the_time_limit_is_not_an_end(place: Path, whole: Path) -> None:
    """SLURM warns, the training saves and asks for more, the script puts the job back, and it ends as the whole one."""
    run = train("limited")
    (job,) = jobs(run)
    until(lambda: "Training" in log_of(run), PATIENCE_S, "the first step", every_s=0.02)
    process = process_of("limited")
    assert process is not None
    os.kill(process, signal.SIGSTOP)  # so that it is in the middle when the warning comes, however fast the machine is
    passed = int(call("squeue", f"--job={job['job']}", "--noheader", "--format=%M").split(":")[-2])
    subprocess.run(["scontrol", "update", f"jobid={job['job']}", f"timelimit={passed + 5}"], check=True)
    until(lambda: waits_for(process, signal.SIGUSR1), 300, "the warning of the time limit")
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)
    until(lambda: "ended with status 75" in log_of(run), PATIENCE_S, "the end of the first start")
    until(lambda: jobs(run)[0]["state"].startswith("pending"), PATIENCE_S, "the job in its queue")
    between = checkpoint_reading.load(run / "checkpoint_last.pth")
    assert 0 < (between["epoch"] - 1) * 6 + between["batch_in_epoch"] < 96
    start_again(job["job"], "timelimit=20")
    (job,) = ended(run)
    said = log_of(run)
    assert (job["state"], job["epoch"], job["failed"]) == ("finished", 16, False), said + logs_of_slurm()
    assert "start 1, on node" in said
    assert "start 2, on node" in said
    assert "Stopped (SIGUSR1)" in said
    assert "Continuing from artifacts/limited/checkpoint_last.pth" in said
    assert_ended_as(whole, run)


def logs_of_slurm() -> str:
    """What the daemons wrote last, for a job whose own log does not say why it ended."""
    logs = sorted(Path(os.environ["SLURM_CONF"]).parent.glob("*.log"))
    return "".join(f"\n{log.name}:\n{log.read_text()[-4000:]}" for log in logs)


def start_again(job: str, *more: str) -> None:
    """Let a job that was put back begin before the two minutes that SLURM lets pass.

    One that begins while its first start is being cleared away fails at once, with the status of that.
    """
    until(
        lambda: not call("sinfo", "--noheader", "--states=completing", "--format=%N"), PATIENCE_S, "a node that is free"
    )
    until(lambda: not slurm_cluster.keepers_of(job), PATIENCE_S, "the end of the processes that kept the first start")
    subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now+5seconds", *more], check=True)


def assert_ended_as(one: Path, two: Path) -> None:
    """Two trainings ended bit for bit alike."""
    contents = [checkpoint_reading.load(folder / "checkpoint_last.pth") for folder in (one, two)]
    for part in ("model_state", "ema_state", "optimizer_state", "random_states", "ema_updates", "best", "epoch"):
        assert_equal(contents[0][part], contents[1][part], part)


@pytest.mark.parametrize("grace_s", [pytest.param(0, marks=pytest.mark.long), 200])
def test_preemption_is_not_an_end(place: Path, whole: Path, grace_s: int) -> None:
    """A job of a partition that goes first takes the node; the training saves, waits and ends as the whole one.

    With a time of grace SLURM asks the training to end, and it is the script that puts the job back; without one SLURM
    puts it back itself.
    """
    subprocess.run(["scontrol", "update", "partitionname=main", f"gracetime={grace_s}"], check=True)
    name = f"preempted_{grace_s}"
    run = train(name)
    (job,) = jobs(run)
    until(lambda: "epoch 1:" in log_of(run), PATIENCE_S, "the first epoch", every_s=0.02)
    process = process_of(name)
    assert process is not None
    os.kill(process, signal.SIGSTOP)  # so that it is in the middle when it is told to go, however fast the machine is
    urgent = call(
        "sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--ntasks-per-node=4", "--mem=15000", "--time=9",
        "--output=/dev/null", "--wrap=sleep 5",
    ).strip()  # fmt: skip
    assert urgent
    until(lambda: waits_for(process, signal.SIGTERM), 300, "the end that the urgent job asks for")
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)
    until(lambda: "ended with status 75" in log_of(run), PATIENCE_S, "the end of the first start")
    until(lambda: not call("squeue", "--noheader", f"--job={urgent}"), PATIENCE_S, "the end of the urgent job")
    until(lambda: jobs(run)[0]["state"].startswith("pending"), PATIENCE_S, "the job in its queue")
    start_again(job["job"])
    (job,) = ended(run)
    said = log_of(run)
    assert (job["state"], job["epoch"], job["failed"]) == ("finished", 16, False), said + logs_of_slurm()
    assert "start 2, on node" in said
    assert "Stopped (SIGTERM)" in said
    assert_ended_as(whole, run)


def test_an_array_of_predictions_is_as_one(place: Path, whole: Path) -> None:
    for i in range(4):
        rootio.write(place / f"part_{i}.root", point_sources(10 + i, 10 + i))
    model = whole / "checkpoint_best.pth"
    words = ("predict", str(model), "part_*.root", "--out", "predictions/all.root", "--array", "4%2", "--gpus", "0",
             "--least-mb", "0")  # fmt: skip
    submit(*words)
    assert [job["state"] for job in ended("predictions/all.root")] == ["finished"] * 4
    predict_files(load_model(model), ["part_*.root"], "predictions/one.root", model_path=model)
    with uproot.open("predictions/one.root:predictions") as tree:
        one = tree.arrays(library="np")
    # a part that is lost is made again when the array is submitted again, and no other
    Path("predictions/all_2.root").unlink()
    made = {i: Path(f"predictions/all_{i}.root").stat().st_mtime_ns for i in (0, 1, 3)}
    submit(*words)
    assert [job["job"].rpartition("_")[2] for job in ended("predictions/all.root")] == ["0", "1", "2", "3", "2"]
    assert {i: Path(f"predictions/all_{i}.root").stat().st_mtime_ns for i in made} == made
    assert "All requested parts (4 parts) exist; join them with: xec merge" in submit(*words)
    report = merge_files(["predictions/all_*.root"], "predictions/all.root")
    assert (report.events, report.inputs) == (46, 4)
    with uproot.open("predictions/all.root:predictions") as tree:
        merged = tree.arrays(library="np")
    for name, values in one.items():
        # sums of other batches are rounded otherwise
        np.testing.assert_allclose(merged[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_training_over_two_nodes(place: Path) -> None:
    run = train("wide", "--nodes", "2", "--gpus", "1", "--epochs", "2", "--set", f"training.join_timeout={PATIENCE_S}")
    (job,) = ended(run)
    assert (job["state"], job["epoch"]) == ("finished", 2)
    said = log_of(run)
    assert "on node[1-2]" in said
    assert ", cpu x 2, " in said
    assert "Found 2 processes on 2 nodes, started by srun; each with no GPU; a step is of 2 x 16 = 32 events" in said
    assert len(checkpoint_reading.load(run / "checkpoint_last.pth")["random_states"]) == 2


def test_a_failing_job_reports_its_log(place: Path) -> None:
    run = train("failing", "--mae_checkpoint", "nowhere.pth")
    (job,) = ended(run)
    assert (job["state"].split(" (")[0], job["failed"]) == ("failed with status 2", True)
    shown = submit("status", str(run))
    assert "failed with status 2" in shown
    assert "xec: No such checkpoint: nowhere.pth; check the path." in shown


def test_a_cancelled_training_is_saved_and_stays_cancelled(place: Path) -> None:
    run = train("cancelled", "--epochs", "100000")
    until(lambda: (run / "metrics.jsonl").exists() and (run / "checkpoint_last.pth").exists(), PATIENCE_S, "an epoch")
    (job,) = jobs(run)
    assert (job["state"], job["nodes"][:4]) == ("running", "node")
    assert submit("cancel", str(run)) == f"Cancelled {job['job']}.\n"
    (job,) = ended(run)
    until(lambda: "ended with status" in log_of(run), 60, "the end of the script")
    assert "Stopped (SIGTERM)" in log_of(run)
    states = call("squeue", f"--job={job['job']}", "--states=all", "--noheader", "--format=%T").split()
    assert states == ["CANCELLED"]
    assert submit("cancel", str(run)) == f"No job of {run} waits or runs.\n"


def test_workers_of_an_array_share_a_study(place: Path) -> None:
    Path("space.yaml").write_text("training.lr: {low: 1.0e-4, high: 3.0e-2, log: true}\n")
    settings = (word for setting in (*SETTINGS, "training.epochs=2") for word in ("--set", setting))
    submit("tune", "--array", "2", "--gpus", "0", "regress", "--study", "studies/lr", "--space", "space.yaml",
           "--trials", "4", "--pruner", "none", *settings)  # fmt: skip
    assert [job["state"] for job in ended("studies/lr")] == ["finished"] * 2
    opened = study.open_study(Path("studies/lr"))
    assert [trial.state.name for trial in opened.trials] == ["COMPLETE"] * 4
    jobs_of = {workers.starts(opened.run_folder(i))[0].job for i in range(4)}
    (record,) = {job["job"].partition("_")[0] for job in jobs("studies/lr")}
    assert jobs_of <= {f"{record}_0", f"{record}_1"}
    assert load_config("studies/lr/best.yaml").training.epochs == 2


@pytest.mark.skipif(
    importlib.util.find_spec("jupyterlab") is None, reason="JupyterLab is not installed: pip install 'xecml[notebook]'"
)
def test_jupyter_answers_on_a_compute_node_until_its_job_ends(place: Path) -> None:
    said = json.loads(submit("jupyter", "--gpus", "0", "--json"))
    assert said["tunnel"].startswith(f"ssh -N -L 8888:{said['host']}:{said['port']} ")
    token = said["address"].partition("token=")[2]
    address = f"http://{said['host']}:{said['port']}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{address}/lab?token={token}", timeout=60) as page:
        assert "<title>JupyterLab</title>" in page.read().decode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        opener.open(f"{address}/api/contents", timeout=60)
    refused.value.close()
    assert refused.value.code == 403
    session = Path("jupyter.jobs/session.json")
    assert session.stat().st_mode & 0o077 == 0
    assert token not in Path("jupyter.jobs/job_1.sh").read_text() + Path("jupyter.jobs/job_1.log").read_text()
    # the same command comes back to the session that is there
    assert json.loads(submit("jupyter", "--gpus", "0", "--json")) == said
    assert submit("cancel", "jupyter") == f"Cancelled {said['job']}.\n"
    ended("jupyter")
    until(lambda: not notebooks.Session(said["host"], said["port"], token).answers(), 120, "the end of the server")


def test_a_job_predicts_its_first_event_soon_after_its_start(place: Path, whole: Path) -> None:
    """Under 15 s of a processor from the start of the task; on a machine with nothing else to do, of the clock, too."""
    Path("one").mkdir()
    rootio.write("one/events.root", point_sources(4, 99))
    submit("predict", str(whole / "checkpoint_best.pth"), "one/events.root", "--out", "one/out.root", "--gpus", "0")
    assert [job["state"] for job in ended("one/out.root")] == ["finished"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ["-c", "from xecml.cli import main; main()", "predict", str(whole / "checkpoint_best.pth")]
    subprocess.run([sys.executable, *words, "one/events.root", "--out", "one/again.root"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 15
