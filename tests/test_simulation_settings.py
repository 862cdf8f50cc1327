"""Settings of the simulation: the shipped file, files and command line, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from xecml.errors import InputError
from xecml.recipes.shipped import shipped
from xecml.simulation.settings import OpticsSettings, ResponseSettings, SimulationSettings, load_settings, make_settings


def test_shipped_settings_are_the_defaults() -> None:
    """The shipped settings show every setting with its default."""
    path = shipped()["simulation"].path
    assert load_settings(path) == SimulationSettings()
    written = yaml.safe_load(path.read_text())
    assert written.keys() == SimulationSettings.model_fields.keys()
    for name, section in (("response", ResponseSettings), ("optical", OpticsSettings)):
        assert written[name].keys() == section.model_fields.keys()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vertx": "signal"}, "did you mean 'vertex'"),
        ({"response": {"gain_spred": 0.1}}, "did you mean 'gain_spread'"),
        ({"vertex": "target"}, "vertex"),
        ({"energy_mev": [60, 15]}, "energies must be in MeV"),
        ({"energy_mev": "fifty"}, "52.8"),
        ({"dead_sensors": [4760]}, "there is no sensor 4760"),
        ({"dead_fraction": 1.5}, "dead_fraction"),
        ({"energy_mev": 0.5}, "min_deposit_mev"),
        ({"depth_cm": [3.0, 1.0]}, "depth_cm must rise"),
        ({"depth_cm": [41.3, 41.4]}, "depth_cm begins at 41.3 cm, but the xenon is 41.3 cm deep"),
        ({"energy_mev": [15, 60], "min_deposit_mev": 15}, "not below the energy of the photons, 15 MeV; no event"),
        ({"target_sigma_z_cm": 40, "target_slope": 0.5}, "such a target would reach into the detector"),
        ({"pileup_time_ns": [5, -5]}, "pileup_time_ns must rise"),
        ({"response": {"charge_window_ns": [-5, 0.1]}}, "end 1 ns after it, or later"),
        ({"run": 2**31}, r"of run in .*: input should be less than or equal to 2147483647\."),
        ({"dead_clusters": 10**11}, "of dead_clusters in .*: input should be less than or equal to 4092"),
        ({"calibration": ["alpha"]}, "of calibration in"),
        ({"energy_mev": [15]}, "one energy in MeV, or a range of two"),
        ({"dead_list": "a\0b"}, "of dead_list in .* it holds a NUL"),
        ({"optical": {"absorption_length_cm": float("inf")}}, "optical.absorption_length_cm .* finite number"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_settings(values)


def test_settings_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "simulation.yaml"
    path.write_text("vertex: decoupled\nresponse:\n  sipm_efficiency: 0.08\n")
    settings = load_settings(path, {"energy": "20:30", "dead_fraction": 0.1})
    assert settings.vertex == "decoupled"
    assert settings.energy_range == (20.0, 30.0)
    assert settings.response.sipm_efficiency == 0.08
    path.write_text("energy_mev: 1:30\nmin_deposit_mev: 0.5\nresponse:\n")
    assert load_settings(path).energy_range == (1.0, 30.0)
    path.write_text("run: 1\nresponse:\n  decay_time_ns: .nan\n")
    with pytest.raises(
        InputError, match=r"nan of response.decay_time_ns in .*simulation.yaml, line 3: .* finite number"
    ):
        load_settings(path)
    path.write_text("vertex: [")
    with pytest.raises(InputError, match="line 1 is not valid YAML"):
        load_settings(path)
    with pytest.raises(InputError, match="No such settings file"):
        load_settings(tmp_path / "none.yaml")
