"""Searches of hyper-parameters: spaces, shared studies, workers that were killed, reports."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from typer.testing import CliRunner

from tests.browser import browser
from tests.conftest import point_sources
from xecml import rootio
from xecml.cli.commands import app
from xecml.cluster import slurm
from xecml.cluster.slurm import Queued
from xecml.config import Config
from xecml.errors import InputError
from xecml.inference import checkpoint_reading
from xecml.recipes import load_config
from xecml.training import loop
from xecml.training.loop import EachEpoch, Result
from xecml.tuning import search, study, workers
from xecml.tuning.report import write_page
from xecml.tuning.space import read_space, space_of
from xecml.tuning.study import Frozen, Study
from xecml.tuning.summary import summary_of
from xecml.yamlfile import read_yaml

SPACE = {"training.lr": {"low": 1e-5, "high": 1e-1, "log": True}, "data.batch_size": [64, 128, 256]}
QUICK = ("model.preset=tiny", "training.epochs=4", "mlflow.enabled=false", "mlflow.tensorboard=null",
         "data.train_path=train.root", "data.val_path=val.root", "training.lr=0.001")  # fmt: skip


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is flushed to the disk with every line, which takes its time on a busy machine."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


BOTH = ("--train_path", "t", "--val_path", "v")


def frozen(*settings: str, job: str = "regress", space: dict[str, Any] | None = None, **more: Any) -> Frozen:
    recipe = load_config(None, [*QUICK, *settings], job=job)
    given = {"sampler": "tpe", "pruner": "median", "warmup": 0, "seed": 1, "trials": 30} | more
    return Frozen.model_validate(
        {"job": job, "space": space or SPACE, "recipe": recipe.model_dump(mode="json"), **given}
    )


def begun(folder: Path, given: Frozen | None = None) -> Study:
    study.begin(folder, given or frozen())
    opened = study.open_study(folder)
    study.fresh(opened)
    return opened


def score_of(recipe: Config) -> float:
    """Best at lr 0.01 and a batch of 128."""
    return 0.1 + (math.log10(recipe.training.lr) + 2) ** 2 + 0.02 * abs(recipe.data.batch_size - 128) / 64


def quick(recipe: Config, *, name: str, each_epoch: EachEpoch, **given: Any) -> Result:
    """In place of a training: its epochs, whose scores fall to what the recipe deserves."""
    assert given == {"kind": "regress", "quiet": True}
    folder = Path(recipe.checkpoint.save_dir) / name
    for epoch in range(1, recipe.training.epochs + 1):
        if each_epoch(epoch, score_of(recipe) * (1 + 1 / epoch)):
            break
    return Result(folder, folder / "checkpoint_best.pth", {}, 1.0, score=score_of(recipe) * (1 + 1 / epoch))


def states(opened: Study) -> list[str]:
    return [trial.state.name for trial in opened.trials]


# ---------------------------------------------------------------------------------------------------------- a search


def test_the_recipe_is_trial_0_and_a_search_finds_a_better_one(tmp_path: Path) -> None:
    opened = begun(tmp_path / "first")
    report = search.work(opened, quiet=True, train_one=quick)
    assert opened.trials[0].params == {"training.lr": 0.001, "data.batch_size": 256}
    assert len(report.finished) == 30
    assert {"complete", "pruned"} == {*report.finished.values()}
    assert report.score is not None
    assert opened.trials[0].value is not None
    assert report.score < 0.3 < 1 < opened.trials[0].value
    # the winner's recipe alone is that of its trial
    (best,) = [trial for trial in opened.trials if trial.number == report.best]
    assert report.recipe is not None
    read = load_config(report.recipe)
    assert (read.training.lr, read.data.batch_size) == (best.params["training.lr"], best.params["data.batch_size"])
    assert read.checkpoint == opened.recipe.checkpoint
    assert score_of(read) * 1.25 == report.score
    assert f"xec train regress --config {report.recipe}" in report.recipe.read_text()
    # the same search draws the same values
    again = begun(tmp_path / "second")
    search.work(again, quiet=True, train_one=quick)
    assert [trial.params for trial in again.trials] == [trial.params for trial in opened.trials]


def test_a_grid_has_the_recipe_and_every_point_once(tmp_path: Path) -> None:
    space = {"training.lr": {"low": 0.001, "high": 0.003, "step": 0.001}, "model.outer_fine_pool": [[3, 3], None]}
    given = frozen("model.preset=reference", "training.lr=0.0015", space=space, sampler="grid", pruner="none")
    with pytest.raises(InputError, match="training.lr has no values for a grid; list them"):
        list(
            space_of({"training.lr": {"low": 1e-3, "high": 1.0}}, Config.model_validate(given.recipe), "regress").grid()
        )
    opened = begun(tmp_path / "grid", given)
    study.fresh(opened)  # another worker begins, too
    taken = []

    def note(recipe: Config, **more: Any) -> Result:
        taken.append((recipe.training.lr, recipe.model.outer_fine_pool))
        return quick(recipe, **more)

    search.work(opened, quiet=True, train_one=note)
    points = [(lr, pool) for lr in (0.001, 0.002, 0.003) for pool in ((3, 3), None)]
    assert taken == [(0.0015, (3, 3)), *points]


def test_workers_share_a_study_and_its_budget(tmp_path: Path) -> None:
    """Each takes trials of its own, and both together no more than there are to be."""
    one = begun(tmp_path / "shared", frozen(trials=7))
    two = study.open_study(tmp_path / "shared")
    ran: list[str] = []

    def meanwhile(recipe: Config, **more: Any) -> Result:
        ran.append(more["name"])
        if len(ran) == 2:
            search.work(two, quiet=True, train_one=meanwhile)
        return quick(recipe, **more)

    search.work(one, quiet=True, train_one=meanwhile)
    assert sorted(ran) == [f"trial_{i:04d}" for i in range(7)]
    assert all(trial.state.is_finished() for trial in study.open_study(tmp_path / "shared").trials)


def test_hours_of_training_are_a_budget(tmp_path: Path) -> None:
    opened = begun(tmp_path / "hours", frozen(hours=1.0))

    def long(recipe: Config, **more: Any) -> Result:
        folder = opened.folder / more["name"]
        (folder / "metrics.jsonl").write_text('{"epoch": 1, "system/epoch_duration_sec": 1500.0}\n{"epoch": 2, "sys')
        return quick(recipe, **more)

    search.work(opened, quiet=True, train_one=long)
    assert len(opened.trials) == 3  # begun after 0, 25 and 50 minutes, and not after 75
    assert opened.hours_spent() == pytest.approx(1.25)


# ------------------------------------------------------------------------------------------------------------ workers


def stopped(recipe: Config, *, name: str, **more: Any) -> Result:
    return Result(Path(recipe.checkpoint.save_dir) / name, Path("none"), {}, 1.0, stopped="SIGUSR1")


def dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return child.pid


def kill(taken: search.Taken | None) -> None:
    """As if the worker had been killed."""
    assert taken is not None
    path = taken.folder / f"start_{taken.start.number}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"process": dead_process()}))


def test_a_stopped_trial_is_gone_on_with(tmp_path: Path) -> None:
    opened = begun(tmp_path / "stopped", frozen(trials=2))
    report = search.work(opened, quiet=True, train_one=stopped)
    assert (report.stopped, report.finished, states(opened)) == ("SIGUSR1", {}, ["RUNNING"])
    report = search.work(study.open_study(opened.folder), quiet=True, train_one=quick)
    assert report.finished == {0: "complete", 1: "complete"}
    assert [start.released for start in workers.starts(opened.run_folder(0))] == [True, False]


def test_a_trial_whose_worker_is_gone_is_taken_and_a_living_one_is_left(tmp_path: Path) -> None:
    opened = begun(tmp_path / "gone", frozen(trials=3))
    first, second = search.take(opened), search.take(opened)
    assert first is not None
    assert second is not None
    kill(first)
    other = study.open_study(opened.folder)
    report = search.work(other, quiet=True, train_one=quick)
    assert sorted(report.finished) == [0, 2]
    assert states(other) == ["COMPLETE", "RUNNING", "COMPLETE"]
    assert other.trials[0].params == {"training.lr": 0.001, "data.batch_size": 256}
    # a trial is taken by one process only
    assert workers.claim(second.folder, second.folder / "none") is not None
    (second.folder / "start_3.json").write_text("{")
    last = workers.last_start(second.folder)
    assert last is not None
    assert (last.number, workers.is_alive(second.folder, last)) == (3, False)


def test_a_trial_that_never_gets_anywhere_is_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = begun(tmp_path / "nowhere", frozen(trials=2))
    for _ in range(2):
        kill(search.take(opened))
    report = search.work(opened, quiet=True, train_one=quick)
    assert report.finished == {0: "failed", 1: "complete"}
    assert "trial 0 failed: 2 starts of trial 0 were killed before anything was saved" in capsys.readouterr().err
    # one that has saved in between is no such trial
    saving = begun(tmp_path / "saving", frozen(trials=1))
    for i in range(4):
        taken = search.take(saving)
        assert taken is not None
        checkpoint = taken.folder / "checkpoint_last.pth"
        checkpoint.touch()
        os.utime(checkpoint, (i, i))
        kill(taken)
    assert search.work(saving, quiet=True, train_one=quick).finished == {0: "complete"}


@pytest.mark.parametrize(
    ("state", "alive"), [("RUNNING", True), ("COMPLETING", True), ("PENDING", False), ("CANCELLED", False)]
)
def test_slurm_is_asked_for_workers_on_other_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, alive: bool
) -> None:
    start = workers.Start(1, "elsewhere", 5, "7", "12_3", "gmerlin7", 0)
    queued = [Queued("12", "12_3", state, "", "1:00", "n"), Queued("12", "12_4", "RUNNING", "", "1:00", "n")]
    asked = []

    def squeue(clusters: list[str | None]) -> dict[tuple[str | None, str], list[Queued]]:
        asked.append(clusters)
        return {(clusters[0], "12"): queued}

    monkeypatch.setattr(slurm, "squeue", squeue)
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_CLUSTER_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert workers.is_alive(tmp_path, start) == alive
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "gmerlin7")
    assert workers.is_alive(tmp_path, start) == alive
    assert asked == [["gmerlin7"], [None]]
    # the job itself, begun anew elsewhere, knows that its earlier process is gone
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert not workers.is_alive(tmp_path, start)


def test_without_a_batch_system_a_silent_worker_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = workers.claim(tmp_path, tmp_path / "none")
    assert start is not None
    monkeypatch.setattr(workers.platform, "node", lambda: "another")
    assert workers.is_alive(tmp_path, start)
    old = time.time() - workers.SILENT_S - 1
    os.utime(tmp_path / "start_1.json", (old, old))
    assert not workers.is_alive(tmp_path, start)
    monkeypatch.setattr(workers, "_TOUCH_S", 0.01)
    with workers.at_work(tmp_path, start):
        deadline = time.monotonic() + 60
        while not workers.is_alive(tmp_path, start) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert workers.is_alive(tmp_path, start)


def test_a_trial_that_fails_costs_nothing_but_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = begun(tmp_path / "failing", frozen(trials=6))

    def some(recipe: Config, **more: Any) -> Result:
        if more["name"] in ("trial_0001", "trial_0002"):
            raise FloatingPointError("the loss is not finite")
        return quick(recipe, **more)

    report = search.work(opened, quiet=True, train_one=some)
    assert [report.finished[i] for i in (1, 2)] == ["failed", "failed"]
    assert list(report.finished.values()).count("failed") == 2
    assert opened.trials[1].user_attrs["why"] == "the loss is not finite"
    assert "xec: trial 1 failed: the loss is not finite" in capsys.readouterr().err

    def none(recipe: Config, **more: Any) -> Result:
        if more["name"] == "trial_0000":
            return quick(recipe, **more)
        raise MemoryError

    broken = begun(tmp_path / "broken")
    with pytest.raises(InputError, match="3 trials in a row failed; the last, trial 3, by: MemoryError; mend"):
        search.work(broken, quiet=True, train_one=none)
    assert states(broken) == ["COMPLETE", "FAIL", "FAIL", "FAIL"]


def test_a_recipe_that_cannot_be_trained_ends_the_search_and_can_be_mended(tmp_path: Path) -> None:
    opened = begun(tmp_path / "unusable", frozen(trials=1))

    def missing(recipe: Config, **more: Any) -> Result:
        raise InputError("No such file: train.root; check the path.")

    with pytest.raises(InputError, match="No such file"):
        search.work(opened, quiet=True, train_one=missing)
    assert states(opened) == ["RUNNING"]
    assert search.work(opened, quiet=True, train_one=quick).finished == {0: "complete"}


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.lrate: [1]", "There is no key 'training.lrate' in recipes .did you mean 'training.lr'"),
        ("training: {lr: {low: 0.1}}", "line 1: training.lr: high: field required"),
        ("training.lr: {low: 0.1, high: never}", "line 1: training.lr: high: "),
        ("training.lr: 3", "line 1: training.lr has no range and no list of values"),
        ("training.lr: []", "line 1: training.lr has no range and no list"),
        ("{}", "names no key to search"),
        ("training.lr: {low: 0.1, high: 0.01}", "training.lr: .*; mend its range"),
        ("training.lr: {low: 0.01, high: 0.1}", "the recipe's own 0.001, which is trial 0, lies outside of the range"),
        ("training.lr: {low: 0, high: 0.1, log: true}", "training.lr: .*; mend its range"),
        ("training.lr: {low: 0.001, high: 1, log: true, step: 0.1}", "a logarithmic range and steps"),
        ("training.epochs: {low: 1.5, high: 3}", "training.epochs is a whole number"),
        ("training.lr: [0.1, 0.1]", "has a value twice"),
        ("model.preset: {low: 1, high: 2}", "the recipe's own 'tiny', which is trial 0, is no number; list the values"),
        ("checkpoint.save_dir: [a, b]", "cannot be searched: each trial has a folder of its own"),
        ("data.val_share: [[0, 1]]", "cannot be searched: trials are compared on the same events"),
        ("tasks.energy.loss_fn: [mse, l1]", "tasks.energy.loss_fn changes the loss by which trials are compared; set"),
        ("tasks.angle.weight: {low: 0, high: 2}", "val_resolution_deg"),
    ],
)
def test_a_space_that_cannot_be_searched_is_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        space_of(read_space(path), Config.model_validate(frozen().recipe), "regress")
    assert "\n" not in str(caught.value)


def test_losses_may_be_searched_where_another_metric_judges() -> None:
    recipe = Config.model_validate(frozen("checkpoint.best_metric=val_resolution_deg").recipe)
    found = space_of({"tasks.energy.loss_fn": ["mse", "huber"]}, recipe, "regress")
    # the recipe's own value is drawn, too, but is no point of a grid
    assert [point["tasks.energy.loss_fn"] for point in found.grid()] == ["l1", "mse", "huber"]


def test_values_that_do_not_go_together_fail_their_trial(tmp_path: Path) -> None:
    space = {"training.lr_min": [1e-6, 0.5]}
    opened = begun(tmp_path / "odd", frozen(space=space, sampler="grid"))
    report = search.work(opened, quiet=True, train_one=quick)
    assert report.finished == {0: "complete", 1: "failed"}
    assert "cannot be combined: training.lr_min = 0.5 is above" in opened.trials[1].user_attrs["why"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("regress", "--study", "none"), "There is no study in none; begin it with --space"),
        (("regress", "--study", "s", "--epochs", "3"), "'--epochs' is for the beginning of a study"),
        (("regress", "--study", "s", "--space", "space.yaml", "--val_path", "v"), "data.train_path is not set"),
        (("regress", "--study", "s", "--space", "no.yaml", *BOTH), "No such search space: no.yaml"),
        (("mae", "--study", "there"), "there is a study of 'regress'; join it with: xec tune regress"),
        (("regress", "--study", "there", "--space", "space.yaml", *BOTH),
         "there is a study with .*, not .*; name another folder, or join it"),
        (("report", "none"), "There is no study in none"),
        (("report", "there", "--out", "page.pdf"), "choose a name that ends in .html"),
        (("report", "damaged"), "damaged/study.json is damaged: 'job' is missing; name another folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text("training.weight_decay: [0.0001, 0.01]\n")
    Path("damaged").mkdir()
    Path("damaged/study.json").write_text("{}")
    begun(Path("there"))
    done = CliRunner().invoke(app, ["tune", *words])
    assert isinstance(done.exception, InputError), done.output
    assert re.search(message, str(done.exception)), str(done.exception)
    assert not Path("s").exists()


# ------------------------------------------------------------------------------------------------------------ reports


def test_a_report_says_what_mattered(tmp_path: Path) -> None:
    opened = begun(tmp_path / "study <1>")
    search.work(opened, quiet=True, train_one=quick)
    found = summary_of(opened)
    assert list(found.importances) == ["training.lr", "data.batch_size"]
    assert found.importances["training.lr"] > 0.6
    assert sum(found.importances.values()) == pytest.approx(1)
    headers, rows = found.table()
    assert headers[:3] == ["trial", "state", "loss"]
    assert len(rows) == 30
    assert rows[0][0] == str(found.best)
    scores = [float(row[2]) for row in rows if row[1] == "complete"]
    assert scores == sorted(scores)
    write_page(found, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.count("data:image/svg+xml;base64,") == 4
    assert "study &lt;1&gt;" in text
    assert "<1>" not in text
    (tmp_path / "own.html").write_text("mine")
    with pytest.raises(InputError, match="was not made by 'xec tune'"):
        write_page(found, tmp_path / "own.html")
    json.dumps(found.as_dict(), default=str)


def test_a_study_that_has_just_begun_has_a_report(tmp_path: Path) -> None:
    opened = begun(tmp_path / "early")
    found = summary_of(opened)
    assert (found.rows, found.best, found.importances) == ([], None, {})
    write_page(found, tmp_path / "report.html")
    search.take(opened)
    found = summary_of(opened)
    assert [row.shown.state for row in found.rows] == ["running"]
    write_page(found, tmp_path / "report.html")


@pytest.mark.slow
def test_a_report_is_shown_by_a_browser(tmp_path: Path) -> None:
    opened = begun(tmp_path / "shown")
    search.work(opened, quiet=True, train_one=quick)
    write_page(summary_of(opened), tmp_path / "report.html")
    with browser(tmp_path / "profile") as page:
        page.open(tmp_path / "report.html")
        loaded = "[...document.images].every(i => i.complete && i.naturalWidth > 100)"
        page.until(f"document.images.length === 4 && {loaded}")
        assert page.run("document.querySelectorAll('table tbody tr').length") > 30
        assert page.said == []
        assert [one for one in page.asked if not one.startswith("data:")] == []  # pictures are in the page


# ---------------------------------------------------------------------------------------------------------- trainings


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, (name, events) in enumerate((("train", 64), ("val", 32)), 1):
        rootio.write(tmp_path / f"{name}.root", point_sources(events, seed))
    (tmp_path / "space.yaml").write_text("training.lr: {low: 1.0e-4, high: 3.0e-2, log: true}\n")
    return tmp_path


WORDS = ("tune", "regress", "--study", "first", "--space", "space.yaml", "--trials", "2", "--pruner", "none",
         *(word for setting in (*QUICK, "data.batch_size=16", "training.epochs=6", "model.hidden_dim=8",
                                "training.amp=false") for word in ("--set", setting)))  # fmt: skip


def run(*words: str) -> subprocess.Popen[str]:
    code = "from xecml.cli import main; main()"
    source = str(Path(__file__).parents[1] / "src")
    environment = os.environ | {"PYTHONPATH": f"{source}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_a_study_goes_on_after_kill_9_of_a_worker(place: Path) -> None:
    """The next worker goes on with the trial from its checkpoint, and it ends as one that nobody killed."""
    worker = run(*WORDS)
    metrics = place / "first" / "trial_0000" / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2) and time.monotonic() < deadline:
        assert worker.poll() is None, worker.communicate()
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    assert states(study.open_study(place / "first")) == ["RUNNING"]
    other = run("tune", "regress", "--study", "first", "--json")
    out, err = other.communicate(timeout=1200)
    assert other.returncode == 0, err
    said = json.loads(out)
    assert said["trials"] == {"0": "complete", "1": "complete"}
    opened = study.open_study(place / "first")
    assert states(opened) == ["COMPLETE", "COMPLETE"]
    assert [start.number for start in workers.starts(place / "first" / "trial_0000")] == [1, 2]
    assert sorted(opened.trials[0].intermediate_values) == list(range(1, 7))
    whole = loop.train(opened.recipe, name="whole", quiet=True)
    assert opened.trials[0].value == whole.score
    resumed = checkpoint_reading.load(place / "first" / "trial_0000" / "checkpoint_last.pth")
    assert resumed["best"] == checkpoint_reading.load(whole.folder / "checkpoint_last.pth")["best"]
    # the winner's recipe is trained alone, and gives the winner's score
    best = loop.train(load_config(place / "first" / "best.yaml"), name="again", quiet=True)
    assert best.score == said["score"]


@pytest.mark.slow
def test_a_worker_that_is_stopped_ends_with_75_and_another_prunes(place: Path) -> None:
    worker = run(*WORDS)
    metrics = place / "first" / "trial_0000" / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        assert worker.poll() is None, worker.communicate()
        time.sleep(0.05)
    worker.send_signal(signal.SIGUSR1)
    out, err = worker.communicate(timeout=600)
    assert worker.returncode == 75, err
    assert "Stopped (SIGUSR1) in first" in out
    (start,) = workers.starts(place / "first" / "trial_0000")
    assert start.released


@pytest.mark.slow
def test_a_training_ends_early_where_it_is_asked_to(place: Path) -> None:
    recipe = load_config(None, [*QUICK, "data.batch_size=16", "training.epochs=6", "model.hidden_dim=8"])
    told: list[tuple[int, float]] = []

    def each_epoch(epoch: int, score: float) -> bool:
        told.append((epoch, score))
        return epoch == 2

    result = loop.train(recipe, name="early", quiet=True, each_epoch=each_epoch)
    assert (result.stopped, result.metrics["epoch"], [epoch for epoch, _ in told]) == (None, 2, [1, 2])
    assert result.score == min(score for _, score in told)
    assert told[1][1] == result.metrics["val/loss"]


@pytest.mark.slow
def test_an_epoch_that_was_saved_and_not_told_is_told_when_its_run_goes_on(place: Path) -> None:
    """A worker may be killed between its checkpoint and the telling of it; a study would then miss an epoch."""
    recipe = load_config(None, [*QUICK, "data.batch_size=16", "model.hidden_dim=8", "checkpoint.resume_from=auto"])

    def killed(epoch: int, score: float) -> bool:
        if epoch == 2:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        loop.train(recipe, name="killed", quiet=True, each_epoch=killed)
    told: list[tuple[int, float]] = []

    def each_epoch(epoch: int, score: float) -> bool:
        told.append((epoch, score))
        return epoch == 3

    loop.train(recipe, name="killed", quiet=True, each_epoch=each_epoch)
    assert [epoch for epoch, _ in told] == [2, 3]
    # and once more: what ended it is told again, and ends it at once
    result = loop.train(recipe, name="killed", quiet=True, each_epoch=each_epoch)
    assert [epoch for epoch, _ in told] == [2, 3, 3]
    assert result.metrics["val/loss"] == told[1][1] == told[2][1]


def test_the_written_recipe_has_every_key_once(tmp_path: Path) -> None:
    opened = begun(tmp_path / "keys", frozen(trials=1))
    report = search.work(opened, quiet=True, train_one=quick)
    assert report.recipe is not None
    tree, _ = read_yaml(report.recipe, "recipe", "")
    assert Config.model_validate(tree).model_dump() == opened.recipe.model_dump() | {
        "mlflow": opened.recipe.mlflow.model_dump()
    }
    assert opened.trials[0].state == TrialState.COMPLETE
