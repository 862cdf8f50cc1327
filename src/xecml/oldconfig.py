"""Recipes of the replaced system, translated to the present keys before they are checked.

Nearly all of their keys are still keys. The few that are not are taken out, and one line says what replaces each.
Their files do not name branches, because there was only one choice: relative counts and times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from xecml.errors import InputError

Tree = dict[str, Any]

_CONSTANTS = {"npho_scale": (0.58, 1000.0), "time_scale": (6.5e-8, 1.14e-7)}
"""Scale by name: the replaced system's for relative inputs, and today's for absolute ones."""
_BRANCHES = {"npho_scale": ("npho_branch", "relative_npho"), "time_scale": ("time_branch", "relative_time")}


@dataclass(frozen=True)
class _Replaced:
    """The key that took the place of one that went, and how its value is carried over; none where it is not."""

    key: str
    translate: Callable[[Any], Any] | None = lambda value: value


def _decays(schedule: Any) -> bool:
    """Whether the learning rate falls, from the name of a schedule or nothing."""
    if schedule not in (None, "cosine"):
        raise ValueError("it was null or cosine; set training.use_scheduler to false or true")
    return schedule is not None


def _interval(wanted: Any) -> Any:
    """Epochs between files of rebuilt sensors, from whether there are any."""
    return 10 if wanted else 0


_GONE = {
    "data.num_threads": _Replaced("data.num_workers", None),
    "normalization.sentinel_time": _Replaced("normalization.sentinel_value"),
    "training.lr_scheduler": _Replaced("training.use_scheduler", _decays),
    "checkpoint.save_predictions": _Replaced("checkpoint.save_predictions", _interval),
}


def modernise(tree: Tree, lines: Mapping[str, int]) -> tuple[Tree, list[str]]:
    """Put a recipe that may be one of the replaced system into today's keys.

    Args:
        tree: content of the file, by section; it is not changed.
        lines: line of each dotted key in the file.

    Returns:
        The recipe in today's keys, and what to tell the user: at most one line about keys that are gone, and one
        about the branches that are read.

    Raises:
        InputError: a value of a key that is gone has no meaning.
    """
    new, replaced, is_old = deepcopy(tree), [], False
    for key, gone in _GONE.items():
        section, _, name = key.partition(".")
        value = _section(new, section).get(name, _ABSENT)
        # a key that is still one was a switch
        if value is _ABSENT or (gone.key == key and not isinstance(value, bool)):
            continue
        del new[section][name]
        at = f" (line {lines[key]})" if key in lines else ""
        replaced.append(f"{key}{at}: {_carry_over(new, key, gone, value, at)}")
        is_old |= gone.key != key
    replaced += _without_effect(new)
    branches = _relative_branches(new, is_old=is_old)
    notices = [f"Keys of the replaced system: {'; '.join(replaced)}."] if replaced else []
    if branches:
        notices.append(
            "A recipe of the replaced system without data.npho_branch and data.time_branch means relative inputs: "
            f"reading {' and '.join(branches)}."
        )
    return new, notices


def _carry_over(tree: Tree, key: str, gone: _Replaced, value: Any, at: str) -> str:
    """Write a key's value to the key that replaced it, unless that is given too; say what was done."""
    if gone.translate is None:
        return f"left out, {gone.key} stands for it"
    try:
        translated = gone.translate(value)
    except ValueError as error:
        raise InputError(f"Wrong value {value!r} for '{key}'{at}: {error}.") from None
    section, _, name = gone.key.partition(".")
    inner = _section(tree, section)
    if not isinstance(tree.get(section) or {}, dict):
        return f"left out, since {section} is not a section"
    if name in inner:
        return f"left out, since {gone.key} is given too"
    tree[section] = inner | {name: translated}
    return f"now {gone.key}: {json.dumps(translated)}"


def _without_effect(tree: Tree) -> list[str]:
    """Take out keys of the reference network in a recipe that names no network, and so gets another."""
    model = _section(tree, "model")
    if "preset" in model or model.get("layout", "standard") != "standard":
        return []
    usual = {"outer_mode": "finegrid", "outer_fine_pool": [3, 3]}
    unusual = [name for name, value in usual.items() if model.get(name, value) != value]
    for name in unusual:
        del model[name]
    keys = " and ".join(f"model.{name}" for name in unusual)
    return [f"{keys}: left out, without effect unless model.preset is reference"] if unusual else []


def _relative_branches(tree: Tree, *, is_old: bool) -> list[str]:
    """Set the relative branches in a recipe of the replaced system that names none; return what was set."""
    given, data = _section(tree, "normalization"), _section(tree, "data")
    old = {name: _is(given.get(name), before) for name, (before, _) in _CONSTANTS.items()}
    if not (is_old or any(old.values())) or not isinstance(tree.get("data") or {}, dict):
        return []
    chosen = {
        branch: relative
        for name, (branch, relative) in _BRANCHES.items()
        # a file that was brought up to date in its constants has absolute inputs
        if branch not in data and not _is(given.get(name), _CONSTANTS[name][1])
    }
    if chosen:
        tree["data"] = data | chosen
    return list(chosen.values())


_ABSENT = object()


def _section(tree: Tree, name: str) -> Tree:
    inner = tree.get(name)
    return inner if isinstance(inner, dict) else {}


def _is(value: Any, constant: float) -> bool:
    """Whether a value of a file is a constant; YAML reads 65e-9 as text."""
    try:
        return abs(float(value) - constant) <= 1e-6 * constant
    except (TypeError, ValueError):
        return False
