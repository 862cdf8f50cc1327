"""The detectors of a run: one for all events, or one for each few hundred of them (`vary`)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.conditions import NOMINAL_EFFICIENCY
from xecml.conditions_file import load_conditions
from xecml.events import INVALID
from xecml.simulation import blocks
from xecml.simulation.cascade.coefficient_tables import cascade_tables
from xecml.simulation.dead import dead_mask
from xecml.simulation.light.lightmap import LightMap, light_map
from xecml.simulation.light.optics import near_field, sensor_table
from xecml.simulation.light.photons import raster
from xecml.simulation.light.varied_optics import MapFamily, map_family, map_weights
from xecml.simulation.response import TIME_MODELS, Response, fraction_delay
from xecml.simulation.settings import SimulationSettings
from xecml.simulation.vary import BLOCK
from xecml.simulation.vertices import MODELS, Target

DETECTORS_TREE = "detectors"
"""The tree, beside the events, with a row a detector."""
MOST_EFFORT = 100_000_000
"""Photons drawn for one event before it is given up, less than a minute; the rarest events need a million."""
_CODES: dict[str, dict[str, int]] = {"time_model": TIME_MODELS, "below_threshold": {"zero": 0, "not_measured": 1}}
"""Numbers that stand for words in the tree of detectors."""
_LARGEST_PATTERN = 2.5
"""Widths to which the smooth pattern of efficiencies is limited."""


class Detector(NamedTuple):
    """What a block of events is simulated with."""

    physics: blocks.Physics
    source: blocks.Source
    settings: SimulationSettings


class Detectors:
    """The detectors of a run by their number.

    Args:
        settings: of the run.
        seed: of the run.
        jobs: threads that may build light maps.
        events: of the run, which ranges of conditions share.

    Raises:
        InputError: conditions are unusable, or do not cover a run; optical constants vary beyond the stored light maps.
    """

    def __init__(self, settings: SimulationSettings, seed: int, jobs: int = 2, events: int = 1) -> None:
        self.settings, self.seed, self._events = settings, seed, events
        self.conditions = None if settings.conditions is None else load_conditions(settings.conditions)
        if self.conditions is not None:
            self.conditions.rows([run for run, _ in self.runs()], "the simulation")
        self.family: MapFamily | None = None
        vary = settings.vary
        # the photon-by-photon simulation needs no map
        if vary is not None and varies_the_map(settings) and settings.optics == "fast":
            for name, value in vary.ends():
                if name[0] == "optical":
                    map_weights(settings.changed({"optical": {name[1]: value}}).optical.constants())
            self.family = map_family(settings.map_quality, jobs)
        self.physics = prepare(settings, seed, jobs)

    @property
    def blocks_each(self) -> int | None:
        """Blocks of events with one detector; None where all events have the same one."""
        if self.settings.vary is not None:
            return self.settings.vary.events_per_detector // BLOCK
        return -(-self._blocks // len(self.conditions)) if self.conditions and self._spread else None

    @property
    def _blocks(self) -> int:
        return -(-self._events // BLOCK)

    @property
    def _spread(self) -> bool:
        """Whether the ranges of the conditions share the events."""
        return self.conditions is not None and "run" not in self.settings.model_fields_set

    def runs(self) -> list[tuple[int, int]]:
        """Run and number of events of each detector."""
        each = self._events if self.blocks_each is None else self.blocks_each * BLOCK
        edges = [*range(0, self._events, each), self._events]
        return [(self._run(i), b - a) for i, (a, b) in enumerate(pairwise(edges))]

    def _run(self, number: int) -> int:
        if self.settings.vary is not None:
            return self.settings.run + number
        return int(self.conditions.first[number]) if self.conditions and self._spread else self.settings.run

    def new_map(self) -> LightMap | None:
        """A map that `detector` may fill; None where it needs none."""
        return None if self.family is None else self.family.new_map()

    def detector(self, number: int, into: LightMap | None) -> Detector:
        """The detector of a number; `into` is filled with its light map and must stay as it is while it is used."""
        settings = self.constants(number)
        if self.settings.vary is None:
            sensors = self._in_conditions(self.physics.response, settings.run)
            return Detector(self.physics._replace(response=sensors), source(settings), settings)
        optics = settings.optical.constants()
        sensors = self._in_conditions(response(settings, self.seed, number), settings.run)
        found = self.physics._replace(optics=optics, response=sensors)
        if self.family is not None and into is not None:
            found = found._replace(near=self.family.blend(optics, into), light_map=into)
        return Detector(found, source(settings), settings)

    def constants(self, number: int) -> SimulationSettings:
        """The settings of a detector: those of the run with what was drawn, and the detector's run number."""
        vary = self.settings.vary
        if vary is None:
            return self.settings.model_copy(update={"run": self._run(number)})
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, number, 2))))
        drawn = self.settings.changed(vary.draw(rng, self.settings.whole_constants()))
        return drawn.model_copy(update={"run": self.settings.run + number})

    def _in_conditions(self, sensors: Response, run: int) -> Response:
        """Sensors as the conditions of a run have them."""
        if self.conditions is None:
            return sensors
        table, row = self.conditions, int(self.conditions.rows([run])[0])
        own = {name: values[row] for name, values in table.values.items() if table.given[name][row]}
        nothing = np.zeros(1, np.float32)
        changes: dict[str, Any] = {"dead": sensors.dead | table.dead[row]}
        changes["gain"] = sensors.gain * own.get("gains", nothing + 1)
        changes["delay"] = sensors.delay + own.get("time_offsets_ns", nothing)
        if "noise_photoelectrons" in own:
            changes["noise"] = own["noise_photoelectrons"]
        if "efficiencies" in own:
            changes |= {"efficiency": own["efficiencies"], "assumed": NOMINAL_EFFICIENCY.astype(np.float32)}
        return sensors._replace(**changes)

    def rows(self, numbers: Iterable[int]) -> dict[str, NDArray[Any]]:
        """The tree of detectors: run, every constant of sensors and light, what else varies, dead and hot sensors."""
        rows = [self._row(number) for number in numbers]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}

    def _row(self, number: int) -> dict[str, Any]:
        settings = self.constants(number)
        sensors = self._in_conditions(response(settings, self.seed, number), settings.run)
        vary = self.settings.vary
        alone = {name[0]: getattr(settings, name[0]) for name, _ in vary.constants() if len(name) == 1} if vary else {}
        values = settings.response.model_dump() | settings.optical.model_dump() | alone
        numbers = {name: _CODES[name][v] if isinstance(v, str) else v for name, v in values.items()}
        return (
            {"run": np.int32(settings.run)}
            | {name: np.asarray(v, np.float32) for name, v in numbers.items() if v is not None}
            | {"dead_sensors": np.int32(sensors.dead.sum()), "hot_sensors": np.int32((sensors.hot > 0).sum())}
        )


