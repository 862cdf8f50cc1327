"""The plots of the validation report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from xecml.simulation.cascade import cross_sections as xs
from xecml.simulation.cascade.cross_sections import Floats
from xecml.simulation.light.optics import N_SENSORS, N_SIPM
from xecml.simulation.validation import shower_against_penelope as shower
from xecml.simulation.validation.optics_against_photons import Comparison
from xecml.simulation.validation.shower_against_penelope import SlabShowers

_REFERENCE = {"color": "black", "marker": "o", "linestyle": "none", "label": "reference"}


def draw(path: Path, showers: Sequence[SlabShowers], comparisons: dict[str, Comparison]) -> None:
    """Write a PDF: coefficients, showers, light."""
    with PdfPages(path) as pdf:
        pages = [_coefficients(), _profiles(showers)] if showers else []
        pages += [_light(kind, result) for kind, result in comparisons.items()]
        for page in pages:
            pdf.savefig(page)


def _page(title: str) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(11, 8), layout="constrained")
    figure.suptitle(title)
    return figure, list(figure.subplots(2, 2).ravel())


def _ask(axes: Axes, x: str, y: str, *, log_x: bool = False, log_y: bool = False) -> None:
    axes.set(xlabel=x, ylabel=y, xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _points(axes: Axes, reference: dict[float, float]) -> None:
    axes.plot(list(reference), list(reference.values()), **_REFERENCE)  # type: ignore[arg-type]


def _coefficients() -> Figure:
    figure, (photons, collision, radiative, ratio) = _page("Photons and electrons in liquid xenon")
    E = np.geomspace(0.02, 150, 300)
    total = np.zeros_like(E)
    for name, values in (("photoelectric", xs.photoelectric(E)), ("Compton", xs.compton(E)), ("pairs", xs.pair(E))):
        photons.plot(E, values / xs.DENSITY, linewidth=1, label=name)
        total += values / xs.DENSITY
    photons.plot(E, total, "k", label="total")
    _points(photons, shower.ATTENUATION)
    photons.set_ylim(1e-4, 50)
    _ask(photons, "photon energy [MeV]", r"$\mu/\rho$ [cm$^2$/g]", log_x=True, log_y=True)
    T = np.geomspace(0.1, 150, 100)
    for positron in (False, True):
        loss = xs.collision_loss(T, positron=positron) / xs.DENSITY
        collision.plot(T, loss, label="positrons" if positron else "electrons")
    _points(collision, shower.COLLISION)
    _ask(collision, "kinetic energy [MeV]", r"collision loss [MeV cm$^2$/g]", log_x=True)
    radiative.plot(T, [xs.radiative_loss(t) / xs.DENSITY for t in T], label="electrons")
    _points(radiative, shower.RADIATIVE)
    _ask(radiative, "kinetic energy [MeV]", r"radiative loss [MeV cm$^2$/g]", log_x=True, log_y=True)
    for check in shower.coefficient_checks():
        ratio.errorbar(
            [check.name.split(" [")[0]], [check.ours / check.reference], yerr=check.tolerance / check.reference, fmt="o"
        )
    ratio.axhline(1, color="black", linewidth=0.5)
    ratio.tick_params(axis="x", labelrotation=90, labelsize=6)
    ratio.set_ylabel("ours over reference; bars are tolerances")
    return figure


def _profiles(showers: Sequence[SlabShowers]) -> Figure:
    figure, (depth, radius, first, share) = _page("Photons on a slab of 38.5 cm")
    centres = 0.5 * (shower.DEPTH_EDGES[1:] + shower.DEPTH_EDGES[:-1])
    for sample in showers:
        label = f"{sample.energy:g} MeV"
        depth.stairs(100 * sample.depth_profile / sample.depth_profile.sum(), shower.DEPTH_EDGES, label=label)
        inside = 100 * np.cumsum(sample.radius_profile)[:-1] / sample.radius_profile.sum()
        radius.plot(shower.RADIUS_EDGES[1:-1], inside, marker=".", label=label)
        found = sample.first[sample.first >= 0]
        first.hist(found, bins=40, range=(0, shower.DEPTH), density=True, histtype="step", label=label)
        share.hist(sample.interacting, bins=60, range=(0.4, 1.0), density=True, histtype="step", label=label)
    depth.plot(centres, shower.DEPTH_SHARES, **_REFERENCE)  # type: ignore[arg-type]
    _points(radius, shower.RADIUS_SHARES)
    first.plot(centres, np.exp(-centres / 5.47) / 5.47, "k--", linewidth=1, label="reference, 52.8 MeV")
    _ask(depth, "depth [cm]", "energy in 3.5 cm [%]")
    _ask(radius, "radius [cm]", "energy inside [%]", log_x=True)
    _ask(first, "depth of the first interaction [cm]", "density [1/cm]", log_y=True)
    _ask(share, "deposited share of the energy", "density", log_y=True)
    return figure


def _light(kind: str, result: Comparison) -> Figure:
    figure, panels = _page(f"Light of {kind}: fast optics against photons one by one")
    sipm = np.arange(N_SENSORS) < N_SIPM
    for row, (name, group) in enumerate((("SiPM", sipm), ("PMT", ~sipm))):
        ours = np.concatenate([light.photons[group] for light in result.fast])
        theirs = np.concatenate([light.photons[group] for light in result.traced])
        halves = [np.concatenate([light.photons[group] for light in half]) for half in result.halves]
        delay = np.concatenate([a.mean[group] - b.mean[group] for a, b in zip(result.fast, result.traced, strict=True)])
        seen = ours > 30
        noise = 0.5 * (halves[0] - halves[1])[seen] / ours[seen]
        _excess_by_light(panels[2 * row], ours[seen], theirs[seen], noise, name)
        bright = ours > 300
        label = f"{name} above 300 photons"
        panels[2 * row + 1].hist(delay[bright], bins=60, range=(-1.5, 1.5), histtype="step", label=label)
        _ask(panels[2 * row + 1], "mean arrival time, fast less traced [ns]", "sensors")
    return figure


def _excess_by_light(axes: Axes, ours: Floats, theirs: Floats, noise: Floats, name: str) -> None:
    edges = np.geomspace(30, max(float(ours.max()), 100.0), 12)
    relative = (ours - theirs) / ours
    axes.stairs(100 * _binned(ours, relative, edges), edges, label=f"{name}: mean")
    beyond = _binned(ours, relative**2 - noise**2, edges)
    axes.stairs(100 * np.sqrt(np.maximum(beyond, 0)), edges, label=f"{name}: rms beyond statistics")
    axes.axhline(0, color="black", linewidth=0.5)
    _ask(axes, "photons on the sensor", "fast less traced [%]", log_x=True)


def _binned(x: Floats, values: Floats, edges: Floats) -> Floats:
    """Mean of values in bins of x."""
    counts, sums = np.histogram(x, edges)[0], np.histogram(x, edges, weights=values)[0]
    return np.asarray(sums / np.maximum(counts, 1))
