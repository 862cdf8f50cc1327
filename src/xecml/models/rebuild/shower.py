"""A shower's light as that of a few points, which a network places.

Where a dead sensor stands on the hot spot, what its neighbours measured hardly tells how bright it was: this depends on
the depth, and the depth on how much light all faces saw together. A network that knows the event moves the points, and
solid angles do the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xecml.data.batch import full
from xecml.models.networks.first_guess import local_spot
from xecml.models.networks.quick_look import N_FEATURES
from xecml.models.rebuild.point_light import PointLight, PointSource, cartesian

_SHIFT = 2.0  # cm, a scale of how far points are moved along the face
_DEPTHS = (0.05, 38.0)  # cm
_MOST_FOLDS = 5.0  # depths change by at most e^5; a dead block on the hot spot lets the quick look see it deep


NUMBERS = 4
"""Of a point: two shifts along the face, the logarithm of its depth, its share."""
POINTS = 4


class Shower(nn.Module):
    """Expected counts of all sensors from points placed about the hot spot.

    Args:
        code_width: of the encoder's code.
        points: how many.
        width: of the hidden layer.
    """

    def __init__(self, code_width: int, *, points: int = POINTS, width: int = 128) -> None:
        super().__init__()
        self.points = points
        self.norm = nn.LayerNorm(code_width)
        self.hidden = nn.Linear(code_width + N_FEATURES, width)
        self.place = nn.Linear(width, 4 * points)
        # at first close together, at the quick look's depth and about it
        nn.init.zeros_(self.place.weight)
        with torch.no_grad():
            self.place.bias.copy_(torch.randn(4, points).mul(0.1).flatten())

    def forward(
        self, code: Tensor, point: PointLight, source: PointSource, npho: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Light of points that codes (B, code_width) place.

        Args:
            code: of the events.
            point: the light of a single point.
            source: of the light of others.
            npho: counts (B, 4760).
            seen: which of them may be used.

        Returns:
            Expected counts (B, 4760); where the points stand and their shares (B, 4 points), of order one.
        """
        h = nn.functional.gelu(self.hidden(torch.cat([self.norm(code), point.look.features.to(code.dtype)], 1)))
        with torch.autocast(code.device.type, enabled=False):
            # positions need 32 bits
            placed = nn.functional.linear(full(h), self.place.weight, self.place.bias).reshape(-1, 4, self.points)
            along, across, folds, logits = placed.unbind(1)  # (B, points) each
            share = torch.softmax(logits, 1)
            u, v, w = (x[:, None] for x in local_spot(point.look.features))
            depth = (w.clamp_min(0.2) * torch.exp(_MOST_FOLDS * torch.tanh(folds / _MOST_FOLDS))).clamp(*_DEPTHS)
            # a deep point may be moved further
            reach = _SHIFT * (1 + w / 5)
            points = cartesian(u + reach * along, v + reach * across, depth)  # (B, points, 3)
            solid = source.sum_of_solid_angles(points, share)
            placed = torch.cat([along * reach / _SHIFT, across * reach / _SHIFT, torch.log(depth), share], 1)
            return source.scaled(solid, npho, seen), placed
