"""Rebuild a sensor from the nearest ones that are seen, in three dimensions and so across faces.

Each asked sensor attends to its 16 nearest seen neighbours (graph attention, Velickovic et al. 2018) and to the
encoder's tokens (Vaswani et al. 2017). What the neighbours give is how far they are from the light of a point, so an
interpolation of these is the answer at the start, and the network learns the rest.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from xecml import geometry
from xecml.data.batch import event_and_sensor, full
from xecml.data.masks import nearest_sensors
from xecml.models.networks.layers import DenseResidual, rows_of
from xecml.models.rebuild.head import Asked

_CANDIDATES = 48
_PAIR, _STATE = 5, 6
_HEADS = 4
_REACH = 5.0  # cm, a scale of distances between neighbours


class NearestHead(nn.Module):
    """Standardised residuals of counts and times at asked sensors.

    Args:
        token_width: of the encoder's tokens.
        n_tokens: how many there are; a single one needs no attention.
        width: of the hidden layers.
        k: nearest seen sensors that are looked at.
        layers: residual layers on what each neighbour says.
    """

    candidates: Tensor
    pairs: Tensor
    face: Tensor
    order: Tensor

    def __init__(self, token_width: int, *, n_tokens: int = 1, width: int = 64, k: int = 16, layers: int = 1) -> None:
        super().__init__()
        self.k, self.width = k, width
        table = nearest_sensors(_CANDIDATES + 1)[:, 1:]
        self.register_buffer("candidates", torch.tensor(table.astype(np.int64)), persistent=False)
        self.register_buffer("pairs", torch.tensor(pair_features(table)), persistent=False)
        self.register_buffer("face", torch.tensor(geometry.face_codes().astype(np.int64)), persistent=False)
        # the nearer first, and every seen one before the others
        self.register_buffer("order", torch.arange(_CANDIDATES, 0, -1, dtype=torch.float32), persistent=False)
        self.faces = nn.Embedding(len(geometry.FACES), width)
        self.target = nn.Linear(3, width)
        self.values = nn.Linear(token_width, width)
        # what has no gradient would stop several processes, which wait for all of them
        self.keys = nn.Linear(token_width, width) if n_tokens > 1 else None
        self.query = nn.Linear(width, width) if n_tokens > 1 else None
        self.neighbour = nn.Linear(_PAIR + _STATE, width)
        self.from_target = nn.Linear(width, width)
        self.layers = nn.Sequential(*(DenseResidual(width, width) for _ in range(layers)))
        self.score = nn.Linear(width, _HEADS)
        self.value = nn.Linear(width, width)
        self.last = nn.Sequential(
            nn.Linear(2 * width + 2 * _HEADS, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2)
        )
        answer = self.last[-1]
        assert isinstance(answer, nn.Linear)
        nn.init.zeros_(answer.weight)
        nn.init.zeros_(answer.bias)

    def forward(self, asked: Asked) -> Tensor:
        """See `xecml.models.rebuild.head.Head`."""
        hidden, spot_distance = asked.hidden, asked.spot_distance
        event, sensor = event_and_sensor(hidden)
        places = self.candidates[sensor] + event[:, None] * geometry.N_SENSORS  # (n, candidates)
        live = asked.read.flatten()[places]
        slot = torch.topk(torch.where(live, self.order + _CANDIDATES, self.order), self.k, dim=1).indices
        places, live = places.gather(1, slot), live.gather(1, slot)
        state = asked.maps.flatten(0, 1)
        own = state[hidden]
        around = rows_of(state, places)  # (n, k, 5)
        distance = torch.log((spot_distance.flatten()[hidden] + 0.5) / _REACH)
        target = self.target(torch.stack([own[:, 3], distance, own[:, 3] * distance], 1)) + self.faces(
            self.face[sensor]
        )
        target = target + self._of_tokens(target, asked.tokens, event)
        pair = self.pairs[sensor[:, None], slot]
        said = torch.cat([pair, around, (around[:, :, 3] - own[:, None, 3])[..., None]], 2)
        h = self.layers(self.neighbour(said) + self.from_target(target)[:, None])
        score = self.score(h).masked_fill(~live[..., None], -1e4)
        weight = torch.softmax(full(score), 1)  # (n, k, heads)
        value = self.value(h).reshape(*h.shape[:2], _HEADS, self.width // _HEADS)
        mixed = full(torch.einsum("nkh,nkhd->nhd", weight.to(value.dtype), value)).flatten(1)
        # residuals of the neighbours, interpolated by each head: (n, heads), and of times with their trust
        plain = (weight * around[:, :, :1]).sum(1)
        trust = weight * around[:, :, 2:3]
        timed = (trust * around[:, :, 1:2]).sum(1) / (trust.sum(1) + 0.05)
        rest: Tensor = self.last(torch.cat([full(target), mixed, plain, timed], 1))
        return torch.stack([plain[:, 0], timed[:, 0]], 1) + full(rest)

    def _of_tokens(self, target: Tensor, tokens: Tensor, event: Tensor) -> Tensor:
        """What the tokens of its event say to a sensor, (n, width)."""
        values = self.values(tokens)  # (B, T, width)
        if self.keys is None or self.query is None:
            only: Tensor = rows_of(values[:, 0], event)
            return only
        keys = self.keys(tokens)
        score = (self.query(target)[:, None] * rows_of(keys, event)).sum(2) / math.sqrt(self.width)
        said: Tensor = (torch.softmax(full(score), 1)[..., None] * rows_of(values, event)).sum(1)
        return said.to(target.dtype)


def pair_features(table: np.ndarray) -> np.ndarray:
    """Where neighbours (4760, K) stand in the frame of their sensor: along z, across, along the normal, distance.

    Returns:
        (4760, K, 5) float32, lengths over 5 cm; last whether both are on one face.
    """
    xyz, normals, faces = geometry.positions(), geometry.normals(), geometry.face_codes()
    away = xyz[table] - xyz[:, None]
    across = np.cross(normals, [0.0, 0.0, 1.0])
    # on the ends the normal is nearly along z: there the second axis is across it
    across = np.where(np.abs(normals[:, 2:]) > 0.5, np.cross(normals, xyz * [1, 1, 0]), across)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    along = np.cross(across, normals)
    parts = [np.einsum("skc,sc->sk", away, axis) for axis in (along, across, normals)]
    distance = np.linalg.norm(away, axis=2)
    same = faces[table] == faces[:, None]
    return np.stack([*(p / _REACH for p in (*parts, distance)), same], 2).astype(np.float32)
