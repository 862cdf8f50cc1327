"""Spectra with fitted lines and edges, and scale and resolution by patch of the inner face.

All numbers come from `xecml.evaluation.spectra`; here they are only drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xecml.evaluation.metrics import with_error
from xecml.evaluation.real_data import RealData
from xecml.evaluation.spectra import ALL, Feature, Spectrum, energies_of
from xecml.figures.inner_face_maps import draw_patches
from xecml.figures.quantity_axes import say_nothing
from xecml.figures.style import COLOURS, LINES, STYLE, named, page
from xecml.resolution import Floats

_BINS, _OF_A_BIN = 60, 20
"""Of a spectrum at most, and events that one should have."""


def spectrum_figures(data: RealData, *, title: str = "") -> Iterator[Figure]:
    """A page of all energies, then one of each line and edge, and one more of its periods."""
    if not energies_of(data.tables):
        return
    with mpl.rc_context(STYLE):
        yield _overview_page(data, title)
    for feature in data.asked.features:
        own = [one for one in data.spectra if one.feature == feature]
        with mpl.rc_context(STYLE):
            yield _feature_page(feature, [one for one in own if one.sample == ALL], title)
        if data.asked.periods:
            with mpl.rc_context(STYLE):
                yield _periods_page(feature, [one for one in own if one.sample != ALL], title)


def _overview_page(data: RealData, title: str) -> Figure:
    """Energies of all predictors, linear and logarithmic."""
    figure = page(title, "Spectra", 4.6)
    axes: Any = figure.subplots(1, 2)
    found = energies_of(data.tables)
    finite = {name: e[np.isfinite(e)] for name, (e, _) in found.items()}
    both = np.concatenate(list(finite.values()))
    least, most = np.quantile(both, (0.001, 0.999)) if len(both) > 1 else (0.0, 100.0)
    edges = np.linspace(float(least), float(most), 101)
    for part, scale in zip(axes, ("linear", "log"), strict=True):
        for i, ((name, energies), colour, dashes) in enumerate(zip(finite.items(), COLOURS, LINES, strict=False)):
            counts = np.histogram(energies, edges)[0]
            part.stairs(
                counts, edges, fill=i == 0, alpha=0.4 if i == 0 else 1, color=colour, ls=dashes, label=named(name)
            )
        for feature in data.asked.features:
            part.axvline(feature.energy, color="0.4", lw=0.8, ls=":")
        part.set(yscale=scale, xlabel="energy [MeV]", ylabel=f"events / {edges[1] - edges[0]:.2g} MeV")
    axes[0].set_ylim(0, axes[0].get_ylim()[1] * (1.05 + 0.09 * len(finite)))
    axes[0].legend(loc="upper left")
    return figure


def _feature_page(feature: Feature, spectra: Sequence[Spectrum], title: str) -> Figure:
    """Spectrum with its fit, resolution and scale over the inner face: a row for each predictor."""
    figure = page(title, f"Spectrum, {feature.label}", 0.8 + 4.2 * len(spectra))
    axes: Any = figure.subplots(len(spectra), 3, squeeze=False, gridspec_kw={"width_ratios": (1.7, 1, 1)})
    for (left, middle, right), one, colour in zip(axes, spectra, COLOURS, strict=False):
        _draw_spectrum(left, one, colour)
        for part, what in ((middle, "resolution"), (right, "scale")):
            _draw_by_patch(part, one, what)
    return figure


def _draw_by_patch(axes: Axes, one: Spectrum, what: str) -> None:
    if one.grid is None or one.by_patch is None:
        return
    values, errors = (100 * getattr(one.by_patch, name) for name in (what, f"{what}_error"))
    axes.set_title({"resolution": r"$\sigma / E$ [%]", "scale": "fitted / true energy - 1 [%]"}[what], fontsize=9)
    draw_patches(axes, one.grid.u, one.grid.v, values - (100 if what == "scale" else 0), errors)


def _draw_spectrum(axes: Axes, one: Spectrum, colour: str) -> None:
    """Energies near the feature, its fit where there is one, the numbers above."""
    low, high = one.fit.window if one.fit else _range(one)
    bins = int(np.clip(float(one.whole.n) / _OF_A_BIN, _BINS // 3, _BINS))
    inside = np.linspace(low, high, bins + 1)
    step = inside[1] - inside[0]
    # a few bins on both sides show what the fit left out
    edges = low + step * np.arange(-(bins // 8), bins + bins // 8 + 1)
    counts = np.histogram(one.energies, edges)[0]
    axes.stairs(counts, edges, fill=True, color=colour, alpha=0.35, label=f"{named(one.predictor)}")
    centres, errors = (edges[1:] + edges[:-1]) / 2, np.sqrt(counts)
    axes.errorbar(centres, counts, errors, fmt="none", ecolor=colour, elinewidth=0.7)
    if one.fit is not None:
        axes.plot((inside[1:] + inside[:-1]) / 2, one.fit.expected(inside), color="k", lw=1.2, label="fit")
        axes.axvline(float(one.whole.energy), color="k", lw=0.8, ls="--", label="fitted")
    else:
        say_nothing(axes, "no fit: too few events, or none of this form")
    axes.axvline(one.feature.energy, color=COLOURS[1], lw=0.8, ls=":", label=f"{one.feature.energy:g} MeV")
    axes.set_title(_numbers(one), fontsize=8.5, loc="left")
    axes.set(xlabel="energy [MeV]", ylabel=f"events / {step:.2g} MeV", xlim=(edges[0], edges[-1]))
    axes.set_ylim(0, 1.25 * max(float(counts.max(initial=1)), 1))
    axes.legend(loc="upper left" if one.feature.kind == "line" else "upper right", fontsize=7)


def _range(one: Spectrum) -> tuple[float, float]:
    return one.feature.energy - 0.9 * one.feature.reach, one.feature.energy + 0.9 * one.feature.reach


def _numbers(one: Spectrum) -> str:
    """The fit in two lines of text."""
    s = one.whole
    if one.fit is None:
        return f"{int(s.n)} events"
    where = "peak" if one.feature.kind == "line" else "edge"
    return (
        f"{where} {with_error(float(s.energy), float(s.energy_error))} MeV"
        f" (scale {with_error(float(s.scale), float(s.scale_error))})\n"
        rf"$\sigma / E$ {with_error(float(s.resolution), float(s.resolution_error), 100)} %, {int(s.n)} events,"
        f" chi2 / dof {float(s.chi2):.2f}"
    )


def _periods_page(feature: Feature, spectra: Sequence[Spectrum], title: str) -> Figure:
    """Spectra of the periods over one another, of equal area, a panel for each predictor."""
    names = list(dict.fromkeys(one.predictor for one in spectra))
    figure = page(title, f"Spectrum by period, {feature.label}", 0.8 + 3.6 * -(-len(names) // 2))
    for i, name in enumerate(names):
        axes = figure.add_subplot(-(-len(names) // 2), min(len(names), 2), i + 1)
        own = [one for one in spectra if one.predictor == name]
        fits = [one.fit.window for one in own if one.fit is not None]
        low, high = fits[0] if fits else _range(own[0])
        edges = np.linspace(low, high, _BINS // 2 + 1)
        for j, (one, colour, dashes) in enumerate(zip(own, COLOURS, LINES, strict=False)):
            counts: Floats = np.histogram(one.energies, edges)[0].astype(np.float64)
            numbers = ""
            if one.fit is not None:
                s = one.whole
                numbers = (
                    f": {with_error(float(s.energy), float(s.energy_error))} MeV, "
                    rf"$\sigma / E$ {with_error(float(s.resolution), float(s.resolution_error), 100)} %"
                )
            axes.stairs(counts / max(counts.sum(), 1), edges, fill=j == 0, alpha=0.4 if j == 0 else 1, color=colour,
                        ls=dashes, label=f"{named(one.sample, 24)}{numbers}")  # fmt: skip
        axes.axvline(feature.energy, color="0.4", lw=0.8, ls=":")
        axes.set(xlabel="energy [MeV]", ylabel="share of events", title=named(name))
        axes.set_ylim(0, axes.get_ylim()[1] * (1.1 + 0.1 * len(own)))
        axes.legend(loc="upper left", fontsize=7)
    return figure
