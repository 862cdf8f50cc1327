"""Whether a file as a whole is like the sample that a model was trained on, and what differs, in words.

Every number of an event (`xecml.data.event_numbers`) is compared with what it should be where the event's light is, how
deep it is and how much of it there is. So a file of one energy, of another part of the detector, or of a calibration
line is not unlike the training for that. What is left is the detector; or photons that are of another kind, which is a
matter of the sample and is said apart.

A number differs if its median, over bins of depth, is off by more than its tolerance in widths of training events, by
more than two and a half times what detectors of the training differ by, and by more than five statistical errors. So a
tiny shift of a million events does not count, and neither does a few events' chance.

Memory does not grow with the file: distances from the expectation are counted in bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml.data.event_numbers import BY_KEY, CONDITIONS, DETECTOR, FOLLOWING, PMT_FACES, Number, face_in_words
from xecml.events import number_of

Floats = NDArray[np.float64]

UNKNOWN = (
    "The model does not say what its training events were like, because it is of an older version or was trained on "
    "too "
    "few events, so there is no 'outlier' and no comparison with the training; train it anew to have both."
)
"""What is said of such a model."""
ENOUGH = 100
"""Events below which nothing is said of a file as a whole."""
_ENOUGH_OF_A_NUMBER = 50
_SIGNIFICANT = 5.0
_DETECTORS = 2.5
_ALONE = 6.0
"""Widths of a number of the photons beyond which an event does not tell about the detector."""
_PHOTONS = 3.0
"""Widths by which numbers of the photons must differ for a warning: other photons are no fault."""
_OTHERS, _MOST = 0.2, 0.5
"""Shares of events with light unlike one photon's that are worth a word, and that leave too few to tell of the
detector."""
_MANY, _LEAST_OUTLIERS = 0.05, 5
"""Share of events with `outlier` above 1 that is worth a word, where training has 0.01; fewer than so many are not."""
_SAID = 3
"""Differences in the line; the table has all."""
# bins of asinh of the widths: as fine as 0.02 about zero, and beyond a thousand widths
_EDGES = np.sinh(np.linspace(-np.arcsinh(1000 / 0.5), np.arcsinh(1000 / 0.5), 602)) * 0.5
OUTLIER_EDGES = np.logspace(-1.5, 1.5, 61)
"""Bins of `outlier`."""
_DEPTH = CONDITIONS.index("w")
_OUTSIDE = {
    "u": ("at smaller u", "at larger u"),
    "v": ("at smaller v", "at larger v"),
    "w": ("shallower", "deeper"),
    "light": ("with less light", "with more light"),
}
_MIDDLE = (0.159, 0.5, 0.841)


class Compared(NamedTuple):
    """How B events compare with the training sample, see `xecml.models.training_distribution.Judged`."""

    differences: NDArray[np.float32]
    expected: NDArray[np.float32]
    widths: NDArray[np.float32]
    conditions: NDArray[np.float32]


@dataclass(frozen=True)
class Training:
    """What a model says of its training sample.

    Attributes:
        keys: of its numbers, (K,).
        medians: of their differences from the expectation, in widths, by depth, (D, K).
        lows, highs: what 15.9 % and 84.1 % of them lie below, (D, K).
        between: how far detectors of the sample differ, in widths, (K,).
        depth_edges: of the bins, logarithms of cm, (D + 1,).
        extremes: smallest and largest of the conditions in the sample, (2, C).
        events: of the sample.
    """

    keys: tuple[str, ...]
    medians: Floats
    lows: Floats
    highs: Floats
    between: Floats
    depth_edges: Floats
    extremes: Floats
    events: int

    def as_dict(self) -> dict[str, Any]:
        """For the metadata of an exported file."""
        names = ("medians", "lows", "highs", "between", "depth_edges", "extremes")
        arrays = {name: getattr(self, name) for name in names}
        return {"keys": list(self.keys), "events": self.events} | {k: a.round(5).tolist() for k, a in arrays.items()}


@dataclass(frozen=True)
class Difference:
    """A number in training and in a file.

    Attributes:
        number: which.
        events: of the file in which it is known, and which tell of it.
        training: its median in training, at the depths, places and light of the file's events.
        width: half of the central 68 % there.
        file: its median in the file.
        away: the difference in widths, less that of the training sample itself.
        error: statistical error of it, in widths.
        limit: what it may be, in widths.
        depths: the difference by bin of depth, in widths (D,); NaN where there are too few events.
    """

    number: Number
    events: int
    training: float
    width: float
    file: float
    away: float
    error: float
    limit: float
    depths: Floats

    @property
    def differs(self) -> bool:
        """Whether the file is unlike the training in it."""
        return abs(self.away) > max(self.limit, _SIGNIFICANT * self.error)

    @property
    def verdict(self) -> str:
        """`like`, `differs` (of the detector: a warning), `other photons`, or `too few`."""
        if not self.events:
            return "too few"
        if not self.differs:
            return "like"
        return "differs" if self.number.kind in DETECTOR else "other photons"

    def sentence(self) -> str:
        """What differs, in words."""
        return self.number.sentence(self.file, self.training)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "number": self.number.key, "what": self.number.title, "events": self.events,
            "training": _plain(self.training), "width": _plain(self.width), "file": _plain(self.file),
            "difference_in_widths": _plain(self.away),
            "error_in_widths": _plain(self.error), "limit_in_widths": _plain(self.limit), "verdict": self.verdict,
            "by_depth": [_plain(value) for value in self.depths],
        }  # fmt: skip


def _plain(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None


HEADERS = ["number (median)", "verdict", "training", "file", "width", "difference in widths", "may be"]
"""Of the table."""


class Comparison:
    """Sums over the events of a file.

    Attributes:
        training: what the model says of its training sample.
        events: seen, with a valid count.
        beyond: of them, those with `outlier` above 1.
        others: of them, those whose light is not that of a photon like in training.
        outside: of them, those below and above all of the sample, by condition, (2, C).
        outliers: of them, by `outlier`, between `OUTLIER_EDGES` and beyond on both sides.
    """

    def __init__(self, training: Training) -> None:
        self.training = training
        self.events = self.beyond = self.others = 0
        k, d = len(training.keys), len(training.depth_edges) - 1
        self.outside = np.zeros((2, len(CONDITIONS)), np.int64)
        self.outliers = np.zeros(len(OUTLIER_EDGES) + 1, np.int64)
        self._photons = np.array([BY_KEY[key].kind == "photons" for key in training.keys])
        self._counts = np.zeros((d, k, len(_EDGES) + 1), np.int64)
        self._expected, self._precisions = np.zeros((2, d, k))

    def add(self, compared: Compared, outlier: NDArray[Any]) -> None:
        """Add B events, with their `outlier` (B,)."""
        z = compared.differences
        seen = np.isfinite(outlier)
        self.events += int(seen.sum())
        self.beyond += int((outlier[seen] > 1).sum())
        self.outliers += np.bincount(np.searchsorted(OUTLIER_EDGES, outlier[seen]), minlength=len(self.outliers))
        low, high = self.training.extremes
        self.outside += [
            (beyond & seen[:, None]).sum(0) for beyond in (compared.conditions < low, compared.conditions > high)
        ]
        with np.errstate(invalid="ignore"):
            other = np.asarray((np.abs(np.where(self._photons, z, 0)) > _ALONE).any(1))
        self.others += int((other & seen).sum())
        known = np.isfinite(z) & seen[:, None] & ~(other[:, None] & ~self._photons)
        depths, numbers, bins = self._counts.shape
        depth = np.clip(np.searchsorted(self.training.depth_edges[1:-1], compared.conditions[:, _DEPTH]), 0, depths - 1)
        event, number = np.nonzero(known)
        place = (depth[event] * numbers + number) * bins + np.searchsorted(_EDGES, z[event, number])
        self._counts += np.bincount(place, minlength=self._counts.size).reshape(self._counts.shape)
        for sums, values in ((self._expected, compared.expected), (self._precisions, 1 / compared.widths)):
            here = np.bincount(depth[event] * numbers + number, values[event, number], depths * numbers)
            sums += here.reshape(depths, numbers)

    # ------------------------------------------------------------------------------------------------ judgement

    def differences(self) -> list[Difference]:
        """All numbers, in the order of the model's."""
        return [self._difference(k) for k in range(len(self.training.keys))]

    def _difference(self, k: int) -> Difference:
        number, training = BY_KEY[self.training.keys[k]], self.training
        counts = self._counts[:, k]
        n = counts.sum(1)
        total = int(n.sum())
        nothing = np.full(len(n), np.nan)
        if total < _ENOUGH_OF_A_NUMBER:
            return Difference(number, 0, *(np.nan,) * 6, nothing)
        low, middle, high = (np.array([_quantile(c, level) for c in counts]) for level in _MIDDLE)
        some = n > 0
        share = np.where(some, n, 0) / total
        away = np.where(some, middle - training.medians[:, k], 0.0)
        # the error of a median is 1.25 times that of a mean
        width = np.where(some, np.maximum((high - low) / 2, 0.05), 0.0)
        own = (training.highs[:, k] - training.lows[:, k]) / 2
        trained = training.events / 2 / len(n)
        errors = 1.25 * np.sqrt(np.where(some, width**2 / np.maximum(n, 1) + own**2 / max(trained, 1), 0.0))
        expected = self._expected[:, k].sum() / total
        # a shift moves an event by its own width's inverse
        widths = total / self._precisions[:, k].sum()
        usual = float((share * np.where(some, training.medians[:, k], 0)).sum())
        shift = float((share * away).sum())
        error = float(np.sqrt(((share * errors) ** 2).sum()))
        limit = max(number.tolerance, _DETECTORS * float(training.between[k]))
        shown = np.where(n >= _ENOUGH_OF_A_NUMBER // 2, away, np.nan)
        centre = expected + usual * widths
        return Difference(
            number, total, float(centre), float(widths), float(centre + shift * widths), shift, error, limit, shown
        )

    def line(self) -> str:
        """One sentence on how the file differs from the training; empty if it does not."""
        if self.events < ENOUGH:
            return ""
        share = self.others / self.events
        several = f"in {100 * share:.2g} % of the events the light is not that of a single photon, unlike in training"
        if share > _MOST:
            return f"The file is unlike the training: {several}, and the others are too few to judge the detector."
        rows = self.differences()
        # what follows from others comes after them
        differing = sorted(
            (r for r in rows if r.verdict == "differs"),
            key=lambda r: (r.number.group in FOLLOWING, -abs(r.away) / r.limit),
        )
        photons = [r for r in rows if r.verdict == "other photons" and abs(r.away) > max(_PHOTONS, r.limit)]
        told = _by_group([*differing, *sorted(photons, key=lambda r: -abs(r.away))])
        first = [several] if share > _OTHERS else []
        more = len(differing) + len(photons) - min(len(told), _SAID - len(first))
        told = first + told
        if not told:
            return ""
        rest = f"; {more} more {'number differs' if more == 1 else 'numbers differ'}" if more > 0 else ""
        return f"The file is unlike the training: {'; '.join(told[:_SAID])}{rest}."

    def verdict(self) -> str:
        """The line, or that the file is like the training; with the number of outliers."""
        if self.events < ENOUGH:
            return f"{number_of(self.events)} with light; a file with fewer than {ENOUGH} is not judged as a whole."
        share = f"{100 * self.beyond / self.events:.3g} % of the events have an 'outlier' above 1, in training 1 %"
        if unlike := self.line():
            return f"Warning: {unlike} {share[0].upper()}{share[1:]}."
        return f"The detector is like that of the training; {share}."

    def many_outliers(self) -> bool:
        """Whether more events are outliers than chance gives: five times as many as in training, or more."""
        return self.events > 0 and self.beyond > _MANY * self.events and self.beyond >= _LEAST_OUTLIERS

    def outliers_in_words(self) -> str:
        """How many events are outliers, and how many of all lie beyond the training sample in place or light."""
        where = [
            f"{n} {_OUTSIDE[name][side]} than any there"
            for i, name in enumerate(CONDITIONS)
            for side in (0, 1)
            if (n := int(self.outside[side, i])) > _MANY * self.events
        ]
        text = f"{self.beyond} unlike those of the training ('outlier' above 1, where it has 1 %"
        return f"{text}; {', '.join(where)})" if where else f"{text})"

    def missing(self) -> set[str]:
        """Kinds of differences, `counts` and `times`, that the line names: what else is said of them need not be."""
        if self.events < ENOUGH or self.others > _MOST * self.events:
            return set()
        kinds: set[str] = {row.number.kind for row in self.differences() if row.verdict == "differs"}
        return kinds & {"counts", "times"}

    def rows(self) -> list[list[str]]:
        """Rows of a table, see `HEADERS`."""
        rows = []
        for d in self.differences():
            if not d.events:
                rows.append([d.number.title, d.verdict, *["-"] * 5])
                continue
            medians = [d.number.said(value) for value in (d.training, d.file, d.width)]
            rows.append([d.number.title, d.verdict, *medians, f"{d.away:+.2f} ± {d.error:.2f}", f"{d.limit:.2g}"])
        return rows

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what the line says, the shares of events, and all numbers."""
        events = max(self.events, 1)
        return {
            "events": self.events,
            "outliers": self.beyond / events,
            "unlike_one_photon": self.others / events,
            "unlike_training": self.line() or None,
            "numbers": [row.as_dict() for row in self.differences()],
        }


def _by_group(rows: Sequence[Difference]) -> list[str]:
    """A sentence for each group of numbers, of the largest difference in it first; rows come in this order.

    What several faces have in common is said of all of them, with the middle one's size.
    """
    sentences, done = [], set[str]()
    for first in rows:
        number = first.number
        if number.group in done:
            continue
        done.add(number.group)
        alike = [r for r in rows if r.number.group == number.group and (r.away > 0) == (first.away > 0)]
        faces = [r.number.key.removeprefix(f"{number.group}_") for r in alike]
        if number.form == "share" or len(alike) == 1 or not set(faces) <= set(PMT_FACES):
            sentences.append(first.sentence())
            continue
        middle = sorted(alike, key=lambda r: abs(r.file - r.training))[len(alike) // 2]
        names = [face for face in PMT_FACES if face in faces]
        subject = "the PMT faces" if len(names) == len(PMT_FACES) else f"the {_listed(names)} faces"
        sentences.append(number.sentence(middle.file, middle.training, subject))
    return sentences


def _listed(faces: Sequence[str]) -> str:
    *most, last = [face_in_words(face) for face in faces]
    return f"{', '.join(most)} and {last}"


def _quantile(counts: NDArray[np.int64], level: float) -> float:
    """Quantile of what was counted between `_EDGES`, linear within a bin."""
    cumulated = np.cumsum(counts)
    if not cumulated[-1]:
        return 0.0
    wanted = level * cumulated[-1]
    i = int(np.searchsorted(cumulated, wanted))
    below = cumulated[i - 1] if i else 0
    low, high = _EDGES[max(i - 1, 0)], _EDGES[min(i, len(_EDGES) - 1)]
    return float(low + (high - low) * (wanted - below) / max(counts[i], 1))
