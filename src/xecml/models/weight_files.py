"""Weight files of torch: read without executing code in them, with a check of every tensor.

Also what bounds a network that is built to take such weights.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from xecml.errors import InputError
from xecml.files import regular_file
from xecml.schema import one_line

_SHOWN = 4
_SMALL = 2**25
"""Numbers of a tensor that a network may always make, such as a table of pairs of sensors."""
_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool,
         torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)  # fmt: skip
# numbers of numpy in configurations and metrics of the replaced system
_NUMPY: list[Any] = [
    np.dtype,
    np.float64(0).__reduce__()[0],
    *(type(np.dtype(t)) for t in ("f4", "f8", "i4", "i8", "?")),
]
_FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye})


def read(path: str | Path) -> Any:
    """Read the content of a file that torch wrote, on the CPU, without executing code in it.

    Raises:
        InputError: no such file, damaged, or something else.
    """
    file = regular_file(path, "checkpoint")
    try:
        if _is_packed(file):
            raise zipfile.BadZipFile("its parts are compressed, which torch never does")
        with torch.serialization.safe_globals(_NUMPY), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the unpickler thinks of a strange file is in the error
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on damaged files
        raise InputError(
            f"{path} cannot be read as a checkpoint; it is damaged or another kind of file ({_reason(file, error)})."
        ) from error


def _is_packed(file: Path) -> bool:
    """Whether an archive holds more than its size, as a small file that fills the memory does."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return sum(part.file_size for part in archive.infolist()) > file.stat().st_size


def _reason(file: Path, error: Exception) -> str:
    """Why torch cannot read a file, in a line; its first lines are about torch itself."""
    with file.open("rb") as opened:
        begin = opened.read(2)
    if begin not in (b"PK", b"\x80\x02"):
        return "it does not begin as a file of torch does, or is cut off"
    text = str(error)
    if found := re.search(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)", text):
        return f"it holds '{one_line(found[1])}', which is code or an object and no number"
    for line in reversed(text.partition("WeightsUnpickler error:")[2].splitlines()):
        if line.strip() and "documentation" not in line:
            return one_line(line)
    return one_line(text.partition("\n")[0].partition("(Could this")[0]) or type(error).__name__


# --------------------------------------------------------------------------------------------------- tensors


def check_weights(state: Any, path: str | Path, key: str) -> dict[str, Tensor]:
    """Weights by name, all of them dense tensors of real numbers.

    Args:
        state: what the file has as weights.
        path: of the file.
        key: under which it has them.

    Raises:
        InputError: names the first that is something else.
    """
    if not isinstance(state, Mapping):
        raise InputError(f"{path} is damaged: '{key}' does not hold named weights; use another checkpoint.")
    for name, value in state.items():
        if not isinstance(name, str) or (wrong := _wrong(value)):
            what = wrong if isinstance(name, str) else "has no name"
            raise InputError(
                f"{path} has weights that cannot be used: {one_line(str(name))} {what}; use another checkpoint."
            )
    return dict(state)


def _wrong(value: Any) -> str:
    """What is wrong with a weight; empty if nothing is."""
    if not isinstance(value, Tensor):
        return f"is of type {type(value).__name__} and no tensor"
    if value.is_meta or value.device.type != "cpu":
        return f"has no numbers, only a shape ({value.device})"
    if value.is_nested or value.layout != torch.strided:
        return "is sparse or nested"
    if value.is_quantized or value.dtype not in _REAL:
        return f"holds numbers of {value.dtype}, not real ones".replace("torch.", "")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"says that it has {value.numel()} numbers, and has fewer"
    return ""


def check_finite(weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        InputError: names the layers.
    """
    # a sum is finite only if all numbers are, and costs one reading
    suspect = [n for n, w in weights.items() if w.is_floating_point() and not bool(torch.isfinite(w.sum()))]
    wrong = [name for name in suspect if not bool(torch.isfinite(weights[name]).all())]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise InputError(
            f"{path} has weights that are no finite numbers: {', '.join(wrong[:_SHOWN])}{more}; its training went "
            "wrong: use an earlier checkpoint."
        )


class _TooLargeError(Exception):
    """A network asked for a tensor of so many numbers."""


class _Bounded(TorchFunctionMode):
    """Refuses to make tensors of more than `most` numbers."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in _FACTORIES:
            try:
                size = func(*args, **(given | {"device": "meta"})).numel()
            except (RuntimeError, TypeError, OverflowError) as error:  # more than 64 bits can count
                raise _TooLargeError("impossibly many") from error
            if size > self._most:
                raise _TooLargeError(size)
        return func(*args, **given)


@contextmanager
def no_larger_than(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Networks built within may have no layer much larger than those weights, or the memory may not suffice.

    Raises:
        InputError: one has.
    """
    most = max([_SMALL, *(weight.numel() for weight in weights.values())])
    try:
        with _Bounded(most):
            yield
    except _TooLargeError as error:
        raise InputError(f"the recipe asks for a layer of {error} numbers, many more than the file has") from error
