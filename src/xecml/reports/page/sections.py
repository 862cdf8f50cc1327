"""The sections of a report: resolutions, comparisons, the model, its training, and plots that explain them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xecml.evaluation.linearity import LINEAR_WITHIN
from xecml.evaluation.metrics import ALL, Evaluation, further_lines, summary, with_error
from xecml.evaluation.paired import MORE_THAN_CHANCE
from xecml.evaluation.selection_efficiency import selections
from xecml.evaluation.tables import QUANTITIES
from xecml.events import number_of
from xecml.figures import resolution_pages
from xecml.figures.report_pages import (
    draw_curves,
    draw_differences,
    draw_energy_line,
    draw_selections,
    draw_slices,
)
from xecml.figures.saliency import draw_face_weights, draw_hot_spot_maps, saliency_figures
from xecml.figures.unfolded_detector import draw_event
from xecml.figures.what_decides import summary_figures
from xecml.reports.page.material import Material
from xecml.reports.page.model_facts import Facts
from xecml.reports.page.vector_graphics import Picture, event_picture, vector_picture


@dataclass(frozen=True)
class Shown:
    """A table: its caption, heads of its columns, rows whose first cell is their head, and what its columns mean."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    folded: bool = False


@dataclass
class Section:
    """A part of the page under a heading: what it says, sentences, tables, pictures, pairs of words, text as it is."""

    name: str
    title: str
    intro: str = ""
    lines: list[str] = field(default_factory=list)
    tables: list[Shown] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    facts: Facts = field(default_factory=list)
    text: str = ""
    text_title: str = ""


class _Numbers:
    """Numbers of the pictures of a page, by which their inner names differ."""

    def __init__(self) -> None:
        self.last = 0

    def __call__(self) -> int:
        self.last += 1
        return self.last


def sections(material: Material) -> Iterator[Section]:
    """All sections that there is something to say in."""
    numbers = _Numbers()
    makers: Sequence[Callable[[Material, _Numbers], Section | None]] = (
        _in_short, _comparison, _model, _training, _resolutions, _energy, _slices, _selections, _saliency, _events,
    )  # fmt: skip
    if not material.evaluations:
        makers = (_validated, _model, _training, _rebuilt)
    for make in makers:
        if (section := make(material, numbers)) is not None:
            yield section


def _in_short(material: Material, _: _Numbers) -> Section:
    model = material.evaluations[0]
    found = Section(
        "summary",
        "Resolutions",
        f"{model.name} on {material.sample or number_of(model.n_events)}, against "
        f"{'the truth' if model.reference == 'truth' else 'reconstructed values'}.",
    )
    found.lines = further_lines(model)
    note = (
        "bias: mean of predicted minus true. s68: half the width of its central 68 %, called resolution. "
        "FWHM/2.355: width of the core alone. tail: share of events further than 3 s68 from the median (0.27 % for a "
        "Gaussian)."
    )
    if model.pulls:
        note += (
            " pull width: s68 of residual over predicted sigma, 1 where sigmas are right; within 1 and 1.96 sigma "
            "should be 68.3 and 95 %."
        )
    for depth, events in model.events.items():
        if events:
            shown = Shown(model.title(depth), *summary(material.evaluations, depth), note=note, folded=depth != ALL)
            found.tables.append(shown)
            note = ""
    if model.linearity:
        found.tables.append(_linearity(model))
    return found


def _linearity(model: Evaluation) -> Shown:
    rows = []
    for quantity, line in model.linearity.items():
        what = QUANTITIES[quantity]
        place = f"{line.at * 1e3:.1f} MeV" if quantity == "energy" else "upper end of the truth"
        cells = [with_error(line.slope, line.slope_error), line.verdict(), with_error(line.shift, line.shift_error)]
        rows.append([what.label, *cells, what.unit, place])
    note = (
        "Slope of the mean prediction against the truth. Below 1, predictions shrink towards the mean of the training, "
        "and a spectrum's edge is shifted inwards."
    )
    headers = ["quantity", "slope", f"1 within {100 * LINEAR_WITHIN:g} %", "shift of the mean", "unit", "where"]
    return Shown("Linearity", headers, rows, note, folded=True)


