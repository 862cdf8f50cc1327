"""Indirect light of an event from the light map. Compiled. cm, ns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xecml.compiled import compiled, inner, vectorised
from xecml.simulation.cascade.cross_sections import Floats
from xecml.simulation.light.backward import map_coordinates
from xecml.simulation.light.clusters import Clusters
from xecml.simulation.light.lightmap import LightMap
from xecml.simulation.light.optics import N_SIPM, PHOTONS_PER_MEV, Floats32, Optics

_ROWS, _COLUMNS = 93, 44


@inner
def _node_weights(work: Clusters, n_coarse: int, shape: NDArray[np.int64], nodes: Floats) -> None:
    """Share the photons of each cluster over the eight nodes around it: rows photons, times t, times t^2."""
    f = np.empty(3)
    for k in range(n_coarse):
        x, y, z, t, E = work.coarse[k]
        w = E * PHOTONS_PER_MEV
        c = map_coordinates(x, y, z)
        base = 0
        for a in range(3):
            q = min(max(c[a], 0.0), 1.0) * (shape[a] - 1)
            i = min(int(q), shape[a] - 2)
            f[a] = q - i
            base = base * shape[a] + i
        for corner in range(8):
            node, share = base, w
            if corner & 4:
                node += shape[1] * shape[2]
            if corner & 2:
                node += shape[2]
            if corner & 1:
                node += 1
            share *= f[0] if corner & 4 else 1.0 - f[0]
            share *= f[1] if corner & 2 else 1.0 - f[1]
            share *= f[2] if corner & 1 else 1.0 - f[2]
            nodes[0, node] += share
            nodes[1, node] += share * t
            nodes[2, node] += share * t * t


@vectorised
def _sum_nodes(light_map: LightMap, nodes: Floats, slowness: float, columns: Floats32) -> None:
    """Photons, photons times arrival time and times its square (rows) on every column of the map."""
    light, times, squares = columns[0], columns[1], columns[2]
    for node in range(nodes.shape[1]):
        if nodes[0, node] == 0.0:
            continue
        w, wt, wtt = np.float32(nodes[0, node]), np.float32(nodes[1, node]), np.float32(nodes[2, node])
        wp, wtp = np.float32(nodes[0, node] * slowness), np.float32(2.0 * nodes[1, node] * slowness)
        wpp = np.float32(nodes[0, node] * slowness * slowness)
        share, path, square = light_map.share[node], light_map.path[node], light_map.square[node]
        for c in range(light.shape[0]):
            light[c] += w * share[c]
            times[c] += wt * share[c] + wp * path[c]
            squares[c] += wtt * share[c] + wtp * path[c] + wpp * square[c]


@inner
def _interpolate_inner(light_map: LightMap, columns: Floats32, out: Floats32) -> None:
    """Cubic interpolation from the lattice to the SiPMs, first along z, then along azimuth."""
    n0, n1 = light_map.lattice[0], light_map.lattice[1]
    wide = np.empty((n0, _COLUMNS), np.float32)
    for i in range(n0):
        for j in range(_COLUMNS):
            first = i * n1 + light_map.column_start[j]
            total = np.float32(0.0)
            for k in range(4):
                total += light_map.column_weight[j, k] * columns[first + k]
            wide[i, j] = total
    for row in range(_ROWS):
        first = light_map.row_start[row]
        w = light_map.row_weight[row]
        for j in range(_COLUMNS):
            out[row * _COLUMNS + j] += (
                w[0] * wide[first, j]
                + w[1] * wide[first + 1, j]
                + w[2] * wide[first + 2, j]
                + w[3] * wide[first + 3, j]
            )


@compiled
def indirect_light(work: Clusters, n_coarse: int, light_map: LightMap, optics: Optics, light: Floats32) -> None:
    """Add the indirect light of all clusters to the sensors.

    Args:
        work: clusters of one event.
        n_coarse: number of coarse clusters.
        light_map: the map.
        optics: optical constants.
        light: (3, 4760), rows: photons, photons times arrival time (ns), photons times its square.
    """
    n_nodes, n_columns = light_map.share.shape
    nodes = np.zeros((3, n_nodes))
    _node_weights(work, n_coarse, light_map.shape, nodes)
    columns = np.zeros((3, n_columns), np.float32)
    _sum_nodes(light_map, nodes, 1.0 / optics.group_velocity, columns)
    inner = light_map.lattice[0] * light_map.lattice[1]
    for q in range(3):
        _interpolate_inner(light_map, columns[q], light[q])
        for c in range(inner, n_columns):
            light[q, N_SIPM + c - inner] += columns[q, c]
