"""Rebuild the sensors about the hot spot, where a few chips see most of the light.

A photon that converts close to the inner face gives the nearest chip a third of an event's light. The sixteen nearest
neighbours say too little of how much; the shape of the light further out, and the balance of the faces, say more. So
hidden chips near the hot spot get a wide look and a deep network, which the many dim ones do not need.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from xecml import geometry
from xecml.data.batch import event_and_sensor, full
from xecml.models.networks.first_guess import local_spot
from xecml.models.networks.layers import DenseResidual, WideLinear, rows_of
from xecml.models.rebuild.head import Asked

_HALF = 5
"""Chips to each side of the window; it is wider than a dead board of 4 x 4 by as much again."""
_NEAR = 10.0
"""cm from the hot spot; further away the light changes too slowly to need this."""
_CHANNELS = 6
_OFFSET = 3.0  # cm, a scale of how far a chip is from the hot spot


class HotSpotHead(nn.Module):
    """Standardised residuals of counts and times at asked SiPMs near the hot spot; zero at all other sensors.

    Args:
        code_width: of the encoder's code, all tokens together.
        about_width: of `Asked.about`.
        width: of the hidden layers.
        layers: residual layers.
    """

    around: Tensor
    place: Tensor

    def __init__(self, code_width: int, about_width: int, *, width: int = 256, layers: int = 3) -> None:
        super().__init__()
        table = window_sensors(_HALF)
        self.register_buffer("around", torch.tensor(table), persistent=False)
        uv = geometry.uvw_from_xyz(geometry.positions()[: geometry.N_SIPM])[:, :2]
        self.register_buffer("place", torch.tensor(uv.astype(np.float32)), persistent=False)
        self.code = nn.Sequential(nn.LayerNorm(code_width), nn.Linear(code_width, width))
        self.about = nn.Linear(about_width, width)
        self.window = WideLinear(_CHANNELS * table.shape[1] + 4, width)
        self.layers = nn.Sequential(*(DenseResidual(width, width) for _ in range(layers)), nn.LayerNorm(width))
        self.last = nn.Linear(width, 2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, asked: Asked) -> Tensor:
        """See `xecml.models.rebuild.head.Head`."""
        hidden, maps, spot_distance = asked.hidden, asked.maps, asked.spot_distance
        event, sensor = event_and_sensor(hidden)
        near = (sensor < geometry.N_SIPM) & (spot_distance.flatten()[hidden] < _NEAR)
        rows = near.nonzero().squeeze(1)
        place, event, chip = hidden[rows], event[rows], sensor[rows]
        around = self.around[chip]  # (m, window); beyond the edge stands N_SENSORS
        inside = around < geometry.N_SENSORS
        flat = around.clamp_max(geometry.N_SENSORS - 1) + event[:, None] * geometry.N_SENSORS
        looked = (asked.read.flatten()[flat] & inside).to(maps.dtype)[..., None]
        state = maps.flatten(0, 1)
        view = rows_of(state, flat)  # (m, window, 5): count and time residuals, trust, expected, count
        own = state[place][:, None]
        relative = torch.cat([view[..., :3], view[..., 3:] - own[..., 3:4]], 2)
        said = torch.cat([relative * looked, looked], 2).flatten(1)
        with torch.autocast(maps.device.type, enabled=False):
            spot = torch.stack(local_spot(full(asked.about.detach()))[:2], 1)
            offset = ((spot[event] - self.place[chip]) / _OFFSET).to(maps.dtype)
        distance = torch.log(spot_distance.flatten()[place] + 0.5)
        where = torch.cat([own[:, 0, 3:4], distance[:, None], offset], 1)
        of_event = self.code(asked.tokens.flatten(1)) + self.about(asked.about)
        h = self.window(torch.cat([said, where], 1)) + rows_of(of_event, event)
        answer = full(self.last(self.layers(h)))
        return answer.new_zeros(hidden.shape[0], 2).index_add(0, rows, answer)


def window_sensors(half: int) -> np.ndarray:
    """Neighbours of each SiPM in a square of 2 half + 1 chips a side without itself, (4092, K) int64.

    `geometry.N_SENSORS` stands for places beyond the edge.
    """
    ids = geometry.inner_map()
    side = 2 * half + 1
    framed = np.pad(ids, half, constant_values=geometry.N_SENSORS)
    views = np.lib.stride_tricks.sliding_window_view(framed, (side, side)).reshape(*ids.shape, side * side)
    table = np.empty((geometry.N_SIPM, side * side - 1), np.int64)
    table[ids.ravel()] = np.delete(views, side * side // 2, axis=2).reshape(len(table), -1)
    return table