def varies_the_map(settings: SimulationSettings) -> bool:
    """Whether detectors differ in what maps of indirect light depend on: all of the optics but the group velocity."""
    return settings.vary is not None and bool(settings.vary.optical.keys() - {"group_velocity_cm_per_ns"})


def prepare(settings: SimulationSettings, seed: int = 0, jobs: int = 2) -> blocks.Physics:
    """Build or load all tables that a run needs; the light map comes from the cache."""
    optics = settings.optical.constants()
    # the photon-by-photon simulation needs no map, but the compiled code needs something of its type
    quality = settings.map_quality if settings.optics == "fast" else "quick"
    return blocks.Physics(
        tables=cascade_tables(),
        optics=optics,
        near=near_field(optics),
        sensors=sensor_table(),
        light_map=light_map(optics, quality, jobs),
        raster=raster(),
        response=response(settings, seed),
        faces=geometry.face_codes().astype(np.float64),
    )


def response(settings: SimulationSettings, seed: int, number: int = 0) -> Response:
    """Properties of the sensors of a detector; what is random of them depends on seed and number alone."""
    values = settings.response
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, number, 1))))
    sipm = np.arange(geometry.N_SENSORS) < geometry.N_SIPM
    gain = np.maximum(1 + values.gain_spread * rng.standard_normal(geometry.N_SENSORS), 0.05)
    dead = dead_mask(settings, rng)
    faces, sensors = rng.standard_normal(len(geometry.FACES)), rng.standard_normal(geometry.N_SENSORS)
    faces[geometry.FACES.index("inner")] = 0.0  # the zero of time is a matter of its calibration
    delay = (
        np.where(sipm, 0.0, values.pmt_delay_ns)
        + values.face_delay_ns * faces[geometry.face_codes()]
        + values.sensor_delay_ns * sensors
    )
    pattern = 1 + values.efficiency_spread * _smooth_pattern(rng)
    efficiency = np.where(sipm, values.sipm_efficiency, values.pmt_efficiency) * pattern
    hot = np.zeros(geometry.N_SENSORS, np.float32)
    chosen = rng.choice(geometry.N_SENSORS, round(values.hot_fraction * geometry.N_SENSORS), replace=False)
    hot[chosen] = values.hot_photoelectrons
    clipped = np.clip(efficiency, 1e-4, 1.0).astype(np.float32)
    return Response(
        efficiency=clipped,
        assumed=clipped,
        gain=gain.astype(np.float32),
        noise=np.where(sipm, values.sipm_noise_photoelectrons, values.pmt_noise_photoelectrons).astype(np.float32),
        dead=dead,
        hot=hot,
        delay=delay.astype(np.float32),
        excess_noise_factor=float(values.excess_noise_factor),
        threshold=float(values.threshold_photoelectrons),
        below=0.0 if values.below_threshold == "zero" else INVALID,
        time_model=TIME_MODELS[values.time_model],
        time_edge=float(values.time_edge_photoelectrons),
        time_fraction=float(values.time_fraction),
        time_zero=fraction_delay(float(values.time_fraction), float(values.decay_time_ns))
        if values.time_model == "fraction"
        else 0.0,
        time_stretch=float(values.time_stretch),
        time_single=float(values.time_single_ns),
        time_constant=float(values.time_constant_ns),
        time_walk=float(values.time_walk_ns),
        decay=float(values.decay_time_ns),
        overlap=float(values.pulse_overlap_ns),
    )


