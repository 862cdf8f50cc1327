"""Files of the original layout: what they are, and the weights in them under the names of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from xecml.errors import InputError
from xecml.events import TASKS
from xecml.models.networks.reference import TOKENS, ReferenceEncoder
from xecml.models.normalise import RELATIVE_DEFAULTS, SENTINEL, Normaliser
from xecml.models.original.network import HIDDEN, OriginalModel, OriginalViews, original
from xecml.models.weight_files import check_finite, check_weights, read
from xecml.schema import Described, checked, one_line

Weights = dict[str, Tensor]
Pool = tuple[int, int] | None

KINDS = {
    "model": "original model: encoder and the heads of six tasks",
    "single-task": "original single-task model: encoder and one head",
    "mae": "original masked autoencoder: gives its encoder",
    "encoder": "original encoder",
    "newer": "a checkpoint of the newest version of the replaced system",
    "inpainter": "an inpainter of an older version of the replaced system, which this version does not read",
}
_NOT_READ = ("inpainter",)
STATES = ("ema_state_dict", "best_ema_state", "model_state_dict")
"""Keys of weights, those that are preferred first."""
# part of the encoder in old files -> here
PARTS = {
    "pos_embed": "positions",
    "backbone.": "faces.",
    "hex_encoder.": "hexagons.",
    "fusion_transformer.": "fusion.",
}
_TABLES = ("top_hex_indices", "bottom_hex_indices", "hex_edge_index")
_UNUSED_HEAD = tuple(f"head.{i}.{name}" for i in (0, 1, 4) for name in ("weight", "bias"))
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod)\.")
_PREFIX = {"model": "backbone.", "mae": "encoder."}
# keys that came with other rules for what is not measured, other sizes, or other transforms
_NEWER = frozenset(
    {"sentinel_time", "sentinel_npho", "npho_scheme", "npho_threshold", "encoder_dim", "dim_feedforward",
     "num_fusion_layers", "hidden_dim", "active_tasks", "nll_tasks"}
)  # fmt: skip
_CONSTANTS = ("npho_scale", "npho_scale2", "time_scale", "time_shift", "sentinel_value")
_SHOWN = 8


def _plain(value: Any) -> Any:
    """A number of numpy as Python's own, a pair as a list."""
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


_Positive = Annotated[float, BeforeValidator(_plain), Field(gt=0)]
_Number = Annotated[float, BeforeValidator(_plain)]
_Cells = Annotated[int, Field(ge=1, le=72)]


class _Settings(Described):
    """The `config` of an old file, which has no sections; regressors have none."""

    outer_mode: Literal["finegrid", "split"] | None = None
    outer_fine_pool: Annotated[list[_Cells], BeforeValidator(_plain), Field(min_length=2, max_length=2)] | None = None
    npho_scale: _Positive | None = None
    npho_scale2: _Positive | None = None
    time_scale: _Positive | None = None
    time_shift: _Number | None = None
    sentinel_value: _Number | None = None


class _Content(Described):
    """What an old file says of itself besides its weights."""

    epoch: Annotated[int, BeforeValidator(_plain)] | None = None
    config: _Settings | None = None


def recognise(source: Any) -> str | None:
    """Kind of an original file (a key of `KINDS`), or None if it is something else.

    Args:
        source: a path, or the content of a file.
    """
    try:
        content = read(source) if isinstance(source, str | Path) else source
    except InputError:
        return None
    return _kind(content)


def load_original(
    path: str | Path,
    content: Any = None,
    *,
    normalization: Mapping[str, float] | None = None,
    outer_fine_pool: Pool = (3, 3),
) -> OriginalModel | ReferenceEncoder:
    """Load a file of the original layout.

    Args:
        path: a full or single-task model, a masked autoencoder, or an encoder.
        content: of the file, where it was read already.
        normalization: constants (`npho_scale`, ...) in place of those in the file's configuration.
        outer_fine_pool: of the outer face, where the file does not say; only autoencoders do.

    Returns:
        A model, with the heads that were trained; or an encoder, where the file holds no head that was.

    Raises:
        InputError: not such a file, or weights are missing, left over, of the wrong shape or not finite; they are
            listed.
    """
    content = read(path) if content is None else content
    kind, weights = check_readable(content, path)
    said = _said(content, path)
    prefix = _PREFIX.get(kind, "")
    mode = _outer_mode(weights[f"{prefix}pos_embed"], path)
    encoder = _encoder(mode, said, _pool(content, said, outer_fine_pool), normalization or {}, path)
    renamed, left = _renamed(weights, prefix, kind)
    if kind in ("mae", "encoder"):
        _fill(encoder, {k.removeprefix("encoder."): w for k, w in renamed.items()}, left, path)
        return encoder
    model = OriginalModel(encoder, None if kind == "model" else _single_head(encoder, weights, path))
    _fill(model, renamed, left, path)
    trained = [task for task in model.tasks if not _as_made(model.heads[task])]
    if not trained:
        return encoder
    if len(trained) < len(model.tasks):
        model = OriginalModel(encoder, {task: model.heads[task] for task in trained})
    model.trained_heads = frozenset(trained)
    return model


