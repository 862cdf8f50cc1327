"""Plots of data without truth, a PDF of several pages: predicted against reconstructed, drift, patterns, periods.

All numbers come from `xecml.evaluation.real_data`; here they are only drawn. Spectra are in
`xecml.figures.spectrum_pages`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xecml.evaluation.metrics import with_error
from xecml.evaluation.real_data import RealData
from xecml.evaluation.stability import Trend
from xecml.evaluation.tables import PREFIX, QUANTITIES, opening_angles, residuals
from xecml.figures.inner_face_maps import draw_patches
from xecml.figures.quantity_axes import SYMBOL, axis_label, axis_scale, draw_map, in_axis_unit, say_nothing
from xecml.figures.spectrum_pages import spectrum_figures
from xecml.figures.style import COLOURS, LINES, MARKS, STYLE, all_entries, named, page, save_pages
from xecml.resolution import Floats

_REFERENCE = {"truth": "true", "reco": "reconstructed"}
_CONDITIONS = {
    "dead": "dead sensors",
    "gains": "gain",
    "efficiencies": "efficiency",
    "time_offsets_ns": "time offset [ns]",
    "noise_photoelectrons": "noise [photoelectrons]",
}
_KINDS = {"sipm": "SiPMs", "pmt": "PMTs"}


def save_real_data_plots(path: str | Path, data: RealData, *, title: str = "") -> int:
    """Write the plots as a PDF, atomically, and return the number of pages.

    Args:
        path: the PDF to write.
        data: what `xecml.evaluation.real_data.measure` found.
        title: printed on every page, such as the name of the sample.

    Raises:
        InputError: the path cannot be written.
    """
    return save_pages(real_data_figures(data, title=title), path)


def real_data_figures(data: RealData, *, title: str = "") -> Iterator[Figure]:
    """Draw the pages of `save_real_data_plots` one after the other; the arguments are the same."""
    pages: list[Callable[[RealData, str], Figure]] = [_comparison_page, _run_page, _order_page]
    if data.conditions:
        pages.append(_conditions_page)
    pages += [_face_page, *(_against(name) for name in ("w", "timing") if _has_profile(data, name))]
    if data.by_period:
        pages.append(_periods_page)
    for draw in pages:
        with mpl.rc_context(STYLE):
            yield draw(data, title)
    yield from spectrum_figures(data, title=title)


def _label(quantity: str, what: str) -> str:
    """Label of an axis of residuals."""
    return f"{SYMBOL.get(quantity, quantity)}: {what} [{QUANTITIES[quantity].unit}]"


def _panels(figure: Figure, number: int, columns: int) -> list[Axes]:
    """So many axes, row by row."""
    rows = -(-number // columns)
    return [figure.add_subplot(rows, columns, i + 1) for i in range(number)]


# ---------------------------------------------------------------------------- predicted against reconstructed


def _comparison_page(data: RealData, title: str) -> Figure:
    """Predicted against reference of every quantity of the first model, and the angle between directions."""
    name, table = next(iter(data.tables.items()))
    shown = [q for q in data.quantities if not QUANTITIES[q].relative]
    angles = opening_angles(table, data.reference)
    figure = page(title, f"Predicted against {_REFERENCE[data.reference]}, {named(name)}", 6.6)
    axes = _panels(figure, len(shown) + (angles is not None), 4)
    for part, quantity in zip(axes, shown, strict=False):
        column = QUANTITIES[quantity].column
        x, y = (in_axis_unit(table, prefix, column) for prefix in (PREFIX[data.reference], "pred_"))
        draw_map(part, x, y, diagonal=True)
        part.set(xlabel=axis_label(column, _REFERENCE[data.reference]), ylabel=axis_label(column, "predicted"))
    if angles is not None and np.isfinite(angles).any():
        good = angles[np.isfinite(angles)]
        edges = np.linspace(0, max(float(np.quantile(good, 0.99)), 1e-3), 51)
        axes[-1].stairs(np.histogram(good, edges)[0], edges, fill=True, color=COLOURS[0], alpha=0.4)
        axes[-1].set_title(f"68 % below {np.quantile(good, 0.68):.3g} deg", fontsize=8.5, loc="left")
        axes[-1].set(xlabel="opening angle [deg]", ylabel="events")
    return figure


# ------------------------------------------------------------------------------------------------------- drift


def _run_page(data: RealData, title: str) -> Figure:
    return _trend_page(data, title, "Residuals by run", data.by_run, "run")


def _order_page(data: RealData, title: str) -> Figure:
    what = "event, in the order of run and event number"
    return _trend_page(data, title, "Residuals by time, in the order of data-taking", data.in_order, what)


def _trend_page(data: RealData, title: str, what: str, trends: dict[str, dict[str, Trend]], along: str) -> Figure:
    """Median (left) and s68 (right) of every quantity along runs or events; all models."""
    figure = page(title, what, 1.0 + 1.75 * len(trends))
    axes: Any = figure.subplots(len(trends), 2, squeeze=False, sharex=True)
    for (left, right), (quantity, of) in zip(axes, trends.items(), strict=True):
        _draw_trends(left, of, "median")
        _draw_trends(right, of, "s68")
        left.set_ylabel(_label(quantity, "median"))
        right.set_ylabel(_label(quantity, "s68"))
        left.set_title(_constancy(next(iter(of.values()))), fontsize=8, loc="left")
        for part in (left, right):
            part.yaxis.label.set_fontsize(8)
            _whole_numbers(part)
    if len(data.tables) > 1:
        figure.legend(*all_entries(axes.flat), loc="outside lower center", ncols=len(data.tables))
    for part in axes[-1]:
        part.set_xlabel(along)
    return figure


def _whole_numbers(axes: Axes) -> None:
    """Runs and events have no decimals, and are not written as an offset and a rest."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)


