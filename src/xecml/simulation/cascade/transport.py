"""Electromagnetic cascade of one photon in liquid xenon, compiled. MeV, cm, ns.

Photons: photoelectric effect with K fluorescence, Compton scattering, pair production, step by step.
Electrons and positrons: condensed history with restricted loss and Gaussian straggling (Bohr), delta rays,
bremsstrahlung, multiple scattering at a random hinge in each step, annihilation in flight and at rest. A
particle below its cut leaves its energy on the spot. Random numbers come from one numpy Generator, so a seed
fixes the shower.
"""

from __future__ import annotations

import math

import numpy as np

from xecml.compiled import compiled, inner
from xecml.simulation.cascade.coefficient_tables import CascadeTables
from xecml.simulation.cascade.cross_sections import (
    BREMS_CUT,
    DELTA_CUT,
    ELECTRON_CUT,
    ELECTRON_DENSITY,
    ELECTRON_MASS,
    ELECTRON_RADIUS,
    K_EDGE,
    N_BREMS_QUANTILES,
    PHOTON_CUT,
    Floats,
    k_shell_fraction,
)
from xecml.simulation.cascade.elastic import hard_deflection
from xecml.simulation.cascade.final_states import (
    annihilation_share,
    compton_photon,
    delta_energy,
    pair_share,
    photoelectron_cosine,
    radiation_cosine,
    rotate,
)
from xecml.simulation.cascade.particles import (
    CALORIMETER,
    FRONTED,
    SLAB,
    Vector,
    at,
    cell,
    deposit,
    inside,
    particle,
    push,
)
from xecml.simulation.volume import inside_calorimeter

__all__ = ["CALORIMETER", "FRONTED", "MAX_DEPOSITS", "SLAB", "new_buffers", "photon_coefficient", "shower"]

LIGHT_SPEED = 29.9792458  # cm/ns
PHOTON, ELECTRON, POSITRON = 0, 1, 2

MAX_DEPOSITS = 40000
_MAX_STACK = 4000
_MAX_STEP = 0.3  # cm
MATERIAL_LOSS = 3.0
"""Collision loss in a radiation length of the material in front (aluminium, steel, quartz) over that in xenon: light
nuclei come with more electrons a radiation length. Radiation and scattering scale with the radiation length."""
_K_SHELL = k_shell_fraction()
_K_YIELD = 0.888  # fluorescence yield of the K shell (Krause 1979)
_K_ALPHA, _K_BETA, _K_ALPHA_SHARE = 0.02967, 0.03370, 0.81  # MeV


def new_buffers() -> tuple[Floats, Floats, Floats]:
    """Work space of `shower`: deposits (MAX_DEPOSITS, 5), particle stack, first interaction (4)."""
    return np.zeros((MAX_DEPOSITS, 5)), np.zeros((_MAX_STACK, 9)), np.zeros(4)


@compiled
def photon_coefficient(tables: CascadeTables, E: float) -> float:
    """Probability of interaction of a photon of energy E (MeV), per cm."""
    i, f = cell(E)
    return at(tables.photoelectric, i, f) + at(tables.compton, i, f) + at(tables.pair, i, f)


# ------------------------------------------------------------------------------------------- transport


