"""A record beside the numbered files of a run, by which an interrupted run is recognised and continued."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import Field

import xecml
from xecml import geometry
from xecml.files import atomic_path
from xecml.outputs import mark
from xecml.schema import Described, Events, Text, checked, read_json
from xecml.simulation.settings import SimulationSettings

FORMAT = 1


class _Record(Described):
    format: int = Field(ge=1)
    version: Text
    geometry: Text
    block: Events
    seed: int = Field(ge=0)
    events: Events
    chunk: int = Field(ge=0)
    settings: dict[str, Any]
    finished: bool


def manifest_path(out: Path) -> Path:
    """File of the record of a run that writes `OUT_0000.root` and so on."""
    return out.with_name(f"{out.stem}_manifest.json")


def make_manifest(settings: SimulationSettings, seed: int, n: int, chunk: int, block: int) -> dict[str, Any]:
    """All that decides what the files hold."""
    return {
        "made_by": mark(),
        "format": FORMAT,
        "version": xecml.__version__,
        "geometry": geometry.geometry_hash(),
        "block": block,
        "seed": seed,
        "events": n,
        "chunk": chunk,
        "settings": json.loads(settings.model_dump_json()),
    }


def write_manifest(out: Path, manifest: dict[str, Any], *, finished: bool) -> None:
    """Write the record (whole or not at all)."""
    with atomic_path(manifest_path(out)) as temporary:
        temporary.write_text(json.dumps(manifest | {"finished": finished}, indent=1) + "\n", encoding="utf-8")


def broken_run(out: Path, manifest: dict[str, Any]) -> bool:
    """Whether files of the same run, not finished, stand there.

    Raises:
        InputError: the record is damaged, so that it is unknown what the files contain.
    """
    path = manifest_path(out)
    if not os.path.lexists(path):
        return False
    said = f"{path} is damaged", "remove it to begin the run anew"
    stored = read_json(path, "record of a run", *said)
    checked(_Record, stored, *said)
    return bool(stored == manifest | {"finished": False})
