"""Rebuild sensors from maps of their faces: ConvNeXt V2 blocks on the rectangular ones, HexNeXt on top and bottom.

Every cell sees its surroundings and what the encoder says of the event. A full map is computed for each event, however
few sensors are asked: 40 times the work of `xecml.models.rebuild.head_of_nearest`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from xecml import geometry
from xecml.data.batch import event_and_sensor, full
from xecml.models.cpu import chunks
from xecml.models.networks.faces import ConvNextBlock
from xecml.models.networks.hexagons import HexBlock
from xecml.models.rebuild.decoders import CHANNELS, sensor_cells
from xecml.models.rebuild.head import Asked

_STATES = 6
"""Channels of a map: those of `Asked.maps`, and whether the sensor was read."""
_HEXAGONAL = ("top", "bottom")


class FaceHead(nn.Module):
    """A face's map to answers in every cell.

    Args:
        code_width: of the encoder's code.
        width: of the blocks.
        hexagonal: whether the cells are the nodes of a hexagonal face.
        blocks: how many.
    """

    def __init__(self, code_width: int, *, width: int, hexagonal: bool, blocks: int) -> None:
        super().__init__()
        self.width = width
        self.stem = nn.Linear(_STATES, width)
        self.code = nn.Linear(code_width, width)
        table = torch.tensor(geometry.hex_neighbours())
        self.blocks = nn.Sequential(
            *(HexBlock(width, table) if hexagonal else ConvNextBlock(width) for _ in range(blocks))
        )
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, CHANNELS))
        answer = self.out[-1]
        assert isinstance(answer, nn.Linear)
        nn.init.zeros_(answer.weight)
        nn.init.zeros_(answer.bias)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Map (B, ..., 6) and codes (B, code_width) to (B, ..., 2)."""
        said = self.code(code).reshape(code.shape[0], *(1,) * (x.ndim - 2), -1)
        # in parts whose wide middle stays in the cache
        size = 16 * x.shape[1:-1].numel() * self.width
        pairs = zip(chunks(x, size), chunks(said, size), strict=True)
        parts = [self.out(self.blocks(self.stem(some) + words)) for some, words in pairs]
        return torch.cat(parts) if len(parts) > 1 else parts[0]


class FaceHeads(nn.Module):
    """A head a map; the outer face as its coarse and its centre map.

    Args:
        code_width: of the encoder's code.
    """

    cells: Tensor
    shares: Tensor
    sensors: Tensor

    def __init__(self, code_width: int) -> None:
        super().__init__()
        # the centre after the coarse map, whose displaced sensors are read from the centre
        maps: dict[str, np.ndarray] = {
            "inner": geometry.inner_map(), "us": geometry.us_map(), "ds": geometry.ds_map(),
            "outer_coarse": geometry.outer_coarse_map().T, "outer_center": geometry.outer_centre_map().T,
            "top": np.concatenate(geometry.top_rows()), "bottom": np.concatenate(geometry.bottom_rows()),
        }  # fmt: skip
        self.shapes = {name: ids.shape for name, ids in maps.items()}
        self.sizes = [ids.size for ids in maps.values()]
        self.faces = nn.ModuleDict(
            {
                name: FaceHead(
                    code_width, width=96 if hexagonal else 64, hexagonal=hexagonal, blocks=3 if hexagonal else 2
                )
                for name, hexagonal in ((name, name in _HEXAGONAL) for name in maps)
            }
        )
        cells, shares = sensor_cells(list(maps.values()))
        sensors = torch.tensor(np.concatenate([ids.ravel() for ids in maps.values()]).astype(np.int64))
        for name, table in (("cells", cells), ("shares", shares), ("sensors", sensors)):
            self.register_buffer(name, table, persistent=False)

    def forward(self, asked: Asked) -> Tensor:
        """See `xecml.models.rebuild.head.Head`."""
        code, maps, hidden = asked.tokens.flatten(1), asked.maps, asked.hidden
        states = torch.cat([maps, asked.read[..., None].to(maps.dtype)], 2).index_select(1, self.sensors)
        answers = []
        for (name, shape), part in zip(self.shapes.items(), torch.split(states, self.sizes, 1), strict=True):
            face = self.faces[name](part.reshape(-1, *shape, _STATES), code)
            answers.append(full(face.reshape(code.shape[0], -1, CHANNELS)))
        flat = torch.cat(answers, 1)  # (B, cells, 2)
        event, sensor = event_and_sensor(hidden)
        answer: Tensor = (flat[event[:, None], self.cells[sensor]] * self.shares[sensor][..., None]).sum(1)
        return answer
