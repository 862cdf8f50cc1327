"""The page of an autoencoder or inpainter: what it is, its curves, its last validation, an event that it rebuilt."""

from __future__ import annotations

from pathlib import Path

from xecml.figures.rebuilt_event import BRANCHES, draw_rebuilt
from xecml.inference.checkpoint_reading import load
from xecml.reports.page.material import Material
from xecml.reports.page.model_facts import checkpoint_facts, file_facts, recipe_of
from xecml.reports.page.run_folder import read_epochs
from xecml.rootio import list_trees, open_tree

_KINDS = {"mae": "Autoencoder", "inpaint": "Inpainter"}


def of_rebuilding(checkpoint: Path, folder: Path, name: str) -> Material:
    """What the folder of such a training tells.

    Args:
        checkpoint: of the run.
        folder: of the run.
        name: of the run.

    Raises:
        InputError: the checkpoint or the examples cannot be read.
    """
    content = load(checkpoint)
    epochs = read_epochs(folder)
    last: dict[str, float] = {}
    for row in epochs:
        last |= {k.removeprefix("val/"): v for k, v in row.items() if k.startswith("val/") and isinstance(v, float)}
    material = Material(f"{_KINDS.get(content['kind'], 'Training')} {name}", f"training {folder}", {}, [])
    material.facts = [*file_facts(checkpoint), *checkpoint_facts(content)]
    material.recipe = recipe_of(content)
    material.epochs, material.validated = epochs, last
    examples = sorted(folder.glob("*_predictions_epoch_*.root"), key=lambda path: path.stat().st_mtime)
    if not examples:
        material.missing.append("Rebuilt events: none were kept; checkpoint.save_predictions in the recipe keeps some.")
        return material
    with open_tree(str(examples[-1]), list_trees(examples[-1])[0]) as reader:
        columns = reader.arrays([*BRANCHES, "mask"], 0, min(1, reader.n_events))
    if len(columns["mask"]):
        figure = draw_rebuilt({key: values[0] for key, values in columns.items()}, title="")
        material.rebuilt.append((f"The first event of {examples[-1].name}: counts above, times below", figure))
    return material