def _constancy(t: Trend) -> str:
    if not t.free:
        return "one group alone" if len(t.n) == 1 else "too few events"
    return f"mean {with_error(t.mean)} (line), chi2 / dof {t.chi2:.1f} / {t.free}, chance {t.chance:.2g}"


def _draw_trends(axes: Axes, of: dict[str, Trend], name: str) -> None:
    drawn = False
    for i, ((model, t), colour, mark) in enumerate(zip(of.items(), COLOURS, MARKS, strict=False)):
        x, y, error = _beside(t, i, len(of)), getattr(t, name), getattr(t, f"{name}_error")
        if not np.isfinite(y).any():
            continue
        bars = np.stack([x - t.first, t.last - x]) if (t.last > t.first).any() else None
        fill = colour if i == 0 else "w"
        reach = None if bars is None else np.maximum(bars, 0)
        said = named(model)
        axes.errorbar(x, y, error, reach, label=said, fmt=mark, color=colour, mfc=fill, elinewidth=1, ms=3.5)
        if name == "median" and np.isfinite(t.mean):
            axes.axhline(t.mean, color=colour, lw=0.8, ls="--")
        drawn = True
    if not drawn:
        say_nothing(axes, "too few events")


def _beside(t: Trend, number: int, models: int) -> Floats:
    """Middles of the groups, those of several models a little beside one another."""
    step = float(np.min(np.diff(t.centre))) if len(t.n) > 1 else 1.0
    return t.centre + 0.12 * step * (number - (models - 1) / 2)


def _conditions_page(data: RealData, title: str) -> Figure:
    """Medians of energy and time by run, and below them what the conditions say of the sensors in these runs."""
    runs = data.conditions["run"]
    shown = [q for q in ("energy_relative", "timing", "w") if q in data.by_run]
    rows = _rows_of_conditions(data.conditions)
    figure = page(title, "Drift and conditions by run", 1.0 + 1.75 * (len(shown) + len(rows)))
    axes: Any = figure.subplots(len(shown) + len(rows), 1, squeeze=False, sharex=True)[:, 0]
    for part, quantity in zip(axes, shown, strict=False):
        _draw_trends(part, data.by_run[quantity], "median")
        part.set_ylabel(_label(quantity, "median"))
    for part, (label, lines) in zip(axes[len(shown) :], rows.items(), strict=True):
        for (kind, values), colour, mark in zip(lines.items(), COLOURS[2:], "o^", strict=False):
            part.plot(runs, values, mark + "-", color=colour, lw=0.8, label=kind)
        part.set_ylabel(label)
        if len(lines) > 1:
            part.legend(loc="upper right", ncols=2)
            part.margins(y=0.35)
    for part in axes:
        _whole_numbers(part)
    if shown and len(data.tables) > 1:
        figure.legend(*all_entries(axes[: len(shown)]), loc="outside lower center", ncols=len(data.tables))
    axes[-1].set_xlabel("run")
    return figure