def check_readable(content: Any, path: str | Path) -> tuple[str, Weights]:
    """Kind and weights of an original file that this version reads.

    Raises:
        InputError: it is another one.
    """
    kind = _kind(content)
    if kind is None:
        parts = sorted({one_line(name.partition(".")[0]) for name in names_of(content)})
        holds = f"holds {listed(parts)}" if parts else "holds no weights"
        raise InputError(f"{path} is not a model of the original layout; it {holds}.")
    if kind == "newer":
        raise InputError(f"{path} is {KINDS[kind]}, and not of the original layout.")
    if kind in _NOT_READ:
        raise InputError(f"{path} is {KINDS[kind]}; use it with the system that wrote it, or train anew.")
    return kind, weights_of(content, path)


def describe(path: str | Path, content: Any = None) -> dict[str, Any]:
    """Facts about a file of the original layout, whether this version reads it or not.

    Raises:
        InputError: it is not one.
    """
    content = read(path) if content is None else content
    kind = _kind(content)
    if kind in _NOT_READ:
        return {"file": str(path), "kind": KINDS[kind]}
    kind, weights = check_readable(content, path)
    said, found = _said(content, path), load_original(path, content)
    encoder = found.encoder if isinstance(found, OriginalModel) else found
    assert isinstance(encoder, ReferenceEncoder)
    assert isinstance(encoder.views, OriginalViews)
    mode, pool = encoder.views.outer_mode, encoder.views.outer_fine_pool
    unsaid = "" if _says_pool(content) else ", since the file does not say"
    return {
        "file": str(path),
        "kind": KINDS[kind],
        "layout": "original",
        "outer_mode": mode,
        **({"outer_fine_pool": f"{list(pool) if pool else 'none'}{unsaid}"} if mode == "finegrid" else {}),
        "tasks": sorted(found.tasks) if isinstance(found, OriginalModel) else [],
        "averaged weights": content.get("ema_state_dict") is not None,
        "numbers stored": sum(w.numel() for w in weights.values()),
        "epochs finished": said.epoch,
    }


def state_of(content: Any) -> tuple[str, Any]:
    """What a file has as weights, averaged ones before others, and the key it has them under."""
    if not isinstance(content, Mapping):
        return "", {}
    key = next((k for k in STATES if content.get(k) is not None), "")
    return key, content[key] if key else content


def names_of(content: Any) -> list[str]:
    """Names of weights without the prefixes that wrappers leave."""
    state = state_of(content)[1]
    names = state if isinstance(state, Mapping) else ()
    return [_WRAPPERS.sub("", name) for name in names if isinstance(name, str) and name != "n_averaged"]


def weights_of(content: Any, path: str | Path) -> Weights:
    """Weights by name without the prefixes that wrappers leave.

    Raises:
        InputError: some are no dense real tensors, or have the same name.
    """
    key, state = state_of(content)
    weights = check_weights(state, path, key)
    weights.pop("n_averaged", None)
    plain = {_WRAPPERS.sub("", name): weight for name, weight in weights.items()}
    if len(plain) < len(weights):
        raise InputError(f"{path} holds weights of the same name twice, with and without a prefix; use another file.")
    return plain


def _kind(content: Any) -> str | None:
    """Key of `KINDS`; None for what is nothing of the replaced system."""
    names = set(names_of(content))
    parts = {name.partition(".")[0] for name in names}
    if _is_newer(content) and parts & {"backbone", "encoder"}:
        return "newer"
    if "backbone.pos_embed" in names and "heads" in parts:
        # in January a regressor said nothing of itself
        return "newer" if content.get("config") is not None or "backbone.head.0.weight" not in names else "model"
    if "encoder.pos_embed" in names:
        inpainter = any("head" in part or "inpaint" in part for part in parts)
        unknown = config_of(content) is None and "encoder.head.0.weight" not in names
        return "newer" if unknown and not inpainter else "inpainter" if inpainter else "mae"
    if "pos_embed" in names and "fusion_transformer" in parts:
        # in January an encoder always had a head; only a training run has trained it
        older = not _is_newer(content) and "head.0.weight" in names
        return ("single-task" if "model_state_dict" in content else "encoder") if older else "newer"
    return None


