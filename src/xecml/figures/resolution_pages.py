"""Resolution plots: a PDF of several pages from prediction tables.

One page a quantity (residuals, prediction against truth, bias and s68 against every true quantity), then the
energy resolution against energy and the opening angle, and the pulls where sigmas are predicted. All numbers come
from `xecml.evaluation.metrics`; here they are only drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xecml.evaluation.metrics import (
    AGAINST,
    ALL,
    Evaluation,
    Profile,
    Pull,
    compare,
    depth_bins,
    energy_resolution_fit,
    profile,
    with_error,
)
from xecml.evaluation.tables import (
    PREFIX,
    QUANTITIES,
    Reference,
    Table,
    opening_angles,
    pulls,
    residuals,
    same_events,
)
from xecml.events import number_of
from xecml.figures.quantity_axes import SYMBOL, axis_label, axis_scale, draw_map, in_axis_unit, say_nothing
from xecml.figures.style import COLOURS, LINES, MARKS, STYLE, named, save_pages
from xecml.figures.summary_page import summary_page
from xecml.resolution import Floats, Resolution

_PAGE_SIZE = (11.7, 10.2)
_GRID = {"left": 0.07, "right": 0.945, "bottom": 0.06, "top": 0.89, "wspace": 0.3, "hspace": 0.34}
"""Places of the nine parts of a quantity's page: found by hand, since finding them costs as much as drawing."""
_REFERENCE = {"truth": "true", "reco": "reconstructed"}


def save_resolution_plots(
    path: str | Path,
    tables: Mapping[str, Table],
    *,
    reference: Reference = "truth",
    evaluations: Sequence[Evaluation] | None = None,
    title: str = "",
    drawn: list[Figure] | None = None,
) -> int:
    """Write the resolution plots of a model as a PDF, atomically, and return the number of pages.

    Args:
        path: the PDF to write.
        tables: prediction tables by name; the model first, baselines to draw beside it after.
        reference: what residuals are taken to.
        evaluations: the result of `compare` on these tables, if it is at hand.
        title: printed on every page, such as the name of the sample.
        drawn: is given the pages, for whoever shows them elsewhere, too.

    Raises:
        InputError: the tables have no events or no quantity in common, or the path cannot be written.
    """
    pages = resolution_figures(tables, reference=reference, evaluations=evaluations, title=title)
    if drawn is None:
        return save_pages(pages, path)
    drawn += pages
    return save_pages(drawn, path)


def resolution_figures(
    tables: Mapping[str, Table],
    *,
    reference: Reference = "truth",
    evaluations: Sequence[Evaluation] | None = None,
    title: str = "",
) -> Iterator[Figure]:
    """Draw the pages of `save_resolution_plots` one after the other; the arguments are the same."""
    results = compare(tables, reference=reference) if evaluations is None else evaluations
    common = same_events(tables)
    with mpl.rc_context(STYLE):
        yield summary_page(results, title)
    for quantity in results[0].figures:
        with mpl.rc_context(STYLE):
            yield _quantity_page(quantity, common, results, title)
    if "energy_relative" in results[0].figures or results[0].opening:
        with mpl.rc_context(STYLE):
            yield _energy_and_angle_page(common, results, title)
    if results[0].pulls:
        with mpl.rc_context(STYLE):
            yield _pulls_page(next(iter(common.values())), results[0], title)


def _page(title: str, what: str, height: float = _PAGE_SIZE[1], *, placed: bool = False) -> Figure:
    """An empty page; `placed`: whoever draws on it says where its parts lie."""
    figure = Figure(figsize=(_PAGE_SIZE[0], height))
    if placed:
        figure.set_layout_engine("none")
    figure.suptitle(f"{what}: {named(title, 150)}" if title else what)
    return figure


# ---------------------------------------------------------------------------------------- a quantity's page


@dataclass(frozen=True)
class _Sample:
    """Residuals of one predictor, as they are drawn."""

    name: str
    colour: str
    line: Any
    mark: str
    values: Floats
    figures: Resolution
    table: Table


def _samples(quantity: str, tables: Mapping[str, Table], results: Sequence[Evaluation]) -> list[_Sample]:
    """Predictors of a quantity, the model first; a predictor has its colour on every page."""
    return [
        _Sample(named(r.name), c, line, mark, residuals(t, quantity, r.reference), r.figures[quantity][ALL], t)
        for r, c, line, mark, t in zip(results, COLOURS, LINES, MARKS, tables.values(), strict=False)
        if quantity in r.figures
    ]


