"""Recipes: a YAML file over the defaults of a job, settings over the file, checked at once; errors say where."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from xecml.config import RELATIVE_BRANCHES, Config
from xecml.errors import InputError, nearest
from xecml.oldconfig import modernise

JOBS = ("regress", "mae", "inpaint")
JOB_DEFAULTS: dict[str, dict[str, Any]] = {
    "regress": {},
    # masking is augmentation enough, and a dropped sensor could not be learnt
    "mae": {"data.batch_size": 1024, "training.channel_dropout_rate": 0.0},
    "inpaint": {
        "data.batch_size": 1024,
        "model.mask_ratio": 0.05,
        "training.channel_dropout_rate": 0.0,
        "training.loss_fn": "smooth_l1",
        "training.epochs": 50,
        "training.lr": 1e-4,
    },
}
"""Defaults of a job that differ from those of the keys."""
UNITS = ("s", "cm", "photons", "MB", "epochs", "events", "steps", "batches")
"""A key's description begins with its unit, if it has one."""


def load_config(
    path: str | Path | None,
    settings: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    *,
    job: str = "regress",
) -> Config:
    """Read a recipe and lay settings over it.

    Args:
        path: YAML file; none for the defaults.
        settings: `section.key=value` with the value in YAML.
        flags: `section.key` to value, laid over last; None values are skipped.
        job: whose defaults lie below the recipe.

    Raises:
        InputError: the file cannot be read, or a key or value is wrong; names key, place and nearest right key.
    """
    tree, lines = _read_yaml(Path(path)) if path is not None else ({}, {})
    tree, notices = modernise(tree, lines)
    for notice in notices:
        print(f"xec: {notice}", file=sys.stderr)
    for key, value in JOB_DEFAULTS[job].items():
        if key not in lines:
            _lay(tree, key, value)
    where = dict.fromkeys(lines, "")
    where |= {key: f"{path}, line {line}" for key, line in lines.items()}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise InputError(f"--set {setting} is not of the form section.key=value.")
        _lay(tree, key.strip(), _parse_value(setting, value))
        where[key.strip()] = f"--set {setting}"
    for key, value in (flags or {}).items():
        if value is not None:
            _lay(tree, key, value)
            where[key] = "the command line"
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(_explain(error, where)) from error
    for notice in _notices(config, job, [*(s.partition("=")[0].strip() for s in settings), *_set_flags(flags)]):
        print(f"xec: {notice}", file=sys.stderr)
    return config


def _set_flags(flags: Mapping[str, Any] | None) -> list[str]:
    return [key for key, value in (flags or {}).items() if value is not None]


def _notices(config: Config, job: str, given: Sequence[str]) -> Iterator[str]:
    """What a recipe asks for without effect: keys of other jobs on the command line, times that are never learnt."""
    meanings = {key: meaning for key, _, _, meaning in describe(job)}
    for key in given:
        jobs, colon, _ = meanings.get(key, "").partition(": ")
        wanted = [name.strip() for name in jobs.split(",")] if colon else []
        if wanted and set(wanted) <= set(JOBS) and job not in wanted:
            yield f"{key} is for {' and '.join(wanted)}, and nothing to {job}."
    relative = config.data.npho_branch in RELATIVE_BRANCHES
    if relative and job != "regress" and config.masking.time_threshold >= 1:
        yield (
            f"No time is learnt, since relative counts do not reach masking.time_threshold = "
            f"{config.masking.time_threshold:g}; set it to 0.001 or so."
        )


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Content of a YAML file, and the line of each dotted key."""
    try:
        text = path.read_text(encoding="utf-8")
        content, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise InputError(f"Cannot read the recipe {path}: {error.strerror}; check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{place} is not valid YAML: {getattr(error, 'problem', error)}.") from error
    if content is None:
        return {}, {}
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold sections such as 'data:' and 'training:'.")
    return content, dict(_lines(node))


def _lines(node: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            yield dotted, key.start_mark.line + 1
            yield from _lines(value, f"{dotted}.")


def _parse_value(setting: str, value: str) -> Any:
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--set {setting}: the value is not valid YAML.") from error
    return parsed


def _lay(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise InputError(f"'{section}' in {key} is not a section.")
        tree = inner
    tree[name] = value


def _explain(error: ValidationError, where: Mapping[str, str]) -> str:
    """One sentence on the first thing that is wrong, and how many more there are."""
    problems = error.errors()
    first = problems[0]
    # union branches add their own parts to the location
    key = ".".join(
        str(part) for part in first["loc"] if isinstance(part, str) and not part.startswith(("list[", "str"))
    )
    place = next((where[k] for k in (key, key.rpartition(".")[0]) if where.get(k)), "")
    at = f" ({place})" if place else ""
    if first["type"] == "extra_forbidden":
        message = f"Unknown key '{key}'{at}{nearest(key, (k for k, *_ in describe()))}"
    elif key:
        message = f"Wrong value {first['input']!r} for '{key}'{at}: {first['msg'][0].lower()}{first['msg'][1:]}"
    else:
        message = f"Wrong configuration: {first['msg'].removeprefix('Value error, ')}"
    more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{message}{more}."


def describe(job: str = "regress") -> Iterator[tuple[str, Any, str, str]]:
    """Every key with its default in a job, its unit and its meaning."""
    for key, default, description in _describe(Config(), ""):
        unit, _, meaning = description.partition("; ")
        unit, meaning = (unit, meaning) if unit in UNITS else ("", description)
        yield key, JOB_DEFAULTS[job].get(key, default), unit, meaning


def _describe(section: BaseModel, prefix: str) -> Iterator[tuple[str, Any, str]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _describe(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field.description or ""