@inner
def _photon(
    rng: np.random.Generator,
    tables: CascadeTables,
    volume: int,
    depth: float,
    deposits: Floats,
    n: int,
    stack: Floats,
    top: int,
    first: Floats,
    free_path: float,
) -> tuple[int, int, float]:
    """Follow the photon on top of the stack to its end; returns deposits, stack height, escaped energy.

    `free_path` (cm) fixes the first step unless it is negative.
    """
    E, x, y, z, ux, uy, uz, t = particle(stack, top)
    top -= 1
    while True:
        if E < PHOTON_CUT:
            return deposit(deposits, n, (x, y, z), t, E), top, 0.0
        i, f = cell(E)
        m_photo, m_compton = at(tables.photoelectric, i, f), at(tables.compton, i, f)
        total = m_photo + m_compton + at(tables.pair, i, f)
        s = free_path if free_path >= 0.0 else rng.standard_exponential() / total
        free_path = -1.0
        x += s * ux
        y += s * uy
        z += s * uz
        t += s / LIGHT_SPEED
        if not inside(volume, depth, (x, y, z)):
            return n, top, E
        if first[3] < 0.0:
            first[0], first[1], first[2], first[3] = x, y, z, t
        which = rng.random() * total
        phi = 2.0 * math.pi * rng.random()
        if which < m_photo:
            T = E
            if E > K_EDGE and rng.random() < _K_SHELL:
                T = E - K_EDGE
                rest = K_EDGE
                if rng.random() < _K_YIELD:
                    k = _K_ALPHA if rng.random() < _K_ALPHA_SHARE else _K_BETA
                    rest -= k
                    c = 2.0 * rng.random() - 1.0
                    vx, vy, vz = rotate(ux, uy, uz, c, 2.0 * math.pi * rng.random())
                    top = push(stack, top, PHOTON, k, (x, y, z), (vx, vy, vz), t)
                n = deposit(deposits, n, (x, y, z), t, rest)
            if T < ELECTRON_CUT:
                return deposit(deposits, n, (x, y, z), t, T), top, 0.0
            vx, vy, vz = rotate(ux, uy, uz, photoelectron_cosine(rng, T), phi)
            return n, push(stack, top, ELECTRON, T, (x, y, z), (vx, vy, vz), t), 0.0
        if which >= m_photo + m_compton:
            share = pair_share(rng, E)
            if rng.random() < 0.5:
                share = 1.0 - share
            for kind in (ELECTRON, POSITRON):
                total_energy = E * (share if kind == ELECTRON else 1.0 - share)
                c = radiation_cosine(rng, total_energy)
                vx, vy, vz = rotate(ux, uy, uz, c, phi if kind == ELECTRON else phi + math.pi)
                T = max(total_energy - ELECTRON_MASS, 0.0)
                top = push(stack, top, kind, T, (x, y, z), (vx, vy, vz), t)
            return n, top, 0.0
        share, one_minus_cos = compton_photon(rng, E)
        vx, vy, vz = rotate(ux, uy, uz, 1.0 - one_minus_cos, phi)
        T = E * (1.0 - share)
        if T < ELECTRON_CUT:
            n = deposit(deposits, n, (x, y, z), t, T)
        else:
            ex, ey, ez = E * ux - share * E * vx, E * uy - share * E * vy, E * uz - share * E * vz
            norm = math.sqrt(ex * ex + ey * ey + ez * ez)
            top = push(stack, top, ELECTRON, T, (x, y, z), (ex / norm, ey / norm, ez / norm), t)
        E *= share
        ux, uy, uz = vx, vy, vz


@inner
def _annihilate(rng: np.random.Generator, stack: Floats, top: int, place: Vector, u: Vector, t: float, T: float) -> int:
    """Push the two photons of a positron of kinetic energy T along u (at rest: back to back, isotropic)."""
    phi = 2.0 * math.pi * rng.random()
    ux, uy, uz = u
    if T < 1e-3:
        vx, vy, vz = rotate(ux, uy, uz, 2.0 * rng.random() - 1.0, phi)
        half = ELECTRON_MASS + 0.5 * T
        top = push(stack, top, PHOTON, half, place, (vx, vy, vz), t)
        return push(stack, top, PHOTON, half, place, (-vx, -vy, -vz), t)
    g = T / ELECTRON_MASS + 1.0
    p = math.sqrt(T * (T + 2.0 * ELECTRON_MASS))
    share = annihilation_share(rng, g)
    k1 = share * (T + 2.0 * ELECTRON_MASS)
    c = (share * (g + 1.0) - 1.0) / (share * math.sqrt(g * g - 1.0))
    vx, vy, vz = rotate(ux, uy, uz, min(max(c, -1.0), 1.0), phi)
    top = push(stack, top, PHOTON, k1, place, (vx, vy, vz), t)
    wx, wy, wz = p * ux - k1 * vx, p * uy - k1 * vy, p * uz - k1 * vz
    norm = math.sqrt(wx * wx + wy * wy + wz * wz)
    k2 = T + 2.0 * ELECTRON_MASS - k1
    return push(stack, top, PHOTON, k2, place, (wx / norm, wy / norm, wz / norm), t)


