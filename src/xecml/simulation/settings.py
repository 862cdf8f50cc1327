"""The settings of a simulation run: from Python, or from a YAML file with the same names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from xecml import geometry
from xecml.errors import InputError, nearest
from xecml.events import EXCESS_NOISE_SIPM, PDE_SIPM, QE_PMT
from xecml.limits import (
    Counted,
    FilePath,
    Int32,
    NotNegative,
    Real,
    Share,
    Whole,
    cut,
    error_key,
    error_reason,
    first_problem,
    shown,
)
from xecml.recipes.shipped import find
from xecml.sensor_lists import read_dead_list as read_dead_list
from xecml.simulation.light.optics import Optics
from xecml.simulation.vary import Changes, Vary, merged
from xecml.yamlfile import read_yaml

Efficiency = Annotated[Real, Field(ge=1e-3, le=1)]
Charge = Annotated[NotNegative, Field(le=1e5)]
"""Photoelectrons."""
Spread = Annotated[NotNegative, Field(le=1e4)]
"""ns."""
Moment = Annotated[Real, Field(ge=-1e5, le=1e5)]
"""ns."""
Depth = Annotated[NotNegative, Field(le=100)]
"""cm."""
Frequency = Annotated[NotNegative, Field(le=1e9)]
Face = Literal["inner", "us", "ds", "outer", "top", "bottom"]
SIGNAL_ENERGY_MEV = 52.83
ALPHA_ENERGY_MEV = 5.486
"""The strongest alpha line of americium-241."""
MAX_ENERGY_MEV = 280.0
"""Above this the cascade has no tables."""
_SHORTEST_WINDOW_NS = 1.0
_WIDEST_TARGET_CM = 12.0
"""Five times this is short of the inner face."""
_LARGEST_DEPTH_CM = geometry.OUTER_RADIUS - geometry.INNER_RADIUS
_UNITS = {"_cm_per_ns": "cm/ns", "_cm": "cm", "_ns": "ns", "_mev": "MeV", "_photoelectrons": "photoelectrons"}
"""Of what a key's name ends with."""
CALIBRATION_LINES: dict[str, dict[str, Any]] = {
    "lithium": {"energy_mev": 17.6, "target_sigma_z_cm": 1.0, "target_sigma_y_cm": 1.0, "target_slope": 0.0},
    "pi0_low": {"energy_mev": 54.9, "target_sigma_z_cm": 1.5, "target_sigma_y_cm": 1.0, "target_slope": 0.0},
    "pi0_high": {"energy_mev": 82.9, "target_sigma_z_cm": 1.5, "target_sigma_y_cm": 1.0, "target_slope": 0.0},
    "pion_capture": {"energy_mev": 129.4, "target_sigma_z_cm": 1.5, "target_sigma_y_cm": 1.0, "target_slope": 0.0},
    "alpha": {"vertex": "points", "energy_mev": ALPHA_ENERGY_MEV},
}
"""What a calibration line stands for: protons on lithium; the two ends of the flat spectrum of pi0 -> 2 gamma and the
radiative capture of pions, both in liquid hydrogen; alpha sources on wires. Any of these can be set beside it."""

