"""`layout: original`: the network whose checkpoints existed before this package, rebuilt exactly.

The reference network with another geometry: a scrambled coarse outer map, hexagonal edges by parity of rows, a fine
grid of normalised counts. Old weights load here, predict, export and can be trained further; new models should not be
made so. Outputs are those of the network: degrees, GeV, s, cm, unscaled.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from xecml import geometry
from xecml.errors import InputError
from xecml.events import TASKS
from xecml.models.networks.reference import ReferenceEncoder
from xecml.models.networks.views import FaceViews, Views, cut, fine_grid_members
from xecml.models.normalise import Normaliser
from xecml.models.regressor import Regressor

HIDDEN = 256
"""Width of the heads."""
_ROWS = (11, 12, 11, 12, 13, 14)
_FINE_CENTRE = (slice(15, 30), slice(30, 42))


def coarse_map() -> np.ndarray:
    """Sensor ids (9, 24) of the outer face as the old network sees it."""
    return np.arange(4092, 4308).reshape(9, 24)


def hex_neighbours() -> Tensor:
    """Table (73, 7): which node feeds each node, self and six directions; rows of sensors all begin at the left."""
    # half pitches from the left edge: odd rows stand half a pitch to the right
    places = [(row, 2 * column + row % 2) for row, n in enumerate(_ROWS) for column in range(n)]
    node = {place: i for i, place in enumerate(places)}
    steps = ((0, 0), (0, -2), (0, 2), (-1, -1), (-1, 1), (1, -1), (1, 1))
    # a message goes along its step, so a node is fed by the one a step back
    return torch.tensor([[node.get((r - dr, a - da), -1) for dr, da in steps] for r, a in places])


class OriginalViews(FaceViews):
    """Maps of the faces as the old network sees them: the fine grid is made of normalised counts."""

    sensors: Tensor
    weights: Tensor

    def __init__(
        self, normaliser: Normaliser, *, outer_mode: str, outer_fine_pool: tuple[int, int] | None = (3, 3)
    ) -> None:
        super().__init__(normaliser, outer_mode="split")
        self.outer_mode = outer_mode
        self.coarse = torch.tensor(coarse_map())
        self.centre = torch.tensor(geometry.outer_centre_map().copy())
        ids = coarse_map().repeat(5, axis=0).repeat(3, axis=1)
        share = np.full(ids.shape, 1 / 15, np.float32)
        ids[_FINE_CENTRE] = geometry.outer_centre_map().repeat(3, axis=0).repeat(2, axis=1)
        share[_FINE_CENTRE] = 1 / 6
        self.outer_fine_pool = outer_fine_pool
        p, q = outer_fine_pool or (1, 1)
        self.grid = (ids.shape[0] // p, ids.shape[1] // q)
        if not all(self.grid):
            raise InputError(
                f"model.outer_fine_pool {[p, q]} is larger than the fine grid {list(ids.shape)}; choose a smaller one."
            )
        # what is left over at the end is not seen: of 45 rows pooled by 2 the last
        seen = slice(self.grid[0] * p), slice(self.grid[1] * q)
        ids, share = ids[seen], share[seen]
        # a fine cell is a sensor at a place: 12 sensors appear in two places with different shares
        fine = np.arange(ids.size).reshape(ids.shape)
        cells, _ = fine_grid_members(fine, (p, q))
        counts = torch.from_numpy(share.ravel())[cells] / (p * q)
        self.register_buffer("sensors", torch.from_numpy(ids.ravel().copy())[cells], persistent=False)
        weights = torch.stack([counts, torch.full_like(counts, 1 / (p * q))], -1)  # (cells, p q, 2)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> Views:
        """Maps from raw counts, times (s) and masks, each (B, 4760)."""
        return self.maps(self.channels_of(npho, time, valid, timed))

    def maps(self, x: Tensor) -> Views:
        """Maps from normalised sensors (B, 4760, 2)."""
        split = self.outer_mode == "split"
        return cut(x, (x[:, self.coarse], x[:, self.centre]) if split else (self.grid_of(x),))

    def grid_of(self, x: Tensor) -> Tensor:
        """The fine grid (B, rows, columns, 2) of normalised sensors (B, 4760, 2)."""
        grid = (x[:, self.sensors] * self.weights).sum(2)  # (B, cells, 2)
        return grid.reshape(x.shape[0], *self.grid, 2)


def original(
    normaliser: Normaliser,
    *,
    outer_mode: str = "finegrid",
    outer_fine_pool: tuple[int, int] | None = (3, 3),
    drop_path: float = 0.0,
) -> ReferenceEncoder:
    """The encoder of the original layout; times are taken as they are."""
    views = OriginalViews(normaliser, outer_mode=outer_mode, outer_fine_pool=outer_fine_pool)
    return ReferenceEncoder(views, event_time=False, drop_path=drop_path, hex_neighbours=hex_neighbours())


class OriginalModel(Regressor):
    """A model of the original layout: raw relative counts and times in, the numbers of its heads out as they are.

    Its means are 0 and its widths 1, until it is trained further as a `Regressor`.

    Args:
        encoder: of the original layout.
        heads: task to head; by default one of the reference's form for every task.
    """

    unit_vectors = False

    def __init__(self, encoder: ReferenceEncoder, heads: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__(encoder, tuple(heads or TASKS), hidden_dim=HIDDEN, heads=heads)