@inner
def _electron(
    rng: np.random.Generator,
    tables: CascadeTables,
    volume: int,
    depth: float,
    deposits: Floats,
    n: int,
    stack: Floats,
    top: int,
) -> tuple[int, int, float]:
    """Follow the electron or positron on top of the stack; returns deposits, stack height, escaped energy."""
    E, x, y, z, ux, uy, uz, t = particle(stack, top)
    top -= 1
    positron = stack[top, 0] == POSITRON
    row = 1 if positron else 0
    loss, delta, elastic = tables.loss[row], tables.delta[row], tables.elastic
    soft, hard_turn, turn_limit = elastic.soft[row], elastic.hard[row], elastic.limit[row]
    while E >= ELECTRON_CUT:
        i, f = cell(E)
        rate, m_brems, m_delta, i1 = (
            at(loss, i, f),
            at(tables.brems, i, f),
            at(delta, i, f),
            at(soft, i, f),
        )
        extra = MATERIAL_LOSS if volume == FRONTED and not inside_calorimeter(x, y, z) else 1.0
        rate *= extra
        m_annihilation = at(tables.annihilation, i, f) if positron else 0.0
        m_hard = m_brems + m_delta + m_annihilation
        s = rng.standard_exponential() / (m_hard + 1e-12)
        # a step loses at most 15 % of the energy and turns the particle by less than a radian
        limit = min(0.15 * E / rate + 0.002, max(0.4 / i1, 0.003), _MAX_STEP)
        hard = s <= limit
        s = min(s, limit)
        lost = rate * s
        if lost > 0.25 * E:
            j, q = cell(max(E - 0.5 * lost, 0.01))
            lost = extra * at(loss, j, q) * s
        hard = hard and lost < E
        g = E / ELECTRON_MASS + 1.0
        b2 = 1.0 - 1.0 / (g * g)
        largest = min(DELTA_CUT, 0.5 * E)
        bohr = 2.0 * math.pi * ELECTRON_RADIUS * ELECTRON_RADIUS * ELECTRON_MASS * ELECTRON_DENSITY / b2
        lost += math.sqrt(bohr * largest * s * (1.0 - 0.5 * b2)) * rng.standard_normal()
        lost = min(max(lost, 0.0), E)
        hinge = rng.random() * s
        x += hinge * ux
        y += hinge * uy
        z += hinge * uz
        # small deflections: (1 - cos)/2 exponential with its exact mean; isotropic where that is large
        mean = 0.5 * (1.0 - math.exp(-s * i1))
        half_turn = 1.0
        if mean < 0.25:
            while half_turn >= 1.0:
                half_turn = mean * rng.standard_exponential()
        else:
            half_turn = rng.random()
        ux, uy, uz = rotate(ux, uy, uz, 1.0 - 2.0 * half_turn, 2.0 * math.pi * rng.random())
        # larger ones singly, their number Poissonian
        wait = rng.standard_exponential()
        turns = s * at(hard_turn, i, f)
        while wait < turns:
            wait += rng.standard_exponential()
            half_turn = hard_deflection(rng, E, positron, at(turn_limit, i, f), at(elastic.screening, i, f))
            ux, uy, uz = rotate(ux, uy, uz, 1.0 - 2.0 * half_turn, 2.0 * math.pi * rng.random())
        escaped = E
        if inside(volume, depth, (x, y, z)):
            n = deposit(deposits, n, (x, y, z), t, lost)
            escaped = E - lost
        x += (s - hinge) * ux
        y += (s - hinge) * uy
        z += (s - hinge) * uz
        t += s / (LIGHT_SPEED * math.sqrt(b2))
        if not inside(volume, depth, (x, y, z)):
            return n, top, escaped + (2.0 * ELECTRON_MASS if positron else 0.0)
        if escaped == E:
            # left and came back within one step: the loss stays with the particle
            lost = 0.0
        E -= lost
        if not hard or E < ELECTRON_CUT:
            continue
        which = rng.random() * m_hard
        phi = 2.0 * math.pi * rng.random()
        if which < m_brems:
            i, f = cell(E)
            if rng.random() < f:
                i += 1
            q = rng.random() * (N_BREMS_QUANTILES - 1)
            j = int(q)
            k = math.exp(at(tables.brems_log_k[i], j, q - j))
            if 0.9 * BREMS_CUT < k < E:
                vx, vy, vz = rotate(ux, uy, uz, radiation_cosine(rng, E + ELECTRON_MASS), phi)
                top = push(stack, top, PHOTON, k, (x, y, z), (vx, vy, vz), t)
                E -= k
        elif which < m_brems + m_delta:
            if E * (1.0 if positron else 0.5) > DELTA_CUT:
                w = delta_energy(rng, E, positron)
                p, pw = math.sqrt(E * (E + 2.0 * ELECTRON_MASS)), math.sqrt(w * (w + 2.0 * ELECTRON_MASS))
                c = min(w * (E + 2.0 * ELECTRON_MASS) / (p * pw), 1.0)
                vx, vy, vz = rotate(ux, uy, uz, c, phi)
                top = push(stack, top, ELECTRON, w, (x, y, z), (vx, vy, vz), t)
                ux, uy, uz = p * ux - pw * vx, p * uy - pw * vy, p * uz - pw * vz
                norm = math.sqrt(ux * ux + uy * uy + uz * uz)
                ux, uy, uz = ux / norm, uy / norm, uz / norm
                E -= w
        else:
            return n, _annihilate(rng, stack, top, (x, y, z), (ux, uy, uz), t, E), 0.0
    n = deposit(deposits, n, (x, y, z), t, E)
    if positron:
        top = _annihilate(rng, stack, top, (x, y, z), (ux, uy, uz), t, 0.0)
    return n, top, 0.0


