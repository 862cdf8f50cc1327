"""Detectors that differ: new constants of sensors, the draws of `vary`, light maps between the stored ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from xecml import geometry, rootio
from xecml.cli.commands import app
from xecml.errors import InputError
from xecml.simulation.detectors import DETECTORS_TREE, Detectors
from xecml.simulation.generate import simulate
from xecml.simulation.light import varied_optics
from xecml.simulation.light.lightmap import light_map
from xecml.simulation.light.optics import Optics, near_field
from xecml.simulation.light.varied_optics import corners, map_family, map_weights
from xecml.simulation.settings import load_vary, make_settings
from xecml.simulation.vary import BLOCK, Vary

Arrays = dict[str, NDArray[Any]]
SIPM = slice(0, geometry.N_SIPM)


def run(folder: Path, n: int = 40, *, seed: int = 2, jobs: int = 1, chunk: int | None = None, **values: Any) -> Arrays:
    settings = make_settings({"map_quality": "quick", "relative_branches": False} | values)
    path = folder / "events.root"
    simulate(path, n, settings=settings, seed=seed, jobs=jobs, chunk=chunk, force=True)
    return everything(path) if chunk is None else {}


def everything(path: Path, tree: str = "tree") -> Arrays:
    with rootio.open_tree(path, tree) as opened:
        return opened.arrays(sorted(opened.in_file), 0, opened.n_events)


# ------------------------------------------------------------------------------------------ constants of sensors


def test_definitions_of_a_time_come_in_their_order(tmp_path: Path) -> None:
    """An edge and a calibrated constant fraction come after the first photoelectron."""
    responses = (
        {"time_model": "first"},
        {"time_model": "edge", "time_edge_photoelectrons": 3},
        {"time_model": "fraction", "time_fraction": 0.33},
    )
    medians = []
    for response in responses:
        events = run(tmp_path, 64, response=response)
        bright = (events["npho"] > 60 / 0.12) & (events["npho"] < 200 / 0.12) & (events["time"] < 1)
        medians.append(float(np.median((events["time"] - events["timeTruth"][:, None])[bright])) * 1e9)
    assert medians[0] + 0.5 < min(medians[1:])


def test_below_the_threshold_is_zero_or_not_measured(tmp_path: Path) -> None:
    response = {"threshold_photoelectrons": 3.0, "excess_noise_factor": 1.0}
    zero = run(tmp_path, response=response)
    not_measured = run(tmp_path, response=response | {"below_threshold": "not_measured"})
    low = zero["npho"] < 3 / 0.16
    assert (zero["npho"][low] == 0).all()
    assert (not_measured["npho"][low] > 9e9).all()
    assert (zero["time"][low] > 9e9).all()
    np.testing.assert_array_equal(zero["npho"][~low], not_measured["npho"][~low])


def test_delays_move_the_times_that_they_name(tmp_path: Path) -> None:
    plain = run(tmp_path)
    late = run(tmp_path, response={"pmt_delay_ns": -0.2})
    timed = plain["time"] < 1
    moved = (late["time"] - plain["time"]) * 1e9
    assert moved[:, SIPM][timed[:, SIPM]] == pytest.approx(0)
    assert moved[:, geometry.N_SIPM :][timed[:, geometry.N_SIPM :]] == pytest.approx(-0.2, abs=1e-3)
    for key, groups in (("sensor_delay_ns", np.arange(geometry.N_SENSORS)), ("face_delay_ns", geometry.face_codes())):
        spread = run(tmp_path, response={key: 0.1})
        shifts = np.ma.masked_array((spread["time"] - plain["time"]) * 1e9, ~timed)
        of_sensor = shifts.mean(0)
        assert np.ma.median(shifts.std(0)) < 1e-3  # the same in every event
        of_group = np.array([of_sensor[groups == g].mean() for g in np.unique(groups)])
        within = max(float(np.ma.std(of_sensor[groups == g])) for g in np.unique(groups))
        assert within < 1e-3
        assert 0.02 < of_group.std() < 0.2
        if key == "face_delay_ns":
            assert abs(of_group[0]) < 1e-3  # the zero of time


def test_stretched_times_are_further_from_the_first_interaction(tmp_path: Path) -> None:
    plain, wide = run(tmp_path), run(tmp_path, response={"time_stretch": 1.05})
    since = [(e["time"].astype(float) - e["timeTruth"].astype(float)[:, None]) for e in (plain, wide)]
    timed = plain["time"] < 1
    np.testing.assert_allclose(since[1][timed], 1.05 * since[0][timed], atol=3e-12)


def test_efficiencies_that_are_known_leave_the_photons_as_they_are(tmp_path: Path) -> None:
    events = run(tmp_path, 128, response={"efficiency_spread": 0.15}, expected_counts=True)
    for face in geometry.FACES:
        own = geometry.face_sensors(face)
        light = [events[name][:, own].astype(float).sum() for name in ("npho", "npho_expected")]
        assert light[0] == pytest.approx(light[1], rel=0.01)
    settings = make_settings({"map_quality": "quick", "response": {"efficiency_spread": 0.15}})
    efficiency = Detectors(settings, 2).physics.response.efficiency
    on_inner = efficiency[SIPM].reshape(93, 44)
    assert on_inner.std() / on_inner.mean() == pytest.approx(0.15, rel=0.15)
    assert np.abs(np.diff(on_inner, axis=0)).max() < 0.03 * on_inner.mean()  # smooth


def test_hot_sensors_report_charge_by_themselves(tmp_path: Path) -> None:
    response = {"hot_fraction": 0.01, "hot_photoelectrons": 30.0, "excess_noise_factor": 1.0}
    events = run(tmp_path, 64, response=response, expected_counts=True)
    more = (events["npho"].astype(float) - events["npho_expected"]).mean(0)
    hot = Detectors(make_settings({"map_quality": "quick", "response": response}), 2).physics.response.hot > 0
    assert hot.sum() == 48
    efficiency = np.where(np.arange(geometry.N_SENSORS) < geometry.N_SIPM, 0.12, 0.16)
    assert (more * efficiency)[hot].mean() == pytest.approx(30, rel=0.1)
    assert abs((more * efficiency)[~hot].mean()) < 0.1
    # their pulses come at any time, half of them before the light
    early = events["time"] < events["timeTruth"][:, None] - 1e-9
    assert early[:, hot].mean() == pytest.approx(0.5, abs=0.1)
    assert early[:, ~hot].mean() < 0.02


@pytest.mark.parametrize("optics", ["fast", "montecarlo"])
def test_light_yield_scales_the_light(tmp_path: Path, optics: str) -> None:
    common: dict[str, Any] = {"energy_mev": 2.0, "optics": optics, "expected_counts": True}
    n = 60 if optics == "fast" else 12
    light = [run(tmp_path, n, light_yield=y, **common)["npho_expected"].astype(float).sum() for y in (1.0, 1.5)]
    assert light[1] / light[0] == pytest.approx(1.5, rel=0.02 if optics == "fast" else 0.35)


# ------------------------------------------------------------------------------------------------ what is drawn

VARY = {
    "events_per_detector": 128,
    "response": {"gain_spread": [0.02, 0.08], "time_model": ["mean", "first"], "threshold_photoelectrons": [0, 4]},
    "optical": {"group_velocity_cm_per_ns": [7.6, 8.4]},
    "dead_clusters": [0, 3],
}


def test_each_run_has_its_detector_and_says_which(tmp_path: Path) -> None:
    events = run(tmp_path, 300, vary=VARY, run=7)
    np.testing.assert_array_equal(events["run"].ravel(), 7 + np.arange(300) // 128)
    detectors = everything(tmp_path / "events.root", DETECTORS_TREE)
    np.testing.assert_array_equal(detectors["run"].ravel(), [7, 8, 9])
    assert len(np.unique(detectors["gain_spread"])) == 3
    assert ((detectors["gain_spread"] >= 0.02) & (detectors["gain_spread"] <= 0.08)).all()
    assert {"absorption_length_cm", "time_model", "dead_sensors", "dead_clusters"} <= detectors.keys()
    for k, number in enumerate((7, 8, 9)):
        own = events["npho"][events["run"].ravel() == number]
        assert (own > 9e9).all(0).sum() == detectors["dead_sensors"].ravel()[k]
        least = own[(own > 0) & (own < 1e9)].min() * 0.16
        assert least >= 0.99 * detectors["threshold_photoelectrons"].ravel()[k] * min(1.0, 0.12 / 0.16)


def test_varied_events_depend_on_the_seed_alone(tmp_path: Path) -> None:
    files = []
    for jobs in (1, 2):
        run(tmp_path, 300, vary=VARY, jobs=jobs)
        files.append((tmp_path / "events.root").read_bytes())
    assert files[0] == files[1]
    whole = everything(tmp_path / "events.root")
    (tmp_path / "chunks").mkdir()
    run(tmp_path / "chunks", 300, vary=VARY, chunk=100)
    parts = [everything(tmp_path / "chunks" / f"events_000{k}.root") for k in range(3)]
    for name, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)
    runs = [everything(tmp_path / "chunks" / f"events_000{k}.root", DETECTORS_TREE)["run"].ravel() for k in range(3)]
    assert [list(r) for r in runs] == [[1], [1, 2], [2, 3]]
    other = run(tmp_path, 300, vary=VARY, seed=3)
    assert not np.array_equal(other["npho"], whole["npho"])


def test_some_detectors_and_some_constants_stay_nominal() -> None:
    vary = Vary.model_validate(VARY | {"nominal_share": 0.3, "unchanged_share": 0.5})
    whole = frozenset({("dead_clusters",)})
    drawn = [vary.draw(np.random.default_rng(k), whole) for k in range(4000)]
    untouched = np.mean([not d for d in drawn])
    assert untouched == pytest.approx(0.3 + 0.7 * 0.5**5, abs=0.03)
    spreads = [d["response"]["gain_spread"] for d in drawn if "gain_spread" in d.get("response", {})]
    assert len(spreads) / len(drawn) == pytest.approx(0.35, abs=0.03)
    assert np.mean(spreads) == pytest.approx(0.05, abs=0.002)
    clusters = [d["dead_clusters"] for d in drawn if "dead_clusters" in d]
    assert np.bincount(clusters) / len(clusters) == pytest.approx([0.25] * 4, abs=0.05)


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ({"response": {"gain_spread": [0.08, 0.02]}}, r"vary\.response\.gain_spread must rise"),
        ({"response": {"gain_spred": [0, 0.1]}}, "did you mean 'gain_spread'"),
        ({"response": {"gain_spread": [0, 9]}}, r"vary\.response\.gain_spread reaches 9: input should be less than"),
        ({"response": {"time_model": ["mean", "last"]}}, r"vary\.response\.time_model reaches 'last'"),
        ({"response": {"time_model": []}}, "holds nothing to draw from"),
        ({"optical": {"wall_reflectivity": [0, 1.2]}}, "wall_reflectivity reaches 1.2"),
        ({"dead_fraction": [0, 2]}, "dead_fraction reaches 2"),
        ({"energy_mev": [15, 60]}, r"vary\.energy_mev is no constant that can vary"),
        ({"events_per_detector": 100}, "multiple of 64"),
        ({"nominal_share": 2}, "nominal_share"),
        ({"light_yield": 1.0}, "light_yield holds nothing to draw from"),
    ],
)
def test_wrong_ranges_are_named(vary: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_settings({"vary": vary})


def test_optics_beyond_the_stored_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rayleigh_length from 25 to 45, not 60; narrow the range"):
        run(tmp_path, 1, vary={"optical": {"rayleigh_length_cm": [25, 60]}})
    assert not list(tmp_path.iterdir())


def test_run_numbers_must_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leaves no numbers"):
        run(tmp_path, 300, vary=VARY, run=2**31 - 2)


def test_the_command_line_varies(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("vary:\n  response:\n    gain_spread: [0.02, 0.08]\n")
    out = tmp_path / "x.root"
    arguments = ["simulate", str(out), "-n", "2", "--config", str(tmp_path / "quick.yaml"), "--vary"]
    (tmp_path / "quick.yaml").write_text("map_quality: quick\n")
    assert CliRunner().invoke(app, [*arguments, str(own)]).exit_code == 0
    assert 0.02 <= float(everything(out, DETECTORS_TREE)["gain_spread"].ravel()[0]) <= 0.08
    assert len(load_vary("varied")) > 5
    own.write_text("vary:\n  response: {gain_spread: [0.08, 0.02]}\n")
    with pytest.raises(InputError, match=r"in .*own\.yaml: vary\.response\.gain_spread must rise"):
        load_vary(own)
    own.write_text("vary:\nenergy_mev: 20\n")
    with pytest.raises(InputError, match="also sets energy_mev"):
        load_vary(own)
    own.write_text("vary:\n")
    with pytest.raises(InputError, match="has no section 'vary'"):
        load_vary(own)


# ----------------------------------------------------------------------------------------------------- the light


def test_weights_of_the_stored_maps() -> None:
    assert map_weights(Optics()) == pytest.approx([1] + [0] * 8)
    for k, optics in enumerate(corners(), 1):
        assert map_weights(optics) == pytest.approx(np.eye(9)[k])
    rng = np.random.default_rng(1)
    names = list(varied_optics.BOX)
    for _ in range(50):
        ends = varied_optics.BOX.values()
        optics = Optics(**{name: float(rng.uniform(*end)) for name, end in zip(names, ends, strict=True)})
        weights = map_weights(optics)
        assert weights.sum() == pytest.approx(1)
        assert (weights >= 0).all()
        # coordinates are met: they are linear in the weights
        stored = np.array([varied_optics._coordinates(o) for o in (Optics(), *corners())])
        assert weights @ stored == pytest.approx(varied_optics._coordinates(optics))


@pytest.mark.slow  # builds nine small light maps and one more to compare with
def test_blended_light_maps_are_those_that_would_be_built() -> None:
    family = map_family("quick")
    into = family.new_map()
    family.blend(Optics(), into)
    default = light_map(Optics(), "quick")
    np.testing.assert_allclose(into.share, default.share, rtol=0.004, atol=1e-12)
    optics = Optics(absorption_length=220.0, rayleigh_length=36.0, wall_reflectivity=0.1)
    near = family.blend(optics, into)
    built = light_map(optics, "quick")
    far = [float(values.share.sum()) for values in (into, built, default)]
    assert abs(far[0] / far[1] - 1) < 0.03 < 0.1 < abs(far[2] / far[1] - 1)
    mean_path = [float(values.path.sum() / values.share.sum()) for values in (into, built, default)]
    assert abs(mean_path[0] / mean_path[1] - 1) < 0.04 < 0.06 < abs(mean_path[2] / mean_path[1] - 1)
    for of_blend, of_fit in zip(near, near_field(optics), strict=True):
        np.testing.assert_allclose(of_blend, of_fit, atol=0.02)  # of coefficients up to 2.6


def test_blocks_make_detectors() -> None:
    vary = make_settings({"vary": {"events_per_detector": 5 * BLOCK}, "map_quality": "quick"})
    assert Detectors(vary, 1).blocks_each == 5


def test_lengths_of_light_are_drawn_uniformly_in_their_inverse() -> None:
    vary = Vary(optical={"absorption_length_cm": (150.0, 500.0), "wall_reflectivity": (0.0, 0.4)})
    drawn = [vary.draw(np.random.default_rng(i), frozenset())["optical"] for i in range(4000)]
    length, walls = (np.array([one[name] for one in drawn]) for name in ("absorption_length_cm", "wall_reflectivity"))
    assert 150 <= length.min() < 151
    assert 495 < length.max() <= 500
    # half lies below the length whose inverse is in the middle: 231 cm, not 325
    assert np.median(length) == pytest.approx(2 / (1 / 150 + 1 / 500), rel=0.03)
    assert np.median(walls) == pytest.approx(0.2, abs=0.01)
