"""Outputs in parts, searches and sessions as jobs: what is submitted, what is left out when it is submitted again."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import test_submit, test_submitted_jobs
from tests.test_submit import said
from tests.test_submitted_jobs import calls
from xecml import rootio
from xecml.cluster import job_records, notebooks
from xecml.cluster.notebooks import Session
from xecml.errors import InputError
from xecml.outputs import making

place = test_submit.place
clusters = test_submitted_jobs.clusters
SITE = ("--site", "merlin7")


def predict(*more: str, model: str = "model.pth") -> tuple[str, ...]:
    return ("predict", *SITE, model, "in_*.root", "--out", "out/all.root", *more)


def finish(*tasks: int) -> None:
    for task in tasks:
        with making("predict"):
            rootio.write(f"out/all_{task}.root", {"run": np.zeros(1, np.int32)}, tree="predictions")


def header(text: str) -> str:
    found = re.search(r"^#SBATCH --array=(.*)$", text, re.M)
    assert found is not None
    return found[1]


@pytest.fixture
def files(clusters: Path) -> Path:
    for i in range(6):
        (clusters / f"in_{i}.root").write_bytes(b"x" * 1000)
    return clusters


def test_parts_that_are_there_are_not_made_again(files: Path) -> None:
    said(*predict("--array", "3%2", "--least-mb", "0"))
    manifest = json.loads(Path("out/all.root.jobs/manifest.json").read_text())
    assert [part["files"] for part in manifest["parts"].values()] == [
        [f"in_{i}.root", f"in_{i + 1}.root"] for i in (0, 2, 4)
    ]
    assert manifest["parts"]["1"]["out"] == "out/all_1.root"
    finish(1)
    # what came later has no part, and what has changed is made anew
    Path("in_9.root").write_bytes(b"x")
    out, notices = said(*predict("--array", "50%4", "--dry-run"))
    assert header(out) == "0,2%4"
    assert "1 file more than when it was first submitted, such as in_9.root" in notices
    assert "1 of 3 parts exist; the other 2 are submitted." in notices
    Path("in_2.root").write_bytes(b"other")
    out, notices = said(*predict("--array", "50", "--dry-run"))
    assert header(out) == "0-2"
    assert "Made again, because their files have changed: 1 part." in notices
    Path("in_2.root").write_bytes(b"x" * 1000)
    # only those that are asked for
    out, _ = said(*predict("--array", "1-2", "--dry-run"))
    assert header(out) == "2-2"
    said(*predict("--array", "1-2"))
    assert Path("out/all.root.jobs/job_2.files").read_text() == "2\tin_4.root\n2\tin_5.root\n"
    finish(0, 2)
    calls(files)
    out, _ = said(*predict("--array", "50"))
    assert out == ("All requested parts (3 parts) exist; join them with: xec merge out/all_*.root --out out/all.root\n")
    assert not any(line.startswith("sbatch") for line in calls(files))


def test_tasks_that_still_run_are_left_to_their_job(files: Path) -> None:
    said(*predict("--array", "3", "--least-mb", "0"))
    (files / "queue").write_text("12_0|COMPLETED|None|0:10||12\n12_1|RUNNING|None|0:10|node1|12\n")
    said(*predict("--array", "3"))
    tasks = [record.tasks for record in job_records.read(Path("out/all.root.jobs"))]
    assert tasks == [[0, 1, 2], [0, 2]]
    (files / "queue").write_text("12_[0-2]|PENDING|Priority|0:00||12\n")
    out, _ = said(*predict("--array", "3"))
    assert out == "All that is missing is being made by job 12, which still runs.\n"


def test_parts_of_another_command_are_not_mixed(files: Path) -> None:
    said(*predict("--array", "3", "--least-mb", "0"))
    Path("other.pth").write_bytes(b"x")
    _, error = said(*predict("--array", "3", model="other.pth"), status=2)
    assert "are those of another command (out/all.root.jobs/manifest.json); name another --out, or remove" in error
    said(*predict("--array", "3", "--force", "--dry-run"))


def test_a_submission_that_fails_freezes_nothing(files: Path) -> None:
    (files / "bin" / "sbatch").write_text("#!/bin/bash\necho no >&2\nexit 1\n")
    said(*predict("--array", "3", "--least-mb", "0"), status=2)
    assert not Path("out/all.root.jobs/manifest.json").exists()


def test_short_files_are_grouped_so_that_a_task_lasts(files: Path) -> None:
    for i in range(6):
        with Path(f"in_{i}.root").open("wb") as file:
            file.truncate(150_000_000)
    out, notices = said(*predict("--array", "50", "--dry-run"))
    assert header(out) == "0-3"  # 900 MB, of 200 each
    assert "The files have 900 MB, so the array has 4 tasks, of 200 MB or more each" in notices
    out, _ = said(*predict("--array", "50", "--least-mb", "400", "--dry-run"))
    assert header(out) == "0-1"
    out, _ = said(*predict("--array", "50", "--least-mb", "0", "--dry-run"))
    assert header(out) == "0-5"


def test_a_file_for_each_input_is_shared_out_once_too(files: Path) -> None:
    """With a folder as output a task writes several files, and only those that are missing are made again."""
    command = ("predict", *SITE, "model.pth", "in_*.root", "--out", "out/")
    said(*command, "--array", "3", "--least-mb", "0")
    manifest = json.loads(Path("out/predictions.jobs/manifest.json").read_text())
    assert {part["out"]: part["files"] for part in manifest["parts"].values()} == {
        f"out/in_{i}.root": [f"in_{i}.root"] for i in range(6)
    }
    assert manifest["tasks"] == {"0": [0, 1], "1": [2, 3], "2": [4, 5]}
    for i in (0, 1, 3):
        with making("predict"):
            rootio.write(f"out/in_{i}.root", {"run": np.zeros(1, np.int32)}, tree="predictions")
    out, notices = said(*command, "--array", "50%4")
    assert "3 of 6 files exist; the other 3 are submitted." in notices
    assert Path("out/predictions.jobs/job_2.files").read_text() == "1\tin_2.root\n2\tin_4.root\n2\tin_5.root\n"
    assert header(Path("out/predictions.jobs/job_2.sh").read_text()) == "1-2%4"
    assert "--out out/" in Path("out/predictions.jobs/job_2.sh").read_text()
    # what has changed is made again, once
    Path("in_3.root").write_bytes(b"other")
    _, notices = said(*command, "--array", "50")
    assert "Made again, because their files have changed: 1 file." in notices
    assert Path("out/predictions.jobs/job_3.files").read_text().startswith("1\tin_2.root\n1\tin_3.root\n")
    with making("predict"):
        rootio.write("out/in_3.root", {"run": np.zeros(1, np.int32)}, tree="predictions")
    _, notices = said(*command, "--array", "50", "--dry-run")
    assert "changed" not in notices
    assert "3 of 6 files exist" in notices
    _, error = said(*command, "--tree", "other", "--array", "3", status=2)
    assert "The files of out are those of another command" in error
    for i in (2, 4, 5):
        with making("predict"):
            rootio.write(f"out/in_{i}.root", {"run": np.zeros(1, np.int32)}, tree="predictions")
    out, _ = said(*command, "--array", "3")
    assert out == "All requested files (6 files) exist; join them with: xec merge 'out/*.root' --out out.root\n"
    # files that came later get tasks of their own, and no others are asked for with them
    Path("in_9.root").write_bytes(b"x")
    _, notices = said(*command, "--array", "50%4")
    assert "1 file more than when it was first submitted, such as in_9.root, get tasks of their own." in notices
    assert Path("out/predictions.jobs/job_4.files").read_text() == "3\tin_9.root\n"
    assert "3-3%4" in Path("out/predictions.jobs/job_4.sh").read_text()
    assert json.loads(Path("out/predictions.jobs/manifest.json").read_text())["tasks"]["3"] == [6]


def test_other_names_in_the_same_folder_have_a_manifest_of_their_own(files: Path) -> None:
    command = ("predict", *SITE, "model.pth", "in_?.root", "--array", "2", "--least-mb", "0")
    for more in (("--out", "p_*.parquet"), ("--out", "q_*.root"), ("--friend",)):
        said(*command, *more)
    assert sorted(path.name for path in files.glob("*.jobs")) == ["p_.parquet.jobs", "predictions.jobs", "q_.root.jobs"]
    for i in range(6):
        with making("predict"):
            rootio.write(f"q_in_{i}.root", {"run": np.zeros(1, np.int32)}, tree="predictions")
            rootio.write(f"in_{i}_predictions.root", {"run": np.zeros(1, np.int32)}, tree="predictions")
            Path(f"p_in_{i}.parquet").write_bytes(b"other")
    out, _ = said(*command, "--out", "q_*.root")
    assert out == "All requested files (6 files) exist; join them with: xec merge 'q_*.root' --out q_all.root\n"
    out, _ = said(*command, "--friend")
    assert out == "All requested files (6 files) exist.\n"


def test_pieces_are_left_to_the_tasks(files: Path) -> None:
    command = ("predict", *SITE, "model.pth", "in_*.root", "--out", "out/", "--chunk", "10", "--array", "2")
    said(*command, "--least-mb", "0")
    _, notices = said(*command)
    assert "With --chunk, a task finds out itself which of its files exist, so all tasks are submitted." in notices
    assert Path("out/predictions.jobs/job_2.files").read_text().count("\t") == 6


def test_a_submission_that_fails_leaves_the_manifest_as_it_was(files: Path) -> None:
    command = ("predict", *SITE, "model.pth", "in_*.root", "--out", "out/", "--array", "2")
    said(*command)
    before = Path("out/predictions.jobs/manifest.json").read_text()
    Path("in_9.root").write_bytes(b"x")
    (files / "bin" / "sbatch").write_text("#!/bin/bash\necho no >&2\nexit 1\n")
    said(*command, status=2)
    assert Path("out/predictions.jobs/manifest.json").read_text() == before


@pytest.mark.parametrize("tasks", [{"0": [0, 1]}, {"0": [0, 1, 2, 3, 4, 5], "1": [5]}, {"0": [0, 1, 2, 3, 4, 9]}])
def test_a_manifest_whose_tasks_are_not_its_parts_is_refused(files: Path, tasks: dict[str, list[int]]) -> None:
    command = ("predict", *SITE, "model.pth", "in_*.root", "--out", "out/", "--array", "3")
    said(*command)
    path = Path("out/predictions.jobs/manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tasks": tasks}))
    _, error = said(*command, status=2)
    assert "manifest.json is damaged: its tasks do not make each part once; remove it" in error


def test_short_files_of_a_folder_are_grouped_too(files: Path) -> None:
    for i in range(6):
        with Path(f"in_{i}.root").open("wb") as file:
            file.truncate(150_000_000)
    out, notices = said("predict", *SITE, "model.pth", "in_*.root", "--out", "out/", "--array", "50", "--dry-run")
    assert header(out) == "0-3"
    assert "The files have 900 MB, so the array has 4 tasks, of 200 MB or more each" in notices


# ------------------------------------------------------------------------------------------------- searches, sessions

SEARCH = ("tune", *SITE, "--gpus", "1", "regress", "--study", "studies/lr", "--space", "space.yaml")


def test_a_search_is_a_job_with_a_worker_a_task(clusters: Path) -> None:
    Path("space.yaml").write_text("training.weight_decay: [0.0001, 0.01]\n")
    data = ("--train_path", "train.root", "--val_path", "val.root", "--hours", "3")
    out, notices = said(*SEARCH, *data, "--dry-run")
    assert "One worker is submitted; --array 4 would be four" in notices
    words = "tune regress --study studies/lr --space space.yaml --train_path train.root --val_path val.root --hours 3"
    assert f'"$xec" {words}\n' in out
    assert "requeue" in out
    out, notices = said(*SEARCH[:3], "--array", "4", *SEARCH[3:], *data)
    assert "job 12 of gmerlin7 ('lr', 4 tasks); see: xec submit status studies/lr" in out
    assert "--array=0-3" in Path("studies/lr/job_1.sh").read_text()
    for wrong, message in (
        ((*SEARCH, "--train_path", "train.root"), "data.val_path is not set"),
        (("tune", "regress", "--study", "none"), "There is no study in none; begin it with --space"),
        (("tune", "--study", "none"), "Say what to search for: xec submit tune regress, mae or inpaint"),
        ((*SEARCH, *data, "--gpus", "2"), "runs on one node and one GPU"),
    ):
        _, error = said(*wrong, "--dry-run", status=2)
        assert message in error


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        right = self.headers["Authorization"] == "token secret" and self.path == "/api/status"
        self.send_response(200 if right else 403)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running.server_address[1]
        running.shutdown()
        thread.join()


def test_a_session_is_waited_for_and_told(clusters: Path, server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebooks, "_ASK_S", 0.01)
    monkeypatch.setattr(notebooks, "_LOOK_S", 0.0)
    (clusters / "queue").write_text("12|PENDING|Priority|0:00||12\n")
    session = Path("jupyter.jobs/session.json")

    def begin() -> None:
        while not (clusters / "calls").exists() or "squeue" not in (clusters / "calls").read_text():
            time.sleep(0.01)
        (clusters / "queue").write_text("12|RUNNING|None|0:01|node1|12\n")
        notebooks._write(session, Session("127.0.0.1", server, "secret"))

    thread = threading.Thread(target=begin)
    thread.start()
    out, notices = said("jupyter", *SITE)
    thread.join()
    assert re.search(r"job 12: (pending \(Priority\)|running)\n", notices)
    assert f"ssh -N -L 8888:127.0.0.1:{server} " in out
    assert "http://localhost:8888/lab?token=secret" in out
    assert session.stat().st_mode & 0o077 == 0
    script = Path("jupyter.jobs/job_1.sh").read_text()
    assert '"$xec" jupyter --session jupyter.jobs/session.json\n' in script
    # while it is there, it is shown and no other one submitted
    calls(clusters)
    out, notices = said("jupyter", *SITE, "--json")
    assert json.loads(out)["address"].endswith("token=secret")
    assert "Job 12 is there already" in notices
    assert not any(line.startswith("sbatch") for line in calls(clusters))


def test_a_session_that_ends_before_it_answers_is_a_sentence(clusters: Path) -> None:
    (clusters / "queue").write_text("12|FAILED|None|0:01||12\n")
    _, error = said("jupyter", *SITE, status=2)
    assert "Job 12 ended before JupyterLab answered (failed); its log, jupyter.jobs/job_1.log, ends:" in error
    _, error = said("jupyter", *SITE, "--array", "2", status=2)
    assert "is one job; leave --array out" in error


def test_a_wrong_token_is_no_answer(server: int) -> None:
    assert Session("127.0.0.1", server, "secret").answers()
    assert not Session("127.0.0.1", server, "other").answers()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert not Session("127.0.0.1", free.getsockname()[1], "secret").answers()
    tunnel = Session("node1", 4321, "secret").tunnel("login.example.org")
    assert re.fullmatch(r"ssh -N -L 8888:node1:4321 \S+@login\.example\.org", tunnel)


def test_the_server_is_started_with_a_token_that_nobody_else_sees(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Become(Exception):  # noqa: N818 - in place of becoming another program
        pass

    given = []

    def execve(program: str, words: list[str], environment: dict[str, str]) -> None:
        given.append((program, words, environment))
        raise Become

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(notebooks.importlib.util, "find_spec", lambda name: name == "jupyterlab" or None)
    before = signal.getsignal(signal.SIGUSR1)
    try:
        with pytest.raises(Become):
            notebooks.serve(place / "session.json")
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    session = notebooks.read(place / "session.json")
    assert session is not None
    assert len(session.token) == 48
    ((program, words, environment),) = given
    assert (program, environment["JUPYTER_TOKEN"]) == (sys.executable, session.token)
    assert session.token not in " ".join(words)
    assert f"--ServerApp.port={session.port}" in words
    assert stat.S_IMODE((place / "session.json").stat().st_mode) == 0o600
    monkeypatch.setattr(notebooks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="JupyterLab is not installed in this environment; install it with: pip"):
        notebooks.serve(place / "session.json")
    (place / "session.json").write_text("{")
    assert notebooks.read(place / "session.json") is None
