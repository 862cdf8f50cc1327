"""Checkpoints: plain dictionaries with a manifest, written atomically."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

import xecml
from xecml import geometry
from xecml.files import atomic_path
from xecml.inference.checkpoint_schema import FORMAT, FORMAT_VERSION

BEST, LAST = "checkpoint_best.pth", "checkpoint_last.pth"


def manifest() -> dict[str, Any]:
    """What made this file: format, versions, revision, geometry."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "xecml": xecml.__version__,
        "torch": torch.__version__.split("+")[0],
        "revision": _revision(),
        "geometry_hash": geometry.geometry_hash(),
    }


def _revision() -> str:
    """Git revision of the package's checkout, or nothing where it is installed."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def save(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint beside its name and rename it."""
    with atomic_path(path) as temporary:
        torch.save(manifest() | content, temporary)


def take_over(folder: Path, resumed: str | None) -> None:
    """Make the best checkpoint in a run's folder be of that run.

    Args:
        folder: of a run that begins.
        resumed: checkpoint that it goes on from; the best of that run stays the best until there is a better one.
    """
    best, theirs = folder / BEST, Path(resumed).parent / BEST if resumed else None
    if theirs and theirs.resolve() == best.resolve():
        return
    if best.exists():  # of an earlier run of this name
        best.replace(folder / f"before_{BEST}")
    if theirs and theirs.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(best) as temporary:
            shutil.copyfile(theirs, temporary)