ALPHA_SOURCES_UVW: tuple[tuple[float, float, float], ...] = tuple(
    (u, v, w)
    for v, w in ((-45.0, 12.0), (-22.0, 25.0), (0.0, 12.0), (22.0, 25.0), (45.0, 12.0))
    for u in (-24.8, -12.4, 0.0, 12.4, 24.8)
)
"""Five wires along z with five sources each, as the experiment has; their places are our choice, for want of a survey
that is published: `points_uvw_cm` takes the real ones."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ResponseSettings(_Section):
    """The sensors."""

    sipm_efficiency: Efficiency = PDE_SIPM
    """photon detection efficiency of the SiPMs at 175 nm (0.06 to 0.20 over their lives)"""
    pmt_efficiency: Efficiency = QE_PMT
    """quantum efficiency of the photomultipliers"""
    excess_noise_factor: Annotated[Real, Field(ge=1, le=3)] = EXCESS_NOISE_SIPM
    """of the SiPMs: crosstalk and afterpulses as a branching process"""
    gain_spread: Annotated[NotNegative, Field(le=5)] = 0.0
    """relative spread of the gains about their calibration, drawn once a run"""
    sipm_noise_photoelectrons: Charge = 0.0
    """electronic noise of a SiPM, rms"""
    pmt_noise_photoelectrons: Charge = 0.0
    """electronic noise of a photomultiplier, rms"""
    efficiency_spread: Annotated[NotNegative, Field(le=0.5)] = 0.0
    """relative, smooth over each face, known to the calibration: what is reported are photons; drawn once a run"""
    hot_fraction: Share = 0.0
    """share of all sensors that report charge by themselves, drawn once a run"""
    hot_photoelectrons: Charge = 20.0
    """mean charge that these add to an event"""
    threshold_photoelectrons: Charge = 0.0
    """smaller charges have no time"""
    below_threshold: Literal["zero", "not_measured"] = "zero"
    """how the count of smaller charges is reported: 0, or 1e10"""
    time_model: Literal["mean", "first", "edge", "fraction"] = "mean"
    """mean: mean arrival time with the spread below; first: the first photoelectron; edge and fraction: the one at
    which the pulse passes a height or a share of its charge"""
    time_edge_photoelectrons: Annotated[Real, Field(ge=1, le=1000)] = 3.0
    """height of a leading edge"""
    time_fraction: Annotated[Real, Field(gt=0, lt=1)] = 0.1
    """share of a constant fraction"""
    time_stretch: Annotated[Real, Field(ge=0.5, le=2)] = 1.0
    """times after the first interaction over true ones"""
    pmt_delay_ns: Moment = 0.0
    """added to the times of photomultipliers, negative where they come early"""
    face_delay_ns: Spread = 0.0
    """spread of what is added to the times of each face but the inner one, drawn once a run"""
    sensor_delay_ns: Spread = 0.0
    """spread of what is added to the times of each sensor, drawn once a run"""
    time_single_ns: Spread = 2.5
    """time spread of one photoelectron; falls with the square root of their number"""
    time_constant_ns: Spread = 0.2
    """time spread that remains"""
    time_walk_ns: Spread = 0.0
    """delay of one photoelectron's pulse; falls with the square root of their number"""
    decay_time_ns: Annotated[Real, Field(ge=0.1, le=1e3)] = 45.0
    """of xenon's scintillation"""
    pulse_overlap_ns: Spread = 10.0
    """pulses closer than this are one: their times are averaged with their photoelectrons"""
    charge_window_ns: tuple[Moment, Moment] = (-50.0, 200.0)
    """the charge is integrated over this, relative to the photon of interest"""


class OpticsSettings(_Section):
    """Optical constants at 175 nm."""

    n_xenon: Annotated[Real, Field(ge=1, le=2)] = Optics().n_xenon
    """refractive index of liquid xenon"""
    n_window: Annotated[Real, Field(ge=1, le=2)] = Optics().n_window
    """refractive index of the quartz windows"""
    absorption_length_cm: Annotated[Real, Field(ge=1, le=1e6)] = Optics().absorption_length
    rayleigh_length_cm: Annotated[Real, Field(ge=3, le=1e6)] = Optics().rayleigh_length
    group_velocity_cm_per_ns: Annotated[Real, Field(ge=1, le=29.98)] = Optics().group_velocity
    wall_reflectivity: Share = Optics().wall_reflectivity
    """diffuse, of everything that is not a sensor"""

    def constants(self) -> Optics:
        """Return the constants as the compiled code takes them."""
        return Optics(*(float(v) for v in self.model_dump().values()))