def _quantity_page(quantity: str, tables: Mapping[str, Table], results: Sequence[Evaluation], title: str) -> Figure:
    what, reference = QUANTITIES[quantity], results[0].reference
    samples = _samples(quantity, tables, results)
    figure = _page(title, f"Resolution of {what.label}", placed=True)
    axes = figure.subplots(3, 3, gridspec_kw=_GRID)
    label = f"{SYMBOL.get(quantity, quantity)} residual [{what.unit}]"
    _draw_core(axes[0, 0], samples, label, what.unit)
    _draw_tails(axes[0, 1], samples, label)
    known = in_axis_unit(samples[0].table, PREFIX[reference], what.column)
    axes[0, 2].set(xlabel=axis_label(what.column, _REFERENCE[reference]))
    if what.relative:
        axes[0, 2].set(ylabel=label)
        draw_map(axes[0, 2], known, samples[0].values)
    else:
        axes[0, 2].set(ylabel=axis_label(quantity, "predicted"))
        draw_map(axes[0, 2], known, in_axis_unit(samples[0].table, "pred_", what.column), diagonal=True)
    for part, against in zip(axes[1:].flat, AGAINST, strict=True):
        profiles = [profile(s.table, quantity, against, reference=reference) for s in samples]
        part.set(xlabel=axis_label(against, _REFERENCE[reference]), ylabel=f"s68, bias [{what.unit}]")
        _draw_profile(part, samples, profiles)
    for part in (axes[0, 0], *axes[1:].flat):
        part.locator_params(nbins=5)  # enough for its size; each mark costs
    return figure


def _bins(r: Resolution, widths: float) -> Floats:
    half = widths * r.s68 if r.s68 > 0 else max(abs(r.median), 1.0)
    return np.linspace(r.median - half, r.median + half, 61)


def _draw_core(axes: Axes, samples: Sequence[_Sample], label: str, unit: str) -> None:
    """Residuals of the core with the Gaussian of the measured FWHM through it, and the numbers."""
    r = samples[0].figures
    edges = _bins(r, 4.5)
    counts = [np.histogram(s.values, edges)[0] for s in samples]
    for s, n in zip(samples, counts, strict=True):
        own = s is samples[0]
        look = {"color": s.colour, "ls": s.line, "label": f"{s.name} ({s.figures.n})"}
        axes.stairs(n, edges, fill=own, alpha=0.4 if own else 1, **look)
    if r.fwhm > 0:
        _draw_gaussian(axes, r, edges, counts[0])
    bias, s68, fwhm = (
        with_error(*pair) for pair in ((r.bias, r.bias_error), (r.s68, r.s68_error), (r.fwhm, r.fwhm_error))
    )
    axes.set_title(f"bias {bias}   s68 {s68} {unit}\nFWHM/2.355 {fwhm} {unit}", fontsize=8.5, loc="left")
    axes.set(xlabel=label, ylabel=f"events / {edges[1] - edges[0]:.3g} {unit}", xlim=(edges[0], edges[-1]))
    axes.set_ylim(0, (1.2 + 0.13 * len(samples)) * max(counts[0].max(), 1))
    axes.legend(loc="upper left", fontsize=7, handlelength=1.2)


def _draw_gaussian(axes: Axes, r: Resolution, edges: Floats, counts: Floats) -> None:
    """Gaussian of the sample's FWHM through the core, scaled to the core's events.

    Its centre is the mean within 1.2 sigma of the mode: the mode itself jumps about on a flat top.
    """
    at = (edges[1:] + edges[:-1]) / 2
    core = np.abs(at - r.mode) < max(1.2 * r.fwhm, edges[1] - edges[0])
    if not counts[core].sum():
        return
    centre = np.average(at[core], weights=counts[core])

    def gaussian(x: Floats) -> Floats:
        return np.asarray(np.exp(-0.5 * ((x - centre) / r.fwhm) ** 2))

    grid = np.linspace(edges[0], edges[-1], 300)
    height = counts[core].sum() / gaussian(at[core]).sum()
    axes.plot(grid, height * gaussian(grid), color="k", lw=1, label="Gaussian of this FWHM")


