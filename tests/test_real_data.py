"""Numbers of data without truth: drift by run, patterns on the inner face, lines and edges, periods."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.data_tables import FIRST_RUN, data_table
from xecml import geometry
from xecml.errors import InputError
from xecml.evaluation.inner_face import HALF_U, face_map, patches
from xecml.evaluation.periods import Period, parse_periods
from xecml.evaluation.real_data import Asked, measure
from xecml.evaluation.spectra import RECONSTRUCTION, features
from xecml.evaluation.stability import by_run, in_order, trend
from xecml.evaluation.tables import find_column
from xecml.inference.prediction_columns import reconstructed_columns


def test_a_drift_from_run_to_run_is_seen_and_its_absence_too() -> None:
    steady, drifting = (data_table(6000, seed=3, drift=drift) for drift in (0.0, -0.004))
    found = {name: trend(t, "energy_relative", by_run(t), "reco") for name, t in (("s", steady), ("d", drifting))}
    assert found["s"].first.tolist() == list(range(FIRST_RUN, FIRST_RUN + 6))
    assert found["s"].chance > 1e-3
    assert found["d"].chance < 1e-12
    steps = np.diff(found["d"].median)
    np.testing.assert_allclose(steps, -0.4, atol=4 * np.sqrt(2) * found["d"].median_error.max())
    # 1.25 sigma / sqrt(n) for a Gaussian, and tails besides
    expected = 1.25 * found["s"].s68 / np.sqrt(found["s"].n)
    np.testing.assert_allclose(found["s"].median_error, expected, rtol=0.35)
    assert found["s"].n.sum() == 6000


def test_runs_with_few_events_are_taken_with_their_neighbours() -> None:
    table = {"run": np.repeat([1, 2, 3, 7, 9], [50, 5, 40, 30, 4]), "event": np.arange(129)}
    groups = by_run(table)
    assert (groups.first.tolist(), groups.last.tolist()) == ([1, 2, 7], [1, 3, 9])
    np.testing.assert_array_equal(np.bincount(groups.of), [50, 45, 34])
    many = {"run": np.repeat(np.arange(500), 30), "event": np.arange(15000)}
    assert len(by_run(many).first) <= 60
    assert np.bincount(by_run(many).of).min() >= 150
    alone = by_run({"run": np.zeros(7, int), "event": np.arange(7)})
    assert (alone.first.tolist(), alone.of.tolist()) == ([0], [0] * 7)


def test_groups_in_order_go_by_run_and_event_number() -> None:
    table = {"run": np.array([2, 1, 1, 2] * 40), "event": np.arange(160)[::-1]}
    groups = in_order(table, most=4)
    np.testing.assert_array_equal(np.bincount(groups.of), [40] * 4)
    assert set(table["run"][groups.of < 2]) == {1}
    assert table["event"][groups.of == 0].max() < table["event"][groups.of == 1].min()
    assert (groups.first[0], groups.last[-1]) == (0, 159)


def test_a_tilt_over_the_inner_face_is_seen() -> None:
    table = data_table(8000, seed=4)
    grid = patches(table, "reco", 100)
    assert grid.number == 48
    found = face_map(table, "energy_relative", grid, "reco")
    centres = (found.u[1:] + found.u[:-1]) / 2
    slope = np.polyfit(centres, found.median.mean(0), 1)[0]
    assert slope == pytest.approx(0.02, abs=0.006)
    assert found.n.sum() == 8000
    row, column = np.divmod(grid.of, grid.shape[1])
    inside = (table["reco_u"] >= grid.u[column]) & (table["reco_u"] < grid.u[column + 1])
    assert inside.all()
    assert (np.abs(grid.v[row] + 0.5 * np.diff(grid.v)[0] - table["reco_v"]) <= 0.5 * np.diff(grid.v)[0]).all()
    beside = table | {"reco_u": np.full(8000, HALF_U + 1)}
    assert (patches(beside, "reco", 100).of == -1).all()
    nowhere = {k: v for k, v in table.items() if not k.endswith(("_u", "_v"))}
    assert patches(nowhere, "reco", 100).number == 1


def test_lines_give_scale_and_resolution_by_patch() -> None:
    table = data_table(7000, seed=5, kind="lines")
    data = measure({"net": table}, Asked(lines=(82.9, 54.9)), "reco")
    whole = {(s.feature.energy, s.predictor): s for s in data.spectra}
    assert list(whole) == [(54.9, "net"), (54.9, RECONSTRUCTION), (82.9, "net"), (82.9, RECONSTRUCTION)]
    for (energy, name), one in whole.items():
        s = one.whole
        assert s.energy == pytest.approx(energy, abs=4 * float(s.energy_error)), name
        assert s.resolution == pytest.approx(0.02 if name == "net" else 0.018, abs=5 * float(s.resolution_error))
        assert 0 < s.resolution_error < 0.001
    one = whole[82.9, "net"]
    assert one.by_patch is not None
    assert one.by_patch.energy.shape == (3, 2)
    assert np.nansum(one.by_patch.n) <= float(one.whole.n) * 1.05
    # the predicted energy grows by 0.02 % a cm of u, the patches are 23.9 cm apart
    tilt = one.by_patch.scale[:, 1].mean() - one.by_patch.scale[:, 0].mean()
    assert tilt == pytest.approx(0.0048, abs=4 * np.sqrt((one.by_patch.scale_error**2).sum()) / 3)
    text = json.dumps(data.as_dict(), allow_nan=False)
    spectrum = json.loads(text)["spectra"][0]
    assert {"resolution_error", "scale_error", "u_cm"} <= spectrum["by_patch"].keys()
    assert spectrum["unit"] == "MeV"


def test_periods_have_their_own_residuals_and_spectra() -> None:
    tables = {"net": data_table(5000, seed=6, drift=-0.004), "other": data_table(5000, seed=6)}
    periods = parse_periods("before=430000-430002, 430003-430005")
    data = measure(tables, Asked(edges=(52.83,), periods=periods), "reco")
    assert data.by_period.keys() == data.by_run.keys()
    net, other = (data.by_period["energy_relative"][name] for name in ("net", "other"))
    fall = net["430003-430005"].median - net["before"].median
    assert fall == pytest.approx(-1.2, abs=0.3)
    assert abs(other["430003-430005"].median - other["before"].median) < 0.3
    assert sum(r.n for r in net.values()) == 5000
    samples = {(s.predictor, s.sample): s.whole for s in data.spectra}
    assert len(samples) == 9
    edge = {sample: samples["net", sample] for sample in ("before", "430003-430005")}
    fall = edge["430003-430005"].scale - edge["before"].scale
    error = np.hypot(*(float(s.scale_error) for s in edge.values()))
    assert fall == pytest.approx(-0.012, abs=4 * error)
    assert error < 0.006
    titles = [title for title, *_ in data.tables_to_read()]
    assert titles == ["Stability by run", "Lines and edges", "Periods"]
    stability = {(row[0], row[1]): row for row in data.tables_to_read()[0][2]}
    assert stability["energy / truth", "net"][-1].endswith("drifts")
    assert not stability["energy / truth", "other"][-1].endswith("drifts")
    json.dumps(data.as_dict(), allow_nan=False)


def test_the_direction_of_a_reconstruction_is_from_the_vertex_to_the_first_interaction() -> None:
    uvw = np.array([[1.0, 20.0, 3.0], [-5.0, -40.0, 12.0], [0.0, 0.0, 1e10], [0.0, 1.0, 2.0]], np.float32)
    vertex = np.array([[0.1, 0.2, -3.0], [0.0, 0.0, 4.0], [0.0, 0.0, 0.0], [1e10, 1e10, 1e10]], np.float32)
    columns = reconstructed_columns({"uvwRecoFI": uvw, "xyzVTX": vertex})
    line = geometry.xyz_from_uvw(uvw[:2]) - vertex[:2]
    expected = geometry.angles_from_direction(line / np.linalg.norm(line, axis=1, keepdims=True))
    found = np.stack([find_column(columns, "reco_theta"), find_column(columns, "reco_phi")], 1)
    np.testing.assert_allclose(found[:2], expected, atol=2e-5)
    assert np.isnan(found[2:]).all()
    assert reconstructed_columns({"uvwRecoFI": uvw}).keys() == {"reco_u", "reco_v", "reco_w"}


def test_few_events_and_few_columns_are_no_alarm() -> None:
    table = {name: values[:9] for name, values in data_table(40, seed=7).items()}
    data = measure({"net": table}, Asked(lines=(54.9,), edges=(17.6,)), "reco")
    assert all(s.fit is None for s in data.spectra)
    assert data.by_run["u"]["net"].free == 0
    assert "no fit" in str(data.tables_to_read())
    json.dumps(data.as_dict(), allow_nan=False)
    alone = {name: table[name] for name in ("run", "event", "pred_u", "reco_u")}
    only = measure({"net": alone}, Asked(lines=(54.9,)), "reco")
    assert (only.quantities, only.spectra) == (["u"], [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("430000:100", "'430000:100' is no range of runs"),
        ("430005-430000", "'430005-430000' is no range"),
        ("1-2 3-99999999999", "is no range of runs"),
        (" , ", "There is no period"),
        ("a=1-2 a=3-4", "Two periods have the same name"),
        ("1 2 3 4 5 6", "6 periods are more than a picture can show"),
    ],
)
def test_periods_that_are_none_are_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_periods(text)


def test_periods_are_read() -> None:
    assert parse_periods("7 before=1-5") == (Period("7", 7, 7), Period("before", 1, 5))
    with pytest.raises(InputError, match=r"No event of x\.root is of the runs 1-5; its runs are 430000-430005"):
        measure({"net": data_table(60)}, Asked(periods=parse_periods("1-5")), "reco", "x.root")


@pytest.mark.parametrize(
    ("lines", "edges", "said"),
    [
        ((float("nan"),), (), "A line or an edge cannot be at nan MeV"),
        ((0.0529,), (), "give its energy in MeV, between 1 and 1000"),
        ((54.9,), (52.83,), "edge at 52.83 MeV and the line of 54.9 MeV cannot be told apart"),
        ((52.8, 54.9), (), "evaluate the files of each one separately"),
    ],
)
def test_features_that_cannot_be_are_refused(lines: tuple[float, ...], edges: tuple[float, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Asked(lines, edges)


def test_features_come_in_ascending_order() -> None:
    assert [one.label for one in features([82.9, 17.6], [52.83])] == [
        "line of 17.6 MeV", "edge at 52.83 MeV", "line of 82.9 MeV",
    ]  # fmt: skip