class SimulationSettings(_Section):
    """All that decides what a simulation run contains, apart from its length and seed."""

    calibration: Literal["lithium", "pi0_low", "pi0_high", "pion_capture", "alpha"] | None = None
    """a calibration line: its energy and target (`CALIBRATION_LINES`), unless they are set too"""
    vertex: Literal["signal", "decoupled", "points"] = "signal"
    """signal: from the target, isotropic; decoupled: direction independent of position; points: points of light"""
    target_sigma_z_cm: Annotated[NotNegative, Field(le=50)] = 4.1
    """Gaussian width of the target's stopping distribution along the beam"""
    target_sigma_y_cm: Annotated[NotNegative, Field(le=_WIDEST_TARGET_CM)] = 1.1
    """the same, vertical"""
    target_slope: Annotated[Real, Field(ge=-1, le=1)] = -0.268
    """of the target: x = slope z"""
    points_uvw_cm: tuple[tuple[Real, Real, Real], ...] = ALPHA_SOURCES_UVW
    """where points of light are; by default 25 alpha sources, five on each of five wires along z"""
    points_light_ratio: Annotated[Real, Field(ge=1e-3, le=10)] = 1.2
    """their light over that of an electron of their energy: W is 17.9 and 21.6 eV a photon (Doke et al. 2002)"""
    light_yield: Annotated[Real, Field(ge=0.1, le=10)] = 1.0
    """scintillation photons over 46.3 a keV"""
    material_radiation_lengths: Annotated[Real, Field(ge=0, le=3)] = 0.0
    """in front of the xenon, radially; the detector has about 0.45. Photons that convert in the magnet's part are lost,
    the showers of the others go on into the xenon"""
    energy_mev: Real | tuple[Real, Real] | None = None
    """one energy or a range, uniform; by default 52.83 for signal, 15 to 60 for decoupled vertices, 5.486 for points"""
    min_deposit_mev: Annotated[NotNegative, Field(le=MAX_ENERGY_MEV)] = 1.0
    """events with less energy deposited in the xenon are not kept"""
    depth_cm: tuple[Depth, Depth] = (0.0, 41.3)
    """depth of the first interaction behind the inner face; events elsewhere are not kept"""
    time_offset_ns: Annotated[NotNegative, Field(le=1e5)] = 10.0
    """the time of the first interaction is uniform within plus or minus this"""
    run: Int32 = 1
    """run number"""

    dead_fraction: Share = 0.0
    """share of all sensors that are dead, drawn once a run"""
    dead_sensors: tuple[Whole, ...] = ()
    """dead sensors by id"""
    dead_list: FilePath | None = None
    """file with the ids of dead sensors, one a line, # for comments"""
    conditions: FilePath | None = None
    """table of conditions by run (YAML or ROOT): dead sensors, gains, efficiencies, time offsets and noise, for which
    counts and times in the file are not corrected. Its ranges share the events equally, by their first runs, unless
    `run` or `vary` says which runs there are"""
    dead_faces: tuple[Face, ...] = ()
    """faces whose sensors are all dead"""
    dead_clusters: Annotated[Counted, Field(le=geometry.N_SIPM)] = 0
    """number of clusters of neighbouring dead SiPMs, drawn once a run"""
    dead_cluster_size: Annotated[Whole, Field(ge=1, le=1000)] = 9
    """SiPMs a cluster"""

    pileup_fraction: Share = 0.0
    """share of events with a further photon; with the same probability it is followed by one more, up to four"""
    n_gamma: tuple[Frequency, Frequency, Frequency, Frequency, Frequency] | None = None
    """relative frequencies of events with 0, 1, 2, 3, 4 photons; takes the place of pileup_fraction"""
    pileup_energy_mev: tuple[Real, Real] = (1.0, 52.83)
    """their energies, with a density falling as 1/E"""
    pileup_time_ns: tuple[Moment, Moment] = (-50.0, 100.0)
    """their times relative to the photon of interest, uniform"""

    optics: Literal["fast", "montecarlo"] = "fast"
    """fast: solid angles and a map of indirect light; montecarlo: photon by photon, 1000 times slower"""
    map_quality: Literal["quick", "standard", "fine"] = "standard"
    """of the map of the indirect light; quick is for tests"""

    relative_branches: bool = True
    """write relative_npho and relative_time"""
    extra_truth: bool = False
    """write energyDeposit (GeV), xyzDeposit (cm), axisDeposit (unit vector), npheFace (6 faces)"""
    expected_counts: bool = False
    """write npho_expected: the mean photons of every sensor, before the response"""
    pileup_counts: bool = False
    """write npho_pileup: those of the mean photons that are of further photons than the one of interest"""

    response: ResponseSettings = ResponseSettings()
    optical: OpticsSettings = OpticsSettings()
    vary: Vary | None = None
    """constants that differ from detector to detector, each a range or a list"""

    @field_validator("energy_mev", mode="before")
    @classmethod
    def _energy_text(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) != 2:
            raise ValueError("give one energy in MeV, or a range of two")
        return parse_energy(value) if isinstance(value, str) else value

    @field_validator("energy_mev", "pileup_energy_mev")
    @classmethod
    def _energies(cls, value: float | tuple[float, float] | None) -> float | tuple[float, float] | None:
        low, high = value if isinstance(value, tuple) else (value, value)
        if low is not None and high is not None and not 0.1 <= low <= high <= MAX_ENERGY_MEV:
            raise ValueError(f"energies must be in MeV, rising, and between 0.1 and {MAX_ENERGY_MEV:g}")
        return value

    @field_validator("dead_sensors")
    @classmethod
    def _ids(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        wrong = [s for s in value if not 0 <= s < geometry.N_SENSORS]
        if wrong:
            raise ValueError(f"there is no sensor {wrong[0]}; ids run from 0 to {geometry.N_SENSORS - 1}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _calibration(cls, values: Any) -> Any:
        if isinstance(values, dict):
            line = values.get("calibration")
            return (CALIBRATION_LINES.get(line, {}) if isinstance(line, str) else {}) | values
        return values

    @model_validator(mode="after")
    def _consistent(self) -> SimulationSettings:
        if self.n_gamma is not None and sum(self.n_gamma) <= 0:
            raise ValueError("n_gamma needs a frequency above zero, such as [0, 1, 0, 0, 0]")
        begin, end = self.response.charge_window_ns
        if not (begin <= 0 and end >= _SHORTEST_WINDOW_NS):
            raise ValueError(
                "response.charge_window_ns must begin before the photon of interest and end "
                f"{_SHORTEST_WINDOW_NS:g} ns after it, or later"
            )
        inside = geometry.is_active(geometry.xyz_from_uvw(np.array(self.points_uvw_cm).reshape(-1, 3)))
        if not len(inside) or not inside.all():
            raise ValueError("points_uvw_cm must be places in the active xenon")
        if not self.depth_cm[0] < self.depth_cm[1]:
            raise ValueError(f"depth_cm must rise, not be {list(self.depth_cm)}")
        if self.depth_cm[0] >= _LARGEST_DEPTH_CM:
            raise ValueError(
                f"depth_cm begins at {self.depth_cm[0]:g} cm, but the xenon is {_LARGEST_DEPTH_CM:g} cm deep; lower it"
            )
        if self.min_deposit_mev >= self.energy_range[0]:
            raise ValueError(
                f"min_deposit_mev = {self.min_deposit_mev:g} is not below the energy of the photons, "
                f"{self.energy_range[0]:g} MeV; no event could be kept"
            )
        return self

    @model_validator(mode="after")
    def _ranges(self) -> SimulationSettings:
        if self.pileup_time_ns[0] > self.pileup_time_ns[1]:
            raise ValueError(f"pileup_time_ns must rise, not be {list(self.pileup_time_ns)}")
        if abs(self.target_slope) * self.target_sigma_z_cm > _WIDEST_TARGET_CM:
            raise ValueError(
                f"target_slope times target_sigma_z_cm is {abs(self.target_slope) * self.target_sigma_z_cm:g} cm, more "
                f"than {_WIDEST_TARGET_CM:g} cm: such a target would reach into the detector"
            )
        return self

    @model_validator(mode="after")
    def _vary_within_limits(self) -> SimulationSettings:
        for name, value in self.vary.ends() if self.vary is not None else ():
            key = ".".join(name)
            known = _SECTIONS[name[0]].model_fields if len(name) > 1 else _VARIED_ALONE
            if name[-1] not in known:
                raise ValueError(f"vary.{key} is no constant that can vary{nearest(name[-1], known)}")
            try:
                self.changed({name[0]: {name[1]: value}} if len(name) > 1 else {name[0]: value})
            except ValidationError as error:
                first = first_problem(error)
                raise ValueError(f"vary.{key} reaches {shown(value)}: {error_reason(first, '')}") from None
        return self

    def changed(self, changes: Changes) -> SimulationSettings:
        """The same settings, for one detector, with some constants changed; a section's in a dictionary.

        Raises:
            ValidationError: a value that settings do not take.
        """
        return SimulationSettings.model_validate(merged(self.model_dump(exclude={"vary"}), changes))

    def whole_constants(self) -> frozenset[tuple[str, ...]]:
        """Names of the constants that vary in whole numbers."""
        return frozenset((name,) for name in _VARIED_ALONE if isinstance(getattr(self, name), int))

    @property
    def gamma_probabilities(self) -> NDArray[np.float64]:
        """Probabilities (5,) of 0 to 4 photons in an event."""
        if self.n_gamma is not None:
            return np.array(self.n_gamma) / sum(self.n_gamma)
        p = self.pileup_fraction
        return np.array([0.0, 1 - p, p * (1 - p), p**2 * (1 - p), p**3])

    @property
    def energy_range(self) -> tuple[float, float]:
        """Lowest and highest energy, MeV."""
        energy = self.energy_mev
        if energy is None:
            if self.vertex == "points":
                return ALPHA_ENERGY_MEV, ALPHA_ENERGY_MEV
            return (15.0, 60.0) if self.vertex == "decoupled" else (SIGNAL_ENERGY_MEV, SIGNAL_ENERGY_MEV)
        return energy if isinstance(energy, tuple) else (energy, energy)


_SECTIONS: dict[str, type[BaseModel]] = {"response": ResponseSettings, "optical": OpticsSettings}
_VARIED_ALONE = (
    "light_yield", "dead_fraction", "dead_clusters", "dead_cluster_size", "pileup_fraction",
    "material_radiation_lengths",
)  # fmt: skip
"""Constants outside of sections that can vary; the others are the sample's, not the detector's."""


def make_settings(
    values: Mapping[str, Any], where: str = "simulation settings", lines: Mapping[str, int] | None = None
) -> SimulationSettings:
    """Check settings.

    Args:
        values: names and values, as in a YAML file.
        where: named in messages.
        lines: line of each dotted key there.

    Raises:
        InputError: an unknown name or a wrong value.
    """
    try:
        return SimulationSettings.model_validate(dict(values))
    except ValidationError as error:
        first = first_problem(error)
        key = error_key(first)
        place = f"{where}, line {lines[key]}" if lines and key in lines else where
        if first["type"] == "extra_forbidden":
            section = _SECTIONS.get(str(first["loc"][0]), SimulationSettings)
            hint = nearest(str(first["loc"][-1]), section.model_fields)
            raise InputError(f"Unknown key '{cut(key)}' in {place}{hint}; remove or rename it.") from None
        unit = next((unit for ending, unit in _UNITS.items() if key.endswith(ending)), "")
        what = f"{shown(first['input'])} of {key}" if key else "of the settings"
        raise InputError(f"Wrong value {what} in {place}: {error_reason(first, unit)}.") from None


def load_settings(path: str | Path | None = None, changes: dict[str, Any] | None = None) -> SimulationSettings:
    """Read settings from a YAML file, if any.

    Args:
        path: YAML file with the names of `SimulationSettings`, or the name of a shipped one.
        changes: values that take precedence; `energy` may be used for `energy_mev`.

    Raises:
        InputError: the file is missing, is not YAML, or holds an unknown name or a wrong value.
    """
    later = {"energy_mev" if k == "energy" else k: v for k, v in (changes or {}).items()}
    if path is None:
        return make_settings(later, "the command line")
    path = find(path, "simulate")
    values, lines = read_yaml(path, "settings file", "names and values, such as 'vertex: signal'")
    # what the command line changed has no line
    lines = {key: line for key, line in lines.items() if key not in later}
    # a section whose keys are all commented out
    given = {key: value for key, value in values.items() if value is not None or key not in _SECTIONS}
    return make_settings(given | later, str(path), lines)


def load_vary(path: str | Path) -> dict[str, Any]:
    """Read the section `vary` of a settings file, or of a shipped one by its name.

    Raises:
        InputError: the file is missing, is not YAML, holds anything else, or a range that settings do not take.
    """
    path = find(path, "simulate")
    values, _ = read_yaml(path, "settings file", "a section 'vary' of ranges")
    if others := sorted(values.keys() - {"vary"}):
        raise InputError(
            f"{path} also sets {cut(others[0])}, which --vary leaves out; give the whole file by --config."
        )
    if not isinstance(values.get("vary"), dict):
        raise InputError(f"{path} has no section 'vary' with ranges; see 'xec recipes copy varied'.")
    make_settings(values, str(path))  # so that what is wrong is said of this file
    return dict(values["vary"])


def parse_energy(text: str) -> float | tuple[float, float]:
    """Read an energy in MeV (`52.8`) or a range (`15:60`).

    Raises:
        InputError: it is neither.
    """
    try:
        parts = [float(p) for p in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) not in (1, 2):
        raise InputError(f"'{cut(text)}' is no energy; give MeV, such as 52.8, or a range such as 15:60.")
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])
