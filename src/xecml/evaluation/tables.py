"""Prediction tables: their columns, the quantities in them, residuals, and the events that tables share.

A prediction table is a dictionary of numpy columns, events along the first axis, named as in prediction
files: `pred_theta`, `pred_phi` (degrees), `pred_energy` (GeV), `pred_timing` (s), `pred_u`, `pred_v`,
`pred_w` (cm), `pred_emiVec` (N, 3), `pred_n_gamma` (N, 5), `sigma_...` beside each, and the same names with
`true_` or `reco_`. What was not measured or not answered is NaN or 1e10, and a reference may be impossible (an energy
below zero); such events are counted and left out.

Residuals are prediction minus reference in the units of quoted resolutions: deg, MeV, %, ps, mm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xecml.errors import InputError
from xecml.evaluation.stored_tables import Rows, StoredTable
from xecml.events import TASKS, Chunk, measured, number_of
from xecml.files import expand
from xecml.geometry import angles_from_direction, opening_angle
from xecml.resolution import Floats
from xecml.rootio import open_tree

Table = Mapping[str, NDArray[Any]]
Columns = dict[str, NDArray[Any]]
Reference = Literal["truth", "reco"]

PREFIX: dict[Reference, str] = {"truth": "true_", "reco": "reco_"}


@dataclass(frozen=True)
class Quantity:
    """A quantity whose resolution is quoted: column without prefix, name for people, unit, scale to it."""

    column: str
    label: str
    unit: str
    scale: float
    relative: bool = False


def _quantity(task: str, column: str, label: str) -> Quantity:
    return Quantity(column, label, TASKS[task].plot_unit, TASKS[task].plot_scale)


QUANTITIES = {
    "theta": _quantity("angle", "theta", "theta"),
    "phi": _quantity("angle", "phi", "phi"),
    "energy": _quantity("energy", "energy", "energy"),
    "energy_relative": Quantity("energy", "energy / truth", "%", 100.0, relative=True),
    "timing": _quantity("timing", "timing", "time"),
    "u": _quantity("uvwFI", "u", "u"),
    "v": _quantity("uvwFI", "v", "v"),
    "w": _quantity("uvwFI", "w", "w"),
}


def read_table(files: str | Path | Iterable[str | Path], tree: str = "predictions") -> Columns:
    """Read prediction files, all columns of all events, into one table.

    Raises:
        InputError: files or tree are missing or damaged, or the files hold different columns.
    """
    parts: list[Columns] = []
    for path in expand(files):
        with open_tree(path, tree) as reader:
            parts.append(reader.arrays(sorted(reader.in_file), 0, reader.n_events))
        odd = sorted(parts[-1].keys() ^ parts[0].keys())
        if odd:
            raise InputError(
                f"{path} differs from the first prediction file in {', '.join(odd)}; give files of one model."
            )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def n_events(table: Table) -> int:
    """Return the number of events of a table."""
    if isinstance(table, StoredTable):
        return table.n_events
    return len(next(iter(table.values()))) if table else 0


def truth_columns(chunk: Chunk) -> Columns:
    """Truth branches of an event file as columns of a table, without prefix: theta, phi, energy, ..."""
    columns: Columns = {}
    for task in TASKS.values():
        if task.truth in chunk:
            truth = chunk[task.truth]
            split = truth.ndim == 2 and len(task.columns) == truth.shape[1]
            columns |= {c: truth[:, i] if split else truth for i, c in enumerate(task.columns)}
    return columns


_POSSIBLE: dict[str, tuple[Callable[[Floats], Any], str]] = {
    "energy": (lambda e: e > 0, "above 0"),
    "theta": (lambda theta: (theta >= 0) & (theta <= 180), "within 0 and 180 degrees"),
    "n_gamma": (lambda n: (n >= 0) & (n <= 4), "within 0 and 4"),
}
"""What a reference can be, and how to say so; one that is something else is left out."""


def impossible(table: Table, reference: Reference = "truth") -> list[str]:
    """Sentences on reference values of a table that cannot be, and so are left out."""
    said = []
    for name, (possible, words) in _POSSIBLE.items():
        if (column_name := PREFIX[reference] + name) in table:
            values = np.asarray(table[column_name], np.float64)
            wrong = int((measured(values) & ~possible(values)).sum())
            if wrong:
                said.append(f"{column_name} is not {words} in {wrong} of {number_of(len(values))}; these are left out.")
    return said


def find_column(table: Table, name: str) -> Floats | None:
    """A column in float64, or None; angles also from `..._emiVec`.

    NaN stands where nothing was measured, and where a reference is impossible.
    """
    if name in table:
        values = np.asarray(table[name], np.float64)
        kept = measured(values)
        if name.startswith(tuple(PREFIX.values())) and (rule := _POSSIBLE.get(name.partition("_")[2])):
            kept &= rule[0](values)
        return np.where(kept, values, np.nan)
    prefix, _, bare = name.partition("_")
    # the widths of a vector's components are no direction
    if bare in ("theta", "phi") and prefix != "sigma" and f"{prefix}_emiVec" in table:
        vector = column(table, f"{prefix}_emiVec")
        return angles_from_direction(vector)[:, ("theta", "phi").index(bare)]
    return None


def column(table: Table, name: str) -> Floats:
    """Like `find_column`, for a column that must be there.

    Raises:
        InputError: the table lacks it.
    """
    values = find_column(table, name)
    if values is None:
        raise InputError(f"The prediction table has no column '{name}'; it has {', '.join(sorted(table))}.")
    return values


def quantities(table: Table, reference: Reference = "truth") -> list[str]:
    """Names of the quantities that a table predicts and knows the reference of, in one event at least."""

    def known(quantity: str) -> bool:
        columns = (prefix + QUANTITIES[quantity].column for prefix in ("pred_", PREFIX[reference]))
        if any(find_column(table, name) is None for name in columns):
            return False
        return bool(np.isfinite(residuals(table, quantity, reference)).any())

    return [quantity for quantity in QUANTITIES if known(quantity)]


def residuals(table: Table, quantity: str, reference: Reference = "truth") -> Floats:
    """Prediction minus reference (N,) in the quantity's unit; phi wraps at +-180 degrees.

    Raises:
        InputError: the table lacks the prediction or the reference.
    """
    what = QUANTITIES[quantity]
    known = column(table, PREFIX[reference] + what.column)
    difference = column(table, "pred_" + what.column) - known
    if quantity == "phi":
        difference = (difference + 180.0) % 360.0 - 180.0
    if what.relative:
        difference = difference / np.where(known > 0, known, np.nan)
    return difference * what.scale


def pulls(table: Table, reference: Reference = "truth") -> dict[str, Floats]:
    """Residual over predicted sigma (N,) of every output that has both; NaN where sigma is not above zero.

    Returns:
        Quantity to pulls; the components of a predicted vector are `emiVec x`, `emiVec y`, `emiVec z`.
    """
    found = {}
    for quantity in quantities(table, reference):
        what = QUANTITIES[quantity]
        sigma = None if what.relative else find_column(table, f"sigma_{what.column}")
        if sigma is not None:
            found[quantity] = residuals(table, quantity, reference) / np.where(sigma > 0, sigma * what.scale, np.nan)
    vectors = [find_column(table, f"{prefix}emiVec") for prefix in ("pred_", PREFIX[reference], "sigma_")]
    predicted, known, sigma = vectors
    if predicted is not None and known is not None and sigma is not None:
        components = ((predicted - known) / np.where(sigma > 0, sigma, np.nan)).T
        found |= {f"emiVec {axis}": values for axis, values in zip("xyz", components, strict=True)}
    return found


def opening_angles(table: Table, reference: Reference = "truth") -> Floats | None:
    """Angles (N,) in degrees between predicted and reference direction; None where the table lacks either."""
    names = [prefix + part for prefix in ("pred_", PREFIX[reference]) for part in ("theta", "phi")]
    found = [values for name in names if (values := find_column(table, name)) is not None]
    if len(found) < len(names):
        return None
    return opening_angle(np.stack(found[:2], axis=-1), np.stack(found[2:], axis=-1))


def with_predictions(table: Table, predictions: Table) -> Columns:
    """Give the events of a table other predictions: the table of a baseline.

    Args:
        table: identifiers, true_, reco_ and vertex columns are taken from here.
        predictions: new columns without prefix, such as `u`, each (N,) or (N, k).
    """
    kept = {n: v for n, v in table.items() if not n.startswith(("pred_", "sigma_")) and n != "opening_angle"}
    return kept | {f"pred_{name}": values for name, values in predictions.items()}


def same_events(tables: Mapping[str, Table]) -> dict[str, Table]:
    """Restrict tables to the events that all hold, in the order of the first, matched by run and event.

    Tables with equal numbers event by event, or without numbers and of equal length, are taken as they are.

    Raises:
        InputError: no event is common, or numbers repeat and order does not settle which is which.
    """
    ids = {name: event_ids(table) for name, table in tables.items()}
    first = next(iter(ids.values()))
    if all(np.array_equal(i, first) for i in ids.values()):
        return dict(tables)
    common = first
    for name, numbers in ids.items():
        if len(np.unique(numbers)) != len(numbers):
            raise InputError(f"'{name}' repeats run and event numbers; compare tables of the same file.")
        common = common[np.isin(common, numbers)]
    if not len(common):
        raise InputError(f"{' and '.join(tables)} have no event in common; evaluate them on the same file.")
    return {name: _rows(table, ids[name], common) for name, table in tables.items()}


def event_ids(table: Table) -> NDArray[np.int64]:
    """Run and event as one number (N,); of a table without them the place in it."""
    if "run" not in table or "event" not in table:
        return np.arange(n_events(table))
    return (table["run"].astype(np.int64) << 32) + (table["event"].astype(np.int64) & 0xFFFFFFFF)


def _rows(table: Table, ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> Table:
    by_id = np.argsort(ids)
    return Rows(table, by_id[np.searchsorted(ids, wanted, sorter=by_id)])
