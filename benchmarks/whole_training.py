"""A benchmark's training that goes to its end, or on from where it was stopped."""

from __future__ import annotations

import json
from typing import Any

from xecml.config import Config
from xecml.training import loop


def train_whole(config: Config, name: str, kind: str = "regress") -> loop.Result:
    """Train, or go on with a run of this name, which must hold all settings, that was stopped.

    Its numbers are those of an uninterrupted one.

    Raises:
        InputError: a signal stopped it, so that its checkpoint is not that of a finished training.
    """
    going_on = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"resume_from": "auto"})})
    return loop.train(going_on, name=name, kind=kind, quiet=True).to_its_end()


def seconds_of(result: loop.Result) -> float:
    """Seconds of all epochs of a run, those before an interruption too."""
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in (result.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return float(sum(line["system/epoch_duration_sec"] for line in lines))
