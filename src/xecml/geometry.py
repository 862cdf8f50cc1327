"""The 4760 photosensors of the MEG II liquid-xenon detector, from formulas.

Lengths are in cm and angles in degrees throughout. The calorimeter lies at x < 0; the azimuth of a sensor is
atan2(y, x), around 180 degrees. Faces are coded 0 inner (4092 SiPMs), 1 upstream, 2 downstream, 3 outer, 4 top,
5 bottom (668 PMTs). Everything returned is read-only; copy before writing. This module needs numpy alone.
"""

from __future__ import annotations

import hashlib
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.errors import InputError
from xecml.files import regular_file

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_Array = TypeVar("_Array", bound=NDArray[Any])

N_SENSORS = 4760
N_SIPM = 4092
FACES = ("inner", "us", "ds", "outer", "top", "bottom")

INNER_RADIUS = 64.970
OUTER_RADIUS = 106.270
# the active xenon: opening of half this angle, and half lengths that grow linearly with the radius
HALF_OPENING_DEG = 62.76
HALF_LENGTH_INNER = 33.5
HALF_LENGTH_OUTER = 48.0
END_SLOPE = (HALF_LENGTH_OUTER - HALF_LENGTH_INNER) / (OUTER_RADIUS - INNER_RADIUS)
FIDUCIAL_U = 23.9
FIDUCIAL_V = 67.9

# a SiPM is four chips of 5.90 mm; the equivalent square of the same area serves fits
SIPM_AREA = 1.392
PMT_RADIUS = 2.25

_INNER_SHAPE = (93, 44)
_INNER_PHI = 117.915
_INNER_Z = 32.4601
_OUTER_SHAPE = (24, 9)
_OUTER_PHI = 119.855
_OUTER_Z = 41.424
_CENTRE_PHI = 171.283
_CENTRE_Z = 12.4
_END_SHAPE = (24, 6)
_END_RADIUS, _END_RADIUS_PITCH = 69.530, 6.684
_END_Z, _END_Z_PITCH = 35.155, 2.337
_END_NORMAL_SLOPE = 0.3507
_HEX_ROWS = (11, 12, 11, 12, 13, 14)
_HEX_PHI = 117.24
_HEX_RADIUS, _HEX_RADIUS_PITCH = 68.27, 6.91
_HEX_Z_PITCH = 6.12

# rows = phi, columns = z; twelve sensors of the coarse numbering stand on this finer lattice
_OUTER_CENTRE = (
    (4185, 4742, 4186, 4743, 4187),
    (4744, 4745, 4746, 4747, 4748),
    (4194, 4749, 4195, 4750, 4196),
    (4203, 4751, 4204, 4752, 4205),
    (4753, 4754, 4755, 4756, 4757),
    (4212, 4758, 4213, 4759, 4214),
)
FINE_SHAPE = (45, 72)
_FINE_CENTRE = (slice(15, 30), slice(30, 42))


def _fixed(array: _Array) -> _Array:
    array.setflags(write=False)
    return array


# ---------------------------------------------------------------------------------------------- index maps


@cache
def inner_map() -> Ints:
    """Sensor ids of the inner face, (93 phi, 44 z); row 0 is the top end (y > 0), column 0 the upstream end."""
    return _fixed(np.arange(N_SIPM).reshape(_INNER_SHAPE))


@cache
def outer_coarse_map() -> Ints:
    """Sensor ids of the coarse outer lattice, (9 z, 24 phi), the twelve displaced ones included."""
    return _fixed(np.arange(4092, 4308).reshape(_OUTER_SHAPE).T.copy())


@cache
def outer_centre_map() -> Ints:
    """Sensor ids of the finer lattice at the centre of the outer face, (5 z, 6 phi)."""
    return _fixed(np.array(_OUTER_CENTRE).T.copy())


@cache
def us_map() -> Ints:
    """Sensor ids of the upstream face, (24 phi, 6 r)."""
    return _fixed(np.arange(4308, 4452).reshape(_END_SHAPE))


@cache
def ds_map() -> Ints:
    """Sensor ids of the downstream face, (24 phi, 6 r)."""
    return _fixed(np.arange(4452, 4596).reshape(_END_SHAPE))


def _hex_rows(first: int) -> tuple[Ints, ...]:
    edges = np.cumsum((0, *_HEX_ROWS))
    return tuple(_fixed(np.arange(first + a, first + b)) for a, b in pairwise(edges))


@cache
def top_rows() -> tuple[Ints, ...]:
    """Sensor ids of the top face: six rows of 11, 12, 11, 12, 13, 14 from the inner radius outwards."""
    return _hex_rows(4596)