def _rows_of_conditions(conditions: dict[str, Any]) -> dict[str, dict[str, Floats]]:
    """What is known of the sensors by its label: values of each kind of sensor by run."""
    rows: dict[str, dict[str, Floats]] = {}
    for name, label in _CONDITIONS.items():
        lines = {name: conditions[name]} if name in conditions else {}
        lines |= {_KINDS[k]: v for k in _KINDS if (v := conditions.get(f"{name}_{k}")) is not None}
        known = {kind: np.asarray(v, np.float64) for kind, v in lines.items() if np.isfinite(v).any()}
        if known:
            rows[label] = known
    return rows


# ------------------------------------------------------------------------------------------- place, depth, time


def _face_page(data: RealData, title: str) -> Figure:
    """Median residuals of the first model over the inner face."""
    shown = data.quantities
    figure = page(title, "Median residuals on the inner face", 8.2)
    for part, quantity in zip(_panels(figure, len(shown), 4), shown, strict=True):
        found = next(iter(data.by_patch[quantity].values()))
        draw_patches(part, found.u, found.v, found.median, found.median_error, diverging=True)
        part.set_title(_label(quantity, "median"), fontsize=9)
    return figure


def _has_profile(data: RealData, name: str) -> bool:
    return any(name in of for models in data.against.values() for of in models.values())


def _against(name: str) -> Callable[[RealData, str], Figure]:
    return lambda data, title: _profile_page(data, title, name)


def _profile_page(data: RealData, title: str, against: str) -> Figure:
    """Bias (open) and s68 (full) of every quantity against the depth or the time; all models."""
    word = {"w": "depth", "timing": "time within the event's window"}[against]
    figure = page(title, f"Residuals by {word}", 6.6)
    parts = _panels(figure, len(data.quantities), 4)
    for part, quantity in zip(parts, data.quantities, strict=True):
        for i, ((model, of), colour, mark) in enumerate(
            zip(data.against[quantity].items(), COLOURS, MARKS, strict=False)
        ):
            if (p := of.get(against)) is not None and np.isfinite(p.s68).any():
                x = (p.centre + 0.006 * i * np.ptp(p.edges)) * axis_scale(against)
                part.errorbar(x, p.s68, p.s68_error, fmt=mark, color=colour, ms=3.5, label=f"s68 {named(model, 24)}")
                part.errorbar(x, p.bias, p.bias_error, fmt=mark, color=colour, mfc="w", ms=3.5,
                              label=f"bias {named(model, 24)}")  # fmt: skip
        part.axhline(0, color="0.6", lw=0.8)
        part.set(xlabel=axis_label(against, _REFERENCE[data.reference]), ylabel=_label(quantity, "s68, bias"))
    handles = all_entries(parts)
    figure.legend(*handles, loc="outside lower center", ncols=min(max(len(handles[0]), 1), 4))
    return figure


# ----------------------------------------------------------------------------------------------------- periods


def _periods_page(data: RealData, title: str) -> Figure:
    """Residuals of the first model in each period, of equal area."""
    name, table = next(iter(data.tables.items()))
    figure = page(title, f"Residuals by period, {named(name)}", 7.2)
    for part, quantity in zip(_panels(figure, len(data.quantities), 4), data.quantities, strict=True):
        values, found = residuals(table, quantity, data.reference), data.by_period[quantity][name]
        r = next(iter(found.values()))
        half = 4 * max((x.s68 for x in found.values() if np.isfinite(x.s68)), default=1.0) or 1.0
        edges = np.linspace(r.median - half, r.median + half, 41) if np.isfinite(r.median) else np.linspace(-1, 1, 41)
        top = 0.0
        for i, (period, colour, dashes) in enumerate(zip(data.asked.periods, COLOURS, LINES, strict=False)):
            inside = values[period.mask(table)]
            counts = np.histogram(inside, edges)[0]
            share = counts / max(counts.sum(), 1)
            own = found[period.name]
            top = max(top, float(share.max(initial=0)))
            numbers = f"{with_error(own.bias, own.bias_error)}; {with_error(own.s68, own.s68_error)}"
            part.stairs(share, edges, fill=i == 0, alpha=0.4 if i == 0 else 1, color=colour, ls=dashes,
                        label=f"{named(period.name, 24)}\n{numbers}")  # fmt: skip
        part.set_ylim(0, max(top, 1e-3) * (1.25 + 0.22 * len(data.asked.periods)))
        part.legend(loc="upper left", fontsize=6.5, handlelength=1.0)
        part.set(xlabel=_label(quantity, "residual"), ylabel="share of events")
    figure.supxlabel("under each name: bias; s68", fontsize=8, color="0.4")
    return figure
