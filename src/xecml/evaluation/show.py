"""Draw one event of a file, with its truth and a model's prediction where there are any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xecml import rootio
from xecml.data import source
from xecml.errors import InputError
from xecml.evaluation.display import draw_event, save_event
from xecml.evaluation.predictions import load_model, table_columns, true_columns
from xecml.evaluation.rebuilt import BRANCHES, draw_rebuilt
from xecml.events import TASKS, Chunk
from xecml.outputs import claim, making


@making("display")
def display_event(
    file: str,
    event: int,
    out: str | Path,
    *,
    model: str | Path | None = None,
    tree: str = rootio.DEFAULT_TREE,
    force: bool = False,
) -> None:
    """Draw the entry `event` (from 0) of a file to `.pdf` or `.png`, with a model's prediction if one is given.

    With `force` an existing file is replaced that this function did not make.

    Raises:
        InputError: file, entry, model or output are unusable.
    """
    claim([out], inputs=[file, model], force=force)
    if rebuilt := _rebuilt(file, event, tree):
        save_event(draw_rebuilt(rebuilt, title=f"{Path(file).name}, entry {event}: counts above, times below"), out)
        return
    chunk = read_event(file, event, tree)
    prediction: dict[str, Any] | None = None
    if model is not None:
        loaded = load_model(model)
        inputs = read_event(file, event, tree, loaded.branches)
        columns = table_columns(loaded.predict(*(inputs[b] for b in loaded.branches)))
        prediction = {name: values[0] for name, values in columns.items()}
    truth = {name: values[0] for name, values in true_columns(chunk, list(TASKS)).items()}
    numbers = ", ".join(f"{name} {chunk[name][0]}" for name in ("run", "event") if name in chunk)
    title = f"{Path(file).name}, entry {event}" + (f" ({numbers})" if numbers else "")
    prefix = "" if "npho" in chunk else "relative_"
    npho, time = chunk[f"{prefix}npho"][0], chunk[f"{prefix}time"][0]
    save_event(draw_event(npho, time, truth=truth, prediction=prediction, title=title), out)


def _rebuilt(file: str, event: int, tree: str) -> dict[str, Any] | None:
    """One event of an autoencoder's file of examples; none if the file is another."""
    if not file.endswith(".root"):
        return None
    wanted = (*BRANCHES, "mask")
    with rootio.open_tree(file, tree) as reader:
        if not all(branch in reader.in_file for branch in wanted) or event >= reader.n_events:
            return None
        return {name: values[0] for name, values in reader.arrays(list(wanted), event, event + 1).items()}


def read_event(file: str, event: int, tree: str, branches: tuple[str, ...] | None = None) -> Chunk:
    """One entry of a file, or of all files that the name stands for, as a chunk of one event.

    Raises:
        InputError: there is no such entry.
    """
    first = 0
    for path in source.expand(file):
        with source.open_events(path, tree) as reader:
            entry = event - first
            if 0 <= entry < reader.n_events:
                return reader.arrays(list(branches) if branches else reader.known(), entry, entry + 1)
            first += reader.n_events
    raise InputError(f"{file} has no entry {event}; its {first} entries count from 0.")