@cache
def bottom_rows() -> tuple[Ints, ...]:
    """Sensor ids of the bottom face, in the same rows and order as the top."""
    return _hex_rows(4669)


@cache
def face_codes() -> NDArray[np.int8]:
    """Face code of every sensor, (4760,)."""
    codes = np.zeros(N_SENSORS, np.int8)
    codes[4092:4308] = 3
    codes[4308:4452] = 1
    codes[4452:4596] = 2
    codes[4596:4669] = 4
    codes[4669:4742] = 5
    codes[4742:] = 3
    return _fixed(codes)


def face_sensors(face: str | int) -> Ints:
    """Sensor ids of a face (name or code), ascending."""
    code = FACES.index(face) if isinstance(face, str) else face
    return np.flatnonzero(face_codes() == code)


# ------------------------------------------------------------------------------------- positions and normals


def _cylinder(phi_deg: ArrayLike, r: ArrayLike, z: ArrayLike) -> Floats:
    """Points (..., 3) in cm at azimuth atan2(y, x), radius and z, broadcast together."""
    phi, radius = np.radians(np.asarray(phi_deg)), np.asarray(r)
    return np.stack(np.broadcast_arrays(radius * np.cos(phi), radius * np.sin(phi), z), axis=-1)


def _hex_half_pitches() -> tuple[Ints, Ints]:
    """Row and z in half pitches of the 73 nodes of a hexagonal face, each row centred on z = 0."""
    rows = np.repeat(np.arange(len(_HEX_ROWS)), _HEX_ROWS)
    a = np.concatenate([2 * np.arange(n) - (n - 1) for n in _HEX_ROWS])
    return rows, a


@cache
def _ideal_positions() -> Floats:
    xyz = np.empty((N_SENSORS, 3))
    phi = np.linspace(_INNER_PHI, 360 - _INNER_PHI, _INNER_SHAPE[0])[:, None]
    xyz[inner_map()] = _cylinder(phi, INNER_RADIUS, np.linspace(-_INNER_Z, _INNER_Z, _INNER_SHAPE[1]))
    phi_outer = np.linspace(_OUTER_PHI, 360 - _OUTER_PHI, _OUTER_SHAPE[0])
    z_outer = np.linspace(-_OUTER_Z, _OUTER_Z, _OUTER_SHAPE[1])[:, None]
    xyz[outer_coarse_map()] = _cylinder(phi_outer, OUTER_RADIUS, z_outer)
    # after the coarse lattice: twelve of its sensors stand here instead
    phi_centre = np.linspace(_CENTRE_PHI, 360 - _CENTRE_PHI, 6)
    z_centre = np.linspace(-_CENTRE_Z, _CENTRE_Z, 5)[:, None]
    xyz[outer_centre_map()] = _cylinder(phi_centre, OUTER_RADIUS, z_centre)
    column = np.arange(_END_SHAPE[1])
    r_end = _END_RADIUS + _END_RADIUS_PITCH * column
    z_end = _END_Z + _END_Z_PITCH * column
    xyz[us_map()] = _cylinder(phi_outer[:, None], r_end, -z_end)
    xyz[ds_map()] = _cylinder(phi_outer[:, None], r_end, z_end)
    rows, a = _hex_half_pitches()
    r_hex, z_hex = _HEX_RADIUS + _HEX_RADIUS_PITCH * rows, a * _HEX_Z_PITCH / 2
    xyz[np.concatenate(top_rows())] = _cylinder(np.array(_HEX_PHI), r_hex, z_hex)
    xyz[np.concatenate(bottom_rows())] = _cylinder(np.array(360 - _HEX_PHI), r_hex, z_hex)
    return _fixed(xyz)


def positions(survey: str | Path | None = None) -> Floats:
    """Sensor positions (4760, 3) in cm: the ideal lattice, or a surveyed table in its place.

    Args:
        survey: a text file of lines `id x y z` in cm, # for comments, each of the 4760 ids once.

    Raises:
        InputError: the table is missing, incomplete, or more than 2 cm off the ideal lattice.
    """
    return _ideal_positions() if survey is None else _read_survey(Path(survey))


def _read_survey(path: Path) -> Floats:
    regular_file(path, "sensor table")
    try:
        table = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(
            f"Cannot read the sensor table {path} ({error}); check the path and its lines 'id x y z'."
        ) from error
    if table.shape != (N_SENSORS, 4):
        raise InputError(f"{path} has shape {table.shape}; it needs {N_SENSORS} lines of 'id x y z'.")
    ids = table[:, 0]
    if not np.array_equal(np.sort(ids), np.arange(N_SENSORS)):
        raise InputError(f"{path} must hold each sensor id from 0 to {N_SENSORS - 1} exactly once; correct the table.")
    xyz = np.empty((N_SENSORS, 3))
    xyz[ids.astype(np.int64)] = table[:, 1:]
    off = np.linalg.norm(xyz - _ideal_positions(), axis=1)
    if not np.all(off < 2.0):
        worst = int(np.argmax(np.nan_to_num(off, nan=np.inf)))
        raise InputError(
            f"{path} places sensor {worst} {off[worst]:.1f} cm from its ideal position; give a table in cm for this "
            "detector."
        )
    return _fixed(xyz)


