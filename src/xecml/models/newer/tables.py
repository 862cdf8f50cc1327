"""Tables of sensors and edges that files of the newest version hold: they say what this package builds, or are refused.

A table of zeros says nothing. Edges are compared as sets, whichever end they name first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xecml import geometry
from xecml.errors import InputError
from xecml.models.newer.encoder import NewerEncoder
from xecml.models.newer.face_heads import N_OUTER, outer_cells
from xecml.models.original.network import coarse_map, hex_neighbours

_EDGES = ("hex_edge_index", "edge_index", "adj_matrix")
_NODES = ("top_hex_indices", "bottom_hex_indices")
_CELLS = ("sensor_ids", "gather_indices", "valid_positions")


def is_table(name: str) -> bool:
    """Whether a name in a file is that of a table of sensors or edges, and not of weights."""
    last = name.rpartition(".")[2]
    return last in (*_EDGES, *_NODES, *_CELLS) or name in _maps()


def check_tables(weights: Mapping[str, Tensor], encoder: NewerEncoder, path: str | Path) -> None:
    """Compare the tables among weights by name with those of this package.

    Raises:
        InputError: names the first that says something else.
    """
    for name, table in weights.items():
        if not is_table(name) or not bool((table != 0).any()):
            continue
        last = name.rpartition(".")[2]
        if last in _EDGES:
            right = _same_edges(table)
        elif last in _NODES:
            nodes = torch.arange(73)
            first = 4596 if last.startswith("top") else 4669
            right = any(torch.equal(table.long().cpu(), nodes + n) for n in (first, 0))
        elif last in _CELLS:
            right = table.shape[:1] == (N_OUTER,)
        else:
            wanted = torch.tensor(_maps()[name].astype(np.int64))
            right = table.shape == wanted.shape and bool((table == wanted).all())
        if not right:
            raise _other(path, name)
    _check_cells(weights, encoder, path)


def _other(path: str | Path, name: str) -> InputError:
    return InputError(
        f"{path} has a table '{name}' that belongs to another detector or network than this version knows; use it "
        "with the system "
        "that wrote it."
    )


def _maps() -> dict[str, np.ndarray]:
    return {
        "inner_idx": geometry.inner_map(),
        "us_idx": geometry.us_map(),
        "ds_idx": geometry.ds_map(),
        "outer_coarse_idx": coarse_map(),
        "outer_center_idx": geometry.outer_centre_map(),
    }


def _same_edges(table: Tensor) -> bool:
    """Whether a table (3, edges) of nodes, nodes and types has the edges of the original network."""
    if table.ndim != 2 or table.shape[0] != 3:
        return False
    neighbours = hex_neighbours()
    own = {(int(u), v, kind) for v, row in enumerate(neighbours.tolist()) for kind, u in enumerate(row) if u >= 0}
    found = [tuple(edge) for edge in table.long().T.tolist()]
    turned = {(v, u, kind) for u, v, kind in found}
    return len(found) == len(own) and own in (set(found), turned)


def _check_cells(weights: Mapping[str, Tensor], encoder: NewerEncoder, path: str | Path) -> None:
    """Which cells of the fine grid each outer sensor takes, where a file says so."""
    ids, cells, some = (weights.get(f"head_outer_sensor.{name}") for name in _CELLS)
    if ids is None or cells is None or some is None or not all(bool((t != 0).any()) for t in (ids, cells, some)):
        return
    if cells.shape != some.shape or cells.ndim != 2:
        raise _other(path, "head_outer_sensor.gather_indices")
    table, there = outer_cells(encoder.views.grid, encoder.views.outer_fine_pool)
    outer = [*range(4092, 4308), *range(4742, 4760)]
    own = {sensor: set(table[i][there[i]].tolist()) for i, sensor in enumerate(outer)}
    rows = zip(ids.long().tolist(), cells.long().tolist(), (some != 0).tolist(), strict=True)
    found = {sensor: {c for c, s in zip(row, ok, strict=True) if s} for sensor, row, ok in rows}
    if found != own:
        raise _other(path, "head_outer_sensor.gather_indices")
