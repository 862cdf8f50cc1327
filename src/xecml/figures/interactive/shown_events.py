"""Events as the page shows them: counts, times and flags packed, numbers and marks of truth, model and convention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.choices import REPAIRS
from xecml.data import source
from xecml.errors import InputError
from xecml.events import INVALID, TASKS, Chunk, measured, read_counts, valid_counts
from xecml.figures.event_display import pair_to_draw
from xecml.figures.interactive.expected_light import Marks, by_hiding, light_of_a_point
from xecml.figures.interactive.packing import DEAD, FILLED, HIDDEN, pack_event
from xecml.figures.rebuilt_event import BRANCHES as EXAMPLE_BRANCHES
from xecml.figures.unfolded_detector import arrow_end, unfold
from xecml.inference.event_parts import RECONSTRUCTED
from xecml.inference.onnx_files import OUTLIER
from xecml.inference.prediction_columns import table_columns, true_columns
from xecml.inference.repair_models import Repair, is_repair, load_repair
from xecml.inference.trained_model import Model, load_model

CHUNK = 64
"""Events in memory at a time."""
_UNITS = {"energy": 1e3, "timing": 1e9}
"""From the units of files to those of the page, MeV and ns; others stay in cm and degrees."""
_QUANTITIES = ("energy", "timing", "theta", "phi", "u", "v", "w")
_BEYOND = 12.0
"""Length in cm by which a direction goes on behind the first interaction."""
_FLAGS = {"inpainted": FILLED, "dead": DEAD}


@dataclass
class Shown:
    """What a page says of all its events, filled in while they are read.

    Attributes:
        count_unit: of the counts.
        names: of true, model and conventional, for a legend.
        expected: what the expected counts are, in words.
        expected_times: whether times are expected, too.
    """

    count_unit: str = "photons"
    names: dict[str, str] = field(default_factory=dict)
    expected: str = ""
    expected_times: bool = False


@dataclass(frozen=True)
class Helpers:
    """A regression and a repair whose answers are shown beside what was measured; either may be none."""

    model: Model | None = None
    repair: Repair | None = None
    name: str = ""

    @property
    def names(self) -> Mapping[str, str]:
        """Canonical name of a branch -> its name in the files, as the models say."""
        return {**getattr(self.repair, "names", {}), **(self.model.names if self.model else {})}


def load_helpers(models: Sequence[str | Path]) -> Helpers:
    """Load at most one regression and one repair.

    Raises:
        InputError: two of a kind, or one that cannot be loaded.
    """
    model, repair, name = None, None, ""
    for path in models:
        fills = str(path) in REPAIRS or is_repair(path)
        if (repair if fills else model) is not None:
            kind = "repair of sensors" if fills else "model that predicts physical quantities"
            raise InputError(f"{path} is a second {kind}; give one --model of each kind.")
        if fills:
            repair, name = load_repair(path), Path(path).name
        else:
            model = load_model(path)
    return Helpers(model, repair, name)


def shown_events(
    file: str, tree: str, first: int, count: int, helpers: Helpers, about: Shown
) -> Iterator[dict[str, Any]]:
    """Records of a file's events for the page, from the entry `first` on; `about` is filled on the way.

    Raises:
        InputError: there is no such entry, or neither counts and times nor an autoencoder's examples.
    """
    entry = first
    for chunk in _chunks(file, tree, first, count, helpers.names):
        for record in _records(file, chunk, entry, helpers, about):
            yield record
            entry += 1
    if entry == first:
        raise InputError(f"{file} has no entry {first}; it has {source.count_events(file, tree)}, counted from 0.")


def _chunks(file: str, tree: str, first: int, count: int, names: Mapping[str, str]) -> Iterator[Chunk]:
    """Chunks of the entries `first` to `first + count` of all files that the name stands for."""
    before = 0
    for path in source.expand(file):
        with source.open_events(path, tree, source.names_here(path, tree, names)) as reader:
            start, stop = max(first - before, 0), min(first + count - before, reader.n_events)
            before += reader.n_events
            if start >= stop:
                continue
            examples = all(branch in reader.in_file for branch in (*EXAMPLE_BRANCHES, "mask"))
            wanted = [*EXAMPLE_BRANCHES, "mask", "event_id"] if examples else reader.known()
            wanted = [b for b in (*wanted, *_FLAGS) if b in reader.in_file or (not examples and reader.has(b))]
            for at in range(start, stop, CHUNK):
                yield reader.arrays(wanted, at, min(at + CHUNK, stop))


def _records(file: str, chunk: Chunk, entry: int, helpers: Helpers, about: Shown) -> Iterator[dict[str, Any]]:
    examples = "mask" in chunk
    if examples:
        chunk = chunk | {"npho": chunk["truth_npho"], "time": chunk["truth_time"]}
    pair = _pair(file, chunk, helpers)
    npho, time = (chunk[branch] for branch in pair)
    about.count_unit = "photons" if pair[0] == "npho" else "relative to the largest"
    flags = _flags(chunk, npho)
    dead = ((flags & (FILLED | DEAD)) > 0) | ~read_counts(npho)
    point, fitted = light_of_a_point(npho, ~dead)
    expected: dict[str, NDArray[Any]] = {"npho": point}
    if examples:
        expected = {"npho": chunk["pred_npho"], "time": chunk["pred_time"]}
        about.expected = "what the autoencoder rebuilds"
    elif helpers.repair is not None:
        expected = dict(zip(("npho", "time"), by_hiding(helpers.repair, npho, time, dead), strict=True))
        about.expected = f"what {helpers.name} says of a sensor that it does not see"
    else:
        about.expected = "light of one point, at the fitted place"
    about.expected_times = "time" in expected
    columns = _answers(chunk, helpers.model)
    kinds = {
        "true": _numbers(true_columns(chunk, list(TASKS)), "true_"),
        "model": _numbers(columns, "pred_"),
        "conventional": _conventional(chunk, fitted.uvw, fitted.found, about),
    }
    about.names |= {"true": "true", "model": "model"}
    vertex = chunk.get("xyzVTX")
    lit = valid_counts(npho)
    numbers = chunk.get("event", chunk.get("event_id", np.arange(entry, entry + len(npho))))
    for i in range(len(npho)):
        values = {kind: _of_event(of_kind, i) for kind, of_kind in kinds.items()}
        seen_from = {"true": None if vertex is None else vertex[i]}
        record = {
            "run": int(chunk["run"][i]) if "run" in chunk else 0,
            "event": int(numbers[i]),
            "entry": entry + i,
            "lit": int(lit[i].sum()),
            "dead": int(dead[i].sum()),
            "filled": int((flags[i] & FILLED > 0).sum()),
            "flagged": int((flags[i] > 0).sum()),
            "total": float(f"{np.sum(npho[i], where=lit[i], dtype=np.float64):.6g}"),
            "values": {kind: value for kind, value in values.items() if value},
            "sigma": _of_event(_numbers(columns, "sigma_"), i),
            "marks": {
                kind: mark for kind, value in values.items() if (mark := _mark(value, seen_from.get(kind))) is not None
            },
        }
        if OUTLIER in columns and measured(columns[OUTLIER][i]):
            record["outlier"] = float(f"{columns[OUTLIER][i]:.4g}")
        yield record | pack_event(npho[i], time[i], flags[i], {name: values[i] for name, values in expected.items()})


def _pair(file: str, chunk: Chunk, helpers: Helpers) -> tuple[str, str]:
    wanted = getattr(helpers.repair, "branches", None)
    if wanted is None and helpers.repair is not None:
        wanted = ("npho", "time")
    if wanted is None:
        return pair_to_draw(file, chunk)
    lacking = [branch for branch in wanted if branch not in chunk]
    if lacking:
        raise InputError(f"{file} has no branch '{lacking[0]}', which {helpers.name} needs; give files that have it.")
    return wanted[0], wanted[1]


def _flags(chunk: Chunk, npho: NDArray[Any]) -> NDArray[np.uint8]:
    flags = np.zeros(npho.shape, np.uint8)
    for branch, bit in (*_FLAGS.items(), ("mask", HIDDEN)):
        if branch in chunk:
            flags |= np.where(np.asarray(chunk[branch], bool), bit, 0).astype(np.uint8)
    return flags


def _answers(chunk: Chunk, model: Model | None) -> Chunk:
    """Columns of a prediction tree; none without a model."""
    if model is None:
        return {}
    lacking = [branch for branch in model.branches if branch not in chunk]
    if lacking:
        raise InputError(f"The file has no branch '{lacking[0]}', which the model needs; give files that have it.")
    return table_columns(model.predict(*(chunk[branch] for branch in model.branches)))


def _conventional(chunk: Chunk, uvw: NDArray[Any], found: Marks, about: Shown) -> Chunk:
    """What the file's reconstruction says; of a file without one, the fitted point of light seen from the origin."""
    reconstructed = table_columns({t: chunk[b] for t, b in RECONSTRUCTED.items() if b in chunk}, prefix="reco_")
    if reconstructed:
        about.names["conventional"] = "reconstruction in the file"
        return _numbers(reconstructed, "reco_")
    about.names["conventional"] = "fitted point of light, seen from the origin"
    angles = geometry.angles_from_direction(geometry.xyz_from_uvw(uvw))
    columns = np.where(found[:, None], np.concatenate([angles, uvw], axis=1), INVALID)
    return dict(zip(("theta", "phi", "u", "v", "w"), columns.T, strict=True))