def normals(xyz: Floats | None = None) -> Floats:
    """Outward unit normals (4760, 3) of the sensors: they point into the xenon."""
    where = _ideal_positions() if xyz is None else xyz
    phi = np.arctan2(where[:, 1], where[:, 0])
    radial = np.stack([np.cos(phi), np.sin(phi), np.zeros_like(phi)], axis=1)
    z = np.array([0.0, 0.0, 1.0])
    face = face_codes()
    normal = np.where((face == 0)[:, None], radial, -radial)
    for code, sign in ((1, 1.0), (2, -1.0)):
        tapered = sign * z + _END_NORMAL_SLOPE * radial[face == code]
        normal[face == code] = tapered / np.hypot(1.0, _END_NORMAL_SLOPE)
    plane = np.radians(_HEX_PHI)
    normal[face == 4] = (-np.sin(plane), np.cos(plane), 0.0)
    normal[face == 5] = (-np.sin(plane), -np.cos(plane), 0.0)
    return _fixed(normal)


# --------------------------------------------------------------------------------------- hexagonal neighbours


@cache
def hex_neighbours() -> Ints:
    """Neighbour table (73, 7) of a hexagonal face: self, then the six directions, -1 where there is none.

    Directions: in-row -z, +z; inner row -z, +z; outer row -z, +z. Indices count the 73 nodes of one face in the
    order of its rows, so a kernel weight belongs to a direction and never to a parity of rows.
    """
    rows, a = _hex_half_pitches()
    node = {(int(r), int(p)): i for i, (r, p) in enumerate(zip(rows, a, strict=True))}
    steps = ((0, 0), (0, -2), (0, 2), (-1, -1), (-1, 1), (1, -1), (1, 1))
    table = [[node.get((r + dr, p + dp), -1) for dr, dp in steps] for r, p in node]
    return _fixed(np.array(table))


# -------------------------------------------------------------------------------------- the outer face as a grid


@cache
def outer_fine_ids() -> Ints:
    """Sensor id under each cell of the outer fine grid, (45 z, 72 phi)."""
    ids = outer_coarse_map().repeat(5, axis=0).repeat(3, axis=1)
    ids[_FINE_CENTRE] = outer_centre_map().repeat(3, axis=0).repeat(2, axis=1)
    return _fixed(ids)


@cache
def outer_fine_shares() -> Floats:
    """Share of its sensor's count that each cell of the fine grid receives, (45, 72): 1/15, at the centre 1/6."""
    share = np.full(FINE_SHAPE, 1 / 15)
    share[_FINE_CENTRE] = 1 / 6
    return _fixed(share)


