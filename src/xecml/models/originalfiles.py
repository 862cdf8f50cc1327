"""Files of the original layout: what they are, and the weights in them under the names of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xecml.errors import InputError
from xecml.events import TASKS
from xecml.files import regular_file
from xecml.models.normalise import RELATIVE_DEFAULTS, SENTINEL, Normaliser
from xecml.models.original import HIDDEN, OriginalModel, original
from xecml.models.reference import TOKENS, ReferenceEncoder

Weights = dict[str, Tensor]

KINDS = {
    "model": "original model: encoder and the heads of six tasks",
    "single-task": "original single-task model: encoder and one head",
    "mae": "original masked autoencoder: gives its encoder",
    "encoder": "original encoder",
}
# part of the encoder in old files -> here
_PARTS = {
    "pos_embed": "positions",
    "backbone.": "faces.",
    "hex_encoder.": "hexagons.",
    "fusion_transformer.": "fusion.",
}
_TABLES = ("top_hex_indices", "bottom_hex_indices", "hex_edge_index")
_UNUSED_HEAD = tuple(f"head.{i}.{name}" for i in (0, 1, 4) for name in ("weight", "bias"))
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod)\.")
_SHOWN = 8


def recognise(source: str | Path | Mapping[str, Any]) -> str | None:
    """Kind of an original file (a key of `KINDS`), or None if it is something else.

    Args:
        source: a path, or the content of a file.
    """
    try:
        content = _read(source) if isinstance(source, str | Path) else source
        return _kind(_weights(content), "model_state_dict" in content)
    except InputError:
        return None


def load_original(
    path: str | Path, *, normalization: Mapping[str, float] | None = None
) -> OriginalModel | ReferenceEncoder:
    """Load a file of the original layout.

    Args:
        path: a full or single-task model, a masked autoencoder, or an encoder.
        normalization: constants (`npho_scale`, ...) in place of those in the file's configuration.

    Returns:
        A model, its `trained_heads` those of the tasks that the file says were enabled, or all where it does not say;
        or an encoder, where the file holds no head that was trained.

    Raises:
        InputError: not such a file, or weights are missing, left over or of the wrong shape; they are listed.
    """
    content = _read(path)
    weights = _weights(content)
    kind = _kind(weights, "model_state_dict" in content)
    if kind is None:
        parts = sorted({name.partition(".")[0] for name in weights})
        raise InputError(f"{path} is not a model of the original layout; it holds {_listed(parts)}.")
    prefix = {"model": "backbone.", "mae": "encoder."}.get(kind, "")
    encoder = _encoder(weights, prefix, content, normalization or {}, path)
    renamed, left = _renamed(weights, prefix, kind)
    if kind in ("mae", "encoder"):
        _fill(encoder, {k.removeprefix("encoder."): w for k, w in renamed.items()}, left, path)
        return encoder
    model = OriginalModel(encoder, None if kind == "model" else _single_head(encoder, weights, content, path))
    _fill(model, renamed, left, path)
    model.trained_heads = _trained(model, content)
    return model


def describe(path: str | Path) -> dict[str, Any]:
    """Facts about a file of the original layout.

    Raises:
        InputError: it is not one.
    """
    content = _read(path)
    weights = _weights(content)
    kind = _kind(weights, "model_state_dict" in content)
    if kind is None:
        raise InputError(f"{path} is not a model of the original layout.")
    positions = next(w for name, w in weights.items() if name.endswith("pos_embed"))
    return {
        "file": str(path),
        "kind": KINDS[kind],
        "layout": "original",
        "outer_mode": _outer_mode(positions, path),
        "tasks": sorted({name.split(".")[1] for name in weights if name.startswith("heads.")}),
        "averaged weights": content.get("ema_state_dict") is not None,
        "numbers stored": sum(w.numel() for w in weights.values()),
        "epochs finished": content.get("epoch"),
    }


def _read(path: str | Path) -> Mapping[str, Any]:
    regular_file(path, "checkpoint")
    # numbers of numpy in configurations and metrics
    scalars: list[Any] = [
        np.dtype,
        np.float64(0).__reduce__()[0],
        *(type(np.dtype(t)) for t in ("f4", "f8", "i4", "i8", "?")),
    ]
    try:
        with torch.serialization.safe_globals(scalars):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on damaged files
        reason = (str(error).splitlines() or [""])[0][:120]
        raise InputError(f"{path} cannot be read as a checkpoint ({reason}).") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path} is not a checkpoint: it holds no dictionary.")
    return content


def _weights(content: Mapping[str, Any]) -> Weights:
    """The averaged weights, or else the weights, without the prefixes that wrappers leave."""
    state = content.get("ema_state_dict") or content.get("model_state_dict")
    if state is None:
        state = content if all(isinstance(w, Tensor) for w in content.values()) else None
    if not isinstance(state, Mapping) or not state:
        raise InputError("The file holds no weights (`ema_state_dict`, `model_state_dict`, or tensors by name).")
    plain = {_WRAPPERS.sub("", name): w for name, w in state.items() if name != "n_averaged"}
    return {name: w for name, w in plain.items() if isinstance(w, Tensor)}


def _kind(weights: Weights, from_training: bool) -> str | None:
    parts = {name.partition(".")[0] for name in weights}
    if "backbone.pos_embed" in weights and "heads" in parts:
        return "model"
    if "encoder.pos_embed" in weights and not any("head" in part or "inpaint" in part for part in parts):
        return "mae"
    if "pos_embed" in weights and "fusion_transformer" in parts:
        # an encoder always has a head; only a training run has trained it
        return "single-task" if from_training and "head.0.weight" in weights else "encoder"
    return None


def _outer_mode(positions: Tensor, path: str | Path) -> str:
    for mode, tokens in TOKENS.items():
        if positions.shape[-2:] == (len(tokens), 1024):
            return mode
    raise InputError(f"{path} has tokens of shape {tuple(positions.shape)}; expected (1, 6 or 7, 1024).")


def _encoder(
    weights: Weights, prefix: str, content: Mapping[str, Any], given: Mapping[str, float], path: str | Path
) -> ReferenceEncoder:
    mode = _outer_mode(weights[f"{prefix}pos_embed"], path)
    config = content.get("config")
    config = config if isinstance(config, Mapping) else {}
    sections = {name: config.get(name) or {} for name in ("normalization", "model")}
    constants = RELATIVE_DEFAULTS | {"sentinel_value": SENTINEL}
    for source in (sections["normalization"], given):
        constants |= {k: float(v) for k, v in source.items() if k in constants and v is not None}
    pool = sections["model"].get("outer_fine_pool", (3, 3))
    normaliser = Normaliser(
        npho_scale=constants["npho_scale"],
        npho_scale2=constants["npho_scale2"],
        time_scale=constants["time_scale"],
        time_shift=constants["time_shift"],
        sentinel=constants["sentinel_value"],
    )
    return original(normaliser, outer_mode=mode, outer_fine_pool=None if pool is None else (int(pool[0]), int(pool[1])))


def _renamed(weights: Weights, prefix: str, kind: str) -> tuple[Weights, list[str]]:
    """Weights under the names of `OriginalModel`, and the names that belong nowhere."""
    renamed: Weights = {}
    left = []
    for name, weight in weights.items():
        inner = name.removeprefix(prefix)
        part = next((p for p in _PARTS if inner.startswith(p)), None)
        if not name.startswith(prefix):
            if name.startswith("heads."):
                renamed[name] = weight
            elif kind != "mae":  # its decoders are not asked for
                left.append(name)
        elif inner in _TABLES or (inner in _UNUSED_HEAD and kind != "single-task"):
            continue
        elif inner in _UNUSED_HEAD:
            renamed[f"heads.{inner.removeprefix('head.')}"] = weight
        elif part is None:
            left.append(name)
        else:
            renamed[f"encoder.{_PARTS[part]}{inner.removeprefix(part)}"] = weight
    return renamed, left


def _single_head(
    encoder: ReferenceEncoder, weights: Weights, content: Mapping[str, Any], path: str | Path
) -> dict[str, nn.Module]:
    last = weights.get("head.4.weight")
    size = 0 if last is None else len(last)
    task = _single_task(size, content)
    if task is None:
        raise InputError(f"{path} has one head of {size} outputs and does not say of which task; only angles are 2.")
    head = nn.Sequential(
        nn.Linear(encoder.out_width, HIDDEN), nn.LayerNorm(HIDDEN), nn.GELU(), nn.Dropout(0.2), nn.Linear(HIDDEN, size)
    )
    return {task: head}


def _trained(model: OriginalModel, content: Mapping[str, Any]) -> frozenset[str]:
    """Tasks whose heads took part in the training; the others are in the file as they were made."""
    sections = _task_sections(content)
    if not sections or len(model.tasks) == 1:
        return frozenset(model.tasks)
    # only angles are enabled where nothing is said
    return frozenset(t for t in model.tasks if sections.get(t, {}).get("enabled", t == "angle"))


def _task_sections(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    config = content.get("config")
    tasks = (config.get("tasks") or {}) if isinstance(config, Mapping) else {}
    return {t: section for t, section in tasks.items() if isinstance(section, Mapping)}


def _single_task(size: int, content: Mapping[str, Any]) -> str | None:
    """The task of a single head: two outputs are angles; else the file's configuration must enable one task."""
    if size == TASKS["angle"].size:
        return "angle"
    enabled = [t for t, section in _task_sections(content).items() if section.get("enabled")]
    fits = [t for t in enabled if t in TASKS and TASKS[t].size == size]
    return fits[0] if len(fits) == 1 else None


def _fill(module: nn.Module, weights: Weights, left: list[str], path: str | Path) -> None:
    """Load every parameter of a module from weights, or say which names do not fit."""
    if isinstance(module, OriginalModel) and len(module.tasks) == 1:
        task = module.tasks[0]
        weights = {re.sub(r"^heads\.(?=\d)", f"heads.{task}.", name): w for name, w in weights.items()}
    own = dict(module.named_parameters())
    missing = sorted(own.keys() - weights.keys())
    left = sorted([*left, *(weights.keys() - own.keys())])
    wrong = sorted(
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    )
    problems = [f"{what}: {_listed(names)}" for what, names in _problems(missing, left, wrong) if names]
    if problems:
        raise InputError(f"{path} does not fit the original layout; {'; '.join(problems)}.")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])


def _problems(missing: list[str], left: list[str], wrong: list[str]) -> tuple[tuple[str, list[str]], ...]:
    return ("missing", missing), ("left over", left), ("of another shape", wrong)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
