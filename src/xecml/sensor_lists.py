"""Text files of sensors: ids, or ids with a value each, one a line, # for comments."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.errors import InputError, printable
from xecml.files import regular_file

_LONGEST = 1_000_000
"""Bytes; more is a file of another kind."""


def _lines(path: str | Path, what: str, content: str) -> list[str]:
    file = regular_file(path, what)
    try:
        if (size := file.stat().st_size) > _LONGEST:
            raise InputError(f"{path} has {size} bytes, too many for a {what}; give {content}.")
        return file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"Cannot read the {what} {path}: {error.strerror}; check the path.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text file; give {content}.") from error


def read_dead_list(path: str | Path) -> tuple[int, ...]:
    """Read sensor ids from a text file, one a line, # for comments.

    Raises:
        InputError: the file is missing or holds something else.
    """
    lines = _lines(path, "dead list", "sensor ids, one a line")
    ids = []
    for number, line in enumerate(lines, 1):
        text = line.split("#")[0].strip()
        # five digits tell; no number of thousands of them is made
        if text and not (text.isascii() and text.isdecimal() and int(text.lstrip("0")[:5] or 0) < geometry.N_SENSORS):
            raise InputError(
                f"{path}, line {number}: {text[:40]!r} is no sensor id from 0 to {geometry.N_SENSORS - 1}."
            )
        if text:
            ids.append(int(text.lstrip("0") or 0))
    return tuple(ids)


def read_sensor_values(path: str | Path, default: float) -> NDArray[np.float64]:
    """Read a value for sensors from a text file, an id and a number a line, # for comments.

    Args:
        path: of the file.
        default: value of sensors that it does not name.

    Returns:
        Values (4760,).

    Raises:
        InputError: the file is missing or holds something else, or names a sensor twice.
    """
    values, named = np.full(geometry.N_SENSORS, default), dict[int, int]()
    for number, line in enumerate(_lines(path, "list of values", "a sensor id and a number a line"), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        sensor, value = _pair(words)
        if sensor is None or value is None:
            raise InputError(
                f"{path}, line {number}: '{printable(line.strip(), 40)}' is no sensor id from 0 to "
                f"{geometry.N_SENSORS - 1} with a number; give such as '17 0.95'."
            )
        if sensor in named:
            raise InputError(f"{path}, line {number}: sensor {sensor} stands in line {named[sensor]} too; remove one.")
        named[sensor], values[sensor] = number, value
    return values


def _pair(words: list[str]) -> tuple[int | None, float | None]:
    if len(words) != 2 or not (words[0].isascii() and words[0].isdecimal()):
        return None, None
    sensor = int(words[0].lstrip("0")[:5] or 0)
    try:
        value = float(words[1])
    except ValueError:
        return None, None
    return (sensor, value) if sensor < geometry.N_SENSORS and math.isfinite(value) else (None, None)
