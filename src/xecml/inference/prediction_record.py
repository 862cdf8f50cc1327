"""The record of how a prediction file was made, by which a repeated command recognises complete pieces."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xecml import __version__, rootio
from xecml.conditions import Correction
from xecml.data import source
from xecml.data.manifests import MANIFEST
from xecml.errors import InputError
from xecml.inference.prediction_outputs import Output, piece_path
from xecml.inference.prediction_writers import described_in, said_of

RECORD = "prediction"
"""Name of the record in prediction files."""
_NOT_COMPARED = ("version", "device", "loss")
"""What may differ between a command and its repetition."""
_CALLED = {
    "model": "another model", "inputs": "other input files or other events of them", "options": "other options",
    "piece": "other pieces (--chunk)",
}  # fmt: skip


@dataclass
class Records:
    """What outputs of a prediction say of themselves.

    Attributes:
        model: name and digest of the model's file; nothing of a model without one.
        options: that change what is written.
        chunk: events a piece, where there are pieces.
        device: that computes.
        loss: of a precision below 32 bits, by answer.
    """

    model: Mapping[str, str]
    options: Mapping[str, Any]
    chunk: int | None = None
    device: str = "cpu"
    loss: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self._identities: dict[str, str] = {}

    def of(self, output: Output) -> dict[str, Any]:
        """The record of an output."""
        inputs = [
            {
                "file": Path(part.path).name,
                "identity": self._identity(part.path),
                "first": part.start,
                "last": part.stop,
            }
            for part in output.parts
        ]
        said: dict[str, Any] = {"version": __version__, "model": dict(self.model), "inputs": inputs}
        said |= {"options": dict(self.options), "device": self.device}
        if output.piece is not None:
            said["piece"] = {"number": output.piece, "of": output.of, "events": self.chunk}
        return said | ({} if self.loss is None else {"loss": dict(self.loss)})

    def _identity(self, path: str) -> str:
        if path not in self._identities:
            self._identities[path] = identity(path)
        return self._identities[path]

    def is_done(self, output: Output, *, force: bool = False) -> bool:
        """Whether a piece stands there already, of the same model, inputs and options.

        Raises:
            InputError: what stands there was made otherwise, and is not to be replaced.
        """
        if not all(path.is_file() for path in described_in(output.path)):
            return False
        text = said_of(output.path, RECORD)
        differ = _differences(text, self.of(output))
        if differ and not force:
            raise InputError(
                f"{output.path} is there already and is not of this prediction: it was made with "
                f"{' and '.join(differ)}; choose another output path, or give --force to make all pieces anew."
            )
        return not differ


def _differences(text: str | None, wanted: Mapping[str, Any]) -> list[str]:
    """What an existing record says otherwise, in words; nothing where the file is as it would be made now."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = {}
    if not isinstance(found, dict) or not found:
        return ["something that it does not say"]
    wanted = json.loads(json.dumps(wanted))
    keys = [key for key in wanted if key not in _NOT_COMPARED and found.get(key) != wanted[key]]
    return [_CALLED.get(key, key) for key in keys]


def check_no_more(named: Path, pieces: int) -> None:
    """Make sure that no pieces of an earlier, longer prediction stand behind the last, which would be read with it.

    Raises:
        InputError: names the first of them.
    """
    beyond = piece_path(named, pieces)
    if beyond.exists():
        raise InputError(
            f"{beyond} is there, but this prediction ends with {piece_path(named, pieces - 1).name}; remove it and "
            "those after it, or choose another output path."
        )


def model_record(path: str | Path | None) -> dict[str, str]:
    """Name and digest of a model's file."""
    if path is None:
        return {}
    with Path(path).open("rb") as file:
        return {"file": Path(path).name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def conditions_option(correction: Correction | None) -> dict[str, Any] | None:
    """What is corrected for, and by which table."""
    return None if correction is None else {"table": correction.conditions.digest, "applied": list(correction.what)}


def identity(path: str) -> str:
    """What tells an input from others and from itself after a change, without reading its events."""
    if source.is_shard(path):
        return hashlib.sha256((Path(path) / MANIFEST).read_bytes()).hexdigest()
    return rootio.identity(path)
