"""What a search varies: keys of a recipe with a range or values each, from YAML, checked against the recipe."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BaseModel, ConfigDict, StrictBool, ValidationError

from xecml.config import Config
from xecml.errors import InputError, nearest
from xecml.limits import Real, cut, error_reason, first_problem, shown
from xecml.recipes import describe
from xecml.yamlfile import read_yaml

_EXAMPLE = "keys such as 'training.lr: {low: 1.0e-4, high: 1.0e-2, log: true}' or 'data.batch_size: [64, 256]'"
_MOST_GRID = 2000
Scalar = str | int | float | bool | None
_KEPT = {
    "checkpoint.": "each trial has a folder of its own in the study's",
    "mlflow.": "names and places of a run are not searched",
    "export.": "exports do not change a training",
    "data.val": "trials are compared on the same events",
    "training.devices": "processes are the machine's business",
    "training.num_nodes": "processes are the machine's business",
    "training.join_timeout": "processes are the machine's business",
    "training.accelerator": "devices are the machine's business",
}
"""What cannot be searched, by how its key begins, and why."""
_IN_THE_LOSS = {
    "regress": ("tasks.", "loss_balance", "data.train_"),
    "mae": ("training.loss_", "training.count_", "training.npho_weight", "training.time_weight", "normalization.",
            "training.auto_channel_weight", "model.mask_ratio", "masking.", "data.train_"),
}  # fmt: skip
"""Keys that change the validation loss itself or the widths that it is measured in, by job and by how they begin."""


class _Range(BaseModel):
    """A range as it stands in YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    low: Real
    high: Real
    log: StrictBool = False
    step: Real | None = None


@dataclass(frozen=True)
class Dimension:
    """One key that is searched.

    Attributes:
        key: of the recipe.
        distribution: what optuna draws from; values that are no scalars stand there as JSON.
        values: of a grid, as optuna has them; none for a range without steps.
        log: whether it is drawn and shown in its logarithm.
    """

    key: str
    distribution: BaseDistribution
    values: tuple[Scalar, ...] = ()
    log: bool = False

    def value(self, drawn: Scalar) -> Any:
        """The value of the recipe's key for a value that was drawn."""
        listed = isinstance(self.distribution, CategoricalDistribution) and isinstance(drawn, str)
        return json.loads(drawn) if listed and isinstance(drawn, str) and drawn[:1] in "[{" else drawn


@dataclass(frozen=True)
class Space:
    """All that is searched.

    Attributes:
        dimensions: by key, in the order of the file.
        start: what the recipe itself has, as optuna has it.
    """

    dimensions: Mapping[str, Dimension]
    start: Mapping[str, Scalar]

    def grid(self) -> Iterator[dict[str, Scalar]]:
        """All combinations of values; the recipe's own comes first, on the grid or not.

        Raises:
            InputError: a range has no steps, or there are too many combinations.
        """
        for one in self.dimensions.values():
            if not one.values:
                raise InputError(
                    f"{one.key} has no values for a grid; list them, as [1, 2, 4], or give its range a step."
                )
        number = math.prod(len(one.values) for one in self.dimensions.values())
        if number > _MOST_GRID:
            raise InputError(f"The grid has {number} points, more than {_MOST_GRID}; list fewer values.")
        yield dict(self.start)
        for point in itertools.product(*(one.values for one in self.dimensions.values())):
            given = dict(zip(self.dimensions, point, strict=True))
            if given != self.start:
                yield given


def read_space(path: str | Path) -> dict[str, Any]:
    """What a YAML file says is to be searched: a range or a list by dotted key of a recipe.

    Raises:
        InputError: the file cannot be read, or says something else.
    """
    tree, lines = read_yaml(path, "search space", _EXAMPLE)
    found = dict(_leaves(tree, ""))
    if not found:
        raise InputError(f"{path} names no key to search; write {_EXAMPLE}.")
    for key, given in found.items():
        at = f"{path}, line {lines[key]}" if key in lines else str(path)
        if isinstance(given, dict):
            try:
                _Range.model_validate(given)
            except ValidationError as error:
                problem = first_problem(error)
                part = ".".join(map(str, problem["loc"]))
                raise InputError(f"{at}: {cut(key)}: {part}: {error_reason(problem)}; write {_EXAMPLE}.") from None
        elif not isinstance(given, list) or not given:
            raise InputError(f"{at}: {cut(key)} has no range and no list of values; write {_EXAMPLE}.")
    return found