def config_of(content: Mapping[str, Any]) -> Mapping[Any, Any] | None:
    """The configuration of a file, which has no sections; none where there is none."""
    config = content.get("config")
    return config if isinstance(config, Mapping) else None


def _is_newer(content: Mapping[str, Any]) -> bool:
    return any(key in _NEWER for key in config_of(content) or () if isinstance(key, str))


def _said(content: Mapping[str, Any], path: str | Path) -> _Content:
    config = config_of(content)
    said = {"epoch": content.get("epoch"), "config": content.get("config") if config is None else dict(config)}
    return checked(_Content, said, f"{path} is damaged", "use another checkpoint")


def _says_pool(content: Mapping[str, Any]) -> bool:
    return "outer_fine_pool" in (config_of(content) or ())


def _pool(content: Mapping[str, Any], said: _Content, otherwise: Pool) -> Pool:
    """Pooling of the outer face; none is said by a value of None."""
    if not _says_pool(content) or said.config is None:
        return otherwise
    pool = said.config.outer_fine_pool
    return None if pool is None else (pool[0], pool[1])


def _outer_mode(positions: Tensor, path: str | Path) -> str:
    for mode, tokens in TOKENS.items():
        if positions.shape == (1, len(tokens), 1024):
            return mode
    raise InputError(f"{path} has tokens of shape {tuple(positions.shape)}; expected (1, 6 or 7, 1024).")


def _encoder(mode: str, said: _Content, pool: Pool, given: Mapping[str, float], path: str | Path) -> ReferenceEncoder:
    config = said.config or _Settings()
    if config.outer_mode not in (None, mode):
        raise InputError(f"{path} says outer_mode {config.outer_mode}, and has the tokens of {mode}; it is damaged.")
    constants = RELATIVE_DEFAULTS | {"sentinel_value": SENTINEL}
    constants |= {k: v for k in _CONSTANTS if (v := getattr(config, k)) is not None}
    constants |= {k: float(v) for k, v in given.items() if k in constants}
    normaliser = Normaliser(
        npho_scale=constants["npho_scale"],
        npho_scale2=constants["npho_scale2"],
        time_scale=constants["time_scale"],
        time_shift=constants["time_shift"],
        sentinel=constants["sentinel_value"],
    )
    try:
        return original(normaliser, outer_mode=mode, outer_fine_pool=pool)
    except InputError as error:
        raise InputError(f"{path} does not fit the original layout; {error}") from error


def _renamed(weights: Weights, prefix: str, kind: str) -> tuple[Weights, list[str]]:
    """Weights under the names of `OriginalModel`, and the names that belong nowhere."""
    renamed: Weights = {}
    left = []
    for name, weight in weights.items():
        inner = name.removeprefix(prefix)
        part = next((p for p in PARTS if inner.startswith(p)), None)
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
            renamed[f"encoder.{PARTS[part]}{inner.removeprefix(part)}"] = weight
    return renamed, left


def _single_head(encoder: ReferenceEncoder, weights: Weights, path: str | Path) -> dict[str, nn.Module]:
    size = TASKS["angle"].size
    last = weights.get("head.4.weight")
    if last is None or last.shape[:1] != (size,):
        shape = "missing" if last is None else f"of shape {tuple(last.shape)}"
        raise InputError(f"{path} has one head, whose last layer is {shape}; only the {size} angles are known.")
    head = nn.Sequential(
        nn.Linear(encoder.out_width, HIDDEN), nn.LayerNorm(HIDDEN), nn.GELU(), nn.Dropout(0.2), nn.Linear(HIDDEN, size)
    )
    return {"angle": head}


def _as_made(head: nn.Module) -> bool:
    """Whether a head never learnt: its norm still has one weight for all, and no bias.

    No file says which tasks took part in the training; heads of the others are in it as they were made.
    """
    norm = next(part for part in head.modules() if isinstance(part, nn.LayerNorm))
    return bool((norm.weight == norm.weight[0]).all()) and not bool(norm.bias.any())


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
    problems = [f"{what}: {listed(names)}" for what, names in _problems(missing, left, wrong) if names]
    if problems:
        raise InputError(f"{path} does not fit the original layout; {'; '.join(problems)}.")
    check_finite(weights, path)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])


def _problems(missing: list[str], left: list[str], wrong: list[str]) -> tuple[tuple[str, list[str]], ...]:
    return ("missing", missing), ("left over", left), ("of another shape", wrong)


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
