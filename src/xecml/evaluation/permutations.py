"""What an answer loses when part of its light is another event's: permutation importance.

The counts or the times of a region are replaced by those of the event that is most alike, moved to this one's hot spot
(`xecml.evaluation.hot_spots`), and everything is predicted anew: how far answers move, and by how much their s68 to the
truth grows, with the error of a difference on the same events (Breiman 2001, of groups of inputs). Hot spot, depth,
total light and rough time stay, so that what is left when all light is another event's is what these alone decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml import cpu_load
from xecml.evaluation.hot_spots import INNER, REGIONS, MovedLight, batches
from xecml.evaluation.influence import error_of, half_width
from xecml.evaluation.tables import QUANTITIES, Columns, quantities, residuals
from xecml.inference.prediction_columns import table_columns
from xecml.inference.trained_model import Model
from xecml.progress import progress
from xecml.resolution import Floats


@dataclass(frozen=True)
class Group:
    """Regions whose counts, times or both are replaced together."""

    name: str
    kind: str
    regions: tuple[int, ...]


_EVERY = tuple(range(len(REGIONS)))
ALL_COUNTS, ALL_TIMES, ALL = Group("all", "counts", _EVERY), Group("all", "times", _EVERY), Group("all", "both", _EVERY)
GROUPS = (
    *(Group(name, kind, (i,)) for kind in ("counts", "times") for i, name in enumerate(REGIONS)),
    *(Group("inner", kind, INNER) for kind in ("counts", "times")),
    ALL_COUNTS,
    ALL_TIMES,
    ALL,
)
"""What is replaced, one after the other."""


@dataclass(frozen=True)
class Permutations:
    """Answers before and after, of N events.

    Attributes:
        quantities: of `xecml.evaluation.tables.QUANTITIES`; arrays below are in their units.
        moved: how far answers move, (groups, quantities, N), in the order of `GROUPS`.
        off: answer minus truth (quantities, N); NaN without truth.
        off_after: the same after each replacement, (groups, quantities, N).
        known: truth minus its median (quantities, N): what one is off by who knows nothing.
    """

    quantities: tuple[str, ...]
    moved: Floats
    off: Floats
    off_after: Floats
    known: Floats

    def size(self, group: Group, quantity: str, chosen: NDArray[np.bool_] | None = None) -> tuple[float, float]:
        """s68 of how far answers move, and its error."""
        return _width(self.moved[GROUPS.index(group), self.quantities.index(quantity)], chosen)

    def before(self, quantity: str, chosen: NDArray[np.bool_] | None = None) -> tuple[float, float]:
        """s68 of answer minus truth as it is, and its error."""
        return _width(self.off[self.quantities.index(quantity)], chosen)

    def after(self, group: Group, quantity: str, chosen: NDArray[np.bool_] | None = None) -> tuple[float, float]:
        """s68 of answer minus truth when a group is replaced, and its error."""
        return _width(self.off_after[GROUPS.index(group), self.quantities.index(quantity)], chosen)

    def spread(self, quantity: str, chosen: NDArray[np.bool_] | None = None) -> tuple[float, float]:
        """s68 of the truth itself, and its error."""
        return _width(self.known[self.quantities.index(quantity)], chosen)

    def loss(self, group: Group, quantity: str, chosen: NDArray[np.bool_] | None = None) -> tuple[float, float]:
        """By how much s68 grows when a group is replaced, and the error of this difference on the same events."""
        q = self.quantities.index(quantity)
        both = np.stack([self.off_after[GROUPS.index(group), q], self.off[q]])
        both = both[:, np.isfinite(both).all(0) & (True if chosen is None else chosen)]
        if both.shape[1] < 2:
            return np.nan, np.nan
        (after, of_after), (before, of_before) = (half_width(values) for values in both)
        return after - before, error_of(of_after - of_before)


def permute(model: Model, light: MovedLight, truth: Mapping[str, NDArray[Any]] | None = None) -> Permutations:
    """Replace each of `GROUPS` in all events of `light`, and predict.

    Args:
        model: a checkpoint's or an exported file's.
        light: events and those alike.
        truth: columns `true_...` (N,) of the events; without them nothing is said of resolutions.
    """
    first = table_columns(model.predict(light.npho, light.time))
    parts: list[list[Columns]] = [[] for _ in GROUPS]
    with progress(len(light), "permutations") as bar:
        for part in batches(len(light)):
            cpu_load.look()
            seen = light.see(part)
            other = light.moved(part, seen)
            regions = seen.regions()
            for group, found in zip(GROUPS, parts, strict=True):
                inside = np.isin(regions, group.regions)
                mine = (light.npho[part], light.time[part])
                npho, time = (
                    np.where(inside, new, old) if group.kind in (kind, "both") else old
                    for kind, new, old in zip(("counts", "times"), other, mine, strict=True)
                )
                found.append(table_columns(model.predict(npho, time)))
            bar.advance(len(npho))
    after = [{name: np.concatenate([one[name] for one in found]) for name in first} for found in parts]
    as_known = {name.replace("pred_", "true_", 1): values for name, values in first.items() if name[:5] == "pred_"}
    names = tuple(quantities(first | as_known))
    answers = [{n: v for n, v in one.items() if n[:5] == "pred_"} for one in (first, *after)]
    known = dict(truth or {})
    moved = _residuals(answers[1:], as_known, names)
    off = _residuals(answers, known, names)
    middle = {f"pred_{QUANTITIES[q].column}": _middle(known, QUANTITIES[q].column, len(light)) for q in names}
    return Permutations(names, moved, off[0], off[1:], -_residuals([middle], known, names)[0])


def _middle(known: Mapping[str, NDArray[Any]], column: str, events: int) -> Floats:
    values = np.asarray(known.get(f"true_{column}", np.full(events, np.nan)), np.float64)
    good = values[np.isfinite(values) & (np.abs(values) < 9e9)]
    return np.full(events, np.median(good) if len(good) else np.nan)


def _residuals(answers: list[Columns], known: Mapping[str, NDArray[Any]], names: tuple[str, ...]) -> Floats:
    """Residuals (answers, quantities, N); NaN where nothing is known."""
    found = np.full((len(answers), len(names), len(next(iter(answers[0].values())))), np.nan)
    for i, one in enumerate(answers):
        table = one | dict(known)
        here = quantities(table)
        for q, name in enumerate(names):
            if name in here:
                found[i, q] = residuals(table, name)
    return found


def _width(values: Floats, chosen: NDArray[np.bool_] | None) -> tuple[float, float]:
    good = values[np.isfinite(values) & (True if chosen is None else chosen)]
    if len(good) < 2:
        return np.nan, np.nan
    width, influence = half_width(good)
    return width, error_of(influence)