def space_of(given: Mapping[str, Any], recipe: Config, job: str) -> Space:
    """What is searched, about a recipe.

    Args:
        given: a range or a list by key, as `read_space` has it.
        recipe: that is trial 0.
        job: of the training.

    Raises:
        InputError: there is no such key, it cannot be searched, or the recipe's own value is not in its range.
    """
    known = {key for key, *_ in describe(job)}
    dimensions, start = {}, {}
    for key, one in given.items():
        if key not in known:
            raise InputError(
                f"There is no key '{cut(key)}' in recipes{nearest(key, known)}; see xec train --help-config."
            )
        for prefix, why in _KEPT.items():
            if key.startswith(prefix):
                raise InputError(f"{key} cannot be searched: {why}; leave it out of the search space.")
        judged = recipe.checkpoint.best_metric
        if "loss" in judged and key.startswith(_IN_THE_LOSS.get(job, _IN_THE_LOSS["mae"])):
            other = "val_resolution_deg or energy_s68_MeV" if job == "regress" else "rmse_npho"
            raise InputError(
                f"{key} changes the {judged} by which trials are compared; set checkpoint.best_metric to another "
                f"metric of the validation, such as {other}, or leave the key out of the search space."
            )
        own = _own(recipe, key)
        made = _listed(key, one, own) if isinstance(one, list) else _ranged(key, one, _is_whole(key))
        start[key] = _drawn(own)
        if made.values and isinstance(one, dict) and start[key] not in made.values and _within(start[key], one):
            made = _listed(key, list(made.values), own)  # the recipe lies between two steps
        if not made.distribution._contains(_internal(made.distribution, start[key], key)):
            raise InputError(
                f"{key}: the recipe's own {shown(own)}, which is trial 0, lies outside of the range; widen it, or "
                "change the recipe."
            )
        dimensions[key] = made
    return Space(dimensions, start)


def _within(value: Scalar, given: Mapping[str, Any]) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return bool(given["low"] <= value <= given["high"])


def _internal(distribution: BaseDistribution, value: Scalar, key: str) -> float:
    try:
        return distribution.to_internal_repr(value)
    except (TypeError, ValueError):
        raise InputError(
            f"{key}: the recipe's own {shown(value)}, which is trial 0, is no number; list the values to search."
        ) from None


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict) and not value.keys() & _Range.model_fields.keys():
            yield from _leaves(value, f"{dotted}.")
        else:
            yield dotted, value


def _listed(key: str, values: list[Any], own: Any) -> Dimension:
    drawn = [_drawn(value) for value in values]
    if len({repr(value) for value in drawn}) != len(drawn):
        raise InputError(f"{key} has a value twice; leave one of them out.")
    choices = drawn if any(_same(value, _drawn(own)) for value in drawn) else [*drawn, _drawn(own)]
    return Dimension(key, CategoricalDistribution(choices), tuple(drawn))


def _ranged(key: str, given: Mapping[str, Any], whole: bool) -> Dimension:
    one = _Range.model_validate(given)
    if whole and any(value is not None and value != int(value) for value in (one.low, one.high, one.step)):
        raise InputError(f"{key} is a whole number; give its range whole numbers as ends and step.")
    if one.log and one.step:
        raise InputError(f"{key} has a logarithmic range and steps; give one of them, or list the values.")
    try:
        if whole:
            steps = int(one.step) if one.step else 1
            made: BaseDistribution = IntDistribution(int(one.low), int(one.high), log=one.log, step=steps)
        else:
            made = FloatDistribution(one.low, one.high, log=one.log, step=one.step)
    except ValueError as error:
        raise InputError(f"{key}: {str(error).splitlines()[0].rstrip('.')}; mend its range.") from None
    values: tuple[Scalar, ...] = ()
    if one.step:
        number = int((one.high - one.low) / one.step + 1e-9) + 1
        # steps of a tenth are no sums of tenths
        points = [float(f"{one.low + i * one.step:.12g}") for i in range(min(number, _MOST_GRID + 1))]
        values = tuple(int(point) for point in points) if whole else tuple(points)
    return Dimension(key, made, values, one.log)


def _is_whole(key: str) -> bool:
    """Whether a key takes whole numbers alone."""
    section: Any = Config
    *sections, name = key.split(".")
    for part in sections:
        section = section.model_fields[part].annotation
    kind = section.model_fields[name].annotation
    kinds = [kind, *get_args(kind)]
    kinds += [inner for one in kinds for inner in get_args(one)]
    return int in kinds and float not in kinds


def _own(recipe: Config, key: str) -> Any:
    found: Any = recipe.model_dump(mode="json")
    for part in key.split("."):
        found = found[part]
    return found


def _drawn(value: Any) -> Scalar:
    """A value as optuna takes it."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return json.dumps(value)


def _same(one: Scalar, other: Scalar) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)