def outer_fine_grid(npho: ArrayLike, time: ArrayLike, valid: ArrayLike) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Spread the outer face's 234 sensors over one grid of equal cells.

    Counts are extensive: a sensor's count is shared over its cells, so that the sum over the grid is the sum over
    the valid sensors. Times are copied. Cells of invalid sensors get count 0, time 0, validity false.

    Args:
        npho: counts (..., 4760), before any logarithm.
        time: times (..., 4760).
        valid: validity (..., 4760).

    Returns:
        Counts, times and validity, each (..., 45 z, 72 phi).
    """
    ids = outer_fine_ids()
    ok = np.asarray(valid, bool)[..., ids]
    counts = np.where(ok, np.asarray(npho)[..., ids] * outer_fine_shares(), 0.0)
    times = np.where(ok, np.asarray(time)[..., ids], 0.0)
    return counts, times, ok


def pool_fine_grid(
    counts: Floats, times: Floats, valid: NDArray[np.bool_], pool: tuple[int, int] = (3, 3)
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Pool a fine grid (..., 45, 72): counts are summed, times averaged over valid cells only.

    Raises:
        InputError: the pool does not divide the grid.
    """
    rows, columns = FINE_SHAPE
    if rows % pool[0] or columns % pool[1]:
        raise InputError(
            f"outer_fine_pool {list(pool)} does not divide the fine grid {list(FINE_SHAPE)}; choose divisors, such as "
            "[3, 3]."
        )
    split = (*counts.shape[:-2], rows // pool[0], pool[0], columns // pool[1], pool[1])
    cells = valid.reshape(split).sum((-3, -1))
    time_sum = np.where(valid, times, 0.0).reshape(split).sum((-3, -1))
    return counts.reshape(split).sum((-3, -1)), time_sum / np.maximum(cells, 1), cells > 0


# ------------------------------------------------------------------------------------------ frames and directions


def uvw_from_xyz(xyz: ArrayLike) -> Floats:
    """Local frame (..., 3) in cm from (x, y, z): u = z, v = R atan2(y, -x), w = r - R with R = 64.970."""
    p = np.asarray(xyz, np.float64)
    x, y, z = p[..., 0], p[..., 1], p[..., 2]
    return np.stack([z, INNER_RADIUS * np.arctan2(y, -x), np.hypot(x, y) - INNER_RADIUS], axis=-1)


def xyz_from_uvw(uvw: ArrayLike) -> Floats:
    """Inverse of `uvw_from_xyz`, (..., 3) in cm."""
    p = np.asarray(uvw, np.float64)
    u, v, w = p[..., 0], p[..., 1], p[..., 2]
    angle, r = v / INNER_RADIUS, w + INNER_RADIUS
    return np.stack([-r * np.cos(angle), r * np.sin(angle), u], axis=-1)


def direction_from_angles(angles: ArrayLike) -> Floats:
    """Unit vectors (..., 3) from (theta, phi) in degrees; (90, 0) points to the middle of the calorimeter."""
    theta, phi = np.moveaxis(np.radians(np.asarray(angles, np.float64)), -1, 0)
    s = np.sin(theta)
    return np.stack([-s * np.cos(phi), s * np.sin(phi), np.cos(theta)], axis=-1)


def angles_from_direction(vector: ArrayLike) -> Floats:
    """Theta (from +z) and phi = atan2(v_y, -v_x) in degrees, (..., 2), of vectors (..., 3) of any length."""
    v = np.asarray(vector, np.float64)
    theta = np.arctan2(np.hypot(v[..., 0], v[..., 1]), v[..., 2])
    return np.asarray(np.degrees(np.stack([theta, np.arctan2(v[..., 1], -v[..., 0])], axis=-1)))


def opening_angle(a: ArrayLike, b: ArrayLike) -> Floats:
    """Angle in degrees between directions given as vectors (..., 3) or as (theta, phi) in degrees (..., 2)."""
    one, two = (_unit(np.asarray(p, np.float64)) for p in (a, b))
    return np.asarray(np.degrees(np.arccos(np.clip(np.sum(one * two, axis=-1), -1.0, 1.0))))


def _unit(direction: Floats) -> Floats:
    if direction.shape[-1] == 2:
        return direction_from_angles(direction)
    return np.asarray(direction / np.linalg.norm(direction, axis=-1, keepdims=True))


def half_length(r: ArrayLike) -> Floats:
    """Half length in z (cm) of the active xenon at radius r (cm)."""
    return np.asarray(HALF_LENGTH_INNER + END_SLOPE * (np.asarray(r, np.float64) - INNER_RADIUS))


def is_active(xyz: ArrayLike) -> NDArray[np.bool_]:
    """Whether points (..., 3) in cm lie in the active xenon."""
    u, v, w = np.moveaxis(uvw_from_xyz(xyz), -1, 0)
    inside_r = (w > 0) & (w < OUTER_RADIUS - INNER_RADIUS)
    inside_phi = np.abs(v) < INNER_RADIUS * np.radians(HALF_OPENING_DEG)
    return np.asarray(inside_r & inside_phi & (np.abs(u) < half_length(w + INNER_RADIUS)))


def is_fiducial(uvw: ArrayLike) -> NDArray[np.bool_]:
    """Whether first interactions (..., 3) in local coordinates (cm) are in the acceptance."""
    u, v, w = np.moveaxis(np.asarray(uvw, np.float64), -1, 0)
    return np.asarray((np.abs(u) < FIDUCIAL_U) & (np.abs(v) < FIDUCIAL_V) & (w >= 0))


@cache
def geometry_hash(survey: str | Path | None = None) -> str:
    """Hash (16 hex digits) of positions to 0.01 mm, normals, faces, index maps and neighbours."""
    xyz = positions(survey)
    digest = hashlib.sha256()
    # + 0.0 turns -0.0 into 0.0, which differ in their bytes
    for values, scale in ((xyz, 1e3), (normals(xyz), 1e4)):
        digest.update((np.round(values * scale) + 0.0).astype("<i8").tobytes())
    maps = (inner_map(), outer_fine_ids(), us_map(), ds_map(), *top_rows(), *bottom_rows(), hex_neighbours())
    for table in (face_codes().astype(np.int64), *maps):
        digest.update(table.astype("<i8").tobytes())
    return digest.hexdigest()[:16]
