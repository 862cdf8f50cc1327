"""Metadata of files, checked by pydantic models before they are used; errors name the key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from xecml.errors import InputError
from xecml.files import regular_file

_LONGEST_NAME, _LONGEST_KEY, _LONGEST_MESSAGE = 200, 80, 200
_LARGEST_JSON = 64 * 2**20
"""Bytes of a file of JSON; those of this package are a thousand times smaller."""
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Described(BaseModel):
    """Names and types exactly as stated, numbers finite; keys that are not stated are of other versions."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, arbitrary_types_allowed=True)


Checked = TypeVar("Checked", bound=BaseModel)


def _plain(name: str) -> str:
    if len(name) > _LONGEST_NAME or not _PLAIN.fullmatch(name):
        raise ValueError("it must be the name of a file in this folder, of letters, digits and . _ -")
    return name


PlainName = Annotated[str, AfterValidator(_plain)]
"""Name of a file in the folder at hand: no separators, no leading dot, nothing that leads out of it."""
Events = Annotated[int, Field(ge=1, lt=2**53)]
Text = Annotated[str, Field(max_length=10_000)]


def checked(model: type[Checked], content: Any, where: str, advice: str) -> Checked:
    """Content that a file gave, as a model.

    Args:
        model: what is expected.
        content: of the file.
        where: begins the message: "FILE is damaged".
        advice: ends it: what to do.

    Raises:
        InputError: it is not as expected; one sentence that names the first key.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where}: {explained(error)}; {advice}.") from error


def explained(error: ValidationError) -> str:
    """The first thing that is wrong: the key, and what it must be; in one line of bounded length."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    key = one_line(".".join(str(part)[:_LONGEST_KEY] for part in first["loc"]))
    message = one_line(first["msg"].removeprefix("Value error, ")).rstrip(".")
    if first["type"] == "missing":
        return f"'{key}' is missing"
    said = message[:1].lower() + message[1:]
    return f"'{key}': {said}" if key else said


def read_json(path: str | Path, what: str, where: str, advice: str) -> dict[str, Any]:
    """The object that a file of JSON holds.

    Args:
        path: of the file.
        what: it is, for messages: "manifest", ...
        where: begins the message where it is no JSON, as for `checked`.
        advice: ends it.

    Raises:
        InputError: no ordinary file, unreadable, not UTF-8, no JSON, nested without end, with NaN, or no object.
    """
    file = regular_file(path, what)
    if file.stat().st_size > _LARGEST_JSON:
        raise InputError(f"{where}: it is larger than {_LARGEST_JSON / 2**20:.0f} MB; {advice}.")
    try:
        content = parsed_json(file.read_bytes())
    except OSError as error:
        raise InputError(f"Cannot read the {what} {path}: {error.strerror}; check its permissions.") from error
    except ValueError as error:
        raise InputError(f"{where}: {error}; {advice}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{where}: it holds no names with values; {advice}.")
    return content


def parsed_json(text: str | bytes) -> Any:
    """What JSON holds.

    Raises:
        ValueError: it is none, nested without end, or with NaN; says where in one line.
    """
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(f"it is no JSON, {one_line(str(error))}") from error


def one_line(text: str) -> str:
    """Text from a file or a library for a message: one line of bounded length."""
    return "".join(c if c.isprintable() else " " for c in text[:_LONGEST_MESSAGE]).strip()
