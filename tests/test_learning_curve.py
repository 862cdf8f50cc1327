"""The benchmark of the number of training events: its fit, its table, and a tiny run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmark_modules import modules
from xecml.errors import InputError

EVENTS = [25_600, 51_200, 102_400, 204_800, 409_600]


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    with modules(("physics_samples", "whole_training", "learning_curve")) as found:
        yield found["learning_curve"]


@pytest.fixture
def result(bench: Any) -> dict[str, Any]:
    names = [*bench.FIGURES, "core"]
    rows = [
        {
            "preset": "compact",
            "events": n,
            "epochs": 1,
            "seconds": 60.0,
            "widths": dict.fromkeys(names, (2.0 + 10000.0 / n, 0.02)),
        }
        for n in EVENTS
    ]
    own = [row["widths"]["u"] for row in rows]
    fit = bench.fitted(EVENTS, *zip(*own, strict=True))
    other = rows[-1] | {"preset": "large"}
    return {"preset": "compact", "trainings": [*rows, other], "fits": {"u": fit, "v": None}}


@pytest.mark.parametrize(("limit", "scale", "power"), [(2.0, 1.0, 0.5), (2.0, 0.8, 0.3), (0.0, 2.0, 0.2)])
def test_the_fit_finds_the_limit_that_a_curve_has(bench: Any, limit: float, scale: float, power: float) -> None:
    n = np.array(EVENTS, float)
    truth = bench.curve(n / n.max(), limit, scale, power)
    rng, off = np.random.default_rng(1), []
    for _ in range(20):
        fit = bench.fitted(EVENTS, truth + rng.normal(0, 0.002, 5), np.full(5, 0.002))
        off.append((fit["limit"] - limit) / max(fit["limit_error"], 1e-3))
        assert fit["twice"] == pytest.approx(float(bench.curve(np.array([2.0]), limit, scale, power)[0]), rel=0.02)
    assert abs(np.median(off)) < 1.5


def test_few_points_have_no_limit(bench: Any) -> None:
    assert bench.fitted(EVENTS[:3], [3.0, 2.5, 2.2], [0.1, 0.1, 0.1]) is None


def test_table_and_picture_show_every_training(bench: Any, result: dict[str, Any], tmp_path: Path) -> None:
    rows = bench.table(result).splitlines()
    assert len(rows) == 2 + 6 + 2
    assert rows[-3].startswith("| large | 409,600 | 1 | 1 |")
    cells = [cell.strip() for cell in rows[-1].split("|")][5:-1]
    limit, error = (float(x) for x in cells[0].split(" ± "))
    assert limit == pytest.approx(2.0, abs=3 * error)
    assert set(cells[1:]) == {"-"}
    bench.picture(result, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_bad_numbers_of_events_are_refused(bench: Any, tmp_path: Path) -> None:
    for events in ("2000", "2049"):
        options = bench.parser().parse_args(["--events", events, "--out", str(tmp_path)])
        with pytest.raises(InputError, match="multiple of 16"):
            bench.run(options)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.slow
def test_a_tiny_curve_is_made_once(bench: Any, tmp_path: Path) -> None:
    flags = ["--events", "2048", "--passes", "2048", "--test", "256", "--preset", "tiny", "--out", str(tmp_path)]
    bench.run(bench.parser().parse_args(flags))
    result = json.loads((tmp_path / "learning_curve_signal_nominal.json").read_text())
    assert [row["events"] for row in result["trainings"]] == [128, 256, 512, 1024, 2048]
    assert [row["epochs"] for row in result["trainings"]] == [16, 8, 4, 2, 1]
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.root")}
    again = bench.run(bench.parser().parse_args(flags))
    assert json.loads(json.dumps(again)) == result
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.root")} == made