def _numbers(columns: Mapping[str, NDArray[Any]], prefix: str) -> Chunk:
    """Columns of the page's quantities in its units, without prefix; 1e10 stays."""
    found = {}
    for name in _QUANTITIES:
        if prefix + name in columns:
            values = np.asarray(columns[prefix + name], np.float64)
            found[name] = np.where(measured(values), values * _UNITS.get(name, 1.0), INVALID)
    return found


def _of_event(columns: Chunk, i: int) -> dict[str, float]:
    return {name: float(f"{values[i]:.7g}") for name, values in columns.items() if measured(values[i])}


def _mark(values: Mapping[str, float], vertex: NDArray[Any] | None) -> dict[str, Any] | None:
    """Where a first interaction and its direction are drawn: places on the six faces, and a line in space (cm)."""
    if not {"u", "v", "w"} <= values.keys():
        return None
    xyz = geometry.xyz_from_uvw([values["u"], values["v"], values["w"]])
    mark: dict[str, Any] = {"xyz": xyz, "places": [unfold(face, xyz) for face in geometry.FACES]}
    if {"theta", "phi"} <= values.keys():
        direction = geometry.direction_from_angles([values["theta"], values["phi"]])
        mark["arrow"] = arrow_end(values)
        known = vertex is not None and bool(np.all(measured(vertex)))
        across = direction[0] ** 2 + direction[1] ** 2
        along = float(xyz[:2] @ direction[:2]) / max(across, 1e-12)
        # without a vertex: from where the line is nearest to the beam
        mark["line"] = [vertex if known else xyz - along * direction, xyz + _BEYOND * direction]
    return {key: np.round(np.asarray(value, np.float64), 2).tolist() for key, value in mark.items()}
