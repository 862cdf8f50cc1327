"""The page of the physics benchmark: tables in Markdown, and its pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from physics_numbers import LINE_WITHIN, SLOPE_WITHIN, verdict
from xecml.evaluation.metrics import with_error
from xecml.evaluation.tables import QUANTITIES
from xecml.events import number_of
from xecml.figures.style import COLOURS, STYLE, save_figure

Numbers = Mapping[str, Any]

OPENING = "opening_angle"
ROWS = (OPENING, "theta", "phi", "energy_relative", "timing", "u", "v", "w")
"""Quantities in the order of the tables."""
_SMALL = 100
"""Events below which a bin is marked: its figures say little."""
_MARKS = (-50, -20, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, 50)
_PICTURED = ("u", "v", "w", "energy_relative", "timing", OPENING)


def label_of(quantity: str) -> str:
    """A quantity with its unit."""
    if quantity == OPENING:
        return "opening angle [deg]"
    what = QUANTITIES[quantity]
    return f"{what.label} [{what.unit}]"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(headers)} |", f"|{'---|' * len(headers)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _cell(figures: Numbers | None) -> str:
    """Bias / half-width with error / core / share beyond 3 half-widths in %."""
    if figures is None or figures.get("s68") is None:
        return "-"
    parts = [_number(figures["bias"], figures["bias_error"]), _with(figures, "s68"), _number(figures["fwhm"])]
    return " / ".join([*parts, f"{100 * figures['tail']:.1f}"])


def _with(figures: Numbers, name: str) -> str:
    value, error = figures.get(name), figures.get(f"{name}_error")
    return "-" if value is None else with_error(value, error if error is not None else math.nan)


def _number(value: float | None, error: float | None = None, scale: float = 1.0) -> str:
    """A value to the digits that its error deserves, without it."""
    if value is None:
        return "-"
    text = with_error(value, math.nan if error is None else error, scale).partition(" ")[0]
    if error is None and "." in text and abs(value * scale) >= 1:
        text = f"{value * scale:.3g}"
    return text


def figures_table(sample: Numbers, quantity: str) -> str:
    """One quantity: methods by depths."""
    depths = list(sample["events"])
    heads = ["method", *(f"{depth} ({sample['events'][depth]})" for depth in _ordered(depths))]
    rows = []
    for method in sample["figures"]:
        if quantity == OPENING:
            found = sample["opening"].get(method) or {}
            cells = [
                f"{_with(found[b], 'median')} / {_with(found[b], 'q68')}" if b in found else "-"
                for b in _ordered(depths)
            ]
        else:
            bins = sample["figures"][method].get(quantity, {})
            cells = [_cell(bins.get(b)) for b in _ordered(depths)]
        if set(cells) != {"-"}:
            rows.append([method, *cells])
    return table(heads, rows) if rows else ""


def _ordered(depths: Sequence[str]) -> list[str]:
    """Bins of depth, all events last."""
    return [d for d in depths if d != "all"] + [d for d in depths if d == "all"]


def overview(sample: Numbers) -> str:
    """All quantities in all events: half-width with error, bias in brackets where it is above a tenth of it."""
    heads = ["method", *(label_of(q) for q in ROWS)]
    rows = []
    for method, figures in sample["figures"].items():
        cells = []
        for quantity in ROWS:
            if quantity == OPENING:
                found = (sample["opening"].get(method) or {}).get("all")
                cells.append("-" if found is None else _with(found, "q68"))
                continue
            r = figures.get(quantity, {}).get("all")
            if r is None or r.get("s68") is None:
                cells.append("-")
                continue
            biased = abs(r["bias"]) > 0.1 * r["s68"]
            said = f" ({_number(r['bias'], r['bias_error'])})" if biased else ""
            core = f" / {_number(r['fwhm'])}" if quantity == "energy_relative" else ""
            cells.append(_with(r, "s68") + core + said)
        rows.append([method, *cells])
    return table(heads, rows)


def pair_table(pair: Numbers) -> str:
    """By how much the second of two methods is wider than the first, percent, by quantity and depth."""
    bins = _ordered(list(pair["bins"]))
    named: dict[tuple[str, str], dict[str, Numbers]] = {}
    for depth in bins:
        for d in pair["bins"][depth]:
            if d["figure"] != "|bias|" and d["quantity"] != "accidental background":
                named.setdefault((d["quantity"], d["figure"]), {})[depth] = d
    rows = []
    for (quantity, figure), by_depth in named.items():
        cells = [_ratio(by_depth.get(depth)) for depth in bins]
        rows.append([f"{quantity}, {figure}", *cells])
    return table(["figure", *bins], rows)


def _ratio(d: Numbers | None) -> str:
    if d is None or not d["first"]:
        return "-"
    worse = 100 * (d["second"] / d["first"] - 1)
    if d["error"] is None:
        return f"{worse:+.0f} %"
    error = 100 * d["error"] / d["first"]
    digits = 0 if error >= 0.95 else 1
    text = f"{worse:+.{digits}f} ± {error:.{digits}f} %"
    return f"**{text}**" if d["more_than_chance"] else text


def lines_table(samples: Mapping[str, Numbers]) -> str:
    """Energies of lines: peak and mean off the truth in percent, and whether the peak is right within 0.1 %."""
    rows = []
    for sample in samples.values():
        if sample.get("line_mev") is None or sample["varied"]:
            continue
        for method, found in sample["line"].items():
            if not found:
                continue
            place = "peak" if found.get("peak_error") is not None else "mode"
            off, error = found[place], found[f"{place}_error"]
            rows.append(
                [
                    f"{sample['line_mev']:g} MeV", method, with_error(off, error), with_error(found["mode"],
                    found["mode_error"]), with_error(found["mean"], found["mean_error"]), verdict(off, error),
                ]
            )  # fmt: skip
    heads = ["line", "method", "fitted peak [%]", "mode [%]", "mean [%]", f"peak within {LINE_WITHIN:g} %"]
    return table(heads, rows)


def slopes_table(sample: Numbers) -> str:
    """Slopes of the mean answer against the truth, less 1, in percent."""
    found = sample["linearity"]
    wanted = [q for q in QUANTITIES if any(q in lines for lines in found.values())]
    rows = []
    for method, lines in found.items():
        cells = []
        for q in wanted:
            if (line := lines.get(q)) is None:
                cells.append("-")
                continue
            cells.append(f"{with_error(100 * (line['slope'] - 1), 100 * line['slope_error'])} ({line['within_0.002']})")
        rows.append([method, *cells])
    return table(["method", *(QUANTITIES[q].label for q in wanted)], rows) if wanted else ""


def slope_of_lines_table(means: Mapping[str, Numbers], peaks: Mapping[str, Numbers]) -> str:
    """Slopes through the lines of 17.6 and 54.9 MeV, and the shifts at 52.8 MeV that they mean."""
    rows = []
    for method, line in means.items():
        cells = ["-", "not known", "-"]
        if of := peaks.get(method):
            off, error = 100 * (of["slope"] - 1), 100 * of["slope_error"]
            said = verdict(off, error, SLOPE_WITHIN)
            cells = [with_error(off, error), said, with_error(of["shift"], of["shift_error"])]
        slope = with_error(100 * (line["slope"] - 1), 100 * line["slope_error"])
        rows.append([method, *cells, slope, with_error(1e3 * line["shift"], 1e3 * line["shift_error"])])
    heads = [
        "method", "peaks: slope - 1 [%]", f"1 within {SLOPE_WITHIN:g} %", "peak at 52.8 MeV off by [keV]",
        "means: slope - 1 [%]", "mean at 52.8 MeV off by [keV]",
    ]  # fmt: skip
    return table(heads, rows)


# ----------------------------------------------------------------------------------------------------------- pictures


def _points(sample: Numbers, method: str, quantity: str) -> list[tuple[int, float, float]]:
    """Place of the bin, value and error."""
    depths = _ordered(list(sample["events"]))
    if quantity == OPENING:
        bins, name = sample["opening"].get(method) or {}, "q68"
    else:
        bins = sample["figures"][method].get(quantity, {})
        name = "fwhm" if quantity == "energy_relative" else "s68"
    found = []
    for k, depth in enumerate(depths):
        value = bins.get(depth, {}).get(name)
        if value is not None:
            found.append((k, value, bins[depth].get(f"{name}_error") or 0.0))
    return found


def _suited(sample: Numbers) -> dict[str, str]:
    """Methods of a sample by their names in the picture: the conventional one with the constants that suit it."""
    own = f"conventional ({sample['kind']})"
    names = [m for m in sample["figures"] if not m.startswith("conventional (") or m == own]
    return {"conventional" if name == own else name: name for name in names}


def resolutions(samples: Sequence[Numbers]) -> Figure:
    """Widths of all methods by depth, a row a sample."""
    methods = list(dict.fromkeys(m for sample in samples for m in _suited(sample)))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13.0, 3.3 * len(samples)))
        axes = figure.subplots(len(samples), len(_PICTURED), squeeze=False)
        for row, sample in zip(axes, samples, strict=True):
            depths = _ordered(list(sample["events"]))
            for axis, quantity in zip(row, _PICTURED, strict=True):
                for k, method in enumerate(methods):
                    if method not in (suited := _suited(sample)):
                        continue
                    points = _points(sample, suited[method], quantity)
                    shift = 0.14 * (k - (len(methods) - 1) / 2)
                    axis.errorbar(
                        [x + shift for x, _, _ in points], [y for _, y, _ in points], [e for _, _, e in points],
                        fmt="osD^vP"[k % 6], color=COLOURS[k % len(COLOURS)], label=method, linestyle="none",
                    )  # fmt: skip
                axis.set_xticks(range(len(depths)), [d.removeprefix("w ").removesuffix(" cm") for d in depths])
                axis.set_ylim(bottom=0)
                what = "68 % of the events" if quantity == OPENING else "s68"
                what = "FWHM/2.355" if quantity == "energy_relative" else what
                axis.set_title(f"{label_of(quantity)}\n{what}")
            row[0].set_ylabel(sample["label"])
            row[len(row) // 2].set_xlabel("true depth w [cm]")
        handles = {
            text: handle
            for row in axes
            for handle, text in zip(*row[0].get_legend_handles_labels(), strict=True)
        }  # fmt: skip
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


def lines_picture(samples: Mapping[str, Numbers]) -> Figure:
    """Peaks of lines off the truth."""
    lines = [s for s in samples.values() if s.get("line_mev") is not None and not s["varied"]]
    lines.sort(key=lambda s: s["line_mev"])
    methods = list(dict.fromkeys(m for sample in lines for m in sample["line"]))
    # those of the other picture first, in the same colours
    methods.sort(key=lambda m: m.startswith("conventional (") and m != f"conventional ({lines[0]['kind']})")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 3.6))
        axis = figure.subplots()
        axis.axhspan(-LINE_WITHIN, LINE_WITHIN, color="0.9")
        for k, method in enumerate(methods):
            found = [(j, s["line"][method]) for j, s in enumerate(lines) if s["line"].get(method)]
            axis.errorbar(
                [j + 0.1 * (k - (len(methods) - 1) / 2) for j, _ in found], [f["mode"] for _, f in found],
                [f["mode_error"] for _, f in found], fmt="osD^vP"[k % 6], color=COLOURS[k % len(COLOURS)], label=method,
                linestyle="none",
            )  # fmt: skip
        axis.set_xticks(range(len(lines)), [f"{s['line_mev']:g} MeV" for s in lines])
        axis.set_yscale("symlog", linthresh=1.0)
        low, high = axis.get_ylim()
        axis.set_ylim(min(1.6 * low, -1.0), max(1.6 * high, 1.0))
        marks = [m for m in _MARKS if 1.6 * min(low, -1.0) <= m <= 1.6 * max(high, 1.0)]
        axis.set_yticks(marks, [f"{m:g}" for m in marks])
        axis.minorticks_off()
        axis.set_ylabel("mode of energy / truth - 1 [%]")
        figure.legend(loc="outside right upper", fontsize=7)
    return figure


def save_pictures(samples: Mapping[str, Numbers], page: Path) -> list[tuple[str, str]]:
    """Write the pictures beside the page; returns their names, and what is on them."""
    found = []
    wide = [samples[name] for name in ("signal", "decoupled") if name in samples]
    if wide:
        name = f"{page.stem}.png"
        save_figure(resolutions(wide), page.with_name(name))
        found.append((name, "Resolutions by depth"))
    if any(s.get("line_mev") is not None and not s["varied"] for s in samples.values()):
        name = f"{page.stem}_lines.png"
        save_figure(lines_picture(samples), page.with_name(name))
        found.append((name, "Lines"))
    return found


def few(sample: Numbers) -> str:
    """A sentence on bins of few events; empty where there are none."""
    small = [f"{depth} ({n})" for depth, n in sample["events"].items() if n < _SMALL]
    return f"Few events: {', '.join(small)}." if small else ""


def said_of_events(sample: Numbers) -> str:
    """How many events a sample has, and of which seed."""
    return f"{number_of(sample['n'])}, seed {sample['seed']}"