def _comparison(material: Material, numbers: _Numbers) -> Section | None:
    if not material.pairs or not any(pair.differences for pair in material.pairs):
        return None
    found = Section(
        "comparison",
        "Comparison",
        "All see the same events, so the differences are computed event by event, and common fluctuations cancel. "
        f"A difference of {MORE_THAN_CHANCE:g} standard errors or more is called better; a smaller one may be chance.",
    )
    found.pictures.append(vector_picture(draw_differences(material.pairs), numbers()))
    for pair in material.pairs:
        rows = []
        for d in pair.differences:
            sigmas = f"{d.sigmas:+.1f}" if np.isfinite(d.sigmas) else "-"
            cells = [with_error(d.first), with_error(d.second), with_error(d.first - d.second, d.error)]
            verdict = "equal" if d.first == d.second else "yes" if d.more_than_chance else "no"
            rows.append([d.name, d.unit, *cells, sigmas, verdict])
        headers = ["figure", "unit", pair.first, pair.second, "difference", "standard errors", "more than chance"]
        note = f"Below zero, {pair.first} is better."
        found.tables.append(Shown(f"{pair.first} beside {pair.second}", headers, rows, note, folded=True))
        found.lines += pair.in_short()
    return found


def _model(material: Material, _: _Numbers) -> Section | None:
    if not material.facts:
        return None
    return Section(
        "model", "The model", facts=material.facts, text=material.recipe, text_title="Recipe of its training"
    )


def _training(material: Material, numbers: _Numbers) -> Section | None:
    figure = draw_curves(material.epochs)
    if figure is None:
        return None
    return Section("training", "The training", pictures=[vector_picture(figure, numbers())])


def _resolutions(material: Material, numbers: _Numbers) -> Section:
    model = material.evaluations[0]
    found = Section(
        "pages",
        "Every quantity",
        "Full circles are s68, open squares the bias, in bins of about equal numbers of events; lines are s68 of "
        "others.",
    )
    options: dict[str, Any] = {"reference": material.reference, "evaluations": material.evaluations}
    pages = iter(material.pages or resolution_pages.resolution_figures(material.tables, **options))
    next(pages)  # the table of the summary, which stands above as a table
    for figure in pages:
        caption = figure.get_suptitle()
        found.pictures.append(vector_picture(figure, numbers(), caption, f"{caption} of {model.name}; numbers above"))
    return found


def _energy(material: Material, numbers: _Numbers) -> Section | None:
    lines = {e.name: e.line for e in material.evaluations if e.line is not None}
    if not lines:
        return None
    rows = []
    for name, found in lines.items():
        line = found.line
        cells = [with_error(found.peak, line.error), with_error(line.sigma, line.sigma_error)]
        cells += [with_error(found.upper, found.upper_error), with_error(found.fwhm, found.fwhm_error)]
        rows.append([name, *cells, f"{line.tail / line.sigma:.2f}", f"{line.chi2:.2f}"])
    headers = ["model", "peak off [%]", "core [%]", "upper edge [%]", "FWHM/2.355 [%]", "tail from [sigma]", "chi2/dof"]
    note = (
        "A Gaussian with an exponential tail on its low side. The upper edge is the side that leakage does not "
        "reach: (upper half maximum - mode) / 1.177, without a fit."
    )
    section = Section("energy", "Energy line", tables=[Shown("Predicted over true energy", headers, rows, note)])
    section.pictures.append(vector_picture(draw_energy_line(lines), numbers()))
    return section


def _slices(material: Material, numbers: _Numbers) -> Section | None:
    model = material.evaluations[0]
    if not model.slices:
        return None
    found = Section("slices", "Opening angle")
    found.pictures.append(vector_picture(draw_slices(model.slices), numbers()))
    return found


