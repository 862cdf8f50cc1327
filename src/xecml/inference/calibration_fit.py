"""Corrections from events that are known: the bias of a model's answers on a sample, and what takes it away.

The bias of a time or position is the median of answer minus reference, that of an energy the median of their ratio; the
error of a median is half of the interval between the order statistics one binomial standard deviation to both sides
(Woodruff 1952). A line has no reference by event: its bias is that of the fitted peak (`xecml.inference.line_fit`).
Samples are bounded: of more than a million events an even million is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.errors import InputError
from xecml.events import TASKS, number_of
from xecml.inference.calibration_record import Against, corrections_in_words, said_against, with_error
from xecml.inference.line_fit import WIDEST, fit_line
from xecml.models.corrections import FACTORS
from xecml.resolution import Floats

LEAST_EVENTS = 200
"""A correction from fewer is refused."""
FARTHEST = 0.2
"""A peak that is further from the line, relative to its energy, is not that line."""
SIGNIFICANT = 2.0
"""Standard errors from which on a bias is called significant."""
SUSPICIOUS = {"energy": 0.2, "uvwFI": 0.5}
"""Biases (a share; cm) that scales and surveys do not explain; clocks may be off by anything."""
_WORST_FIT = 3.0
"""Chi2 per degree of freedom from which on a spectrum is not what is fitted to it."""
_MOST_EVENTS = 1_000_000
_LARGEST_RATIO = 2.0
"""Of answered to known energies; beyond it one of them is in another unit."""
_SEED = 20


class Sample:
    """Rows of numbers of any number of events, of which an even selection is kept in bounded memory.

    The selection depends on the order of the events alone, not on how they come in chunks.

    Args:
        columns: numbers of an event.
        most: events that are kept.
    """

    def __init__(self, columns: int, most: int = _MOST_EVENTS) -> None:
        self.events, self._most = 0, most
        self._rng = np.random.default_rng(_SEED)
        self._rows = np.empty((0, columns))
        self._keys = np.empty(0)

    def add(self, *columns: ArrayLike) -> None:
        """Add events by columns, each (n,) or (n, k); those with a number that is not finite are left out."""
        parts = [np.asarray(column, np.float64) for column in columns]
        rows = np.column_stack(parts)
        rows = rows[np.isfinite(rows).all(1)]
        self.events += len(rows)
        keys = self._rng.random(len(rows))
        self._rows, self._keys = np.concatenate([self._rows, rows]), np.concatenate([self._keys, keys])
        if len(self._keys) > self._most:
            kept = np.sort(np.argpartition(self._keys, self._most)[: self._most])
            self._rows, self._keys = self._rows[kept], self._keys[kept]

    @property
    def rows(self) -> Floats:
        """The events that were kept (n, columns)."""
        return self._rows


@dataclass(frozen=True)
class LineFound:
    """A line in a file: energies in MeV, its bias before and after the correction as a share of its energy."""

    energy: float
    file: str
    events: int
    peak: float
    error: float
    sigma: float
    chi2: float
    before: float
    after: float


@dataclass(frozen=True)
class Fitted:
    """A task's bias on a sample, and its correction; by column, in the units of files, an energy's bias as a share.

    Attributes:
        task: that is corrected.
        against: what it was measured against.
        events: that it was measured on.
        before, errors_before: its bias with what stood in the model.
        after: its bias with the correction.
        stood: what stood in the model.
        values, errors: what is to stand in it.
        lines: the lines, of an energy against these.
        chi2: of the lines about their common factor; none for fewer than two lines.
    """

    task: str
    against: Against
    events: int
    before: tuple[float, ...]
    errors_before: tuple[float, ...]
    after: tuple[float, ...]
    stood: tuple[float, ...]
    values: tuple[float, ...]
    errors: tuple[float, ...]
    lines: tuple[LineFound, ...] = ()
    chi2: float | None = None

    @property
    def significance(self) -> tuple[float, ...]:
        """Biases in their standard errors."""
        return tuple(abs(b) / e if e > 0 else math.inf for b, e in zip(self.before, self.errors_before, strict=True))

    def rows(self) -> list[list[str]]:
        """A row of text for each column of the task, under `HEADERS`."""
        unit, scale = (
            ("%", 100.0) if self.task in FACTORS else (TASKS[self.task].plot_unit, TASKS[self.task].plot_scale)
        )
        nothing = [0.0] * len(self.values)
        now = corrections_in_words(self.task, list(self.values), list(self.errors))
        was = corrections_in_words(self.task, list(self.stood), nothing)
        known = said_against(self.against, [line.energy for line in self.lines])
        rows = []
        for i, significance in enumerate(self.significance):
            said = f"{significance:.1f}" + ("" if significance >= SIGNIFICANT else ", not significant")
            before, error = self.before[i] * scale, self.errors_before[i] * scale
            name, _, correction = now[i].partition(" ")
            biases = [
                f"{with_error(before, error, sign=True)} {unit}",
                f"{_rounded(self.after[i] * scale, error)} {unit}",
            ]
            rows.append([name, known, str(self.events), *biases, said, was[i].partition(" ")[2], correction])
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON."""
        infinite = {"significance": [s if math.isfinite(s) else None for s in self.significance]}
        return asdict(self) | infinite | {"lines": [_finite(asdict(line)) for line in self.lines]}