@compiled
def shower(
    rng: np.random.Generator,
    tables: CascadeTables,
    E: float,
    place: Vector,
    u: Vector,
    volume: int,
    depth: float,
    deposits: Floats,
    stack: Floats,
    first: Floats,
    free_path: float = -1.0,
) -> tuple[int, float]:
    """Simulate the shower of a photon of energy E that starts at `place` with direction u at time 0.

    Args:
        rng: numpy Generator.
        tables: `CascadeTables`.
        E: MeV.
        place: x, y, z, cm, in the volume.
        u: unit vector.
        volume: SLAB, CALORIMETER or FRONTED.
        depth: thickness of the slab or of the layer in front, cm.
        deposits: filled with rows x, y, z (cm), t (ns), E (MeV).
        stack: work space.
        first: filled with x, y, z, t of the first interaction; t = -1 if there was none.
        free_path: distance to the first interaction, cm; drawn from the coefficients if negative.

    Returns:
        Number of deposits, and energy (MeV) that left the volume.
    """
    first[3] = -1.0
    n, top, escaped = 0, push(stack, 0, PHOTON, E, place, u, 0.0), 0.0
    while top > 0:
        if stack[top - 1, 0] == PHOTON:
            n, top, gone = _photon(rng, tables, volume, depth, deposits, n, stack, top, first, free_path)
            free_path = -1.0
        else:
            n, top, gone = _electron(rng, tables, volume, depth, deposits, n, stack, top)
        escaped += gone
    return n, escaped
