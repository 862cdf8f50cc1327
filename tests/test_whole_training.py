"""Trainings of benchmarks: one that a signal stops is not taken for a finished one, and is gone on with."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmark_modules import modules
from xecml.errors import InputError
from xecml.recipes import load_config
from xecml.training import loop


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    with modules(("whole_training",)) as found:
        yield found["whole_training"]


def test_a_training_that_is_stopped_goes_on(
    bench: Any, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {
        "data.train_path": str(sample / "train.root"), "data.val_path": str(sample / "val.root"),
        "checkpoint.save_dir": str(tmp_path), "training.epochs": 2, "checkpoint.save_predictions": 0,
    }  # fmt: skip
    config, plain = load_config("tiny", [], flags), loop.train

    def as_a_batch_system(_epoch: int, _score: float) -> bool:
        signal.raise_signal(signal.SIGTERM)
        return False

    def stopped(*words: Any, **named: Any) -> Any:
        return plain(*words, **named, each_epoch=as_a_batch_system)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", stopped)
        with pytest.raises(InputError, match="The training curve was stopped by SIGTERM; give the command again"):
            bench.train_whole(config, "curve")
    lines = (tmp_path / "curve" / "metrics.jsonl").read_text().splitlines()
    result = bench.train_whole(config, "curve")
    assert result.stopped is None
    after = (tmp_path / "curve" / "metrics.jsonl").read_text().splitlines()
    assert (len(lines), len(after)) == (1, 2)
    assert after[0] == lines[0]
    assert bench.seconds_of(result) > 0