def _draw_tails(axes: Axes, samples: Sequence[_Sample], label: str) -> None:
    """Residuals on a logarithmic scale out to 12 s68; what lies beyond is counted in the last bins."""
    r = samples[0].figures
    edges = _bins(r, 12.0)
    for s in samples:
        inside = np.clip(s.values[np.isfinite(s.values)], edges[0], edges[-1])
        axes.stairs(np.histogram(inside, edges)[0], edges, color=s.colour, ls=s.line)
    for side in (-3, 3):
        axes.axvline(r.median + side * r.s68, color="0.4", lw=0.8, ls=":")
    lost = f"{number_of(r.n_not_finite)} without value" if r.n_not_finite else ""
    beyond = with_error(r.tail, r.tail_error, 100)
    axes.set_title(f"beyond 3 s68 (dotted): {beyond} %\n{lost}", fontsize=8.5, loc="left")
    axes.set_yscale("log")
    axes.set_ylim(0.5, 2 * max(axes.get_ylim()[1], 1))
    axes.set(xlabel=label, ylabel="events (outermost bins: all beyond)", xlim=(edges[0], edges[-1]))


def _draw_profile(axes: Axes, samples: Sequence[_Sample], profiles: Sequence[Profile | None]) -> None:
    """Profile of the model's s68 (full) and bias (open); as lines, s68 of baselines that fit the scale."""
    p = profiles[0]
    if p is None or not np.isfinite(p.s68).any():
        say_nothing(axes, "no spread or too few events")
        return
    scale = axis_scale(p.against)
    x, edges = p.centre * scale, p.edges * scale
    bars = np.abs(np.stack([x - edges[:-1], edges[1:] - x]))
    axes.axhline(0, color="0.6", lw=0.8)
    axes.errorbar(x, p.s68, p.s68_error, bars, fmt="o", color=COLOURS[0], elinewidth=1, label="s68")
    axes.errorbar(x, p.bias, p.bias_error, fmt="s", color=COLOURS[0], mfc="w", elinewidth=1, label="bias")
    high = max(np.nanmax(p.s68 + p.s68_error), np.nanmax(p.bias + p.bias_error))
    low = min(-0.12 * high, 1.2 * np.nanmin(p.bias - p.bias_error))
    top = 1.3 * high
    for s, other in zip(samples[1:], profiles[1:], strict=True):
        widths = np.array([]) if other is None else _own_width(other)
        if other is not None and np.isfinite(widths).any() and np.nanmin(widths) < 2 * high:
            axes.plot(other.centre * scale, widths, color=s.colour, ls=s.line, label=f"s68 {s.name}")
            top = max(top, 1.3 * min(np.nanmax(widths), 2 * high))
    axes.set_ylim(low, top)
    axes.legend(loc="upper left", ncols=2, fontsize=7)


def _own_width(p: Profile) -> Floats:
    """s68 of a baseline where it says something: a constant has no width in a narrow bin, only a bias."""
    return np.where(np.abs(p.bias) > p.s68, np.nan, p.s68)


# --------------------------------------------------------------------------- energy resolution, opening angle


def _energy_and_angle_page(tables: Mapping[str, Table], results: Sequence[Evaluation], title: str) -> Figure:
    figure = _page(title, "Energy resolution and opening angle", height=5.2)
    left, middle, right = figure.subplots(1, 3)
    reference = results[0].reference
    left.set(xlabel=axis_label("energy", _REFERENCE[reference]), ylabel=r"$\sigma_E / E$ (s68) [%]")
    middle.set(xlabel="opening angle [deg]", ylabel="events")
    right.set(xlabel="opening angle [deg]", ylabel="fraction of events below")
    _draw_energy_resolution(left, _samples("energy_relative", tables, results), reference)
    if not results[0].opening:
        say_nothing(middle, "no direction")
        say_nothing(right, "no direction")
        return figure
    _draw_opening(middle, tables, results)
    _draw_opening_by_depth(right, tables[results[0].name], results[0])
    return figure


