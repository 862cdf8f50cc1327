"""Metrics of a run as JSON lines beside its checkpoints: complete on their own."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsFile:
    """Append-only `metrics.jsonl`: one object a line.

    On resuming, lines after the checkpoint's epoch are removed, so that the file is that of one run.
    """

    def __init__(self, folder: Path, first_epoch: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        kept = [line for line in self.lines() if line["epoch"] < first_epoch] if first_epoch > 1 else []
        self.path.write_text("".join(_line(values) for values in kept), encoding="utf-8")

    def lines(self) -> list[dict[str, Any]]:
        """All lines, as dictionaries."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line, at once on disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(values))
            file.flush()
            os.fsync(file.fileno())


def _line(values: Mapping[str, Any]) -> str:
    # JSON has no NaN
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps(finite) + "\n"
