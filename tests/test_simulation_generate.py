"""Files of simulated events: branches, truth, seeds, imperfections, and whether light tells the truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xecml import geometry, rootio
from xecml.errors import InputError
from xecml.events import INVALID, TRUTH_BRANCHES, valid_counts, valid_times
from xecml.simulation import detectors, generate
from xecml.simulation.generate import SimulationReport, simulate
from xecml.simulation.light.lightmap import _light_map
from xecml.simulation.response import nth_photoelectron
from xecml.simulation.settings import SimulationSettings, make_settings, read_dead_list

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module", autouse=True)
def simulation_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache of these tests' own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XECML_CACHE", str(folder))
        _light_map.cache_clear()
        yield folder
        _light_map.cache_clear()


def run(folder: Path, n: int, *, name: str = "events.root", seed: int = 0, jobs: int = 1, **values: Any) -> Arrays:
    settings = make_settings({"map_quality": "quick"} | values)
    simulate(folder / name, n, settings=settings, seed=seed, jobs=jobs)
    return everything(folder / name)


def everything(path: Path) -> Arrays:
    with rootio.open_tree(path) as tree:
        return tree.arrays(sorted(tree.in_file), 0, tree.n_events)


@pytest.fixture(scope="module")
def signal(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    return run(tmp_path_factory.mktemp("signal"), 300, energy_mev=[15, 60], extra_truth=True, expected_counts=True)


@pytest.fixture(scope="module")
def decoupled(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    return run(tmp_path_factory.mktemp("decoupled"), 300, vertex="decoupled", seed=4)


def test_branches(signal: Arrays) -> None:
    for name in ("npho", "time", "relative_npho", "relative_time", "npho_expected"):
        assert signal[name].shape == (300, 4760)
        assert signal[name].dtype == np.float32
    for name, branch in TRUTH_BRANCHES.items():
        assert signal[name].shape == (300, *branch.shape)
        assert signal[name].dtype == np.dtype(branch.dtype)
    np.testing.assert_array_equal(signal["event"], np.arange(300))
    assert (signal["run"] == 1).all()
    assert (signal["nGamma"] == 1).all()


@pytest.mark.parametrize("kind", ["signal", "decoupled"])
def test_truth_is_consistent(kind: str, request: pytest.FixtureRequest) -> None:
    events: Arrays = request.getfixturevalue(kind)
    np.testing.assert_allclose(geometry.uvw_from_xyz(events["xyzTruth"]), events["uvwTruth"], atol=1e-3)
    assert geometry.is_fiducial(events["uvwTruth"]).all()
    assert geometry.is_active(events["xyzTruth"]).all()
    np.testing.assert_allclose(np.linalg.norm(events["emiVec"], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(geometry.direction_from_angles(events["emiAng"]), events["emiVec"], atol=1e-6)
    flight = (events["xyzTruth"] - events["xyzVTX"]).astype(float)
    np.testing.assert_allclose(flight / np.linalg.norm(flight, axis=1, keepdims=True), events["emiVec"], atol=1e-5)
    assert events["energyTruth"].min() >= 0.015
    assert events["energyTruth"].max() <= 0.060
    assert np.abs(events["timeTruth"]).max() <= 1e-8
    assert events["timeTruth"].std() == pytest.approx(1e-8 / np.sqrt(3), rel=0.15)


def test_signal_vertices(signal: Arrays) -> None:
    x, y, z = signal["xyzVTX"].T
    np.testing.assert_allclose(x, -0.268 * z, atol=1e-5)
    assert z.std() == pytest.approx(4.1, rel=0.15)
    assert y.std() == pytest.approx(1.1, rel=0.15)


def test_decoupled_vertices(decoupled: Arrays) -> None:
    closest = decoupled["xyzVTX"][:, :2] * decoupled["emiVec"][:, :2]
    np.testing.assert_allclose(closest.sum(1), 0, atol=1e-3)
    theta, phi = decoupled["emiAng"].T
    assert 60 <= theta.min() <= theta.max() <= 120
    assert -60.001 <= phi.min() <= phi.max() <= 60.001
    # where the photon enters says nothing about theta
    assert abs(np.corrcoef(theta, decoupled["uvwTruth"][:, 0])[0, 1]) < 0.35


@pytest.mark.parametrize("kind", ["signal", "decoupled"])
def test_light_shows_the_first_interaction(kind: str, request: pytest.FixtureRequest) -> None:
    events: Arrays = request.getfixturevalue(kind)
    inner = events["npho"][:, :4092].astype(float)
    inner[~valid_counts(inner)] = 0
    weight = inner**2
    sensors = geometry.uvw_from_xyz(geometry.positions()[:4092])[:, :2]
    centroid = weight @ sensors / weight.sum(1, keepdims=True)
    off = centroid - events["uvwTruth"][:, :2]
    assert np.abs(np.median(off, axis=0)).max() < 0.3
    assert np.quantile(np.abs(off), 0.68, axis=0).max() < 1.5


def test_light_is_linear_in_deposited_energy(signal: Arrays) -> None:
    near = signal["uvwTruth"][:, 2] < 8
    light = signal["npho"].astype(float).sum(1)[near]
    deposit = signal["energyDeposit"][near]
    slope = (light @ deposit) / (deposit @ deposit)
    residual = light / (slope * deposit) - 1
    assert residual.std() < 0.12
    # no offset and no curvature: low and high energies have the same light an energy
    low = deposit < np.median(deposit)
    assert residual[low].mean() == pytest.approx(residual[~low].mean(), abs=0.05)
    assert slope / 46296e3 == pytest.approx(0.38, abs=0.06)


def test_times_are_on_the_clock_of_the_truth(signal: Arrays) -> None:
    bright = signal["npho"] > 1000
    distance = np.linalg.norm(geometry.positions() - signal["xyzDeposit"][:, None], axis=2)
    delay = (signal["time"] - signal["timeTruth"][:, None]) * 1e9 - distance / 8
    assert np.median(delay[bright]) == pytest.approx(1.0, abs=0.5)


def test_deposits_lie_behind_the_first_interaction(signal: Arrays) -> None:
    away = signal["xyzDeposit"] - signal["xyzTruth"]
    along = np.sum(away * signal["emiVec"], axis=1)
    assert 2 < np.median(along) < 8
    assert (signal["energyDeposit"] <= signal["energyTruth"] * (1 + 1e-5)).all()


def test_counts_follow_expectation_with_excess_noise(signal: Arrays) -> None:
    expected = signal["npho_expected"].astype(float)
    for sensors, efficiency, excess in ((slice(0, 4092), 0.12, 1.2), (slice(4092, None), 0.16, 1.0)):
        mean = expected[:, sensors] * efficiency
        bright = mean > 20
        pull = (signal["npho"][:, sensors] * efficiency - mean)[bright] / np.sqrt(mean[bright])
        assert pull.mean() == pytest.approx(0, abs=0.02)
        assert pull.var() == pytest.approx(excess, rel=0.04)


def test_unmeasured_is_marked(signal: Arrays) -> None:
    empty = signal["npho"] == 0
    assert 0.05 < empty.mean() < 0.7
    assert (signal["time"][empty] == INVALID).all()
    np.testing.assert_array_equal(valid_times(signal["npho"], signal["time"]), ~empty)
    assert signal["relative_npho"][~empty].max() == 1


def test_light_of_further_photons_is_told_apart(tmp_path: Path) -> None:
    events = run(tmp_path, 64, n_gamma=[0, 1, 1, 0, 0], expected_counts=True, pileup_counts=True)
    whole, further = (events[name].astype(float) for name in ("npho_expected", "npho_pileup"))
    alone = events["nGamma"] == 1
    assert (further[alone] == 0).all()
    assert (further[~alone].sum(1) > 0).all()
    assert (further <= whole * (1 + 1e-5)).all()
    # what is left is the light of one photon of 52.83 MeV, as that of events without pile-up
    left = (whole - further).sum(1)
    assert np.median(left[~alone]) == pytest.approx(np.median(left[alone]), rel=0.05)


def test_seed_and_jobs(tmp_path: Path) -> None:
    one = run(tmp_path, 150, seed=9, name="one.root")
    two = run(tmp_path, 150, seed=9, jobs=2, name="two.root")
    assert (tmp_path / "one.root").read_bytes() == (tmp_path / "two.root").read_bytes()
    other = run(tmp_path, 150, seed=10, name="other.root")
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert values.tobytes() == two[name].tobytes(), name
    assert one["npho"].tobytes() != other["npho"].tobytes()


def test_one_job_is_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing too: what one job does, one core does."""
    monkeypatch.setattr(generate, "ThreadPoolExecutor", None)
    assert len(run(tmp_path, 5)["event"]) == 5
    with pytest.raises(TypeError):
        run(tmp_path, 5, jobs=2)


