"""The autoencoder of the replaced system's newest version: a decoder a face on the tokens of the masked encoder.

Modules have the names of the files. Answers are normalised, channels in the order of `channels`; those of the outer
face are cells of its grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xecml import geometry
from xecml.models.networks.hexagons import N_NODES, HexBlock
from xecml.models.newer.encoder import NewerEncoder
from xecml.models.newer.face_heads import outer_cells
from xecml.models.newer.hiding import Seen
from xecml.models.original.network import hex_neighbours

_SEED = 4
"""Cells along each side of the first map."""
_FACES = {"inner": "inner", "us": "us", "ds": "ds", "outer": "outer", "top": "top", "bot": "bottom"}
"""Name in files -> token; the outer face's is that of its coarse map in `split`."""
_CENTRE = 18
"""Sensors of the centre map alone; they are the last."""


class RectangleDecoder(nn.Module):
    """A token to the map of a rectangular face.

    Args:
        width: of the token.
        decoder_dim: channels at 8 x 8 cells; half of them at 16 x 16.
        channels: of the answer.
        shape: of the face.
    """

    def __init__(self, width: int, decoder_dim: int, channels: int, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.linear = nn.Linear(width, 2 * decoder_dim * _SEED**2)
        half = decoder_dim // 2

        def twice(inputs: int, outputs: int) -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)

        self.decoder = nn.Sequential(
            twice(2 * decoder_dim, decoder_dim),
            nn.LayerNorm([decoder_dim, 2 * _SEED, 2 * _SEED]),
            nn.GELU(),
            twice(decoder_dim, half),
            nn.LayerNorm([half, 4 * _SEED, 4 * _SEED]),
            nn.GELU(),
            nn.ConvTranspose2d(half, channels, 3, stride=1, padding=1),
        )

    def forward(self, token: Tensor) -> Tensor:
        """Map (B, width) to (B, channels, H, W)."""
        seed = self.linear(token).reshape(token.shape[0], -1, _SEED, _SEED)
        return F.interpolate(self.decoder(seed), self.shape, mode="bilinear", align_corners=False)


class HexagonDecoder(nn.Module):
    """A token to the 73 sensors of a hexagonal face."""

    def __init__(self, width: int, decoder_dim: int, channels: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, N_NODES, decoder_dim))
        self.proj_in = nn.Linear(width, decoder_dim)
        self.blocks = nn.ModuleList(HexBlock(decoder_dim, hex_neighbours()) for _ in range(2))
        self.head = nn.Sequential(nn.LayerNorm(decoder_dim), nn.Linear(decoder_dim, channels))

    def forward(self, token: Tensor) -> Tensor:
        """Map (B, width) to (B, channels, 73)."""
        y = self.proj_in(token)[:, None] + self.pos_embed
        for block in self.blocks:
            y = block(y)
        answer: Tensor = self.head(y)
        return answer.transpose(1, 2)


class Decoders(nn.ModuleDict):
    """The decoders of all faces, by the names of the files: `dec_inner`, ...

    Args:
        encoder: whose tokens they take.
        decoder_dim: their width.
        channels: of the answer.
    """

    cells: Tensor
    shares: Tensor

    def __init__(self, encoder: NewerEncoder, decoder_dim: int, channels: int) -> None:
        width, views = encoder.token_width, encoder.views
        split = views.outer_mode == "split"
        shapes = {"inner": geometry.inner_map().shape, "us": geometry.us_map().shape, "ds": geometry.ds_map().shape}
        shapes["outer"] = geometry.outer_coarse_map().shape if split else views.grid
        decoders: dict[str, nn.Module] = {
            f"dec_{face}": RectangleDecoder(width, decoder_dim, channels, (shape[0], shape[1]))
            for face, shape in shapes.items()
        }
        decoders |= {f"dec_{face}": HexagonDecoder(width, decoder_dim, channels) for face in ("top", "bot")}
        super().__init__(decoders)
        self.split = split
        outer = "outer_coarse" if split else "outer"
        names = [outer if token == "outer" else token for token in _FACES.values()]
        self.places = {name: encoder.token_names.index(token) for name, token in zip(_FACES, names, strict=True)}
        cells, some = outer_cells(views.grid, views.outer_fine_pool)
        share = torch.from_numpy(some) / torch.from_numpy(some).sum(1, keepdim=True)
        # a cell of the fine grid has a fifteenth or a sixth of a sensor's count
        parts = torch.tensor([15.0] * (len(cells) - _CENTRE) + [6.0] * _CENTRE)
        for i in geometry.outer_centre_map().ravel():
            parts[i - 4092 if i < 4742 else i - 4742 + len(cells) - _CENTRE] = 6.0
        both = torch.stack([share * parts[:, None], share], 2)[..., :channels]  # (234, K, channels)
        self.register_buffer("cells", torch.from_numpy(cells), persistent=False)
        self.register_buffer("shares", both.float(), persistent=False)

    def reconstructions(self, tokens: Tensor) -> dict[str, Tensor]:
        """Normalised maps (B, channels, H, W), or (B, channels, 73), by face, from tokens (B, T, width)."""
        return {face: self[f"dec_{face}"](tokens[:, place]) for face, place in self.places.items()}

    def forward(self, encoder: NewerEncoder, seen: Seen, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Answers (n, channels) for sensors at flat positions `hidden` (n,) in (B, 4760).

        An outer sensor has the mean of its cells, as a whole count. In `split` the centre map has no decoder, and the
        18 sensors that are in it alone have no answer (NaN).
        """
        maps = {face: m.flatten(2).transpose(1, 2) for face, m in self.reconstructions(tokens).items()}
        if self.split:
            coarse, centre = maps["outer"], torch.full_like(maps["outer"][:, :_CENTRE], torch.nan)
        else:
            outer = (maps["outer"][:, self.cells] * self.shares).sum(2)  # (B, 234, channels)
            coarse, centre = outer[:, :-_CENTRE], outer[:, -_CENTRE:]
        every = [maps["inner"], coarse, maps["us"], maps["ds"], maps["top"], maps["bot"], centre]
        return torch.cat(every, 1).flatten(0, 1)[hidden]
