"""Constants that differ from detector to detector: the section `vary` of the settings, and their random values.

Each run of a few hundred events has a detector of its own. Some of the detectors stay as the settings are, and in the
others some of the constants do: the nominal detector is a point of the sample, and what a network shows of one constant
is not always mixed with all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from xecml.limits import Share, Whole, shown

BLOCK = 64
"""Events that share a random generator. Part of what a seed means: changing it changes all events."""
SECTIONS = ("response", "optical")
BY_INVERSE = frozenset({"absorption_length_cm", "rayleigh_length_cm"})
"""Lengths over which light is lost: what they do goes with their inverse, and in it ranges are uniform."""
Choices = tuple[Any, ...]
Changes = dict[str, Any]
"""Constants by name, those of a section in a dictionary of their own: what settings are changed by."""


class Vary(BaseModel):
    """What differs from detector to detector: two numbers are a range, drawn uniformly; other lists are choices.

    Absorption and Rayleigh length are drawn uniformly in their inverse.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    events_per_detector: Annotated[Whole, Field(ge=BLOCK, le=1_000_000)] = 4 * BLOCK
    """events with one detector, a multiple of 64; each detector has its own run number"""
    nominal_share: Share = 0.0
    """share of the detectors in which no constant is changed"""
    unchanged_share: Share = 0.0
    """chance of each constant to stay as it is in the other detectors"""
    response: dict[str, Choices] = Field(default_factory=dict)
    """constants of the sensors"""
    optical: dict[str, Choices] = Field(default_factory=dict)
    """constants of the light"""

    @field_validator("events_per_detector")
    @classmethod
    def _whole_blocks(cls, value: int) -> int:
        if value % BLOCK:
            raise ValueError(f"must be a multiple of {BLOCK}, the events that share a random generator")
        return value

    @field_validator("response", "optical", mode="before")
    @classmethod
    def _empty_section(cls, value: Any) -> Any:
        return {} if value is None else value

    def constants(self) -> Iterator[tuple[tuple[str, ...], Choices]]:
        """Yield names, (section, name) or (name,), and what each can be, in the order of the names."""
        alone = self.model_extra or {}
        for section in SECTIONS:
            for name, choices in sorted(getattr(self, section).items()):
                yield (section, name), choices
        for name, choices in sorted(alone.items()):
            yield (name,), tuple(choices) if isinstance(choices, list | tuple) else ()

    def ends(self) -> Iterator[tuple[tuple[str, ...], Any]]:
        """Yield names and the values to check: both ends of ranges, every choice.

        Raises:
            ValueError: a range that falls, or nothing to choose from.
        """
        for name, choices in self.constants():
            key = ".".join(("vary", *name))
            if not choices:
                raise ValueError(f"{key} holds nothing to draw from; give a range of two numbers, or a list of choices")
            if is_range(choices) and choices[0] > choices[1]:
                raise ValueError(f"{key} must rise, not be {shown(list(choices))}")
            for value in choices:
                yield name, value

    def draw(self, rng: np.random.Generator, integers: frozenset[tuple[str, ...]]) -> Changes:
        """Draw the constants of one detector.

        Args:
            rng: of this detector alone.
            integers: names of constants that are whole numbers.
        """
        nominal = rng.random() < self.nominal_share
        changes: Changes = {}
        for name, choices in self.constants():
            # each constant takes its numbers whether it is changed or not: adding a condition moves no other constant
            where, stays = rng.random(), rng.random() < self.unchanged_share
            if nominal or stays:
                continue
            place = changes.setdefault(name[0], {}) if len(name) > 1 else changes
            place[name[-1]] = _value(choices, where, whole=name in integers, inverse=name[-1] in BY_INVERSE)
        return changes


def is_range(choices: Choices) -> bool:
    """Whether choices are the two ends of a range."""
    return len(choices) == 2 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in choices)


def _value(choices: Choices, where: float, *, whole: bool, inverse: bool) -> Any:
    """The value at `where` (0 to 1, without 1) of a range or a list."""
    if not is_range(choices):
        return choices[int(where * len(choices))]
    low, high = choices
    if inverse:
        return 1 / (1 / low + (1 / high - 1 / low) * where)
    return int(low + int(where * (high - low + 1))) if whole else low + (high - low) * where


def merged(settings: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    """Settings as nested dictionaries with the changes made; nothing else is touched."""
    return {
        name: merged(value, changes[name])
        if name in changes and isinstance(value, Mapping)
        else changes.get(name, value)
        for name, value in settings.items()
    } | {name: value for name, value in changes.items() if name not in settings}