HEADERS = ["quantity", "known by", "events", "bias before", "bias after", "in errors", "correction before",
           "correction now"]  # fmt: skip
LINE_HEADERS = ["line MeV", "file", "events", "peak MeV", "sigma %", "chi2/dof", "off before %", "off after %"]


def line_rows(fitted: Fitted) -> list[list[str]]:
    """A row of text for each line, under `LINE_HEADERS`."""
    return [
        [f"{x.energy:g}", x.file, str(x.events), with_error(x.peak, x.error), f"{100 * x.sigma / x.peak:.2f}",
         f"{x.chi2:.2f}" if math.isfinite(x.chi2) else "-",
         with_error(100 * x.before, 100 * x.error / x.energy, sign=True),
         _rounded(100 * x.after, 100 * x.error / x.energy)]
        for x in fitted.lines
    ]  # fmt: skip


def warnings_of(fitted: Fitted) -> list[str]:
    """Sentences on lines of another form, and on a bias that is too large for a constant to mend."""
    odd = [
        f"Warning: the spectrum of {x.file} does not look like a line (chi2 {x.chi2:.1f} per degree of freedom); "
        "check it for a second line or other events, which would shift the peak by more than its error."
        for x in fitted.lines
        if x.chi2 > _WORST_FIT
    ]
    return [*odd, *filter(None, [_suspicion(fitted)])]


def _suspicion(fitted: Fitted) -> str:
    most = SUSPICIOUS.get(fitted.task, math.inf)
    what, limit = ("energy", f"{100 * most:g} %") if fitted.task in FACTORS else ("position", f"{10 * most:g} mm")
    if max(map(abs, fitted.before)) <= most:
        return ""
    return (
        f"Warning: the {what} is off by more than {limit}, which neither the light yield nor a survey explains. "
        "Either these events are of another kind than the training events, and a correction from them is wrong for "
        "other events; or the detector differs from that of the training, which a constant cannot correct: train on "
        "events like these."
    )


def linearity(fitted: Fitted) -> str:
    """How well one common factor describes all lines, as a sentence; empty for fewer than two lines."""
    if fitted.chi2 is None:
        return ""
    away, free = [100 * x.after for x in fitted.lines], len(fitted.lines) - 1
    scaled = math.sqrt(max(fitted.chi2 / free, 1.0))
    return (
        f"Linearity: under one common factor the lines are off by {min(away):+.2f} to {max(away):+.2f} % (chi2 "
        f"{fitted.chi2:.1f} for {number_of(free, 'degree')} of freedom"
        + (f"; the error of the factor is scaled by {scaled:.1f})." if scaled > 1 else ").")
    )


# ---------------------------------------------------------------------------------------------------------- fits


def fit_offsets(task: str, residuals: Sample, stood: Sequence[float], against: Against) -> Fitted:
    """Offsets from answer minus reference (n, size), in the units of files.

    Raises:
        InputError: too few events.
    """
    enough(residuals.events, task)
    found = [median(column) for column in residuals.rows.T]
    before, errors = tuple(m for m, _ in found), tuple(e for _, e in found)
    after = tuple(median(column - m)[0] for column, m in zip(residuals.rows.T, before, strict=True))
    values = tuple(s - m for s, m in zip(stood, before, strict=True))
    return Fitted(task, against, residuals.events, before, errors, after, tuple(stood), values, errors)


def fit_points(task: str, answers: Sample, points: Floats, stood: Sequence[float]) -> Fitted:
    """Offsets of positions (n, 3) from the nearest of known points (k, 3), cm.

    The nearest is looked for twice, the second time from the corrected position.

    Raises:
        InputError: too few events.
    """
    from scipy.spatial import cKDTree

    enough(answers.events, task)
    tree, shift = cKDTree(points), np.zeros(3)
    residuals = Sample(3)
    for _ in range(2):
        residuals = Sample(3)
        residuals.add(answers.rows - points[tree.query(answers.rows - shift)[1]])
        shift = np.median(residuals.rows, axis=0)
    residuals.events = answers.events
    return fit_offsets(task, residuals, stood, "points")


