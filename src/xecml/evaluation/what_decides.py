"""What decides the answers of a model, from three sides: derivatives, integrated gradients, permutations.

Derivatives say what a small change would do, integrated gradients what each region made of the answer to an event
beside one with the same hot spot, permutations what the answer loses when a region is another event's. The last two
answer the same question by different means and are compared with one another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.errors import InputError
from xecml.evaluation.hot_spots import INNER, REGIONS, MovedLight
from xecml.evaluation.integrated_gradients import Integrated, integrated_gradients
from xecml.evaluation.metrics import ALL, DEPTHS, with_error
from xecml.evaluation.permutations import ALL as ALL_LIGHT
from xecml.evaluation.permutations import ALL_COUNTS, ALL_TIMES, GROUPS, Group, Permutations, permute
from xecml.evaluation.saliency import KINDS, Saliency, look_of, saliency
from xecml.evaluation.stability import for_json
from xecml.evaluation.tables import QUANTITIES, find_column
from xecml.events import number_of, valid_counts, valid_times
from xecml.geometry import FACES
from xecml.inference.trained_model import Model, TorchModel
from xecml.resolution import Floats, s68

MOST_INTEGRATED = 128
"""Events that derivatives are taken at; they cost a hundred times as much as a prediction."""
LEAST = 20
"""Events in a bin of depth, below which nothing is said of it."""
_FACE_GROUPS = {kind: [(face, kind) for face in FACES] for kind in KINDS}


@dataclass(frozen=True)
class WhatDecides:
    """What was found on N events.

    Attributes:
        events: number of events.
        left_out: events without a valid count or time, which have no hot spot to be seen from.
        depth: of the first interaction where the truth is known, else of the hot spot (N,), cm.
        permutations: of all events.
        gradient: of the first events; none of an exported model.
        integrated: of the same events.
    """

    events: int
    left_out: int
    depth: Floats
    permutations: Permutations
    gradient: Saliency | None = None
    integrated: Integrated | None = None

    def bins(self) -> dict[str, NDArray[np.bool_]]:
        """Masks (N,) of all events and of the bins of depth that have enough of them."""
        cut = {name: (self.depth >= low) & (self.depth < high) for name, (low, high) in DEPTHS.items()}
        return {ALL: np.ones(self.events, bool)} | {name: mask for name, mask in cut.items() if mask.sum() >= LEAST}

    def parts(self, output: str, chosen: NDArray[np.bool_] | None = None) -> Floats:
        """s68 over events of what each region makes of an answer, (2, regions): counts, times; in quoted units."""
        return self._widths(self._regions(output, chosen), output)

    def face_parts(self, output: str, chosen: NDArray[np.bool_] | None = None) -> Floats:
        """The same by face, (2, 6)."""
        regions = self._regions(output, chosen)
        inner = regions[..., list(INNER)].sum(-1, keepdims=True)
        return self._widths(np.concatenate([inner, regions[..., len(INNER) :]], -1), output)

    def _regions(self, output: str, chosen: NDArray[np.bool_] | None) -> Floats:
        """What regions make of an answer, (2, events, regions), target widths."""
        assert self.integrated is not None
        parts = self.integrated.parts
        regions: Floats = parts.regions[:, :, parts.outputs.index(output)]
        return regions if chosen is None else regions[:, chosen[: parts.events]]

    def _widths(self, values: Floats, output: str) -> Floats:
        """s68 over the events of values (2, events, n), in quoted units."""
        assert self.integrated is not None
        scale = self.integrated.scale[self.integrated.parts.outputs.index(output)]
        return np.asarray(np.array([[s68(one) for one in kind.T] for kind in values]) * scale)

    def face_moves(self, quantity: str, chosen: NDArray[np.bool_] | None = None) -> Floats:
        """How far answers move (s68) when a face's counts, or times, are another event's: (2, 6), in quoted units."""
        sizes = {(g.name, g.kind): self.permutations.size(g, quantity, chosen)[0] for g in GROUPS}
        return np.array([[sizes[face] for face in _FACE_GROUPS[kind]] for kind in KINDS])

    def agreement(self, output: str) -> float:
        """Rank correlation (Spearman) of both over counts and times of the faces; NaN where one has no order."""
        from scipy.stats import rankdata

        if self.integrated is None or output not in self.permutations.quantities:
            return math.nan
        first = np.arange(self.events) < len(self.integrated.answers)
        both = [x.ravel() for x in (self.face_parts(output), self.face_moves(output, first))]
        ranks = [rankdata(x) - (len(x) + 1) / 2 for x in both]
        size = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
        return float((ranks[0] * ranks[1]).sum()) / size if size > 0 else math.nan

    def tables(self, *, depths: bool = False) -> list[tuple[str, list[str], list[list[str]]]]:
        """Tables to read: title, headers, rows."""
        chosen = {name: mask for name, mask in self.bins().items() if depths or name == ALL}
        found = [self._resolutions(name, mask) for name, mask in chosen.items()]
        found += [self._moves(name, mask) for name, mask in chosen.items()]
        return [table for table in found if table[2]]

    def _resolutions(self, name: str, chosen: NDArray[np.bool_]) -> tuple[str, list[str], list[list[str]]]:
        p = self.permutations
        headers = ["quantity", "unit", "s68", "other times", "other counts", "other light", "nothing known"]
        rows = []
        for q in p.quantities:
            values = [p.before(q, chosen), *(p.after(g, q, chosen) for g in (ALL_TIMES, ALL_COUNTS, ALL_LIGHT))]
            values.append(p.spread(q, chosen))
            if math.isfinite(values[0][0]):
                rows.append([QUANTITIES[q].label, QUANTITIES[q].unit, *(with_error(*value) for value in values)])
        where = "" if name == ALL else f", {name}"
        title = (
            f"{number_of(int(chosen.sum()))}{where}: s68 as it is, and with times, counts or both of another event "
            "about the same hot spot"
        )
        return title, headers, rows

    def _moves(self, name: str, chosen: NDArray[np.bool_]) -> tuple[str, list[str], list[list[str]]]:
        p = self.permutations
        shown = [q for q in p.quantities if not QUANTITIES[q].relative]
        headers = ["replaced", "of", *(f"{QUANTITIES[q].label} [{QUANTITIES[q].unit}]" for q in shown)]
        rows = [
            [g.name, "light" if g.kind == "both" else g.kind, *(with_error(*p.size(g, q, chosen)) for q in shown)]
            for g in GROUPS
        ]
        where = "" if name == ALL else f", {name}"
        return f"How far answers move (s68) when a region is another event's{where}", headers, rows

    def sentences(self) -> list[str]:
        """In words, a sentence for each quantity, and how far both ways agree."""
        said = []
        for q in (q for q in self.permutations.quantities if not QUANTITIES[q].relative):
            said.append(self._sentence(q))
        if self.integrated is not None:
            ranks = {q: self.agreement(q) for q in self.integrated.parts.outputs}
            known = [f"{q} {r:+.2f}" for q, r in ranks.items() if math.isfinite(r)]
            if known:
                said.append(
                    "Integrated gradients and permutations order counts and times of the faces alike "
                    f"(rank correlation): {', '.join(known)}."
                )
        if self.left_out:
            said.append(f"Without a valid count or time, and left out: {number_of(self.left_out)}.")
        return said

    def _sentence(self, q: str) -> str:
        p, what = self.permutations, QUANTITIES[q]
        order = sorted((g for g in GROUPS if g.name in REGIONS), key=lambda g: -p.size(g, q)[0])
        most = " and ".join(f"{g.kind} of {_named(g)} ({with_error(*p.size(g, q))})" for g in order[:2])
        moved = f"most moved by {most} {what.unit}".rstrip()
        if not math.isfinite(p.before(q)[0]):
            return f"{what.label}: {moved}."
        losses = [f"{word} {with_error(*p.loss(g, q))}" for word, g in (("times", ALL_TIMES), ("counts", ALL_COUNTS))]
        return (
            f"{what.label}: s68 {with_error(*p.before(q))} {what.unit} grows by {losses[0]}, {losses[1]} when they are "
            f"another event's about the same hot spot; {moved}."
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON."""
        p, bins = self.permutations, self.bins()
        found: dict[str, Any] = {"events": self.events, "left_out": self.left_out}
        found["permutations"] = {
            q: {"unit": QUANTITIES[q].unit} | {name: self._permuted(q, mask) for name, mask in bins.items()}
            for q in p.quantities
        }
        if self.gradient is not None:
            g = self.gradient
            found["derivatives"] = {"events": g.events, "unit": "target widths per d ln n of a count, per ns of a time"}
            found["derivatives"] |= {
                name: {depth: _by_face(g.regions[:, :, k], mask) for depth, mask in bins.items()}
                for k, name in enumerate(g.outputs)
            }
        if self.integrated is not None:
            found["integrated_gradients"] = self._integrated(self.integrated, bins)
        return found

    def _permuted(self, q: str, chosen: NDArray[np.bool_]) -> dict[str, Any]:
        p = self.permutations
        values = {"s68": p.before(q, chosen), "s68_of_truth": p.spread(q, chosen)}
        found: dict[str, Any] = {name: _pair(value) for name, value in values.items()}
        for group in GROUPS:
            numbers = (p.size(group, q, chosen), p.after(group, q, chosen), p.loss(group, q, chosen))
            one = dict(zip(("moved", "s68", "loss"), map(_pair, numbers), strict=True))
            found.setdefault(group.kind, {})[group.name] = one
        return found

    def _integrated(self, found: Integrated, bins: Mapping[str, NDArray[np.bool_]]) -> dict[str, Any]:
        said: dict[str, Any] = {"events": len(found.answers), "left": float(np.abs(found.left).mean())}
        for k, name in enumerate(found.parts.outputs):
            said[name] = {"unit": found.units[k], "agreement": for_json(np.array(self.agreement(name)))}
            for depth, mask in bins.items():
                if mask[: len(found.answers)].sum() >= LEAST or depth == ALL:
                    parts = self.parts(name, mask)
                    said[name][depth] = {
                        kind: dict(zip(REGIONS, parts[i].tolist(), strict=True)) for i, kind in enumerate(KINDS)
                    }
        return said


