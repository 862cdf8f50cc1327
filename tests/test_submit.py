"""Jobs without a batch system: profiles, demands, scripts word for word, records; stand-ins for SLURM's commands."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from xecml.cli.commands import app
from xecml.cluster import sites, submission
from xecml.cluster.demands import Wanted, array_of, demands
from xecml.cluster.sites import load_sites, seconds_of, site_of
from xecml.errors import InputError

GOLDEN = Path(__file__).parent / "data" / "slurm"
TRAIN = ("train", "regress", "--config", "tiny", "--train_path", "train.root", "--val_path", "val.root")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder, without settings of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(submission, "own_environment", lambda: ("/opt/xecml/bin/xec", "x86_64"))
    for name in ("EPOCHS", "LR", "BATCH", "TASKS", "RESUME_FROM", "CHUNK_SIZE", "SLURM_CONF"):
        monkeypatch.delenv(name, raising=False)
    for name in ("train.root", "val.root", "model.pth"):
        Path(name).write_bytes(b"x")
    return tmp_path


def said(*words: str, status: int = 0) -> tuple[str, str]:
    """What `xec submit` prints on both outputs."""
    done = CliRunner().invoke(app, ["submit", *words])
    if isinstance(done.exception, InputError):
        assert status == 2, str(done.exception)
        return done.stdout, str(done.exception)
    assert done.exit_code == status, f"{done.stderr}{done.exception!r}"
    return done.stdout, done.stderr


def site_file(text: str) -> None:
    sites.user_file().parent.mkdir(parents=True)
    sites.user_file().write_text(text)


# ----------------------------------------------------------------------------------------------------------- scripts


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("generic", (*TRAIN, "--name", "first", "--time", "12:00:00", "--lr", "3e-4", "--set", "training.seed=5")),
        (
            "merlin7",
            (*TRAIN, "--site", "merlin7", "--partition", "gh-daily", "--nodes", "2", "--gpus", "4", "--name", "wide",
             "--after", "4711", "--resume_from", "model.pth"),
        ),
        (
            "merlin7_array",
            ("predict", "--site", "merlin7", "--time", "30", "--array", "2", "--least-mb", "0", "model.pth", "*.root",
             "--out", "predictions/all.root"),
        ),
    ],
)  # fmt: skip
def test_scripts_are_these(place: Path, name: str, words: tuple[str, ...]) -> None:
    out, _ = said(*words, "--dry-run")
    assert not (place / "artifacts").exists()
    assert not (place / "predictions").exists()
    shown = out.replace(str(place), "/project")
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("XECML_WRITE_GOLDEN"):
        golden.write_text(shown)
    assert shown == golden.read_text()
    script = out.rpartition("\nsbatch ")[0]
    assert script.startswith("#!/bin/bash\n#SBATCH ")
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_every_header_has_what_no_job_may_lack() -> None:
    for name in ("generic", "merlin7", "merlin7_array"):
        header = (GOLDEN / f"{name}.txt").read_text().split("\n\n")[0]
        for option in (
            "time=",
            "mem=",
            "signal=USR1@",
            "requeue\n",
            "open-mode=append",
            "gres=gpu:",
            "ntasks-per-node=",
        ):
            assert f"#SBATCH --{option}" in header, (name, option)
        assert ("--clusters=gmerlin7" in header) == (name != "generic")


# what stands for the commands of a node: srun runs its command and says so, scontrol notes what it is asked
STAND_INS = {
    "srun": 'echo "srun $*"; shift 3; exec "$@"',
    "xec": 'echo "xec $*"; trap "exit 75" TERM; [ -z "${WAIT:-}" ] || { touch began; sleep 30 & wait; }; exit $STATUS',
    "scontrol": 'echo "$@" >> requeued',
}


def run_script(place: Path, text: str, **environment: str) -> subprocess.Popen[str]:
    """Run a script as a node would."""
    stand_ins(place, STAND_INS)
    (place / ".venv-here" / "bin").mkdir(parents=True, exist_ok=True)
    (place / "bin" / "xec").replace(place / ".venv-here" / "bin" / "xec")
    (place / "bin" / "uname").write_text("#!/bin/bash\necho here\n")
    (place / "bin" / "uname").chmod(0o755)
    (place / "job.sh").write_text(text.rpartition("\nsbatch ")[0])
    given = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4", "SLURM_ARRAY_TASK_ID": "1"} | environment
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", "job.sh"], env=os.environ | given | {"PATH": path}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def stand_ins(place: Path, texts: dict[str, str]) -> None:
    (place / "bin").mkdir(exist_ok=True)
    for name, text in texts.items():
        (place / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (place / "bin" / name).chmod(0o755)


@pytest.mark.parametrize(("ended", "left"), [("0", "0"), ("2", "2"), ("75", "requeued"), ("143", "requeued")])
def test_a_script_puts_back_what_should_go_on_and_nothing_else(place: Path, ended: str, left: str) -> None:
    text, _ = said(*TRAIN, "--site", "merlin7", "--name", "a b", "--dry-run")
    (place / "artifacts" / "a b").mkdir(parents=True)
    job = run_script(place, text, STATUS=ended)
    out, err = job.communicate(timeout=60)
    assert (job.returncode, err) == (int(ended), "")
    assert "xec train regress --config tiny" in out
    assert "--resume_from auto --name a b" in out
    assert (place / "artifacts" / "a b" / "job_1.status").read_text().strip() == left
    asked = (place / "requeued").read_text() if (place / "requeued").exists() else ""
    assert asked == ("-M gmerlin7 requeue 7\n" if left == "requeued" else "")


def test_a_cancelled_job_is_not_put_back(place: Path) -> None:
    """SLURM sends SIGTERM to all of a job; a training then saves and ends with 75, and yet nobody wants it back."""
    text, _ = said(*TRAIN, "--name", "run", "--dry-run")
    (place / "artifacts" / "run").mkdir(parents=True)
    job = run_script(place, text, STATUS="75", WAIT="1")
    for _ in range(600):
        if (place / "began").exists():
            break
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGTERM)
    job.communicate(timeout=60)
    assert job.returncode == 75
    assert not (place / "requeued").exists()


def test_a_missing_environment_is_a_sentence(place: Path) -> None:
    text, _ = said(*TRAIN, "--name", "run", "--dry-run")
    (place / "artifacts" / "run").mkdir(parents=True)
    job = run_script(place, text.replace("=.venv-", "=.venv-not-"))
    _, err = job.communicate(timeout=60)
    assert job.returncode == 2
    assert "there is no .venv-not-here/bin/xec in" in err
    assert err.strip().endswith("make it on such a node with: make install VENV=.venv-not-here")


def test_a_job_that_begins_from_another_checkpoint_goes_on_from_its_own(place: Path) -> None:
    text, _ = said(*TRAIN, "--name", "run", "--resume_from", "model.pth", "--dry-run")
    run = place / "artifacts" / "run"
    run.mkdir(parents=True)
    (run / "checkpoint_last.pth").write_bytes(b"of a run before")
    os.utime(run / "checkpoint_last.pth", (1, 1))
    (run / "job_1.sh").write_text(text)
    assert "--resume_from model.pth" in run_script(place, text, STATUS="75").communicate(timeout=60)[0]
    (run / "checkpoint_last.pth").write_bytes(b"of this job")
    os.utime(run / "job_1.sh", (2, 2))
    assert "--resume_from auto" in run_script(place, text, STATUS="0").communicate(timeout=60)[0]


def test_tasks_of_an_array_have_their_own_files(place: Path) -> None:
    for i in range(5):
        (place / f"in_{i}.root").write_bytes(b"x" * (1 if i else 1000))
    words = (
        "predict",
        "model.pth",
        "in_*.root",
        "--array",
        "3%2",
        "--least-mb",
        "0",
        "--out",
        "out/all.root",
        "--tree",
        "other",
        "--force",
    )
    text, _ = said(*words, "--dry-run")
    assert "#SBATCH --array=0-2%2" in text
    (place / "out" / "all.root.jobs").mkdir(parents=True)
    (place / "out" / "all.root.jobs" / "job_1.files").write_text("0\tin_0.root\n1\tin 1.root\n1\tin_2.root\n")
    out, _ = run_script(place, text, STATUS="0").communicate(timeout=60)
    assert "xec predict model.pth in 1.root in_2.root --out out/all_1.root --tree other --force" in out
    assert submission.shares([f"in_{i}.root" for i in range(5)], [0, 1, 2]) == {
        "0": ["in_0.root"], "1": ["in_1.root"], "2": ["in_2.root", "in_3.root", "in_4.root"],
    }  # fmt: skip
    _, notices = said(*words[:4], "9", *words[5:], "--dry-run")
    assert "There are 5 files, so the array has as many tasks." in notices


def test_tasks_of_an_array_may_write_a_file_for_each_of_theirs(place: Path) -> None:
    for i in range(2):
        (place / f"in_{i}.root").write_bytes(b"x")
    words = ("predict", "model.pth", "in_*.root", "--array", "2", "--keep", "run,mask", "--jobs", "4", "--chunk", "10")
    text, _ = said(*words, "--out", "answers/", "--dry-run")
    assert "--out answers/ --jobs 4 --keep run,mask --chunk 10" in text
    assert "answers/predictions.jobs/job_1" in text
    text, _ = said(*words[:5], "--friend", "--device", "cuda", "--dry-run")
    assert "--device cuda --friend" in text


def test_trainings_of_an_array_have_their_own_runs() -> None:
    text, _ = said(*TRAIN, "--array", "1,5", "--set", "training.seed={task}", "--dry-run")
    assert """--set training.seed="$task" """ in text
    assert """--name tiny_"$task"\n""" in text
    assert "artifacts/tiny/job_1_%a.log" in text


# ------------------------------------------------------------------------------------------------- what is refused


def test_variables_of_the_old_scripts_act_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"EPOCHS": "7", "LR": "0.01", "BATCH": "64", "TASKS": "angle energy", "RESUME_FROM": "model.pth",
             "CHUNK_SIZE": "512"}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    text, notices = said(*TRAIN, "--lr", "0.02", "--dry-run")
    for words in ("--epochs 7", "--batch 64", "--tasks 'angle energy'", "--chunksize 512", "--lr 0.02"):
        assert f" {words}" in text
    assert "resume=model.pth" in text
    assert "EPOCHS=7 of the environment is taken as --epochs 7." in notices
    assert "LR=0.01 of the environment is not used: --lr is given." in notices
    assert len(notices.splitlines()) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "mae"), "data.train_path is not set; give it in the recipe or with --train_path"),
        ((*TRAIN, "--train_path", "none*.root"), "No file matches none"),
        ((*TRAIN, "--set", "training.epoch=3"), "epochs"),
        (("train",), "Say what to train"),
        ((*TRAIN, "--site", "merlin"), "There is no site 'merlin' .did you mean 'merlin7'..; choose one of generic"),
        ((*TRAIN, "--site", "merlin7", "--partition", "a100"), "There is no partition 'a100'"),
        ((*TRAIN, "--site", "merlin7", "--time", "2-0"), "the 1-00:00:00 of a100-daily; choose --partition a100-g"),
        ((*TRAIN, "--site", "merlin7", "--time", "8-0"), "more than the 1-00:00:00 of a100-daily; ask for less"),
        ((*TRAIN, "--site", "merlin7", "--gpus", "5", "--nodes", "2"), "8 GPUs at most, and 2 x 5 are asked for"),
        ((*TRAIN, "--time", "soon"), "--time soon: it is no duration"),
        ((*TRAIN, "--mem", "much"), "--mem much: it is no amount of memory"),
        ((*TRAIN, "--account", "a b"), "--account a b: it is no name"),
        ((*TRAIN, "--after", "1:x y"), "--after x y: it is no name"),
        ((*TRAIN, "--array", "5-1"), "--array 5-1 names no tasks"),
        ((*TRAIN, "--name", "a$b"), "SLURM cannot be told of 'a\\$b'"),
        (("predict", "none.pth", "train.root", "--out", "o.root"), "No such model: none.pth"),
        (("predict", "model.pth", "--out", "o.root"), "No files for 'xec predict'"),
        (("predict", "model.pth", "*.root", "--out", "o.root", "--gpus", "2"), "runs on one node and one GPU; share"),
    ],
)  # fmt: skip
def test_what_cannot_be_submitted_is_a_sentence(place: Path, words: tuple[str, ...], message: str) -> None:
    _, error = said(*words, "--dry-run", status=2)
    assert re.search(message, error), error
    assert "\n" not in error
    assert not (place / "artifacts").exists()


def test_durations_and_arrays() -> None:
    for text, seconds in (("30", 1800), ("30:10", 1810), ("1:00:00", 3600), ("2-0", 172800), ("2-12:30", 217800),
                          ("7-00:00:01", 604801)):  # fmt: skip
        assert seconds_of(text) == seconds
    for text in ("0", "", "1:2:3:4", "-1", "1-", "1h", "999-0"):
        with pytest.raises(ValueError):
            seconds_of(text)
    assert array_of("3") == ("0-2", [0, 1, 2])
    assert array_of("0-9:4,11%2") == ("0-9:4,11%2", [0, 4, 8, 11])
    for text in ("0", "", "1,1", "1-", "3%0", "99999", "0-99999", "0-4:0"):
        with pytest.raises(InputError, match="names no tasks"):
            array_of(text)


# ----------------------------------------------------------------------------------------------------------- profiles


def test_demands_are_those_of_the_profile_unless_asked_otherwise() -> None:
    _, merlin = site_of("merlin7")
    found = demands(merlin, Wanted(gpus=4, nodes=2, partition="gh-hourly", time="10"), several=True)
    assert (found.cluster, found.account, found.mem, found.tasks, found.cpus) == ("gmerlin7", "merlin", "184G", 4, 16)
    assert (found.warning, found.architecture) == (150, "aarch64")  # of a short job a quarter of its time
    found = demands(merlin, Wanted(partition="daily", mem="7G", account="meg"), several=True)
    assert (found.cluster, found.gpus, found.tasks, found.mem, found.account) == ("merlin7", 0, 1, "7G", "meg")
    assert (found.time, found.warning) == ("1-00:00:00", 300)
    limits = {name: one.limit for name, one in merlin.partitions.items() if name.startswith(("a100", "gh"))}
    for kind in ("a100", "gh"):
        for name, hours in (("hourly", 1), ("daily", 24), ("general", 168), ("interactive", 12)):
            assert seconds_of(limits.pop(f"{kind}-{name}") or "") == 3600 * hours
    assert not limits


def test_own_sites_are_laid_over_the_shipped() -> None:
    site_file(
        "default_site: here\nhere:\n  account: 4711\n  partition: gpu\n  time: 90\n  setup: [module load python]\n"
        "merlin7:\n  account: meg\n  partitions:\n    a100-daily: {mem_per_gpu: 80G}\n"
    )
    assert site_of(None)[0] == "here"
    merlin = load_sites()[0]["merlin7"]
    daily = merlin.partitions["a100-daily"]
    assert (merlin.account, daily.mem_per_gpu, daily.cluster) == ("meg", "80G", "gmerlin7")
    text, _ = said(*TRAIN, "--dry-run")
    assert "#SBATCH --partition=gpu\n#SBATCH --account=4711\n#SBATCH --time=90\n" in text
    assert "\nmodule load python\n" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("here:\n  partitons: {}\n", "sites.yaml, line 2: there is no key 'here.partitons' .did you mean 'partitions'"),
        ("here:\n  partitions:\n    gpu: {limit: never}\n", "line 3: here.partitions.gpu.limit: it is no duration"),
        ("here:\n  warning: 0\n", "line 2: here.warning: input should be greater than"),
        ("here: 3\n", "line 1: here: "),
        ("default_site: nowhere\n", "default_site names no site; choose one of generic, merlin7"),
    ],
)
def test_a_wrong_profile_is_a_sentence(text: str, message: str) -> None:
    site_file(text)
    with pytest.raises(InputError, match=message):
        load_sites()
