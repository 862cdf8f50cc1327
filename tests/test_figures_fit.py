"""Pictures that can be read: no text is cut off, and none lies on another, whatever names and numbers there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from tests.conftest import point_sources
from tests.test_report_page import said_table
from xecml.evaluation import metrics
from xecml.evaluation.paired import compare_paired
from xecml.evaluation.selection_efficiency import selections
from xecml.figures.report_pages import (
    draw_curves,
    draw_differences,
    draw_energy_line,
    draw_selections,
    draw_slices,
)
from xecml.figures.resolution_pages import resolution_figures
from xecml.figures.saliency import Saliency, draw_face_weights, saliency_figures
from xecml.figures.style import STYLE, drawable
from xecml.figures.unfolded_detector import draw_event
from xecml.geometry import N_SENSORS

Columns = dict[str, np.ndarray]
LONG = "artifacts/a_rather_long_name_of_a_run_2026/checkpoint_best.pth"


@contextmanager
def drawn_texts() -> Iterator[list[tuple[str, Bbox]]]:
    """Texts that are really drawn, with the boxes that they fill, in pixels."""
    found: list[tuple[str, Bbox]] = []
    plain = Text.draw

    def noted(text: Text, renderer: Any, *more: Any, **options: Any) -> None:
        plain(text, renderer, *more, **options)
        if text.get_visible() and text.get_text().strip():
            found.append((text.get_text(), text.get_window_extent(renderer)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noted)
        yield found


def shared(a: Bbox, b: Bbox) -> float:
    """Share of the smaller box that lies in the other."""
    both = Bbox.intersection(a, b)
    if both is None:
        return 0.0
    return float(both.width * both.height / max(min(a.width * a.height, b.width * b.height), 1e-9))


def problems(figure: Figure) -> list[str]:
    """What cannot be read: texts that reach over the edge, or over one another by more than a tenth."""
    canvas = FigureCanvasAgg(drawable(figure))
    with mpl.rc_context(STYLE):
        canvas.draw()  # constrained layout needs a first look
        with drawn_texts() as texts:
            canvas.draw()
    assert texts
    width, height = canvas.get_width_height()
    cut = [f"cut off: {t!r}" for t, b in texts if b.x0 < -1 or b.y0 < -1 or b.x1 > width + 1 or b.y1 > height + 1]
    over = [f"{a!r} over {b!r}" for (a, x), (b, y) in combinations(texts, 2) if shared(x, y) > 0.1]
    return cut + over


@pytest.fixture(scope="module")
def tables() -> dict[str, Columns]:
    """A model and another of a long name, whose answers differ."""
    table = said_table()
    rng = np.random.default_rng(1)
    worse = table | {f"pred_{c}": table[f"pred_{c}"] + rng.normal(0, 0.3, len(table["run"])) for c in "uvw"}
    return {LONG: table, "old.onnx": worse}


def _pages(tables: Mapping[str, Columns]) -> list[Figure]:
    return list(resolution_figures(tables, title=f"{LONG} on data/test/events_of_a_long_name_*.root"))


def _of_the_report(tables: Mapping[str, Columns]) -> list[Figure]:
    found = metrics.compare(tables)
    curves = selections(tables[LONG], list(found[0].figures))
    lines = {e.name: e.line for e in found if e.line is not None}
    assert len(lines) == 2
    return [
        draw_energy_line(lines),
        draw_slices(found[0].slices),
        draw_selections(curves),
        draw_differences(compare_paired(tables)),
    ]


def _curves(_: Mapping[str, Columns]) -> list[Figure]:
    names = ("theta_s68_deg", "phi_s68_deg", "energy_s68_MeV", "timing_s68_ps", "u_s68_mm", "v_s68_mm", "w_s68_mm")
    validated = {f"val/{name}": 9.0 for name in names}
    losses = {"train/loss": 2.0, "val/loss": 2.1, "train/lr": 3e-4}
    rows = [{"epoch": epoch, **losses, **validated} for epoch in range(1, 41)]
    figure = draw_curves(rows)
    assert figure is not None
    return [figure]


def _saliency(_: Mapping[str, Columns]) -> list[Figure]:
    rng = np.random.default_rng(2)
    outputs = ("theta", "phi", "energy", "timing", "u", "v", "w")
    tasks = ("angle", "angle", "energy", "timing", "uvwFI", "uvwFI", "uvwFI")
    values = rng.exponential(1e-3, (2, len(outputs), N_SENSORS))
    found = Saliency(outputs, tasks, values[0], values[1], np.ones(N_SENSORS, bool), 128)
    return [draw_face_weights(found, title=LONG), next(saliency_figures(found, title=LONG))]


def _event(_: Mapping[str, Columns]) -> list[Figure]:
    events = point_sources(1, seed=7)
    names = {"theta": 88.0, "phi": -11.0, "energy": 0.0528, "timing": 1e-9, "u": 3.0, "v": -40.0, "w": 4.0}
    return [draw_event(events["npho"][0], events["time"][0], truth=names, prediction=names, title=f"{LONG}: run 1")]


@pytest.mark.slow
@pytest.mark.parametrize("draw", [_pages, _of_the_report, _curves, _saliency, _event])
def test_every_text_of_a_picture_can_be_read(
    tables: dict[str, Columns], draw: Callable[[Mapping[str, Columns]], list[Figure]]
) -> None:
    found = {f"{draw.__name__} {i}": wrong for i, f in enumerate(draw(tables)) if (wrong := problems(f))}
    assert not found


def test_what_cannot_be_read_is_found() -> None:
    figure = Figure(figsize=(3, 2))
    figure.text(0.5, 0.5, "one text")
    figure.text(0.5, 0.51, "another")
    figure.text(0.9, 0.1, "out of the picture")
    assert len(problems(figure)) == 2