def test_chunks_hold_the_same_events_and_resume(tmp_path: Path) -> None:
    settings = SimulationSettings(map_quality="quick")
    whole = run(tmp_path, 150, seed=2)
    report = simulate(tmp_path / "part.root", 150, settings=settings, seed=2, chunk=70)
    assert [p.name for p in report.files] == [f"part_000{k}.root" for k in range(3)]
    parts = [everything(p) for p in report.files]
    for name, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), values)
    # a run that broke has a record that says so
    record = tmp_path / "part_manifest.json"
    assert json.loads(record.read_text())["finished"]
    record.write_text(record.read_text().replace('"finished": true', '"finished": false'))
    report.files[1].unlink()
    again = simulate(tmp_path / "part.root", 150, settings=settings, seed=2, chunk=70)
    assert again.events == 80
    # other settings are another run
    record.write_text(record.read_text().replace('"finished": true', '"finished": false'))
    other = SimulationSettings(map_quality="quick", dead_sensors=(3,))
    assert simulate(tmp_path / "part.root", 150, settings=other, seed=2, chunk=70).events == 150
    assert (everything(report.files[0])["npho"][:, 3] == INVALID).all()
    simulate(tmp_path / "part.root", 150, settings=settings, seed=2, chunk=70)
    np.testing.assert_array_equal(everything(report.files[1])["npho"], parts[1]["npho"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "it is no JSON, recursion limit exceeded"),
        ('{"format": 1}', "'version' is missing"),
        ("", "it is no JSON"),
    ],
)
def test_a_damaged_record_of_a_run_is_not_taken_for_another_run(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "part_manifest.json").write_text(text)
    with pytest.raises(InputError, match=f"part_manifest.json is damaged: {said}.*; remove it to begin the run anew"):
        simulate(tmp_path / "part.root", 5, settings=SimulationSettings(map_quality="quick"), chunk=5)
    assert [p.name for p in tmp_path.iterdir()] == ["part_manifest.json"]


