"""Pictures of the geometry: every sensor is in them, under its id, and the page for a browser works."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from tests.browser import browser
from xecml import geometry
from xecml.figures import geometry_pictures
from xecml.figures.geometry_pages import write_geometry


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_every_pmt_is_named_at_its_place() -> None:
    figure = geometry_pictures.unfolded()
    ids = [text for text in figure.axes[0].texts if text.get_text().isdigit()]
    assert sorted(int(text.get_text()) for text in ids) == list(range(geometry.N_SIPM, geometry.N_SENSORS))
    for text in ids[::37]:
        np.testing.assert_allclose(text.get_position(), geometry_pictures.places()[int(text.get_text())])
    assert "outer: 4092-4307, 4742-4759" in texts(figure)


def test_the_fine_grid_has_every_outer_sensor_with_its_cells() -> None:
    figure = geometry_pictures.fine_grid()
    assert sorted(map(int, texts(figure))) == geometry.face_sensors("outer").tolist()
    cells = [
        p.get_width() * p.get_height() for p in figure.axes[0].patches if isinstance(p, Rectangle) and p.get_fill()
    ]
    assert sorted(set(cells)) == [6, 15]
    assert sum(cells) == 45 * 72


def test_the_six_directions_point_to_the_neighbours() -> None:
    figure = geometry_pictures.hexagons()
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert [label.partition(": ")[2] for label in labels] == list(geometry_pictures.DIRECTIONS)
    arrows = [text for text in figure.axes[0].texts if isinstance(text, Annotation)]
    ways = np.array([np.subtract(arrow.xy, arrow.get_position()) for arrow in arrows])
    np.testing.assert_allclose(np.hypot(*ways.T), [6.12, 6.12, *[7.56] * 4], atol=0.01)
    # as the names say: -z and +z in turn; then inwards and outwards
    assert np.sign(ways[:, 0]).tolist() == [-1, 1, -1, 1, -1, 1]
    assert np.sign(np.round(ways[:, 1], 6)).tolist() == [0, 0, -1, -1, 1, 1]


@pytest.mark.slow
def test_pictures_are_written_for_print_and_for_a_browser(tmp_path: Path) -> None:
    for name in ("g.pdf", "g.html"):
        assert write_geometry(tmp_path / name) == 6
    assert (tmp_path / "g.pdf").read_bytes().startswith(b"%PDF")
    text = (tmp_path / "g.html").read_text(encoding="utf-8")
    assert (tmp_path / "g.html").stat().st_size < 10e6
    assert text.count("<svg") == 6
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", text)
    # what one picture refers to is its own
    for part in text.split("<svg")[1:]:
        asked = set(re.findall(r"""(?:url\(|href=")#([^")]+)""", part))
        assert asked
        assert asked <= set(re.findall(r'id="([^"]+)"', part))
        assert all(text.count(f'id="{name}"') == 1 for name in asked)
    with browser(tmp_path / "profile") as chromium:
        chromium.size(1400, 900)
        chromium.open(tmp_path / "g.html")
        chromium.until("window.page && page.views[1].pictures > 0")
        x, y = chromium.run(
            "(() => { const v = page.views[0], b = v.canvas.getBoundingClientRect(), [x, y] = v.place(4747); "
            "return [b.left + v.canvas.clientLeft + x, b.top + v.canvas.clientTop + y]; })()"
        )
        chromium.mouse("moved", x, y)
        said = chromium.run("document.getElementById('readout').textContent")
        place = ", ".join(f"{value:.2f}" for value in geometry.positions()[4747])
        assert said.startswith(f"sensor 4747 (outer, PMT): x, y, z = {place} cm")
        assert chromium.said == []
        assert chromium.asked == []