def _selections(material: Material, numbers: _Numbers) -> Section | None:
    model = material.evaluations[0]
    curves = selections(material.tables[model.name], list(model.figures), material.reference)
    if not curves:
        return None
    rows = []
    for c in curves:
        what = QUANTITIES[c.quantity]
        cells = [with_error(*pair) for share, *pair in zip(c.efficiency, c.s68, c.error, strict=True) if _kept(share)]
        rows.append([f"{what.label} by {'its sigma' if c.by == 'sigma' else 'outlier'}", what.unit, *cells])
    headers = ["s68 of", "unit", *(f"{100 * share:.0f} % kept" for share in _KEPT)]
    found = Section(
        "selections",
        "Selecting events",
        "s68 of the remaining events when the events with the largest predicted width, or outlier value, are left out.",
        tables=[Shown("Resolution against efficiency", headers, rows, folded=True)],
    )
    found.pictures.append(vector_picture(draw_selections(curves), numbers()))
    return found


_KEPT = (0.5, 0.8, 0.9, 0.95, 1.0)


def _kept(share: float) -> bool:
    return any(abs(share - kept) < 0.004 for kept in _KEPT)


def _validated(material: Material, _: _Numbers) -> Section | None:
    if not material.validated:
        return None
    rows = [[name, f"{value:.5g}"] for name, value in material.validated.items()]
    note = "Of hidden sensors: mae is the mean size of the error, rmse its root mean square, of normalised values."
    table = Shown("Last validation", ["number", "value"], rows, note)
    return Section("summary", "What it rebuilds", tables=[table])


def _rebuilt(material: Material, _: _Numbers) -> Section | None:
    if not material.rebuilt:
        return None
    found = Section("events", "Rebuilt events")
    found.pictures = [event_picture(figure, caption, caption) for caption, figure in material.rebuilt]
    return found


def _saliency(material: Material, numbers: _Numbers) -> Section | None:
    decides, derivatives = material.decides, material.saliency
    if decides is not None:
        derivatives = decides.gradient
    if decides is None and derivatives is None:
        return None
    found = Section(
        "saliency",
        "What the model looks at",
        "Derivatives of its answers with respect to counts and times, summed by face, and about the hot spot.",
    )
    if decides is not None:
        found.intro = (
            "What its answers lose when counts, times or both are those of another event about the same hot spot, and "
            "which part of the light moves them."
        )
        found.lines = decides.sentences()
        note = "Hot spot, depth, total light and rough time stay those of the event in every case."
        found.tables = [
            Shown(*table, note="" if i else note, folded=i > 0) for i, table in enumerate(decides.tables(depths=True))
        ]
        found.pictures = [vector_picture(figure, numbers()) for figure in summary_figures(decides)]
    if derivatives is not None:
        pages = (draw_face_weights(derivatives), next(saliency_figures(derivatives)), draw_hot_spot_maps(derivatives))
        found.pictures += [vector_picture(figure, numbers()) for figure in pages]
    return found


def _events(material: Material, _: _Numbers) -> Section | None:
    if not material.events:
        return None
    found = Section(
        "events",
        "Events",
        "Counts on the left, times on the right, six faces unfolded; a ring is the true first interaction, a cross the "
        "predicted one.",
    )
    for one in material.events:
        columns = one.event.columns
        name = f"run {columns['run']}, event {columns['event']}" if "run" in columns else ""
        marks = [{k: v for k, v in columns.items() if k.startswith(prefix)} for prefix in ("true_", "pred_")]
        figure = draw_event(one.event.npho, one.event.time, truth=marks[0], prediction=marks[1], title=name)
        told = f"{one.why}, {name}: counts and times of 4760 sensors"
        found.pictures.append(event_picture(figure, f"{one.why}; {name}" if name else one.why, told))
    return found