def test_dead_sensors(tmp_path: Path) -> None:
    listed = tmp_path / "dead.txt"
    listed.write_text("# two\n17\n4500  # a photomultiplier\n")
    events = run(
        tmp_path, 5, dead_list=listed, dead_fraction=0.02, dead_faces=["top"], dead_clusters=2, dead_cluster_size=9
    )
    dead = (events["npho"] == INVALID).all(0)
    assert dead[[17, 4500]].all()
    assert dead[geometry.face_sensors("top")].all()
    assert dead.sum() == pytest.approx(2 + 73 + 18 + 95, abs=8)
    assert (events["time"][:, dead] == INVALID).all()
    assert (events["npho"][:, ~dead] < 9e9).all()
    assert read_dead_list(listed) == (17, 4500)
    listed.write_text("17\n", encoding="utf-8-sig")  # as editors of Windows write it
    assert read_dead_list(listed) == (17,)
    listed.write_text("\u00b2\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 1"):
        read_dead_list(listed)
    listed.write_bytes(b"root\x00\xff\xfe")
    with pytest.raises(InputError, match="no text file"):
        read_dead_list(listed)


def test_pile_up(tmp_path: Path) -> None:
    clean = run(tmp_path, 60)
    piled = run(tmp_path, 60, pileup_fraction=0.5)
    assert (clean["nGamma"] == 1).all()
    assert 0.25 < (piled["nGamma"] > 1).mean() < 0.75
    assert piled["nGamma"].max() <= 4
    assert piled["npho"].astype(float).sum() > clean["npho"].astype(float).sum()


def test_numbers_of_photons_and_empty_events(tmp_path: Path) -> None:
    events = run(tmp_path, 200, n_gamma=[1, 1, 1, 1, 1], response={"sipm_noise_photoelectrons": 0.2})
    counts = np.bincount(events["nGamma"], minlength=5)
    assert counts.min() > 20
    empty = events["nGamma"] == 0
    assert (events["energyTruth"][empty] == 0).all()
    for name in ("emiAng", "timeTruth", "uvwTruth", "xyzTruth", "emiVec", "xyzVTX"):
        assert (events[name][empty] == np.float32(INVALID)).all()
        assert (np.abs(events[name][~empty]) < 1e3).all()
    assert np.abs(events["npho"][empty]).max() < 20


