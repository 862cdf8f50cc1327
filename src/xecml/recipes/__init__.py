"""Recipes: defaults of a job, overridden by a YAML file, overridden by settings; errors say where a value is wrong.

The file is on disk, or one of those that are shipped, by its name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from xecml.config import RELATIVE_BRANCHES, Config
from xecml.errors import InputError, nearest
from xecml.limits import cut, error_key, error_reason, file_name, first_problem, shown
from xecml.oldconfig import modernise
from xecml.recipes.shipped import find
from xecml.yamlfile import parse_value, read_yaml

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
_EXAMPLE = "sections such as 'data:' and 'training:'"
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
        path: YAML file, or the name of a shipped one; none for the defaults.
        settings: `section.key=value` with the value in YAML.
        flags: `section.key` to value, laid over last; None values are skipped.
        job: whose defaults lie below the recipe.

    Raises:
        InputError: the file cannot be read, or a key or value is wrong; names key, place and nearest right key.
    """
    if job not in JOBS:
        raise InputError(f"There is no job '{job}'; choose one of {', '.join(JOBS)}.")
    path = find(path, "train") if path is not None else None
    tree, lines = read_yaml(path, "recipe", _EXAMPLE) if path is not None else ({}, {})
    # a section whose keys are all commented out
    tree = {key: {} if value is None and key in Config.model_fields else value for key, value in tree.items()}
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
            raise InputError(
                f"--set {cut(setting)} is not of the form section.key=value; write it as in --set training.epochs=5."
            )
        _lay(tree, key.strip(), parse_value(value, f"--set {cut(setting)}"))
        where[key.strip()] = f"--set {cut(setting)}"
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


def run_name(config: Config, path: str | Path | None, job: str) -> str:
    """Name of a run: that of the recipe, or else of its file, or else of the job.

    Raises:
        InputError: the file's name is none for a run.
    """
    if config.mlflow.run_name is not None or path is None:
        return config.mlflow.run_name or job
    try:
        return file_name(Path(path).stem)
    except ValueError as error:
        raise InputError(
            f"A run cannot be named {shown(Path(path).stem)} after its recipe: {error}, or name it with --name."
        ) from None


def _set_flags(flags: Mapping[str, Any] | None) -> list[str]:
    return [key for key, value in (flags or {}).items() if value is not None]


def _notices(config: Config, job: str, given: Sequence[str]) -> Iterator[str]:
    """What a recipe asks for without effect: keys of other jobs on the command line, times that are never learnt."""
    meanings = {key: meaning for key, _, _, meaning in describe(job)}
    for key in given:
        jobs, colon, _ = meanings.get(key, "").partition(": ")
        wanted = [name.strip() for name in jobs.split(",")] if colon else []
        if wanted and set(wanted) <= set(JOBS) and job not in wanted:
            yield f"{key} is for {' and '.join(wanted)}, and has no effect on {job}."
    relative = config.data.npho_branch in RELATIVE_BRANCHES
    if relative and job != "regress" and config.masking.time_threshold >= 1:
        yield (
            f"No time is learnt, since relative counts do not reach masking.time_threshold = "
            f"{config.masking.time_threshold:g}; set it to 0.001 or so."
        )


def _lay(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise InputError(f"'{cut(section)}' in {cut(key)} is not a section.")
        tree = inner
    tree[name] = value


def _explain(error: ValidationError, where: Mapping[str, str]) -> str:
    """One sentence on the first thing that is wrong, and how many more there are."""
    first = first_problem(error)
    key = error_key(first)
    place = next((where[k] for k in (key, key.rpartition(".")[0]) if where.get(k)), "")
    at = f" ({place})" if place else ""
    if first["type"] == "extra_forbidden":
        message = f"Unknown key '{cut(key)}'{at}{nearest(key, (k for k, *_ in describe()))}"
    elif key:
        unit = next((unit for known, _, unit, _ in describe() if known == key), "")
        message = f"Wrong value {shown(first['input'])} for '{key}'{at}: {error_reason(first, unit)}"
    else:
        message = f"Wrong configuration: {first['msg'].removeprefix('Value error, ')}"
    others = len({error_key(problem) for problem in error.errors()}) - 1
    more = f"; and {others} more" if others else ""
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
