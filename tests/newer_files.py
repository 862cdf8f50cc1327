"""Files of the replaced system's newest version: of the reference's recipes, and small ones with random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xecml import geometry
from xecml.events import TASKS
from xecml.models.newer.autoencoder import Decoders
from xecml.models.newer.checkpoints import file_names
from xecml.models.newer.cross_attention import CrossAttentionHead
from xecml.models.newer.encoder import NewerEncoder, newer
from xecml.models.newer.face_heads import FaceHeads, outer_cells
from xecml.models.newer.inputs import NewerNormaliser
from xecml.models.newer.network import NewerModel
from xecml.models.newer.sizes import token_faces
from xecml.models.original.network import coarse_map, hex_neighbours

State = dict[str, torch.Tensor]
Case = dict[str, Any]
CASES: dict[str, Case] = {
    case["name"]: case for case in json.loads((Path(__file__).parent / "data" / "newer_checkpoint.json").read_text())
}
WHOLE = Path(__file__).parents[2] / "shared" / "reference" / "newer_checkpoint.json"
"""All numbers, where they are at hand beside the project."""
_COMMON = {
    "outer_mode": "finegrid", "outer_fine_pool": [2, 2], "npho_scale": 20000.0, "npho_scale2": 1.0,
    "time_scale": 1.14e-7, "time_shift": -0.46, "sentinel_time": -1.0, "sentinel_npho": -1.0, "npho_scheme": "sqrt",
    "encoder_dim": 32, "dim_feedforward": 64, "num_fusion_layers": 1, "npho_branch": "npho",
    "time_branch": "relative_time",
}  # fmt: skip
_OWN: dict[str, dict[str, Any]] = {
    "regressor": {"npho_threshold": 100.0, "hidden_dim": 8, "drop_path_rate": 0.0, "nll_tasks": [],
                  "active_tasks": ["angle", "uvwFI"]},
    "autoencoder": {"mask_ratio": 0.6, "decoder_dim": 8, "predict_channels": ["npho"]},
    "inpainter": {"npho_threshold": 100.0, "mask_ratio": 0.05, "mask_npho_flat": False, "freeze_encoder": True,
                  "predict_channels": ["npho"], "head_type": "per_face", "use_masked_attention": False,
                  "sensor_positions_file": None, "cross_attn_k": 4, "cross_attn_hidden": 8,
                  "cross_attn_latent_dim": 16, "cross_attn_pos_dim": 12},
}  # fmt: skip


def small_config(kind: str, **changes: Any) -> dict[str, Any]:
    """What a small file says of itself."""
    return _COMMON | _OWN[kind] | changes


def shapes(kind: str, config: Mapping[str, Any]) -> dict[str, list[int]]:
    """Names and shapes of all tensors in a file of a configuration."""
    encoder, width = encoder_of(config), config["encoder_dim"]
    n = len(config.get("predict_channels") or ())
    prefix = "backbone." if kind == "regressor" else "encoder."
    parameters: dict[str, torch.Tensor] = dict(file_names(encoder, prefix))
    if kind == "regressor":
        model = NewerModel(encoder, tuple(TASKS), hidden_dim=config["hidden_dim"], nll_tasks=config["nll_tasks"])
        parameters |= {f"heads.{name}": p for name, p in model.heads.named_parameters()}
    elif kind == "autoencoder":
        parameters |= dict(Decoders(encoder, config["decoder_dim"], n).named_parameters())
    elif config["head_type"] == "per_face":
        parameters |= dict(FaceHeads(encoder, n).named_parameters())
    else:
        faces = torch.zeros(len(encoder.token_names), dtype=torch.int64)
        head = CrossAttentionHead(
            width, n, faces, near=config["cross_attn_k"], place_width=config["cross_attn_pos_dim"], face_width=32,
            local_width=config["cross_attn_hidden"], global_width=config["cross_attn_latent_dim"],
            hidden_width=config["cross_attn_hidden"],
        )  # fmt: skip
        parameters |= {f"cross_attn_head.{name}": p for name, p in head.named_parameters()}
    return {name: list(p.shape) for name, p in parameters.items()} | {
        name: list(table.shape) for name, table in tables(kind, config, encoder).items()
    }


def encoder_of(config: Mapping[str, Any]) -> NewerEncoder:
    names = ("npho_scale", "npho_scale2", "time_scale", "time_shift", "sentinel_npho", "sentinel_time")
    normaliser = NewerNormaliser(
        **{name: config[name] for name in names},
        npho_threshold=config.get("npho_threshold", 100.0),
        scheme=config["npho_scheme"],
    )
    pool = config["outer_fine_pool"]
    return newer(
        normaliser,
        outer_mode=config["outer_mode"],
        outer_fine_pool=tuple(pool) if pool else None,
        width=config["encoder_dim"],
        feed_forward=config["dim_feedforward"],
        layers=config["num_fusion_layers"],
    )


def edges() -> torch.Tensor:
    """Nodes that say, nodes that hear, and types (3, 431)."""
    table = hex_neighbours().tolist()
    return torch.tensor([(u, v, kind) for v, row in enumerate(table) for kind, u in enumerate(row) if u >= 0]).T


def tables(kind: str, config: Mapping[str, Any], encoder: NewerEncoder) -> State:
    """Tables of sensors and edges that a file has beside its weights."""
    nodes = {"top_hex_indices": torch.arange(4596, 4669), "bottom_hex_indices": torch.arange(4669, 4742)}
    prefix = "backbone." if kind == "regressor" else "encoder."
    found = {f"{prefix}{name}": t for name, t in (nodes | {"hex_edge_index": edges()}).items()}
    if kind == "autoencoder":
        return found | {f"dec_{face}.adj_matrix": edges() for face in ("top", "bot")}
    if kind == "regressor":
        return found
    maps = {"inner_idx": geometry.inner_map(), "us_idx": geometry.us_map(), "ds_idx": geometry.ds_map()}
    found |= nodes | {name: torch.tensor(m.astype(np.int64)) for name, m in maps.items()}
    found["outer_coarse_idx"] = torch.tensor(coarse_map())
    if config["head_type"] == "cross_attention":
        return found | {f"cross_attn_head.{name}": t for name, t in cross_tables(config, encoder).items()}
    found |= {f"head_{face}.edge_index": edges() for face in ("top", "bot")}
    if config["outer_mode"] == "finegrid":
        cells, some = outer_cells(encoder.views.grid, encoder.views.outer_fine_pool)
        ids = torch.cat([torch.arange(4092, 4308), torch.arange(4742, 4760)])
        names = ("sensor_ids", "gather_indices", "valid_positions")
        of_outer = (ids, torch.from_numpy(cells), torch.from_numpy(some))
        found |= {f"head_outer_sensor.{name}": t for name, t in zip(names, of_outer, strict=True)}
    return found


def cross_tables(config: Mapping[str, Any], encoder: NewerEncoder) -> State:
    positions = torch.tensor(geometry.positions(), dtype=torch.float32)
    near = torch.cdist(positions, positions).topk(config["cross_attn_k"] + 1, largest=False).indices[:, 1:]
    return {
        "sensor_positions": positions,
        "knn_indices": near,
        "face_ids": torch.tensor(geometry.face_codes().astype(np.int64)),
        "pos_embed": places(positions, config["cross_attn_pos_dim"]),
        "token_face_ids_map": torch.tensor(token_faces(encoder.token_names)),
    }


def places(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Waves (n, width) of positions (n, 3), cm."""
    waves = positions[:, :, None] * (2.0 ** torch.arange(width // 6) * np.pi / 100).float()
    return torch.cat([waves.sin(), waves.cos()], 2).flatten(1)


def weights(named: Mapping[str, Sequence[int]], kept: Mapping[str, torch.Tensor], seed: int) -> State:
    """Weights of the reference's recipe: normal numbers in the order of sorted names."""
    random, state = np.random.RandomState(seed), {}
    for name, shape in sorted(named.items()):
        if name in kept:
            state[name] = kept[name]
            continue
        n = random.standard_normal(shape)
        if name.endswith("weight"):
            n = n / np.sqrt(np.prod(shape[1:])) if len(shape) >= 2 else 1 + 0.1 * n
        else:
            n = 0.1 * n
        state[name] = torch.from_numpy(np.asarray(n, np.float32))
    return state


def kind_of(case: Case) -> str:
    return "autoencoder" if case["kind"] == "mae" else str(case["kind"])


@cache
def content(name: str) -> dict[str, Any]:
    """A file of a case of the reference."""
    case, config = CASES[name], CASES[name]["config"]
    kind = kind_of(case)
    full = config | {"dim_feedforward": config["dim_feedforward"] or 4 * config["encoder_dim"]}
    kept = tables(kind, full, encoder_of(full))
    if "neighbours_of_dead" in case:
        dead = torch.tensor(case["dead"])
        kept["cross_attn_head.knn_indices"][dead] = torch.tensor(case["neighbours_of_dead"])
        some = torch.tensor([int(i) for i in case["positions"]])
        exact = torch.tensor(list(case["positions"].values()), dtype=torch.float32)
        kept["cross_attn_head.pos_embed"][some] = places(exact, config["cross_attn_pos_dim"])
    return file(kind, weights(shapes(kind, full), kept, case["weights_seed"]), config)


def small(kind: str, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A small file of random weights."""
    config = small_config(kind, **changes)
    return file(kind, weights(shapes(kind, config), tables(kind, config, encoder_of(config)), seed), config)


def file(kind: str, state: State, config: Mapping[str, Any]) -> dict[str, Any]:
    best = {"best_ema_state": None} if kind == "regressor" else {}
    return {"epoch": 4, "model_state_dict": state, "ema_state_dict": None, "optimizer_state_dict": {},
            "best_val_loss": 0.5, "mlflow_run_id": None, "config": dict(config)} | best  # fmt: skip


def events(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw counts and times of a case."""
    random, shape, p = np.random.RandomState(case["input_seed"]), (case["batch"], 4760), case["raw"]
    npho = np.exp(p["log_mean"] + p["log_sigma"] * random.standard_normal(shape))
    time = random.uniform(p["time_low"], p["time_high"], shape)
    u, v = random.uniform(size=shape), random.uniform(size=shape)
    npho[u < 0.05] = 0
    near, far, dead = (u >= 0.05) & (u < 0.08), (u >= 0.08) & (u < 0.09), (u >= 0.09) & (u < 0.14)
    npho[near], npho[far] = -p["near"] * v[near], -p["far"] * v[far]
    npho[dead] = time[dead] = 1e10
    time[(u >= 0.14) & (u < 0.16)] = 1e10
    npho[(u >= 0.16) & (u < 0.165)] = np.nan
    time[(u >= 0.165) & (u < 0.17)] = np.nan
    raw = [torch.from_numpy(x.astype(np.float32)) for x in (npho, time)]
    return raw[0], raw[1]