def what_decides(
    model: Model,
    npho: ArrayLike,
    time: ArrayLike,
    truth: Mapping[str, NDArray[Any]] | None = None,
    *,
    most_integrated: int = MOST_INTEGRATED,
) -> WhatDecides:
    """Find what decides a model's answers to some events.

    Args:
        model: a checkpoint's; of an exported file only permutations are known.
        npho: counts (N, 4760) as the model takes them.
        time: times (N, 4760), seconds.
        truth: columns `true_...` (N,) of the events, as far as they are known.
        most_integrated: events that derivatives are taken at.

    Raises:
        InputError: there are fewer than two events with counts and times, or a derivative is not finite.
    """
    n, t = np.asarray(npho, np.float32), np.asarray(time, np.float32)
    whole = valid_counts(n).any(1) & valid_times(n, t).any(1)
    if whole.sum() < 2:
        raise InputError(
            f"{int(whole.sum())} of {number_of(len(n))} have a valid count and a valid time; what decides an answer is "
            "found by comparing at least two."
        )
    known = {name: values[whole] for name, values in (truth or {}).items()}
    torch_model = model if isinstance(model, TorchModel) else None
    light = MovedLight(n[whole], t[whole], None if torch_model is None else look_of(torch_model))
    gradient = integrated = None
    if torch_model is not None:
        few = slice(0, most_integrated)
        gradient = saliency(torch_model, light.npho[few], light.time[few], light)
        integrated = integrated_gradients(torch_model, light, events=most_integrated)
    true_depth = find_column(known, "true_w")
    depth = light.depth if true_depth is None else true_depth
    return WhatDecides(len(light), int((~whole).sum()), depth, permute(model, light, known), gradient, integrated)


def _by_face(regions: Floats, chosen: NDArray[np.bool_]) -> dict[str, dict[str, float | None]]:
    """Means over the chosen ones of events of sums over faces, of regions (2, events, regions)."""
    some = regions[:, chosen[: regions.shape[1]]]
    means = some.mean(1) if some.shape[1] else np.full((2, len(REGIONS)), np.nan)
    faces = np.concatenate([means[:, list(INNER)].sum(1, keepdims=True), means[:, len(INNER) :]], 1)
    return {kind: dict(zip(FACES, for_json(faces[i]), strict=True)) for i, kind in enumerate(KINDS)}


def _named(group: Group) -> str:
    return f"the {group.name} SiPMs" if group.name[0].isdigit() else group.name


def _pair(value: tuple[float, float]) -> list[float | None]:
    return [x if math.isfinite(x) else None for x in value]
