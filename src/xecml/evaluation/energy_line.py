"""The line of predicted over true energy as calorimeter papers quote it: exponential-Gauss fit and upper-edge width."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from xecml.evaluation.tables import Reference, Table, residuals
from xecml.inference.line_fit import Line, fit_line
from xecml.resolution import figures_of_merit, without_nan

MIN_EVENTS = 200
"""A fit with a tail of its own needs some events in the tail."""


@dataclass(frozen=True)
class EnergyLine:
    """The line of E / E_true, in percent about 100.

    Attributes:
        line: the fit: a Gaussian whose low side goes over into an exponential, in percent of the truth.
        upper: (upper half-maximum point - mode) / 1.177, without a fit, in percent.
        upper_error: its standard error.
        fwhm: full width at half maximum over 2.355, without a fit, in percent.
        fwhm_error: its standard error.
    """

    line: Line
    upper: float
    upper_error: float
    fwhm: float
    fwhm_error: float

    @property
    def peak(self) -> float:
        """Of the fit, off the truth by so many percent."""
        return self.line.peak - 100.0

    def as_dict(self) -> dict[str, float | None]:
        """Everything by name in percent, ready for JSON."""
        return without_nan(
            {
                "peak": self.peak,
                "peak_error": self.line.error,
                "sigma": self.line.sigma,
                "sigma_error": self.line.sigma_error,
                "tail_begins": self.line.tail,
                "chi2_per_degree": self.line.chi2,
                "events_in_window": self.line.events,
                "upper": self.upper,
                "upper_error": self.upper_error,
                "fwhm": self.fwhm,
                "fwhm_error": self.fwhm_error,
            }
        )


def energy_line(table: Table, reference: Reference = "truth", *, seed: int = 0) -> EnergyLine | None:
    """Fit the line; None for fewer than 200 events, or without a peak that is one."""
    off = residuals(table, "energy_relative", reference)
    off = off[np.isfinite(off)]
    if len(off) < MIN_EVENTS:
        return None
    found = fit_line(100.0 + off)
    if found is None or not math.isfinite(found.sigma):
        return None
    r = figures_of_merit(off, seed=seed)
    return EnergyLine(found, r.upper, r.upper_error, r.fwhm, r.fwhm_error)
