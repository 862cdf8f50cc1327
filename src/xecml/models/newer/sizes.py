"""Sizes of networks of the newest version, read off their weights and held against what their file says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xecml import geometry
from xecml.errors import InputError
from xecml.models.networks.reference import TOKENS
from xecml.models.newer.cross_attention import FACES, N_HEADS
from xecml.models.newer.encoder import WIDTHS
from xecml.models.newer.form import Form

_CROSS = "cross_attn_head."


@dataclass(frozen=True)
class EncoderSizes:
    """What the shapes of an encoder's weights say."""

    outer_mode: str
    encoder_dim: int
    dim_feedforward: int
    num_fusion_layers: int


def rows(weights: Mapping[str, Tensor], name: str, path: str | Path, axis: int = 0) -> int:
    """Length of a weight along an axis.

    Raises:
        InputError: there is no such weight, or it has no such axis.
    """
    weight = weights.get(name)
    if weight is None or weight.ndim <= axis or weight.shape[axis] == 0:
        problem = f"missing: {name}" if weight is None else f"of another shape: {name} {tuple(weight.shape)}"
        raise InputError(f"{path} does not fit the newest version of the replaced system; {problem}.")
    return weight.shape[axis]


def of_encoder(weights: Mapping[str, Tensor], prefix: str, path: str | Path) -> EncoderSizes:
    """Sizes of the encoder whose weights have a prefix.

    Raises:
        InputError: weights are missing, or of no encoder of the newest version.
    """
    positions = weights.get(f"{prefix}pos_embed")
    modes = {len(tokens): mode for mode, tokens in TOKENS.items()}
    if positions is None:
        raise InputError(f"{path} does not fit the newest version of the replaced system; missing: {prefix}pos_embed.")
    shape = tuple(positions.shape)
    if len(shape) != 3 or shape[0] != 1 or shape[1] not in modes:
        raise InputError(f"{path} has tokens of shape {shape}; expected (1, 6 or 7, encoder_dim).")
    if shape[2] % WIDTHS or not shape[2]:
        raise InputError(f"{path} has tokens of {shape[2]} numbers, which is no multiple of {WIDTHS}; it is damaged.")
    layer = re.compile(rf"{re.escape(prefix)}fusion_transformer\.layers\.(\d{{1,6}})\.")
    layers = {int(found[1]) for name in weights if (found := layer.match(name))}
    feed_forward = rows(weights, f"{prefix}fusion_transformer.layers.0.linear1.weight", path)
    return EncoderSizes(modes[shape[1]], shape[2], feed_forward, len(layers))


def agree(found: EncoderSizes, form: Form, path: str | Path) -> None:
    """Hold sizes against what a file says.

    Raises:
        InputError: names the first that differs.
    """
    settings = form.settings
    width = settings.encoder_dim or found.encoder_dim
    # None stands for the default
    feed_forward = settings.dim_feedforward or (4 * width if "dim_feedforward" in form.said else None)
    said = {
        "outer_mode": settings.outer_mode,
        "encoder_dim": settings.encoder_dim,
        "dim_feedforward": feed_forward,
        "num_fusion_layers": settings.num_fusion_layers,
    }
    for key, value in said.items():
        if value not in (None, getattr(found, key)):
            raise InputError(
                f"{path} says {key} = {value}, and has weights of {getattr(found, key)}; it is damaged: use another "
                "checkpoint."
            )


def of_cross_attention(weights: Mapping[str, Tensor], form: Form, path: str | Path) -> dict[str, int]:
    """Sizes of a `CrossAttentionHead`, by its arguments.

    Raises:
        InputError: weights are missing, or not of the sizes that the file says.
    """
    found = {
        "near": rows(weights, f"{_CROSS}knn_indices", path, 1),
        "place_width": rows(weights, f"{_CROSS}pos_embed", path, 1),
        "face_width": rows(weights, f"{_CROSS}face_embedding.weight", path, 1),
        "local_width": rows(weights, f"{_CROSS}neighbor_proj.weight", path),
        "global_width": rows(weights, f"{_CROSS}latent_proj.weight", path),
        "hidden_width": rows(weights, f"{_CROSS}pred_mlp.1.weight", path),
    }
    settings = form.settings
    said = {
        "cross_attn_k": (settings.cross_attn_k, found["near"]),
        "cross_attn_pos_dim": (settings.cross_attn_pos_dim, found["place_width"]),
        "cross_attn_hidden": (settings.cross_attn_hidden, found["local_width"]),
        "cross_attn_latent_dim": (settings.cross_attn_latent_dim, found["global_width"]),
    }
    for key, (value, own) in said.items():
        if value not in (None, own):
            raise InputError(f"{path} says {key} = {value}, and has weights of {own}; it is damaged.")
    if found["global_width"] % N_HEADS:
        raise InputError(f"{path} has a head of {found['global_width']} numbers, which {N_HEADS} cannot share.")
    return found


def token_faces(tokens: Sequence[str]) -> list[int]:
    """Face of each token, by its place in `xecml.models.newer.cross_attention.FACES`."""
    return [FACES.index(token.partition("_")[0]) for token in tokens]


def cross_tables(weights: Mapping[str, Tensor], token_face: Tensor, path: str | Path) -> dict[str, Tensor]:
    """Buffers of a `CrossAttentionHead`; entries that the file does not have (zeros) are those of this package.

    Raises:
        InputError: one has another shape, or names sensors or faces that do not exist.
    """
    codes = geometry.face_codes()  # inner, us, ds, outer, top, bottom
    n = geometry.N_SENSORS
    wanted: dict[str, tuple[tuple[int | None, ...], int, Tensor | None]] = {
        "knn_indices": ((n, None), n, None),
        "pos_embed": ((n, None), 0, None),
        "face_ids": ((n,), len(FACES), torch.from_numpy(codes.astype(np.int64))),
        "token_face_ids_map": (tuple(token_face.shape), len(FACES), token_face),
    }
    tables: dict[str, Tensor] = {}
    for name, (shape, below, own) in wanted.items():
        table = weights.get(f"{_CROSS}{name}")
        if own is not None and (table is None or not bool((table != 0).any())):
            tables[name] = own
            continue
        if (
            table is None
            or table.ndim != len(shape)
            or any(s not in (None, t) for s, t in zip(shape, table.shape, strict=True))
        ):
            problem = "is missing" if table is None else f"has the shape {tuple(table.shape)}"
            raise InputError(f"{path} cannot be used: its table {_CROSS}{name} {problem}; use another checkpoint.")
        if below and not bool(((table >= 0) & (table < below)).all()):
            raise InputError(
                f"{path} is damaged: its table {_CROSS}{name} has numbers outside 0 to {below - 1}; use another "
                "checkpoint."
            )
        if not below and not bool(torch.isfinite(table).all()):
            raise InputError(f"{path} is damaged: its table {_CROSS}{name} has numbers that are not finite.")
        tables[name] = table
    return tables
