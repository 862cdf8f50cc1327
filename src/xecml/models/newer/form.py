"""What files of the replaced system's newest version say of their form, in a `config` without sections.

All that is said is obeyed, or refused by name. What a file may leave out (older ones lack keys that came later) is said
by the user, or is one of the few defaults below, and the form tells which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field

from xecml.errors import InputError, nearest
from xecml.events import TASKS, TaskName
from xecml.schema import Described, Text, checked, one_line
from xecml.yamlfile import parse_value

Pool = tuple[int, int] | None
Kind = Literal["regressor", "autoencoder", "inpainter"]

_ALL = ("outer_mode", "outer_fine_pool", "npho_scale", "npho_scale2", "time_scale", "time_shift", "sentinel_time",
        "sentinel_npho", "npho_scheme", "encoder_dim", "dim_feedforward", "num_fusion_layers", "npho_branch",
        "time_branch")  # fmt: skip
_CROSS = ("cross_attn_k", "cross_attn_hidden", "cross_attn_latent_dim", "cross_attn_pos_dim")
KEYS: dict[str, tuple[str, ...]] = {
    "regressor": (*_ALL, "npho_threshold", "hidden_dim", "drop_path_rate", "active_tasks", "nll_tasks"),
    "autoencoder": (*_ALL, "mask_ratio", "decoder_dim", "predict_channels"),
    "inpainter": (*_ALL, "npho_threshold", "mask_ratio", "mask_npho_flat", "freeze_encoder", "predict_channels",
                  "head_type", "use_masked_attention", "sensor_positions_file", *_CROSS, "sentinel_value"),
}  # fmt: skip
"""Keys that a `config` may have, by kind of file."""
SAYABLE = ("npho_threshold", "log_transform")
"""What no key of a kind may say, and a user may."""
_NEEDED = ("outer_mode", "outer_fine_pool", "npho_scale", "npho_scale2", "time_scale", "time_shift", "sentinel_time",
           "sentinel_npho", "npho_branch", "time_branch")  # fmt: skip
_DEFAULTS: dict[str, Any] = {"npho_threshold": 100.0, "npho_scheme": "log1p"}
"""Of keys that came later: what trainings before them had."""


def plain(value: Any) -> Any:
    """A number of numpy as Python's own, a pair as a list."""
    if isinstance(value, np.generic):
        return value.item()
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def _whole(value: Any) -> Any:
    """A whole number, which may be written as 2.0."""
    value = plain(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Number = Annotated[float, BeforeValidator(plain)]
_Positive = Annotated[float, BeforeValidator(plain), Field(gt=0)]
_Size = Annotated[int, BeforeValidator(_whole), Field(ge=1, lt=2**20)]
_Cells = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=72)]
_List = BeforeValidator(plain)


class Settings(Described):
    """The `config` of a file, and what a user says beside it; None where neither says anything."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    outer_mode: Literal["finegrid", "split"] | None = None
    outer_fine_pool: Annotated[list[_Cells], _List, Field(min_length=2, max_length=2)] | None = None
    npho_scale: _Positive | None = None
    npho_scale2: _Positive | None = None
    time_scale: _Positive | None = None
    time_shift: _Number | None = None
    sentinel_time: _Number | None = None
    sentinel_npho: _Number | None = None
    sentinel_value: _Number | None = None
    npho_threshold: _Number | None = None
    npho_scheme: Literal["log1p", "sqrt", "anscombe", "linear"] | None = None
    encoder_dim: _Size | None = None
    dim_feedforward: _Size | None = None
    num_fusion_layers: _Size | None = None
    npho_branch: Text | None = None
    time_branch: Text | None = None
    hidden_dim: _Size | None = None
    drop_path_rate: Annotated[float, BeforeValidator(plain), Field(ge=0, lt=1)] | None = None
    active_tasks: Annotated[list[TaskName], _List] = Field([])
    nll_tasks: Annotated[list[TaskName], _List] = Field([])
    log_transform: Annotated[list[Literal["energy", "timing"]], _List] = Field([])
    mask_ratio: Annotated[float | list[float] | dict[str, float] | None, BeforeValidator(plain)] = None
    decoder_dim: _Size | None = None
    predict_channels: Annotated[list[Literal["npho", "time"]], _List] | None = None
    mask_npho_flat: bool | None = None
    freeze_encoder: bool | None = None
    head_type: Literal["per_face", "cross_attention"] = "per_face"
    use_masked_attention: bool = False
    sensor_positions_file: Text | None = None
    cross_attn_k: _Size | None = None
    cross_attn_hidden: _Size | None = None
    cross_attn_latent_dim: _Size | None = None
    cross_attn_pos_dim: _Size | None = None


@dataclass(frozen=True)
class Form:
    """How a network takes its inputs, and how large it is.

    Attributes:
        settings: of the file, with what a user says beside it.
        said: keys that the file has.
        unsaid: defaults that stand for keys that neither has.
    """

    settings: Settings
    said: frozenset[str]
    unsaid: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        """A setting, or the default that stands for it."""
        return self.unsaid[key] if key in self.unsaid else getattr(self.settings, key)

    @property
    def pool(self) -> Pool:
        """Pooling of the outer face's fine grid."""
        pool = self.settings.outer_fine_pool
        return None if pool is None else (pool[0], pool[1])

    @property
    def channels(self) -> tuple[str, ...]:
        """What is predicted of hidden sensors; files before the key predict both."""
        return tuple(self.settings.predict_channels or ("npho", "time"))

    def facts(self) -> dict[str, Any]:
        """Everything that the file says, with the defaults that stand for the rest."""
        values = {key: plain(getattr(self.settings, key)) for key in KEYS_IN_ORDER if key in self.said}
        return values | {key: f"{value}, since the file does not say" for key, value in self.unsaid.items()}