def _draw_energy_resolution(axes: Axes, samples: Sequence[_Sample], reference: Reference) -> None:
    """Relative resolution against energy, with the fit of a stochastic and a constant term to the model's."""
    profiles = [(s, profile(s.table, "energy_relative", "energy", reference=reference)) for s in samples]
    found = [(s, p) for s, p in profiles if p is not None and np.isfinite(p.s68).any()]
    if not found or found[0][0] is not samples[0]:
        say_nothing(axes, "no energy, or a single one")
        return
    for s, p in found:
        axes.errorbar(p.centre * 1e3, _own_width(p), p.s68_error, fmt=s.mark, color=s.colour, label=s.name)
    p = found[0][1]
    if (fit := energy_resolution_fit(p)) is not None:
        energy = np.linspace(p.edges[0], p.edges[-1], 200)
        label = rf"{fit[0]:.2f} %/$\sqrt{{E/\mathrm{{GeV}}}}\,\oplus$ {fit[1]:.2f} %"
        axes.plot(energy * 1e3, np.hypot(fit[0] / np.sqrt(energy), fit[1]), color="k", lw=1, label=label)
    axes.set_ylim(0, 2.2 * np.nanmax(p.s68))
    axes.legend(loc="upper right")


def _draw_opening(axes: Axes, tables: Mapping[str, Table], results: Sequence[Evaluation]) -> None:
    edges = np.linspace(0, 3.5 * max(results[0].opening[ALL].q68, 1e-3), 61)
    for r, colour, dashes in zip(results, COLOURS, LINES, strict=False):
        angles = opening_angles(tables[r.name], r.reference)
        if angles is not None and r.opening:
            label = f"{named(r.name)}: 68 % below {r.opening[ALL].q68:.3g} deg"
            axes.stairs(np.histogram(angles, edges)[0], edges, color=colour, ls=dashes, label=label)
            axes.axvline(r.opening[ALL].q68, color=colour, lw=1, ls=dashes)
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(top=1.2 * axes.get_ylim()[1])
    axes.legend(loc="upper right")


def _draw_opening_by_depth(axes: Axes, table: Table, model: Evaluation) -> None:
    angles = opening_angles(table, model.reference)
    if angles is None:
        return
    lines = zip(depth_bins(table, model.reference).items(), LINES, COLOURS, strict=False)
    for (name, mask), line, colour in lines:
        inside = np.sort(angles[mask & np.isfinite(angles)])
        if len(inside):
            label = f"{name}: 68 % below {model.opening[name].q68:.3g} deg"
            axes.plot(inside, np.arange(1, len(inside) + 1) / len(inside), ls=line, color=colour, label=label)
    axes.axhline(0.68, color="0.4", lw=0.8, ls=":")
    axes.set(xlim=(0, 3.5 * max(model.opening[ALL].q68, 1e-3)), ylim=(0, 1.02))
    axes.legend(loc="lower right")


def _pulls_page(table: Table, model: Evaluation, title: str) -> Figure:
    """Residual over predicted sigma of every output, beside the unit Gaussian that right sigmas give."""
    rows = -(-len(found := pulls(table, model.reference)) // 3)
    figure = _page(title, f"Pulls of {named(model.name)} and the unit Gaussian", height=0.8 + 3.1 * rows)
    for i, (output, values) in enumerate(found.items(), 1):
        axes = figure.add_subplot(rows, 3, i, xlabel=f"{SYMBOL.get(output, output)} residual / sigma", xlim=(-5, 5))
        _draw_pull(axes, values, model.pulls[output][ALL])
    return figure


def _draw_pull(axes: Axes, values: Floats, p: Pull) -> None:
    edges, grid = np.linspace(-5, 5, 51), np.linspace(-5, 5, 300)
    axes.stairs(np.histogram(np.clip(values, -5, 5), edges)[0], edges, fill=True, color=COLOURS[0], alpha=0.4)
    unit = p.figures.n * (edges[1] - edges[0]) / np.sqrt(2 * np.pi) * np.exp(-0.5 * grid**2)
    axes.plot(grid, unit, color="k", lw=1)
    one, two = (with_error(*pair, 100) for pair in p.coverages().values())
    words = f"width {with_error(p.figures.s68, p.figures.s68_error)}\nin 1 sigma {one} %, in 1.96 sigma {two} %"
    axes.set_title(words, fontsize=8.5, loc="left")
    axes.set(ylabel="events (outermost bins: all beyond)")
