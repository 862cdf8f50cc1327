"""What became of submitted jobs, with stand-ins for SLURM's commands that demand the cluster's name."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tests import test_submit
from tests.test_submit import TRAIN, said, stand_ins
from xecml.cluster import job_records, slurm, status

place = test_submit.place

SQUEUE = """
echo "squeue $*" >> calls
[ "$1 $2" = "-M gmerlin7" ] || { echo "squeue: error: no such job in this cluster" >&2; exit 1; }
echo "CLUSTER: gmerlin7"
cat queue 2> /dev/null
exit 0
"""
SCANCEL = """
echo "scancel $*" >> calls
[ "$1 $2" = "-M gmerlin7" ] || { echo "scancel: error: Invalid job id 12" >&2; exit 1; }
"""


@pytest.fixture
def clusters(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SLURM of a site with several clusters, whose commands fail if they are not told which."""
    numbers = (
        'echo "sbatch $*, of ${SBATCH_PARTITION:-header} ${SLURM_MEM_PER_CPU:-header}" >> calls; echo "12;gmerlin7"'
    )
    stand_ins(place, {"sbatch": numbers, "squeue": SQUEUE, "scancel": SCANCEL})
    monkeypatch.setenv("PATH", f"{place / 'bin'}:{os.environ['PATH']}")
    return place


def calls(place: Path) -> list[str]:
    found = (place / "calls").read_text().splitlines()
    (place / "calls").unlink()
    return found


def test_every_call_names_the_cluster(clusters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "other")  # these would go before the script's header
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1")
    out, _ = said(*TRAIN, "--site", "merlin7", "--name", "run")
    assert out == "Submitted job 12 of gmerlin7 ('run'); see: xec submit status artifacts/run\n"
    script = clusters / "artifacts" / "run" / "job_1.sh"
    assert calls(clusters) == [f"sbatch --parsable {script}, of header header"]
    assert "#SBATCH --clusters=gmerlin7" in script.read_text()
    assert script.stat().st_mode & stat.S_IRUSR
    record = json.loads((clusters / "artifacts" / "run" / "jobs.json").read_text())["jobs"][0]
    assert {key: record[key] for key in ("id", "cluster", "name", "site", "array", "run", "number")} == {
        "id": "12", "cluster": "gmerlin7", "name": "run", "site": "merlin7", "array": None,
        "run": str(clusters / "artifacts" / "run"), "number": 1,
    }  # fmt: skip

    (clusters / "queue").write_text("12|RUNNING|None|1:02|gpu001|12\n13|PENDING|Priority|0:00||13\n")
    metrics = clusters / "artifacts" / "run" / "metrics.jsonl"
    metrics.write_text(
        '{"epoch": 1}\n{"epoch": 2, "system/throughput_events_per_sec": 812.4, "long": "%s"}\n' % ("x" * 900)
    )
    (clusters / "artifacts" / "run" / "job_1.log").write_text("one\ntwo\rTWO\nthree\n")
    out, _ = said("status", "artifacts/run", "--lines", "2")
    for word in ("12 (gmerlin7)", "running", "1:02", "gpu001", " 2 ", "812", "\n  TWO\n  three\n"):
        assert word in out
    found = json.loads(said("status", "--json")[0])["jobs"][0]
    assert (found["job"], found["epoch"], found["open"], found["tail"][-1]) == ("12", 2, True, "three")
    assert said("cancel", "artifacts/run")[0] == "Cancelled 12 of gmerlin7.\n"
    assert [call for call in calls(clusters) if call.startswith("scancel")] == ["scancel -M gmerlin7 12"]


@pytest.mark.parametrize(
    ("queue", "left", "state", "failed"),
    [
        ("", "0", "finished", False),
        ("12|COMPLETED|None|1:02|gpu001|12", "0", "finished", False),
        ("", "2", "failed with status 2", True),
        ("12|FAILED|NonZeroExitCode|1:02|gpu001|12", "2", "failed with status 2", True),
        ("12|TIMEOUT|TimeLimit|1:02|gpu001|12", None, "timeout", True),
        ("12|CANCELLED|None|1:02|gpu001|12", "75", "stopped before its end (cancelled)", True),
        ("12|NODE_FAIL|None|1:02|gpu001|12", None, "node fail", True),
        ("12|PENDING|BeginTime|0:00||12", "requeued", "pending (BeginTime)", False),
        ("", "requeued", "requeued, but no longer in the queue", True),
        ("", None, "ended without an exit status: it was killed, or its node failed", True),
    ],
)
def test_states(clusters: Path, queue: str, left: str | None, state: str, failed: bool) -> None:
    said(*TRAIN, "--site", "merlin7", "--name", "run")
    folder = clusters / "artifacts" / "run"
    (clusters / "queue").write_text(f"{queue}\n")
    if left is not None:
        (folder / "job_1.status").write_text(f"{left}\n")
    (found,) = status.status([folder])
    assert (found.state, found.failed) == (state, failed)


