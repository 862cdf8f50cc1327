"""Draw the rooms of the package and what flows between them, from the code.

    python docs/draw_architecture.py [OUT.png]

A room is a folder of `src/xecml`, in the order in which they may import one another; the single files and `rootio` are
the ground floor. A column is a kind of thing that flows through them: the room that defines it is filled, and rooms
that make or take it have a ring.
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
    "ground floor": "4760 sensors, words of an event, ROOT, recipes",
    "simulation": "photon -> cascade -> light -> sensors",
    "conventional": "reconstruction without learning",
    "data": "streams, shards, masks, augmentation",
    "checks": "event files before use",
    "realdata": "rec files of the analyser",
    "models": "networks: raw values in, physics out",
    "inference": "load, predict, fill, export",
    "training": "the loop, jobs, losses, checkpoints",
    "evaluation": "numbers: resolutions, repairs",
    "figures": "pictures",
    "reports": "folders of numbers and pictures",
    "cluster": "jobs of a batch system",
    "tuning": "searches of hyper-parameters",
    "cli": "the command xec",
}
FLOWS = {
    "events": "xecml.events.Chunk",
    "batches": "xecml.data.batch.Batch",
    "networks": "xecml.models.regressor.Regressor",
    "trained\nmodels": "xecml.inference.trained_model.Model",
    "predictions": "xecml.inference.prediction_columns.prediction_columns",
    "repairs": "xecml.inference.repair_models.Repair",
    "tables": "xecml.evaluation.tables.Columns",
    "figures": "matplotlib.figure.Figure",
}
OTHER_NAMES = {
    "xecml.events.Chunk": ("TreeWriter", "TreeReader", "rootio"),
    "xecml.inference.trained_model.Model": ("load_model", "TorchModel", "OnnxModel"),
    "xecml.models.regressor.Regressor": ("Autoencoder", "Inpainter", "build_model"),
    "xecml.inference.repair_models.Repair": ("load_repair", "NetworkRepair", "ConventionalRepair"),
    "xecml.data.batch.Batch": ("EventStream",),
    "xecml.inference.prediction_columns.prediction_columns": ("PREDICTION_TREE", "predict_chunks", "table_columns"),
    "xecml.evaluation.tables.Columns": ("read_table", "QUANTITIES"),
}
"""Names that stand for the same thing, by which a room takes or gives it."""


def room_of(path: Path) -> str | None:
    """Room of a source file."""
    first = path.relative_to(SOURCE).with_suffix("").parts[0]
    if first in ROOMS:
        return first
    return None if first in ("__init__", "demo") else "ground floor"


def uses() -> dict[str, list[str]]:
    """Rooms by flow, in their order: those that define, import or make what flows."""
    found: dict[str, set[str]] = {flow: set() for flow in FLOWS}
    for path in sorted(SOURCE.rglob("*.py")):
        room = room_of(path)
        if room is None:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {("xecml", node.name) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                names |= {((node.module or "").split(".")[0], alias.name) for alias in node.names}
        for flow, full in FLOWS.items():
            known = (full.rpartition(".")[2], *OTHER_NAMES.get(full, ()))
            if names & {(full.split(".")[0], name) for name in known} or home_of(flow) == room:
                found[flow].add(room)
    return {flow: [room for room in ROOMS if room in rooms] for flow, rooms in found.items()}


def home_of(flow: str) -> str:
    """The room where what flows is defined; pictures are matplotlib's."""
    first, second = FLOWS[flow].split(".")[:2]
    return "figures" if first == "matplotlib" else second if second in ROOMS else "ground floor"


def draw() -> Figure:
    """The picture: a row a room, a column a flow."""
    found, rooms = uses(), list(ROOMS)
    with mpl.rc_context({"font.size": 10, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(11.0, 6.0), layout="constrained")
        axes = figure.subplots()
        for i, flow in enumerate(FLOWS):
            rows = [rooms.index(room) for room in found[flow]]
            axes.plot([i, i], [min(rows), max(rows)], color=f"C{i}", linewidth=3, zorder=1)
            for j in rows:
                face = f"C{i}" if rooms[j] == home_of(flow) else "white"
                axes.plot(i, j, "o", color=f"C{i}", markerfacecolor=face, markersize=12, markeredgewidth=2)
        axes.set_yticks(range(len(rooms)), rooms, fontweight="bold")
        axes.set_xticks(range(len(FLOWS)), list(FLOWS), fontweight="bold")
        for j, text in enumerate(ROOMS.values()):
            axes.text(len(FLOWS) - 0.45, j, text, va="center", color="0.35")
            axes.axhline(j + 0.5, color="0.9", linewidth=0.8, zorder=0)
        axes.set(xlim=(-0.6, len(FLOWS) + 2.8), ylim=(len(rooms) - 0.5, -0.5))
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        legend = "filled: the room that defines it; rings: rooms that make it or take it; a room imports rooms above it"
        figure.supxlabel(legend, fontsize=9, color="0.35")
    return figure


def digest() -> str:
    """What the picture shows, in short; it is written into the file."""
    return hashlib.sha256(repr((ROOMS, uses())).encode()).hexdigest()


def main(out: str | Path = ROOT / "docs" / "architecture.png") -> None:
    """Draw to a file."""
    draw().savefig(out, dpi=110, metadata={"Description": digest(), "Software": "docs/draw_architecture.py"})


if __name__ == "__main__":
    main(*sys.argv[1:2])
