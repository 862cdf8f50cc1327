"""Files in the folder of a training besides its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHECKPOINTS = ("checkpoint_best.pth", "checkpoint_last.pth")


def checkpoint_in(folder: Path) -> Path | None:
    """The best checkpoint of a run, or its last."""
    return next((folder / name for name in CHECKPOINTS if (folder / name).is_file()), None)


def read_epochs(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of a training's `metrics.jsonl`; none without one."""
    file = folder / "metrics.jsonl"
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        found += [row] if isinstance(row, dict) else []
    return found
