"""Draw the rooms of the package and what flows between them, from the code.

    python docs/draw_architecture.py [OUT.png]

A room is a folder of `src/xecml`, in the order in which they may import one another. A column is a kind of thing that
flows through them: the room where it is defined is filled, and every room that takes or gives it is marked.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "xecml"
ROOMS = {
    "geometry, events": "4760 sensors; the words of an event",
    "files": "ROOT in and out, recipes, safe writing",
    "simulation": "photon -> cascade -> light -> sensors",
    "conventional": "reconstruction without learning",
    "data": "streams, shards, masks, augmentation",
    "checks": "event files before use",
    "models": "networks: raw values in, physics out",
    "inference": "load, predict, fill, export",
    "training": "the loop, jobs, losses, checkpoints",
    "evaluation": "numbers: resolutions, repairs",
    "figures": "pictures",
    "reports": "folders of numbers and pictures",
    "cli": "the command xec",
}
SINGLE = {"geometry": "geometry, events", "events": "geometry, events", "resolution": "evaluation"}
"""Single files of the top folder that belong to a room; all others are of `files`."""
FLOWS = {
    "events": "xecml.events.Chunk",
    "batches": "xecml.data.batch.Batch",
    "networks": "xecml.models.regressor.Regressor",
    "trained\nmodels": "xecml.inference.trained_model.Model",
    "predictions": "xecml.inference.prediction_columns.prediction_columns",
    "repairs": "xecml.inference.repairs.Repair",
    "tables": "xecml.evaluation.tables.Columns",
    "figures": "matplotlib.figure.Figure",
}
OTHER_NAMES = {
    "xecml.inference.trained_model.Model": ("load_model", "TorchModel", "OnnxModel"),
    "xecml.models.regressor.Regressor": ("Autoencoder", "Inpainter", "build_model"),
    "xecml.inference.repairs.Repair": ("load_repair", "NetworkRepair", "ConventionalRepair"),
    "xecml.data.batch.Batch": ("EventStream",),
    "xecml.inference.prediction_columns.prediction_columns": ("PREDICTION_TREE", "predict_chunks", "table_columns"),
    "xecml.evaluation.tables.Columns": ("Table", "read_table"),
}
"""Names that stand for the same thing, by which a room takes or gives it."""


def room_of(path: Path) -> str | None:
    """Room of a source file."""
    first = path.relative_to(SOURCE).with_suffix("").parts[0]
    if first in ROOMS:
        return first
    if first in ("__init__", "cluster", "demo"):
        return None
    return SINGLE.get(first, "files")


def uses() -> dict[str, dict[str, int]]:
    """By flow and room: how many files of it import the flow's type, or define it."""
    found: dict[str, dict[str, int]] = {flow: dict.fromkeys(ROOMS, 0) for flow in FLOWS}
    for path in sorted(SOURCE.rglob("*.py")):
        room = room_of(path)
        if room is None:
            continue
        names = {
            ((node.module or "").split(".")[0], alias.name)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for flow, full in FLOWS.items():
            module, _, name = full.rpartition(".")
            defines = ".".join(("xecml", *path.relative_to(SOURCE).with_suffix("").parts)) == module
            known = {(module.split(".")[0], one) for one in (name, *OTHER_NAMES.get(full, ()))}
            found[flow][room] += defines or bool(names & known)
    return found


def files_of(room: str) -> int:
    """Number of files in a room."""
    return sum(room_of(path) == room and path.name != "__init__.py" for path in SOURCE.rglob("*.py"))


def draw() -> Figure:
    """The picture: a row a room, a column a flow."""
    found, rooms = uses(), list(ROOMS)
    with mpl.rc_context({"font.size": 10, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(11.0, 6.6), layout="constrained")
        axes = figure.subplots()
        for i, flow in enumerate(FLOWS):
            rows = [j for j, room in enumerate(rooms) if found[flow][room]]
            module = FLOWS[flow].rpartition(".")[0].split(".")
            home = next(j for j in rows if (module[1] if module[0] == "xecml" else "figures") in rooms[j].split(", "))
            axes.plot([i, i], [min(rows), max(rows)], color=f"C{i}", linewidth=3, zorder=1)
            for j in rows:
                face = f"C{i}" if j == home else "white"
                axes.plot(i, j, "o", color=f"C{i}", markerfacecolor=face, markersize=13, markeredgewidth=2)
                axes.text(i, j, str(found[flow][rooms[j]]), ha="center", va="center", fontsize=7,
                          color="white" if j == home else "0.2")  # fmt: skip
        axes.set_yticks(range(len(rooms)), [f"{room}  ({files_of(room)})" for room in rooms], fontweight="bold")
        axes.set_xticks(range(len(FLOWS)), list(FLOWS), fontweight="bold")
        for j, text in enumerate(ROOMS.values()):
            axes.text(len(FLOWS) - 0.45, j, text, va="center", color="0.35")
            axes.axhline(j + 0.5, color="0.9", linewidth=0.8, zorder=0)
        axes.set(xlim=(-0.6, len(FLOWS) + 2.6), ylim=(len(rooms) - 0.5, -0.5))
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.supxlabel("filled: where it is defined; numbers: files that take or give it; each room imports only "
                         "rooms above it", fontsize=9, color="0.35")  # fmt: skip
    return figure


def digest() -> str:
    """What the picture shows, in short; it is written into the file."""
    shown = repr((ROOMS, uses(), {room: files_of(room) for room in ROOMS}))
    return hashlib.sha256(shown.encode()).hexdigest()


def main(out: str | Path = ROOT / "docs" / "architecture.png") -> None:
    """Draw to a file."""
    draw().savefig(out, dpi=110, metadata={"Description": digest(), "Software": "docs/draw_architecture.py"})


if __name__ == "__main__":
    main(*sys.argv[1:2])