KEYS_IN_ORDER = tuple(dict.fromkeys((*(key for keys in KEYS.values() for key in keys), *SAYABLE)))


def form_of(kind: Kind, config: Any, said: Mapping[str, Any], path: str | Path) -> Form:
    """The form that a file and a user say.

    Args:
        kind: of file.
        config: of the file.
        said: by the user, of what the file leaves open.
        path: of the file.

    Raises:
        InputError: no configuration, a key that is not known or misses, a wrong value, or a user who says otherwise.
    """
    if not isinstance(config, Mapping):
        raise InputError(
            f"{path} has no 'config' that says what its inputs and sizes were; use a checkpoint of a whole training."
        )
    known = KEYS[kind]
    for key in config:
        if key not in (*known, "log_transform"):
            name = one_line(str(key))
            raise InputError(
                f"{path} says '{name}' in its config, which is no key of a{_n(kind)} {kind} that this version "
                f"knows{nearest(name, known)}; it may be of another version: use it with the system that wrote it."
            )
    where, advice = f"{path} is damaged", "use another checkpoint"
    settings = checked(_File, {"config": dict(config)}, where, advice).config
    settings = _with(settings, frozenset(config), said, path)
    there = frozenset(config) | frozenset(said)
    unsaid = {key: value for key, value in _DEFAULTS.items() if key not in there}
    needed = [key for key in _NEEDED if key not in there]
    needed += ["active_tasks"] if kind == "regressor" and "active_tasks" not in there else []
    # None is a value of the pool alone
    needed += [key for key in _NEEDED if key in there and key != "outer_fine_pool" and getattr(settings, key) is None]
    if needed:
        raise InputError(
            f"{path} does not say {', '.join(needed)} in its config; give the values: "
            f"{' '.join(f'--set {key}=...' for key in needed)}."
        )
    _check(settings, kind, path)
    return Form(settings, there, unsaid)


class _File(Described):
    config: Settings


def _n(word: str) -> str:
    return "n" if word[0] in "aeiou" else ""


def _with(settings: Settings, there: frozenset[str], said: Mapping[str, Any], path: str | Path) -> Settings:
    """Settings with what a user says beside them.

    Raises:
        InputError: it is no key, a wrong value, or not what the file says.
    """
    for key in said:
        if key not in Settings.model_fields:
            raise InputError(f"'{key}' is no property of {path}{nearest(key, KEYS_IN_ORDER)}; leave it out.")
    given = checked(Settings, {key: value for key, value in said.items() if value is not None}, "--set", "correct it")
    for key in said:
        if key in there and getattr(given, key) != getattr(settings, key):
            raise InputError(
                f"{path} says {key} = {plain(getattr(settings, key))}, not {plain(said[key])}; leave the key out."
            )
    return settings.model_copy(update={key: getattr(given, key) for key in said})


def _check(settings: Settings, kind: Kind, path: str | Path) -> None:
    """Look for what contradicts itself."""
    if settings.sentinel_value not in (None, settings.sentinel_time):
        raise InputError(
            f"{path} says sentinel_value = {settings.sentinel_value:g} and sentinel_time = {settings.sentinel_time:g}; "
            "it is damaged: use another checkpoint."
        )
    if classes := [task for task in settings.nll_tasks if TASKS[task].is_class]:
        raise InputError(f"{path} names {classes[0]} in nll_tasks, which has classes and no variance; it is damaged.")
    for name in ("active_tasks", "nll_tasks"):
        tasks = getattr(settings, name)
        if len(set(tasks)) < len(tasks):
            raise InputError(f"{path} names a task twice in {name}; it is damaged.")
    if settings.predict_channels not in (None, ["npho"], ["npho", "time"]):
        raise InputError(
            f"{path} says predict_channels = {settings.predict_channels}; this version knows ['npho'] and "
            "['npho', 'time']."
        )


def said_of(settings: Sequence[str]) -> dict[str, Any]:
    """What a user says of a file, from "key=value"; tasks are separated by spaces or commas.

    Raises:
        InputError: no such form.
    """
    said = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"--set {text} is not of the form KEY=VALUE; write it as in --set npho_threshold=10.")
        tasks = key in ("log_transform", "active_tasks", "nll_tasks", "predict_channels") and not value.startswith("[")
        said[key] = value.replace(",", " ").split() if tasks else parse_value(value, f"--set {key}")
    return said


def recipe_values(form: Form) -> dict[str, Any]:
    """Keys of a recipe that make the network of a form, with their values."""
    feed_forward = form.settings.dim_feedforward
    values = {
        "data.npho_branch": form["npho_branch"],
        "data.time_branch": form["time_branch"],
        "normalization.sentinel_value": form["sentinel_time"],
        "model.outer_mode": form["outer_mode"],
        **({"model.outer_fine_pool": form.settings.outer_fine_pool} if form["outer_mode"] == "finegrid" else {}),
    }
    constants = ("npho_scheme", "npho_scale", "npho_scale2", "time_scale", "time_shift", "sentinel_npho",
                 "npho_threshold")  # fmt: skip
    values |= {f"normalization.{name}": form[name] for name in constants}
    sizes = {name: getattr(form.settings, name) for name in ("encoder_dim", "num_fusion_layers", "hidden_dim")}
    sizes["dim_feedforward"] = None if feed_forward == 4 * (sizes["encoder_dim"] or 0) else feed_forward
    # what the file does not say shows in the weights
    return values | {f"model.{name}": size for name, size in sizes.items() if size is not None}


def recipe_keys(form: Form) -> str:
    """The same as a user writes it."""
    return " ".join(
        f"--set {key}={'null' if v is None else v}".replace(", ", ",") for key, v in recipe_values(form).items()
    )
