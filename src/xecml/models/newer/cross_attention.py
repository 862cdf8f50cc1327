"""The newest version's inpainter with one head for all sensors: attention to near sensors, and to all tokens.

Modules and tables have the names of the files. The tables are the file's own: places of sensors as waves (their highest
bands are rounding), and near sensors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xecml.data.batch import event_and_sensor
from xecml.geometry import N_SENSORS
from xecml.models.newer.encoder import NewerEncoder
from xecml.models.newer.hiding import Seen

N_HEADS = 4
FACES = ("inner", "us", "ds", "outer", "top", "bottom")
"""In the order of the head's embedding; both outer tokens are outer."""
_HIDDEN_SCORE = -1e4


class CrossAttentionHead(nn.Module):
    """Answers of single sensors.

    Args:
        token_width: of the encoder's tokens.
        channels: of the answer.
        token_faces: face of each token, (T,) of 0 to 5.
        near: how many near sensors.
        place_width: numbers of a place, `cross_attn_pos_dim`.
        face_width: numbers of a face's embedding.
        local_width: `cross_attn_hidden`.
        global_width: `cross_attn_latent_dim`.
        hidden_width: of the last layers.
    """

    knn_indices: Tensor
    face_ids: Tensor
    pos_embed: Tensor
    token_face_ids_map: Tensor

    def __init__(
        self,
        token_width: int,
        channels: int,
        token_faces: Tensor,
        *,
        near: int,
        place_width: int,
        face_width: int,
        local_width: int,
        global_width: int,
        hidden_width: int,
    ) -> None:
        super().__init__()
        query = place_width + face_width
        self.register_buffer("knn_indices", torch.zeros(N_SENSORS, near, dtype=torch.int64))
        self.register_buffer("face_ids", torch.zeros(N_SENSORS, dtype=torch.int64))
        self.register_buffer("pos_embed", torch.zeros(N_SENSORS, place_width))
        self.register_buffer("token_face_ids_map", token_faces)
        self.face_embedding = nn.Embedding(len(FACES), face_width)
        self.neighbor_proj = nn.Linear(2 + query, local_width)
        self.query_proj_local = nn.Linear(query, local_width)
        self.latent_proj = nn.Linear(token_width, global_width)
        self.latent_face_proj = nn.Linear(face_width, global_width)
        self.query_proj_global = nn.Linear(query, global_width)
        self.k_proj = nn.Linear(global_width, global_width)
        self.v_proj = nn.Linear(global_width, global_width)
        self.global_out_proj = nn.Linear(global_width, global_width)
        both = local_width + global_width
        self.pred_mlp = nn.Sequential(
            nn.LayerNorm(both), nn.Linear(both, hidden_width), nn.GELU(), nn.Linear(hidden_width, channels)
        )

    def forward(self, encoder: NewerEncoder, seen: Seen, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Answers (n, channels) for sensors at flat positions `hidden` (n,) in (B, 4760)."""
        event, sensor = event_and_sensor(hidden)
        about = torch.cat([self.pos_embed, self.face_embedding(self.face_ids)], 1)  # (4760, query)
        query = about[sensor]
        parts = [self._near(seen, about, query, event, sensor), self._tokens(tokens, query, event)]
        answer: Tensor = self.pred_mlp(torch.cat(parts, 1))
        return answer

    def _near(self, seen: Seen, about: Tensor, query: Tensor, event: Tensor, sensor: Tensor) -> Tensor:
        """What near sensors say, (n, local_width); hidden ones say next to nothing."""
        B = seen.x.shape[0]
        every = self.neighbor_proj(torch.cat([seen.x, about.expand(B, -1, -1)], 2)).flatten(0, 1)
        places = event[:, None] * N_SENSORS + self.knn_indices[sensor]  # (n, k)
        said = every[places]
        score = (said * self.query_proj_local(query)[:, None]).sum(2) / said.shape[2] ** 0.5
        score = torch.where(seen.mask.flatten()[places] > 0, _HIDDEN_SCORE, score)
        mixed: Tensor = (score.softmax(1)[..., None] * said).sum(1)
        return mixed

    def _tokens(self, tokens: Tensor, query: Tensor, event: Tensor) -> Tensor:
        """What the tokens (B, T, token_width) say, (n, global_width)."""
        B, T, _ = tokens.shape
        faces = self.latent_face_proj(self.face_embedding(self.token_face_ids_map))
        latent = self.latent_proj(tokens) + faces
        key, value = (p(latent).reshape(B, T, N_HEADS, -1) for p in (self.k_proj, self.v_proj))
        asked = self.query_proj_global(query).reshape(query.shape[0], 1, N_HEADS, -1)
        score = (asked * key[event]).sum(3) / asked.shape[3] ** 0.5  # (n, T, heads)
        mixed = (score.softmax(1)[..., None] * value[event]).sum(1).flatten(1)
        return F.linear(mixed, self.global_out_proj.weight, self.global_out_proj.bias)