def fit_ratio(answered_known: Sample, stood: Sequence[float], against: Against) -> Fitted:
    """The factor of the energy from answered and known energies (n, 2), both in GeV.

    Raises:
        InputError: too few events, or energies that are in different units.
    """
    enough(answered_known.events, "energy")
    ratios = answered_known.rows[:, 0] / answered_known.rows[:, 1]
    ratio, error = median(ratios)
    if not 1 / _LARGEST_RATIO <= ratio <= _LARGEST_RATIO:
        raise InputError(
            f"The answered energies are {ratio:.3g} times the known ones in the median, which is too far off for a "
            f"calibration; check that {said_against(against, [])} is in GeV, and that the model fits these files."
        )
    after = median(ratios / ratio)[0] - 1
    return _factor(ratio, error, after, answered_known.events, stood, against)


def fit_lines(
    spectra: Sequence[Sample], energies: Sequence[float], files: Sequence[str], stood: Sequence[float]
) -> Fitted:
    """The factor of the energy from lines: their response is the peak over the energy, and the factor is common.

    The mean response is that of least squares; where the lines scatter by more than their errors, its error is scaled
    by the root of chi2 per degree of freedom, as the Particle Data Group does.

    Args:
        spectra: answered energies (n, 1) of each line, GeV.
        energies: of the lines, MeV.
        files: names of what was read for each.
        stood: the factor that is in the answers.

    Raises:
        InputError: too few events, no peak, or one that is not at the line.
    """
    found = [_line(s, e, f) for s, e, f in zip(spectra, energies, files, strict=True)]
    response, errors = (np.array([x / e for x, e in zip(xs, energies, strict=True)])
                        for xs in ([f[0] for f in found], [f[1] for f in found]))  # fmt: skip
    weights = errors**-2.0
    mean = float(weights @ response / weights.sum())
    chi2 = float(weights @ (response - mean) ** 2)
    several = len(found) > 1
    error = float(weights.sum() ** -0.5) * (math.sqrt(max(chi2 / (len(found) - 1), 1.0)) if several else 1.0)
    lines = tuple(
        LineFound(e, f, s.events, peak, width, sigma, quality, r - 1, r / mean - 1)
        for e, f, s, (peak, width, sigma, quality), r in zip(energies, files, spectra, found, response, strict=True)
    )
    after = float(weights @ (response / mean) / weights.sum()) - 1
    fitted = _factor(mean, error, after, sum(s.events for s in spectra), stood, "line")
    return Fitted(**{**vars(fitted), "lines": lines, "chi2": chi2 if several else None})


def _line(spectrum: Sample, energy: float, file: str) -> tuple[float, float, float, float]:
    """Peak, its error and sigma in MeV, and the quality of the fit, of a line that must be there."""
    enough(spectrum.events, "energy", file)
    found = fit_line(1e3 * spectrum.rows[:, 0])
    if found is None:
        raise InputError(
            f"The answered energies of {file} have no peak narrower than {100 * WIDEST:g} %, so that there is no "
            f"visible line of {energy:g} MeV; select events of one energy, or calibrate with --reference."
        )
    away = found.peak / energy - 1
    if abs(away) > FARTHEST:
        raise InputError(
            f"The line of {energy:g} MeV is not in {file}: its peak is at {with_error(found.peak, found.error)} MeV, "
            f"{100 * away:+.0f} % off (allowed {100 * FARTHEST:g} %); give the energy of a line that is in it or "
            "another "
            "file, or calibrate with --reference."
        )
    return found.peak, found.error, found.sigma, found.chi2


def _factor(ratio: float, error: float, after: float, events: int, stood: Sequence[float], against: Against) -> Fitted:
    """A factor that takes away the ratio of answered to known energies."""
    value = stood[0] / ratio
    return Fitted("energy", against, events, (ratio - 1,), (error,), (after,), tuple(stood), (value,),
                  (value * error / ratio,))  # fmt: skip


def enough(events: int, task: str, files: str = "the files") -> None:
    """Refuse a sample that is too small.

    Raises:
        InputError: it is.
    """
    if events < LEAST_EVENTS:
        raise InputError(
            f"Only {number_of(events)} of {files} can serve to calibrate '{task}' (answered, and known); give at least "
            f"{LEAST_EVENTS}, or leave it out with --correct."
        )


def median(values: NDArray[Any]) -> tuple[float, float]:
    """Median of numbers (n,) and its standard error."""
    n = len(values)
    spread = 0.5 / math.sqrt(n)
    low, middle, high = np.quantile(values, (max(0.5 - spread, 0.0), 0.5, min(0.5 + spread, 1.0)))
    return float(middle), float(high - low) / 2


def _rounded(value: float, error: float) -> str:
    """A number to the digits of an error, without a minus before zero."""
    text = with_error(value, error, sign=True).split(" ")[0]
    return text.replace("-", "+") if float(text) == 0 else text


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