def test_tasks_of_an_array_have_each_a_state(clusters: Path) -> None:
    for name in ("a", "b", "c", "d", "e"):
        (clusters / f"{name}.root").write_bytes(b"x")
    words = ("predict", "--site", "merlin7", "--array", "5", "--least-mb", "0", "model.pth", "[a-e].root", "--out",
             "out/all.root")  # fmt: skip
    assert "'all', 5 tasks" in said(*words)[0]
    folder = clusters / "out" / "all.root.jobs"
    assert (folder / "job_1.files").read_text() == "0\ta.root\n1\tb.root\n2\tc.root\n3\td.root\n4\te.root\n"
    (record,) = job_records.read(folder)
    assert (record.array, record.files["3"]) == ("0-4", ["d.root"])
    (clusters / "queue").write_text("12_1|RUNNING|None|1:02|gpu001|12\n12_[2,4%8]|PENDING|Resources|0:00||12\n")
    (folder / "job_1_0.status").write_text("0\n")
    (folder / "job_1_3.status").write_text("2\n")
    (folder / "job_1_3.log").write_text("xec: No such file\n")
    out, _ = said("status", "out/all.root")
    assert [one.state for one in status.status([folder])] == [
        "finished", "running", "pending (Resources)", "failed with status 2", "pending (Resources)",
    ]  # fmt: skip
    assert "pending (Resources) 2, finished 1, running 1, failed with status 2 1" in out
    assert out.endswith("job_1_3.log:\n  xec: No such file\n")
    said(*words)
    assert [one.number for one in job_records.read(folder)] == [1, 2]


def test_what_slurm_refuses_is_a_sentence_and_leaves_nothing(clusters: Path) -> None:
    stand_ins(clusters, {"sbatch": 'echo "sbatch: error: Invalid account or partition" >&2; exit 1'})
    _, error = said(*TRAIN, "--name", "run", status=2)
    assert error == "sbatch refused: sbatch: error: Invalid account or partition; change what it names and try again."
    assert list((clusters / "artifacts" / "run").iterdir()) == []
    stand_ins(clusters, {"sbatch": "echo hello"})
    assert "did not say which job it made" in said(*TRAIN, "--name", "run", status=2)[1]


def test_without_slurm_and_without_jobs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    assert "sbatch was not found; jobs are submitted where SLURM is" in said(*TRAIN, status=2)[1]
    assert said("status")[0] == "No jobs were submitted from here.\n"
    assert "There are no jobs of artifacts/none" in said("status", "artifacts/none", status=2)[1]
    assert "There are no jobs of artifacts/none" in said("cancel", "artifacts/none", status=2)[1]
    (place / "jobs.json").write_text("[]")
    assert "jobs.json is damaged" in said("status", ".", status=2)[1]


def test_a_run_that_is_there_is_gone_on_with(place: Path) -> None:
    (place / "artifacts" / "run").mkdir(parents=True)
    (place / "artifacts" / "run" / "checkpoint_last.pth").write_bytes(b"x")
    _, notices = said(*TRAIN, "--name", "run", "--dry-run")
    assert "artifacts/run/checkpoint_last.pth is there: the job goes on from it; another --name begins anew." in notices


def test_what_has_ended_is_over() -> None:
    def queued(state: str) -> slurm.Queued:
        return slurm.Queued("1", "1", state, "", "", "")

    assert [queued(s).over for s in ("RUNNING", "PENDING", "COMPLETING", "REQUEUED")] == [False] * 4
    assert [queued(s).over for s in ("COMPLETED", "TIMEOUT", "OUT_OF_MEMORY", "PREEMPTED")] == [True] * 4
