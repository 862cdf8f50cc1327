"""Geometry against the table, against written values, and against itself."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xecml import geometry as g
from xecml.errors import InputError

TABLE = Path(__file__).parent / "data" / "sensor_positions.txt"

# a few lines of the ideal table, cm: corners of the inner face, coarse and displaced outer, ends, hexagons
WRITTEN = {
    0: (-30.4163, 57.4104, -32.4601),
    1: (-30.4163, 57.4104, -30.9503),
    4757: (-105.828, -9.68694, 12.4),
    4758: (-105.043, -16.105, -6.2),
    4759: (-105.043, -16.105, 6.2),
}


def test_positions_equal_written_values() -> None:
    for sensor, xyz in WRITTEN.items():
        np.testing.assert_allclose(g.positions()[sensor], xyz, atol=0.001)


def test_positions_equal_the_table() -> None:
    lines = TABLE.read_text().splitlines()
    rows, columns, others = (np.loadtxt([x for x in lines if len(x.split()) == n], comments="#") for n in (2, 1, 4))
    assert (rows.shape, columns.shape, others.shape) == ((93, 2), (44,), (668, 4))
    np.testing.assert_array_equal(others[:, 0], np.arange(4092, g.N_SENSORS))
    inner = np.concatenate([np.repeat(rows, 44, axis=0), np.tile(columns, 93)[:, None]], axis=1)
    table = np.concatenate([inner, others[:, 1:]])
    assert np.abs(g.positions() - table).max() < 0.01


def test_spacings_are_those_of_the_detector() -> None:
    p = g.positions()
    inner = p[g.inner_map()]
    np.testing.assert_allclose(np.diff(inner[..., 2], axis=1), 1.5098, atol=2e-4)
    v = g.uvw_from_xyz(inner)[..., 1]
    np.testing.assert_allclose(np.diff(v, axis=0), -1.53046, atol=2e-5)
    np.testing.assert_allclose(np.hypot(p[4092:4308, 0], p[4092:4308, 1]), 106.27)
    np.testing.assert_allclose(p[g.us_map()][:, 5, 2], -(35.155 + 5 * 2.337))
    np.testing.assert_allclose(p[g.ds_map()] * [1, 1, -1], p[g.us_map()])
    np.testing.assert_allclose(p[4669:4742], p[4596:4669] * [1, -1, 1])


def test_detector_is_symmetric() -> None:
    """Mirrored in z and in y, the set of sensors is the same set, face by face (us and ds, top and bottom swapped)."""
    p = g.positions()
    for axis, swapped in ((2, (0, 2, 1, 3, 4, 5)), (1, (0, 1, 2, 3, 5, 4))):
        mirrored = p * np.where(np.arange(3) == axis, -1, 1)
        for code in range(6):
            one = np.round(mirrored[g.face_codes() == code], 6) + 0.0
            other = np.round(p[g.face_codes() == swapped[code]], 6) + 0.0
            assert set(map(tuple, one)) == set(map(tuple, other))


def test_faces_hold_the_right_numbers_of_sensors() -> None:
    assert np.bincount(g.face_codes()).tolist() == [4092, 144, 144, 234, 73, 73]
    assert [len(g.face_sensors(f)) for f in g.FACES] == [4092, 144, 144, 234, 73, 73]
    assert [len(r) for r in g.top_rows()] == [11, 12, 11, 12, 13, 14]
    together = np.concatenate(
        [
            g.inner_map().ravel(),
            g.us_map().ravel(),
            g.ds_map().ravel(),
            np.unique(g.outer_fine_ids()),
            *g.top_rows(),
            *g.bottom_rows(),
        ]
    )
    np.testing.assert_array_equal(np.sort(together), np.arange(4760))


def test_normals_are_unit_and_point_into_the_xenon() -> None:
    n = g.normals()
    np.testing.assert_allclose(np.linalg.norm(n, axis=1), 1)
    assert g.is_active(g.positions() + 2.0 * n)[g.face_codes() != 0].mean() > 0.99
    assert g.is_active(g.positions() + 0.5 * n).all()
    phi = np.radians(119.855)
    np.testing.assert_allclose(n[4308] * np.hypot(1, 0.3507), [0.3507 * np.cos(phi), 0.3507 * np.sin(phi), 1])
    sixty = np.radians(117.24)
    np.testing.assert_allclose(n[4600], [-np.sin(sixty), np.cos(sixty), 0])
    assert n[4308, 2] > 0.9
    assert n[4452, 2] < -0.9


def test_hexagonal_neighbours_are_the_pairs_closer_than_8_cm() -> None:
    table = g.hex_neighbours()
    assert table.shape == (73, 7)
    assert (table[:, 1:] >= 0).sum() == 366
    np.testing.assert_array_equal(table[:, 0], np.arange(73))
    p = g.positions()[4596:4669]
    distance = np.linalg.norm(p[:, None] - p, axis=2)
    linked = np.zeros((73, 73), bool)
    for node, row in enumerate(table):
        linked[node, row[1:][row[1:] >= 0]] = True
    np.testing.assert_array_equal(linked, (distance < 8) & (distance > 0))


def test_hexagonal_directions_mean_what_they_say() -> None:
    """In-row -z, +z at 6.12 cm; inner row -z, +z; outer row -z, +z at 7.56 cm: in every row, whatever its parity."""
    p = g.positions()[4596:4669]
    r, z = np.hypot(p[:, 0], p[:, 1]), p[:, 2]
    wanted = [(0, -6.12), (0, 6.12), (-6.91, -3.06), (-6.91, 3.06), (6.91, -3.06), (6.91, 3.06)]
    for direction, (dr, dz) in enumerate(wanted, 1):
        other = g.hex_neighbours()[:, direction]
        here = other >= 0
        np.testing.assert_allclose(r[other[here]] - r[here], dr, atol=1e-9)
        np.testing.assert_allclose(z[other[here]] - z[here], dz, atol=1e-9)


def test_outer_maps_are_as_drawn() -> None:
    assert g.outer_centre_map().shape == (5, 6)
    assert g.outer_centre_map()[:, 0].tolist() == [4185, 4742, 4186, 4743, 4187]
    assert g.outer_coarse_map()[3:6, 10].tolist() == [4185, 4186, 4187]
    phi = np.degrees(np.arctan2(*g.positions()[g.outer_centre_map()[0]][:, [1, 0]].T)) % 360
    np.testing.assert_allclose(phi, [171.283, 174.770, 178.257, 181.743, 185.230, 188.717], atol=2e-3)


def test_fine_grid_uses_every_outer_sensor_once() -> None:
    ids, cells = np.unique(g.outer_fine_ids(), return_counts=True)
    np.testing.assert_array_equal(ids, g.face_sensors("outer"))
    share = np.zeros(4760)
    np.add.at(share, g.outer_fine_ids(), g.outer_fine_shares())
    np.testing.assert_allclose(share[ids], 1, rtol=1e-12)
    assert set(cells) == {15, 6}
    assert (cells == 6).sum() == 30


def test_fine_grid_cells_lie_where_their_sensor_is() -> None:
    """The light's centroid on the grid is the sensors' centroid: nothing is scrambled or transposed."""
    z = (np.arange(45) - 22) * 2.0712
    phi = 180 + (np.arange(72) - 35.5) * 5.230 / 3
    p = g.positions()[g.outer_fine_ids()]
    sensor_phi = np.degrees(np.arctan2(p[..., 1], p[..., 0])) % 360
    assert np.abs(p[..., 2] - z[:, None]).max() < 5.5
    assert np.abs(sensor_phi - phi).max() < 3.0


@given(arrays(np.float64, (2, 4760), elements=st.floats(0, 1e6)), st.floats(0, 1))
def test_fine_grid_conserves_counts(npho: np.ndarray, dead: float) -> None:
    valid = np.random.default_rng(0).uniform(size=npho.shape) >= dead
    counts, times, ok = g.outer_fine_grid(npho, npho * 1e-9, valid)
    outer = g.face_sensors("outer")
    np.testing.assert_allclose(counts.sum((1, 2)), np.where(valid, npho, 0)[:, outer].sum(1), rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(ok, valid[:, g.outer_fine_ids()])
    np.testing.assert_array_equal(times[ok], (npho * 1e-9)[:, g.outer_fine_ids()][ok])
    pooled, mean_time, some = g.pool_fine_grid(counts, times, ok)
    assert pooled.shape == (2, 15, 24)
    np.testing.assert_allclose(pooled.sum((1, 2)), counts.sum((1, 2)), rtol=1e-6, atol=1e-12)
    assert (mean_time[~some] == 0).all()


def test_pooled_times_average_valid_cells_only() -> None:
    valid = np.ones(4760, bool)
    valid[g.outer_centre_map()[0, 0]] = False
    counts, times, ok = g.outer_fine_grid(np.ones(4760), np.full(4760, 5.0), valid)
    _, pooled, some = g.pool_fine_grid(counts, times, ok)
    np.testing.assert_array_equal(pooled[some], 5.0)
    with pytest.raises(InputError, match="does not divide"):
        g.pool_fine_grid(counts, times, ok, (4, 3))


points = arrays(np.float64, (5, 3), elements=st.floats(-1, 1)).map(lambda a: a * [33, 70, 20] + [0, 0, 20.5])


@given(points)
def test_local_frame_round_trip(uvw: np.ndarray) -> None:
    np.testing.assert_allclose(g.uvw_from_xyz(g.xyz_from_uvw(uvw)), uvw, atol=1e-9)


angles = arrays(np.float64, (5, 2), elements=st.floats(0, 1)).map(lambda a: a * [178, 358] + [1, -179])


@given(angles)
def test_directions_round_trip(theta_phi: np.ndarray) -> None:
    vector = g.direction_from_angles(theta_phi)
    np.testing.assert_allclose(np.linalg.norm(vector, axis=1), 1)
    np.testing.assert_allclose(g.angles_from_direction(3 * vector), theta_phi, atol=1e-9)


def test_directions_have_the_written_convention() -> None:
    np.testing.assert_allclose(g.direction_from_angles([90, 0]), [-1, 0, 0], atol=1e-15)
    np.testing.assert_allclose(g.direction_from_angles([90, 90]), [0, 1, 0], atol=1e-15)
    np.testing.assert_allclose(g.direction_from_angles([0, 0]), [0, 0, 1], atol=1e-15)
    np.testing.assert_allclose(g.uvw_from_xyz([-64.97, 0, 7]), [7, 0, 0], atol=1e-12)


def test_opening_angle_of_vectors_and_angles() -> None:
    assert g.opening_angle([90.0, 0.0], [90.0, 30.0]) == pytest.approx(30)
    assert g.opening_angle([[1.0, 0, 0]], [[2.0, 0, 0]])[0] == 0
    assert g.opening_angle([0.0, 0, 1], [0.0, 0, -4]) == pytest.approx(180)


def test_active_volume_and_acceptance() -> None:
    inside = g.xyz_from_uvw([[0, 0, 1], [33, 0, 0.1], [47, 0, 41], [0, 71, 5]])
    outside = g.xyz_from_uvw([[0, 0, -0.1], [34, 0, 0.1], [47, 0, 30], [0, 71.5, 5], [0, 0, 41.4]])
    assert g.is_active(inside).all()
    assert not g.is_active(outside).any()
    assert g.is_fiducial([[23.8, -67.8, 0], [24.0, 0, 1], [0, 68, 1], [0, 0, -0.1]]).tolist() == [
        True,
        False,
        False,
        False,
    ]


def test_results_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        g.positions()[0, 0] = 0


def _table(path: Path, xyz: np.ndarray) -> Path:
    np.savetxt(path, np.column_stack([np.arange(len(xyz)), xyz])[::-1], fmt="%d %.5f %.5f %.5f", header="id x y z")
    return path


def test_a_surveyed_table_takes_the_place_of_the_ideal_one(tmp_path: Path) -> None:
    moved = g.positions() + np.array([0.1, 0, 0])
    path = _table(tmp_path / "survey.txt", moved)
    np.testing.assert_allclose(g.positions(path), moved, atol=1e-5)
    assert g.geometry_hash(path) != g.geometry_hash()
    assert len(g.geometry_hash()) == 16


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p[:-1], "needs 4760 lines"),
        (lambda p: p * 10, "give a table in cm for this detector"),
        (lambda p: np.where(np.arange(4760)[:, None] == 7, np.nan, p), "sensor 7"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, spoil: object, message: str) -> None:
    path = _table(tmp_path / "survey.txt", spoil(g.positions()))  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        g.positions(path)
    with pytest.raises(InputError, match="No such sensor table"):
        g.positions(tmp_path / "nothing.txt")


def test_a_table_that_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("pipe", "is a pipe, not a sensor table"),
        ("none", "No such sensor table"),
        ("x" * 300, "too"),
    ):
        with pytest.raises(InputError, match=message):
            g.positions(tmp_path / name)
