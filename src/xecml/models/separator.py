"""The light of further photons, sensor by sensor: a network that says which share of each count is of others.

Where a second photon falls into an event, its light and its times are those of other places and another moment. The
network sees every sensor's count and time, which solid angle it has from where the first interaction is said to be, and
how far its time is from the way of the light from there. It answers with the share of the sensor's light that is not
of the photon of interest.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xecml import geometry
from xecml.data.batch import full
from xecml.models.networks.quick_look import GROUP_VELOCITY
from xecml.models.networks.sensor_sums import INNER_SHAPE, face_sums
from xecml.models.rebuild.point_light import PointSource, cartesian

N_NUMBERS = 9
"""Of each sensor, that the network sees."""
_FACES = len(geometry.FACES)
_PADDED_ROWS = 3
"""Rows below the inner face that make 96 of 93, which halve three times."""
_LATE_NS = (3.0, 15.0, 60.0)
"""Scales on which times enter, bounded."""
_SAID = 16


class Separator(nn.Module):
    """Shares of each sensor's light that are not of the photon of interest.

    The inner face is seen in blocks of 2 x 2 SiPMs on two levels (as by a U-Net: Ronneberger et al. 2015). Each sensor
    then judges by its own numbers, by what its block or its face says, and by the event as a whole.

    Args:
        width: channels of the first level; a multiple of 8.
    """

    sensors_of_faces: Tensor
    face_of: Tensor

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.source = PointSource()
        n, wide = N_NUMBERS, 2 * width
        self.first = nn.Conv2d(4 * n, width, 3, padding=1)
        self.fine = Block(width)
        self.down = nn.Conv2d(width, wide, 2, stride=2)
        self.coarse = nn.Sequential(Block(wide), Block(wide))
        self.event = nn.Sequential(nn.Linear(wide + 2 * n * _FACES, wide), nn.GELU(), nn.Linear(wide, wide))
        self.up = nn.ConvTranspose2d(wide, width, 2, stride=2)
        self.again = Block(width)
        self.of_block = nn.Conv2d(width, 4 * _SAID, 1)
        self.of_event = nn.Linear(wide, _SAID)
        self.of_face = nn.Embedding(_FACES, _SAID)
        self.judge = nn.Sequential(
            nn.Linear(n + _SAID, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 1)
        )  # fmt: skip
        codes = geometry.face_codes()
        for name, values in (
            ("sensors_of_faces", np.bincount(codes, minlength=_FACES).astype(np.float32)),
            ("face_of", codes.astype(np.int64)),
        ):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def numbers(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor, spot: Tensor, moment: Tensor) -> Tensor:
        """What the network sees of each sensor, (B, `N_NUMBERS`, 4760), all of order one; arguments as of `forward`."""
        solid, distance = self.source.solid_angles(cartesian(*spot.unbind(1)))
        count = torch.where(valid, full(npho), 0.0)
        share = count / count.sum(1, keepdim=True).clamp_min(1.0)
        direct = solid / solid.sum(1, keepdim=True)
        late = torch.where(timed, (time - moment[:, None]) * 1e9 - distance / GROUP_VELOCITY, 0.0)
        found = [
            torch.log1p(count) / 5, valid.float(), timed.float(),
            torch.log(share + 1e-6) / 5 + 2, torch.log(direct + 1e-6) / 5 + 2,
            (torch.log(share + 1e-5) - torch.log(direct + 1e-5)) / 3,
            *(torch.tanh(late / scale) for scale in _LATE_NS),
        ]  # fmt: skip
        return torch.stack(found, 1)

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor, spot: Tensor, moment: Tensor) -> Tensor:
        """Logits of the shares, (B, 4760).

        Args:
            npho: photons (B, 4760).
            time: seconds (B, 4760).
            valid: whether a count was measured.
            timed: whether a time was measured.
            spot: where the first interaction is said to be, (B, 3) cm, u v w.
            moment: when, (B,) seconds.
        """
        x = self.numbers(npho, time, valid, timed, spot, moment)
        means = [face_sums(y) / self.sensors_of_faces for y in (x, x * x[:, :1])]
        inner = x[:, :, : geometry.N_SIPM].reshape(len(x), -1, *INNER_SHAPE)
        fine = self.fine(F.gelu(self.first(F.pixel_unshuffle(F.pad(inner, (0, 0, 0, _PADDED_ROWS)), 2))))
        coarse = self.coarse(F.gelu(self.down(fine)))
        event = self.event(torch.cat([coarse.mean((2, 3)), *(m.flatten(1) for m in means)], 1))
        again = self.again(fine + self.up(coarse + event[:, :, None, None]))
        of_blocks = F.pixel_shuffle(self.of_block(again), 2)[:, :, : INNER_SHAPE[0]].flatten(2)
        said = self.of_event(event)[:, :, None] + self.of_face(self.face_of).T
        said = said + F.pad(of_blocks, (0, geometry.N_SENSORS - geometry.N_SIPM))
        logits: Tensor = self.judge(torch.cat([x, said], 1).transpose(1, 2)).squeeze(2)
        return logits


class Block(nn.Module):
    """Two convolutions beside the identity, which alone passes at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.two.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Maps of the same shape, (B, width, rows, columns)."""
        found: Tensor = x + self.two(F.gelu(self.one(self.norm(x))))
        return found