def _smooth_pattern(rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth function of the place on each face (4760,), of mean 0 and width 1, and never below -2.5."""
    where, faces = geometry.positions(), geometry.face_codes()
    pattern = np.empty(geometry.N_SENSORS)
    for face in range(len(geometry.FACES)):
        own = np.flatnonzero(faces == face)
        u, v = where[own, 2], geometry.INNER_RADIUS * np.arctan2(where[own, 1], -where[own, 0])
        r = np.hypot(where[own, 0], where[own, 1])
        axes = [(x - x.mean()) / max(float(np.ptp(x)), 1e-6) * 2 for x in (u, v, r)]
        terms = [*axes, axes[0] ** 2, axes[1] ** 2, axes[0] * axes[1]]
        values = sum(c * t for c, t in zip(rng.standard_normal(len(terms)), terms, strict=True))
        centred = values - np.mean(values)
        pattern[own] = np.clip(centred / max(float(np.std(centred)), 1e-6), -_LARGEST_PATTERN, _LARGEST_PATTERN)
    return pattern


def source(settings: SimulationSettings) -> blocks.Source:
    """What is simulated, as the compiled code takes it."""
    return blocks.Source(
        model=MODELS[settings.vertex],
        target=Target(
            float(settings.target_sigma_z_cm), float(settings.target_sigma_y_cm), float(settings.target_slope)
        ),
        points=geometry.xyz_from_uvw(np.array(settings.points_uvw_cm, np.float64)),
        light_yield=float(settings.light_yield),
        light_ratio=float(settings.points_light_ratio),
        energy_low=float(settings.energy_range[0]),
        energy_high=float(settings.energy_range[1]),
        min_deposit=float(settings.min_deposit_mev),
        depth_low=float(settings.depth_cm[0]),
        depth_high=float(settings.depth_cm[1]),
        time_offset=float(settings.time_offset_ns),
        material=float(settings.material_radiation_lengths),
        gammas=np.cumsum(settings.gamma_probabilities),
        pileup_energy_low=float(settings.pileup_energy_mev[0]),
        pileup_energy_high=float(settings.pileup_energy_mev[1]),
        pileup_time_low=float(settings.pileup_time_ns[0]),
        pileup_time_high=float(settings.pileup_time_ns[1]),
        window_begin=float(settings.response.charge_window_ns[0]),
        window_end=float(settings.response.charge_window_ns[1]),
        montecarlo=settings.optics == "montecarlo",
        most_effort=MOST_EFFORT,
    )
