"""Draw one event of a file, with its truth and a model's prediction where there are any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xecml import rootio
from xecml.data import source
from xecml.errors import InputError
from xecml.events import TASKS, Chunk
from xecml.figures.rebuilt_event import BRANCHES, draw_rebuilt
from xecml.figures.unfolded_detector import draw_event, save_event
from xecml.inference.prediction_columns import table_columns, true_columns
from xecml.inference.trained_model import load_model
from xecml.outputs import claim, making

PAIRS = (("npho", "time"), ("relative_npho", "relative_time"))


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
        InputError: file, entry, model or output are unusable, or the file has no pair of counts and times.
    """
    claim([out], inputs=[file, model], force=force)
    title = f"{Path(file).name}, entry {event}"
    if rebuilt := _rebuilt(file, event, tree):
        save_event(draw_rebuilt(rebuilt, title=f"{title}: counts above, times below"), out)
        return
    loaded = None if model is None else load_model(model)
    chunk = read_event(file, event, tree, names=loaded.names if loaded else None)
    prediction: dict[str, Any] | None = None
    if loaded is not None:
        inputs = read_event(file, event, tree, loaded.branches, loaded.names)
        columns = table_columns(loaded.predict(*(inputs[b] for b in loaded.branches)))
        prediction = {name: values[0] for name, values in columns.items()}
    npho, time = pair_to_draw(file, chunk)
    truth = {name: values[0] for name, values in true_columns(chunk, list(TASKS)).items()}
    numbers = ", ".join(f"{name} {chunk[name][0]}" for name in ("run", "event") if name in chunk)
    title += f" ({numbers})" if numbers else ""
    save_event(draw_event(chunk[npho][0], chunk[time][0], truth=truth, prediction=prediction, title=title), out)


def pair_to_draw(file: str, chunk: Chunk) -> tuple[str, str]:
    """Branches of the counts and times to draw: absolute ones where a chunk has both, else relative ones.

    Raises:
        InputError: it has neither pair.
    """
    for pair in PAIRS:
        if all(branch in chunk for branch in pair):
            return pair
    lacking = next((b for n, t in PAIRS for b, other in ((n, t), (t, n)) if other in chunk and b not in chunk), None)
    what = f"no branch '{lacking}'" if lacking else "neither npho and time nor relative_npho and relative_time"
    raise InputError(f"{file} has {what} to draw an event from; name a file that holds counts and times.")


def _rebuilt(file: str, event: int, tree: str) -> dict[str, Any] | None:
    """One event of an autoencoder's file of examples; none if the file is another."""
    paths, wanted = source.expand(file), (*BRANCHES, "mask")
    if len(paths) > 1 or source.is_shard(paths[0]):
        return None
    with rootio.open_tree(paths[0], tree) as reader:
        if not all(branch in reader.in_file for branch in wanted) or event >= reader.n_events:
            return None
        return {name: values[0] for name, values in reader.arrays(list(wanted), event, event + 1).items()}


def read_event(
    file: str,
    event: int,
    tree: str,
    branches: tuple[str, ...] | None = None,
    names: Mapping[str, str] | None = None,
) -> Chunk:
    """One entry of a file, or of all files that the name stands for, as a chunk of one event.

    Args:
        file: a file, folder or pattern.
        event: entry, counted from 0 through all files.
        tree: name of the tree.
        branches: what to read; all known branches by default.
        names: canonical branch name -> name in the files, where they have it.

    Raises:
        InputError: there is no such entry.
    """
    first = 0
    for path in source.expand(file):
        with source.open_events(path, tree, source.names_here(path, tree, names)) as reader:
            entry = event - first
            if 0 <= entry < reader.n_events:
                return reader.arrays(list(branches) if branches else reader.known(), entry, entry + 1)
            first += reader.n_events
    raise InputError(f"{file} has no entry {event}; its {first} entries count from 0.")