def test_late_pile_up_leaves_the_time_alone(tmp_path: Path) -> None:
    """A second photon 60 ns later adds charge, in the window's share, but the first photons tell the time."""
    late: dict[str, Any] = {"pileup_energy_mev": [52.0, 52.0], "pileup_time_ns": [60, 60]}
    one = run(tmp_path, 40, seed=3, n_gamma=[0, 1, 0, 0, 0])
    two = run(tmp_path, 40, seed=3, n_gamma=[0, 0, 1, 0, 0], **late)
    bright = [events["npho"] > 2000 for events in (one, two)]
    times = [
        ((events["time"] - events["timeTruth"][:, None]) * 1e9)[mask]
        for events, mask in zip((one, two), bright, strict=True)
    ]
    # no average of the two: early, but for sensors that the first photon does not reach
    assert (times[0] < 20).all()
    assert (times[1] < 20).mean() > 0.8
    assert ((times[1] > 32) & (times[1] < 55)).mean() < 0.02
    light = [events["npho"].astype(float).sum(1).mean() for events in (one, two)]
    assert 1.5 < light[1] / light[0] < 2.1


def test_calibration_lines(tmp_path: Path) -> None:
    for line, energy in (("lithium", 17.6), ("pi0_low", 54.9), ("pi0_high", 82.9), ("pion_capture", 129.4)):
        assert make_settings({"calibration": line}).energy_range == (energy, energy)
    assert make_settings({"calibration": "lithium", "energy_mev": 14.8}).energy_range == (14.8, 14.8)
    events = run(tmp_path, 30, calibration="lithium")
    np.testing.assert_allclose(events["energyTruth"], 0.0176, rtol=1e-6)
    assert np.abs(events["xyzVTX"][:, 0]).max() == 0


def test_alpha_sources_are_points_of_light(tmp_path: Path) -> None:
    events = run(tmp_path, 300, calibration="alpha", extra_truth=True)
    places = np.unique(np.round(events["uvwTruth"], 3), axis=0)
    assert len(places) == 25
    np.testing.assert_allclose(events["energyTruth"], 5.486e-3, rtol=1e-6)
    np.testing.assert_allclose(events["energyDeposit"], 1.2 * 5.486e-3, rtol=1e-6)
    np.testing.assert_allclose(events["xyzDeposit"], events["xyzTruth"], atol=1e-4)


@pytest.mark.slow
def test_material_before_the_xenon(tmp_path: Path) -> None:
    """Detection efficiency, deposits above 90 %, with 0.45 radiation lengths in front; published: 63 to 65 %."""
    found = []
    for material in (0.0, 0.45):
        settings = make_settings(
            {"map_quality": "quick", "material_radiation_lengths": material, "min_deposit_mev": 47.5}
        )
        found.append(simulate(tmp_path / "m.root", 1500, settings=settings, jobs=2).efficiency)
    assert found[1] == pytest.approx(0.65, abs=0.03)
    assert found[1] / found[0] == pytest.approx(0.75, abs=0.04)


def test_photons_that_convert_before_the_xenon_are_followed(tmp_path: Path) -> None:
    """Their showers begin in the material: less energy in the xenon, at its face first, off the photon's line."""
    events = run(tmp_path, 800, material_radiation_lengths=0.45, extra_truth=True, energy_mev=52.8, seed=3)
    way, u = (events["xyzTruth"] - events["xyzVTX"]).astype(float), events["emiVec"].astype(float)
    converted = np.linalg.norm(np.cross(way, u), axis=1) > 1e-3
    # 30 % convert: 14 % in the magnet, lost, and of the rest nearly all are seen
    assert converted.mean() == pytest.approx(0.175, abs=0.045)
    assert geometry.is_active(events["xyzTruth"]).all()
    assert geometry.is_fiducial(events["uvwTruth"]).all()
    assert np.median(events["uvwTruth"][converted, 2]) < 1.0 < np.median(events["uvwTruth"][~converted, 2])
    share = events["energyDeposit"] / events["energyTruth"]
    assert np.median(share[converted]) == pytest.approx(0.80, abs=0.05)
    assert np.median(share[~converted]) > 0.98
    assert share.max() < 1 + 1e-5
    # times start with the first deposit in the xenon, and so light does
    bright = events["npho"] > 1000
    distance = np.linalg.norm(geometry.positions() - events["xyzDeposit"][:, None], axis=2)
    delay = (events["time"] - events["timeTruth"][:, None]) * 1e9 - distance / 8
    assert np.median(delay[converted][bright[converted]]) == pytest.approx(1.0, abs=0.6)


