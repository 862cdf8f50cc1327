"""Signals: before the first step, between steps, in a validation; and what a stopped run says of itself."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.conftest import point_sources
from tests.test_resume import assert_equal
from xecml import rootio
from xecml.cli.commands import app
from xecml.config import Config
from xecml.inference import checkpoint_reading
from xecml.recipes import load_config
from xecml.training import loop, setup
from xecml.training.epoch_metrics import Sums
from xecml.training.loop import Result
from xecml.training.metrics_logging import Tracker
from xecml.training.stopping import Stopped, StopRequest

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[int]]:
    """Handlers of a command line, which are there again after each test, and which signals they were asked for."""
    seen: list[int] = []
    before = {number: signal.signal(number, lambda n, _: seen.append(n)) for number in SIGNALS[1:]}
    yield seen
    for number, handler in before.items():
        assert signal.getsignal(number) != handler
        signal.signal(number, handler)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_before_the_first_step_signals_end_at_once(handlers: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt), StopRequest():
        send(signal.SIGINT)
    with StopRequest() as stop:
        for number in SIGNALS[1:]:
            send(number)
    assert handlers == [signal.SIGTERM, signal.SIGHUP]
    assert stop.requested == "SIGTERM"


@pytest.mark.parametrize("number", SIGNALS)
def test_between_steps_signals_ask(handlers: list[int], number: int, capfd: pytest.CaptureFixture[str]) -> None:
    with StopRequest() as stop:
        assert stop.after_step() is None
        send(number)
        assert stop.after_step() == stop.at_epoch_end() == signal.Signals(number).name
        with pytest.raises(Stopped):
            next(stop.during(iter([])), next(stop.during([None])))  # type: ignore[list-item]
    assert handlers == []
    said = capfd.readouterr().err
    assert ("Ctrl-C once more ends at once" in said) == (number == signal.SIGINT)


def test_a_second_interrupt_ends_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), StopRequest(silent=True) as stop:
        stop.after_step()
        send(signal.SIGINT)
        assert stop.requested == "SIGINT"
        send(signal.SIGTERM)  # schedulers repeat themselves
        send(signal.SIGINT)


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest() as stop:
        stop.after_step()
        send(signal.SIGHUP)
        assert stop.after_step() is None
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


# ---------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    for seed, (name, n) in enumerate((("train", 96), ("val", 64)), 1):
        rootio.write(folder / f"{name}.root", point_sources(n, seed))
    return folder


def recipe(events: Path, out: Path, *more: str) -> Config:
    given = [
        f"data.train_path={events}/train.root", f"data.val_path={events}/val.root", "data.batch_size=16",
        f"checkpoint.save_dir={out}", "model.preset=tiny", "model.hidden_dim=8", "training.epochs=2",
        "training.amp=false", "model.head_dropout=0.2", "mlflow.tensorboard=null", "mlflow.enabled=false",
    ]  # fmt: skip
    return load_config(None, [*given, *more])


def at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, count: int, number: int) -> None:
    """Send a signal in the n-th call of a method."""
    method, calls = getattr(owner, name), [0]

    def counted(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == count:
            send(number)
        return method(*given, **named)

    monkeypatch.setattr(owner, name, counted)


@pytest.fixture
def statuses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """With what trackers were closed."""
    seen: list[str] = []
    monkeypatch.setattr(Tracker, "close", lambda _, status: seen.append(status))
    return seen


def test_an_interrupted_run_is_saved_and_goes_on(
    events: Path,
    tmp_path: Path,
    statuses: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        at(patch, Sums, "add", 5, signal.SIGINT)  # two calls a step
        result = loop.train(recipe(events, tmp_path), name="run")
    assert (result.stopped, result.validated, result.best.name) == ("SIGINT", False, "checkpoint_last.pth")
    assert f"Stopped (SIGINT); continue with --resume_from {result.best}." in capsys.readouterr().out
    content = checkpoint_reading.load(result.best)
    assert (content["epoch"], content["batch_in_epoch"]) == (1, 3)
    again = loop.train(recipe(events, tmp_path, f"checkpoint.resume_from={result.best}"), name="run", quiet=True)
    assert (again.stopped, again.validated) == (None, True)
    assert statuses == ["KILLED", "FINISHED"]


@pytest.mark.parametrize(("error", "status"), [(FloatingPointError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_an_error_is_told_to_mlflow(
    events: Path,
    tmp_path: Path,
    statuses: list[str],
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    status: str,
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error("bad")

    monkeypatch.setattr(Sums, "add", fails)
    with pytest.raises(error):
        loop.train(recipe(events, tmp_path), name="run", quiet=True)
    assert statuses == [status]


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_stop_in_a_validation_goes_on_exactly(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """The steps of the epoch are kept, its validation is made when the run goes on."""
    whole = loop.train(recipe(events, tmp_path), name="whole", quiet=True)
    with monkeypatch.context() as patch:
        # events are read for the fit, then for steps and validation of each epoch
        at(patch, setup.EventStream, "epoch", 1 + 2 * epoch, signal.SIGTERM)
        stopped = loop.train(recipe(events, tmp_path), name="run", quiet=True)
    last = tmp_path / "run" / "checkpoint_last.pth"
    content = checkpoint_reading.load(last)
    assert (stopped.stopped, content["epoch"], content["batch_in_epoch"]) == ("SIGTERM", epoch, 6)
    assert stopped.metrics.get("epoch", 0) == epoch - 1
    resumed = loop.train(recipe(events, tmp_path, f"checkpoint.resume_from={last}"), name="run", quiet=True)
    one, two = (checkpoint_reading.load(tmp_path / name / "checkpoint_last.pth") for name in ("whole", "run"))
    for part in ("model_state", "ema_state", "optimizer_state", "random_states", "ema_updates", "best", "epoch"):
        assert_equal(one[part], two[part], part)
    lines = [
        [
            {k: v for k, v in json.loads(line).items() if not k.startswith("system/")}
            for line in (result.folder / "metrics.jsonl").read_text().splitlines()
        ]
        for result in (whole, resumed)
    ]
    assert len(lines[0]) == 2
    assert lines[0] == lines[1]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize("where", ["xecml.training.loop.train", "xecml.reports.finished_training.write_finished"])
def test_a_warning_before_or_after_the_steps_ends_with_75(
    monkeypatch: pytest.MonkeyPatch, handlers: list[int], number: int, where: str
) -> None:
    """The steps are saved; what comes before and after them is made anew when the training goes on."""
    monkeypatch.setattr(loop, "train", lambda *_, **__: Result(Path("run"), Path("run") / "best", {}, 1.0))
    monkeypatch.setattr(where, lambda *_, **__: send(number))
    done = CliRunner().invoke(app, ["train", "regress"])
    assert (done.exit_code, handlers) == (75, [])
    assert f"stopped ({signal.Signals(number).name}) before or after the training steps" in done.stderr
    send(number)  # the handler of before is back
    assert handlers == [number]


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("stopped", "best", "first", "status", "says"),
    [
        ("SIGTERM", "checkpoint_last.pth", True, 75, "Stopped (SIGTERM) after 2.0 minutes; no epoch was validated yet"),
        ("SIGINT", "checkpoint_best.pth", True, 75, "Stopped (SIGINT) after 2.0 minutes; best checkpoint so far"),
        ("SIGINT", "checkpoint_best.pth", False, 75, ""),
        (None, "checkpoint_best.pth", True, 0, "Best checkpoint: "),
    ],
)
def test_exit_status_and_last_line(
    monkeypatch: pytest.MonkeyPatch, as_json: bool, stopped: str | None, best: str, first: bool, status: int, says: str
) -> None:
    result = Result(Path("run"), Path("run") / best, {}, 120.0, stopped, first_process=first)
    monkeypatch.setattr(loop, "train", lambda *_, **__: result)
    monkeypatch.setattr("xecml.reports.finished_training.write_finished", lambda *_, **__: [])
    done = CliRunner().invoke(app, ["train", "regress", *(["--json"] if as_json else [])])
    assert done.exit_code == status
    if as_json and first:
        assert json.loads(done.stdout)["stopped"] == stopped
    elif first:
        assert done.stdout.splitlines()[-1].startswith(says)
        assert done.stdout.rstrip().endswith(f"run/{best}{'.' if stopped else ' (2.0 minutes).'}")
    else:
        assert done.stdout == ""
