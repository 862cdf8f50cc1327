"""What decides a model's answers to the first events of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from xecml.data.selected_events import Chosen
from xecml.errors import InputError
from xecml.evaluation.what_decides import WhatDecides, what_decides
from xecml.events import TASKS, Chunk
from xecml.inference.event_parts import Wanted, read_chosen
from xecml.inference.prediction_columns import true_columns
from xecml.inference.trained_model import Model, TorchModel


def decided(
    model: Model, paths: Sequence[str], tree: str, chosen: Mapping[str, Chosen] | None, events: int
) -> WhatDecides:
    """Find what decides the answers to the first events of files, in 32 bits.

    Args:
        model: a checkpoint's, or an exported file's, of which there are no derivatives.
        paths: event files.
        tree: name of the tree in them.
        chosen: events that are taken of the files; all by default.
        events: number of events, or all there are.

    Raises:
        InputError: the files cannot be read, or have fewer than two events with counts and times.
    """
    chunks: list[Chunk] = []
    left = events
    for read in read_chosen(paths, Wanted(model.branches, model.names, tree), chosen):
        columns = true_columns(read.chunk, tuple(TASKS)) | {b: read.chunk[b] for b in model.branches}
        chunks.append({name: values[:left] for name, values in columns.items()})
        left -= len(chunks[-1][model.branches[0]])
        if left <= 0:
            break
    if not chunks:
        raise InputError(f"{paths[0]} holds no events; name files with events.")
    shared = [name for name in chunks[0] if all(name in chunk for chunk in chunks)]
    every = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in shared}
    npho, time = (every.pop(branch) for branch in model.branches)
    return what_decides(model.exact() if isinstance(model, TorchModel) else model, npho, time, every)