def test_extra_truth(signal: Arrays) -> None:
    np.testing.assert_allclose(np.linalg.norm(signal["axisDeposit"], axis=1), 1, atol=1e-5)
    cosine = np.sum(signal["axisDeposit"] * signal["emiVec"], axis=1)
    assert (cosine >= 0).all()
    assert np.median(cosine) > 0.85
    inner = signal["npho"][:, :4092].astype(float).sum(1) * 0.12
    np.testing.assert_allclose(signal["npheFace"][:, 0], inner, rtol=0.05)


@pytest.mark.parametrize(("k", "n", "spread"), [(1, 20, 3.0), (3, 20, 3.0), (1, 1, 45.0), (30, 100, 60.0)])
def test_nth_photoelectron(k: int, n: int, spread: float) -> None:
    rng = np.random.default_rng(1)
    arrivals = rng.exponential(spread, (40000, n)) + rng.exponential(45.0, (40000, n))
    draws = np.sort(arrivals, axis=1)[:, k - 1]
    found = np.array([nth_photoelectron(rng, k, n, spread, 45.0) for _ in range(40000)])
    assert found.mean() == pytest.approx(draws.mean(), rel=0.02)
    assert found.std() == pytest.approx(draws.std(), rel=0.03)


def test_time_of_the_first_photoelectron(tmp_path: Path) -> None:
    # one event: the next ones differ, for the response has used the generator differently
    mean = run(tmp_path, 1, seed=1)
    first = run(tmp_path, 1, seed=1, response={"time_model": "first", "time_walk_ns": 1.0})
    np.testing.assert_array_equal(mean["xyzTruth"], first["xyzTruth"])
    medians = []
    for events in (mean, first):
        weak = (events["npho"] > 20 / 0.12) & (events["npho"] < 40 / 0.12)
        medians.append(float(np.median(events["time"][weak])) * 1e9)
    assert -3.0 < medians[1] - medians[0] < 6.0


def test_montecarlo_agrees_with_fast(tmp_path: Path) -> None:
    common: dict[str, Any] = {"energy_mev": 3.0, "expected_counts": True}
    slow = run(tmp_path, 24, optics="montecarlo", **common)
    fast = run(tmp_path, 400, **common)
    light = [events["npho_expected"].astype(float) for events in (slow, fast)]
    ratio = light[0].sum(1).mean() / light[1].sum(1).mean()
    assert ratio == pytest.approx(1, abs=0.08)


def test_gain_noise_and_threshold(tmp_path: Path) -> None:
    response = {"sipm_noise_photoelectrons": 0.3, "threshold_photoelectrons": 0.5, "gain_spread": 0.1}
    events = run(tmp_path, 40, response=response)
    charge = events["npho"][:, :4092] * 0.12
    assert charge[charge > 0].min() >= 0.499
    again = run(tmp_path, 40, response=response, seed=1)
    assert not np.array_equal(events["npho"], again["npho"])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"n": 2**31}, "the number of events n = 2147483648; use a number from 1 to 2147483647"),
        ({"n": 0}, "the number of events n = 0"), ({"n": 1, "seed": -1}, "seed = -1"),
        ({"n": 1, "seed": 10**30}, "seed = 1000000000000000000000000000000;"),
        ({"n": 1, "jobs": 10**6}, "jobs = 1000000"), ({"n": 10**6, "chunk": 1}, "more than 100000 files"),
    ],
)  # fmt: skip
def test_wrong_numbers_leave_no_file(tmp_path: Path, numbers: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate(tmp_path / "x.root", **numbers)
    assert not list(tmp_path.iterdir())


def test_report_rate() -> None:
    assert SimulationReport(100, 2.0).rate == 50


def test_depths_asked_for(tmp_path: Path) -> None:
    """A range of depths holds every first interaction, and within it the depths are those of all photons."""
    some = run(tmp_path, 600, depth_cm=[0.5, 3.0], energy_mev=52.8, seed=4)["uvwTruth"][:, 2]
    assert some.min() >= 0.5
    assert some.max() < 3.0
    # attenuated over 5.4 cm along the photon, which comes in at 0 to 40 degrees
    assert some.mean() == pytest.approx(1.66, abs=0.06)


@pytest.mark.parametrize("jobs", [1, 2])
def test_settings_that_leave_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    monkeypatch.setattr(detectors, "MOST_EFFORT", 100_000)
    with pytest.raises(InputError, match=r"No photon was kept for event 0 .* depth_cm = \[20.0, 20.0000001\]"):
        run(tmp_path, 1000, jobs=jobs, depth_cm=[20.0, 20.0000001])
    assert not (tmp_path / "events.root").exists()
