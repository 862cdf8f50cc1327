"""The kinds of numbers, names and paths that settings take: finite, within bounds, and fit for a file's name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails

from xecml.errors import printable

LARGEST_SEED = 2**63 - 1
"""What random generators take, with room for one more each process."""
LARGEST_INT32 = 2**31 - 1
"""Run and event numbers in files are int32."""
_LONGEST_NAME = 100
_LONGEST_PATH = 4096
_LONGEST_PART = 255
_LONGEST_SHOWN = 80
_UNION_PARTS = ("float", "int", "str", "list", "tuple", "none")


def _number(value: Any) -> Any:
    """Refuse what Python would take for a number though nobody means one: truth values and bytes."""
    if isinstance(value, bool | bytes):
        raise ValueError("a number belongs here")
    return value


def _file_path(value: Path) -> Path:
    _path(str(value))
    return value


def _path(value: str) -> str:
    why = "holds a NUL" if "\0" in value else ""
    why = f"is longer than {_LONGEST_PATH} characters" if len(value) > _LONGEST_PATH else why
    if any(len(part.encode(errors="replace")) > _LONGEST_PART for part in value.split("/")):
        why = f"has a part longer than {_LONGEST_PART} bytes"
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        why = "is not UTF-8, so that no record of the run could hold it; rename the file or folder"
    if why:
        raise ValueError(f"no file can be named so: it {why}")
    return value


def _text(value: str) -> str:
    """Check that text says something, and that one line can show it."""
    if not value.strip():
        raise ValueError("it is empty; give a name, or leave the key out")
    if not value.isprintable():
        raise ValueError("it holds a line break or another character that cannot be printed; give a plain name")
    return value


def file_name(value: str) -> str:
    """Check what is to be the name of a folder, and part of the names of files.

    Raises:
        ValueError: it is empty, too long, '.' or '..', or holds separators or characters that cannot be printed.
    """
    _text(value)
    if len(value.encode()) > _LONGEST_NAME:
        raise ValueError(f"it is longer than {_LONGEST_NAME} bytes, too long for names of files; shorten it")
    if "/" in value or "\\" in value or value in (".", ".."):
        raise ValueError("it names a folder and part of files, so it cannot hold '/' or '\\', or be '.' or '..'")
    if value != value.strip():
        raise ValueError("it begins or ends with a blank; leave that out")
    return value


Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_number)]
Fraction = Annotated[Real, Field(ge=0, lt=1)]
Share = Annotated[Real, Field(ge=0, le=1)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Count = Annotated[Whole, Field(ge=1)]
Counted = Annotated[Whole, Field(ge=0)]
Seed = Annotated[Whole, Field(ge=0, le=LARGEST_SEED)]
Int32 = Annotated[Whole, Field(ge=-LARGEST_INT32 - 1, le=LARGEST_INT32)]
FilePath = Annotated[Path, AfterValidator(_file_path)]
PathText = Annotated[str, AfterValidator(_path)]
Text = Annotated[str, Field(max_length=1000), AfterValidator(_text)]
Title = Annotated[str, Field(max_length=250), AfterValidator(_text)]
FileName = Annotated[str, AfterValidator(file_name)]


def first_problem(error: ValidationError) -> ErrorDetails:
    """The first thing that is wrong; of a key that may be of several kinds, what fits the value best."""
    problems = error.errors(include_url=False)
    key = error_key(problems[0])
    return max((p for p in problems if error_key(p) == key), key=lambda problem: len(problem["loc"]))


def error_key(problem: ErrorDetails) -> str:
    """The dotted key that a problem is about, without what pydantic adds of unions and places in lists."""
    parts = [part for part in problem["loc"] if isinstance(part, str)]
    if problem["type"] != "extra_forbidden":
        parts = [part for part in parts if part.isidentifier() and part not in _UNION_PARTS]
    return ".".join(parts)


def error_reason(problem: ErrorDetails, unit: str = "") -> str:
    """What is wrong with a value, in words that go on a sentence; a bound is given with its unit."""
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    bound = problem["type"].startswith(("greater_than", "less_than"))
    return f"{message[:1].lower()}{message[1:]}{f' {unit}' if unit and bound else ''}"


def shown(value: Any) -> str:
    """A value in a message: as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a structure without an end
        text = f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def cut(text: str) -> str:
    """Text of a user in a message: in one line, cut where it is long."""
    return printable(text, _LONGEST_SHOWN)
