"""How a training in a batch job continues by itself: last checkpoint, regular saving, starts without progress."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from xecml.config import Config
from xecml.errors import InputError
from xecml.events import number_of
from xecml.files import atomic_path
from xecml.outputs import mark
from xecml.training.checkpoint_writing import LAST

AUTO = "auto"
"""As `checkpoint.resume_from`: the run's own last checkpoint, or the start."""
STARTS = "starts.json"
_MOST_STARTS = 3
_SAVE_S = 14 * 60.0
"""With a step and the writing itself less than the 15 minutes that a lost node may cost."""


def resolved(config: Config, folder: Path, fabric: Fabric) -> Config:
    """A recipe with the checkpoint that `auto` means: the run's own last one, to continue exactly, or none.

    Args:
        config: the recipe.
        folder: of the run.
        fabric: all processes take part; the first one looks, since file systems may show others what was before.
    """
    if config.checkpoint.resume_from != AUTO:
        return config
    there = (folder / LAST).is_file()
    if fabric.world_size > 1:
        there = fabric.broadcast(there)
    own: dict[str, Any] = {"resume_from": None}
    if there:
        own = {"resume_from": str(folder / LAST), "weights_only": False, "heads_from_scratch": []}
    return config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update=own)})


def save_every_s() -> float | None:
    """Seconds after which a training saves without being asked to: in a batch job, whose node may fail unannounced."""
    return _SAVE_S if "SLURM_JOB_ID" in os.environ else None


def count_start(folder: Path, epoch: int, batch: int) -> None:
    """Note in a run's folder that a batch job starts at a place, and refuse to start there for ever.

    Args:
        folder: of the run.
        epoch: that it starts in, from 1.
        batch: of this epoch.

    Raises:
        InputError: the same job, put back to its queue again and again, has started there before without a new step.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    here = {"job": job, "epoch": epoch, "batch_in_epoch": batch}
    before = _read(folder / STARTS)
    starts = before["starts"] if {key: before.get(key) for key in here} == here else 0
    if starts >= _MOST_STARTS:
        raise InputError(
            f"{number_of(starts, 'start')} of job {job} made no new step (epoch {epoch}, batch {batch}), so it ends "
            f"here; read its log, give it more time or memory, and submit it again to go on in {folder}."
        )
    with atomic_path(folder / STARTS) as temporary:
        temporary.write_text(json.dumps({"made": mark(), **here, "starts": starts + 1}) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    """What is noted; nothing where that cannot be read, since it only counts."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("starts"), int) else {}
