"""Calibration: corrections in a model, their fits and errors, the record that goes with them, and the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests import test_original_layout as original
from tests.conftest import point_sources
from tests.test_training import TINY, recipe
from xecml import geometry, rootio
from xecml.cli import main
from xecml.cli.info import describe_file
from xecml.errors import InputError
from xecml.events import INVALID
from xecml.inference import calibrate, calibration_fit, calibration_record
from xecml.inference.calibrate import calibrate_files
from xecml.inference.calibration_fit import (
    Sample,
    fit_lines,
    fit_offsets,
    fit_points,
    fit_ratio,
    linearity,
    median,
    warnings_of,
)
from xecml.inference.example_events import example_events
from xecml.inference.export import export
from xecml.inference.known_events import Known, read_points
from xecml.inference.line_fit import fit_line
from xecml.inference.trained_model import load_model
from xecml.models.build import build_model, build_regressor
from xecml.models.corrections import BUFFERS, CORRECTABLE
from xecml.models.normalise import validity
from xecml.models.weight_files import read
from xecml.recipes import load_config
from xecml.reports.model_evaluation import evaluate_files
from xecml.training import checkpoint_writing, loop
from xecml.training.regression_job import fit_targets
from xecml.training.starting_points import start

MEV = 1e-3
WIDTHS = ("tasks.energy.loss_fn=gaussian_nll", "tasks.uvwFI.loss_fn=gaussian_nll")
Events = dict[str, NDArray[Any]]


def written(folder: Path, *settings: str, name: str = "model.pth") -> Path:
    """A checkpoint of a network that was fitted to points of light and not trained: its anchors answer well enough."""
    from xecml.data.batch import Batch

    torch.manual_seed(0)
    config = load_config(TINY, settings)
    network, events = build_regressor(config), point_sources(700, seed=3)
    n, t = torch.from_numpy(events["npho"]), torch.from_numpy(events["time"])
    branches = {"angle": "emiAng", "energy": "energyTruth", "timing": "timeTruth", "uvwFI": "uvwTruth"}
    truth = {task: torch.from_numpy(events[branches[task]]).reshape(700, -1) for task in network.tasks}
    numbers = torch.arange(700)
    fit_targets(network, [Batch(n, t, *validity(n, t), truth, numbers, numbers)])
    content = {
        "kind": "regress", "config": config.model_dump(mode="json"), "tasks": list(network.tasks),
        "model_state": network.state_dict(), "ema_state": network.state_dict(), "ema_updates": 1, "loss_state": {},
        "epoch": 2, "best": 1.0, "metrics": {"val/loss": 1.0}, "run_name": "made up",
    }  # fmt: skip
    checkpoint_writing.save(folder / name, content)
    return folder / name


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(
        tmp_path_factory.mktemp("model"), "tasks.energy.loss_fn=gaussian_nll", "tasks.uvwFI.loss_fn=gaussian_nll"
    )


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of another detector: 8 % more light, times 0.7 ns late, everything 3 mm further in u."""
    folder = tmp_path_factory.mktemp("other")
    for seed in (1, 2):
        rootio.write(folder / f"{seed}.root", shifted(point_sources(400, seed=30 + seed)))
    return folder


def shifted(events: Events) -> Events:
    changed = {name: values.copy() for name, values in events.items()}
    lit = changed["npho"] < INVALID
    changed["npho"][lit] *= 1.08
    changed["time"][changed["time"] < INVALID] += 0.7e-9
    changed["uvwTruth"][:, 0] += 0.3
    reco = {"energyReco": "energyTruth", "timeReco": "timeTruth", "uvwRecoFI": "uvwTruth"}
    return changed | {name: changed[truth] for name, truth in reco.items()}


def line_of(folder: Path, energy: float, events: int = 400, *, seed: int = 5, name: str = "line.root") -> Path:
    """Points of light of one energy, without truth."""
    made = point_sources(events, seed=seed)
    lit = made["npho"] < INVALID
    scale = energy * MEV / made["energyTruth"]
    made["npho"] = np.where(lit, np.maximum(np.round(made["npho"] * scale[:, None], 3), 1e-3), INVALID).astype(
        np.float32
    )
    rootio.write(folder / name, {k: made[k] for k in ("npho", "time", "run", "event")})
    return folder / name


# -------------------------------------------------------------------------------------------------- in the network


def test_corrections_change_the_answers_exactly_and_in_training_nothing() -> None:
    torch.manual_seed(0)
    network = build_regressor(load_config(TINY, WIDTHS))
    n, t = (torch.from_numpy(a) for a in example_events(4))
    inputs = (n, t, *validity(n, t))
    network.eval()
    before = network(*inputs)
    network.train()
    torch.manual_seed(1)
    trained = network(*inputs)
    network.corrections.energy_factor.fill_(1.25)
    network.corrections.timing_offset.fill_(-3e-10)
    network.corrections.uvwFI_offset.copy_(torch.tensor([0.1, -0.2, 0.3]))
    torch.manual_seed(1)
    for name, values in network(*inputs).items():
        assert torch.equal(values, trained[name]), name
    network.eval()
    after = network(*inputs)
    assert torch.equal(after["energy"], before["energy"] * 1.25)
    assert torch.equal(after["sigma_energy"], before["sigma_energy"] * 1.25)
    assert torch.equal(after["timing"], before["timing"] - torch.tensor(3e-10))
    assert torch.equal(after["uvwFI"], before["uvwFI"] + torch.tensor([0.1, -0.2, 0.3]))
    for name in ("sigma_uvwFI", "angle"):
        assert torch.equal(after[name], before[name]), name


def test_a_network_without_calibration_answers_bit_for_bit_as_without_corrections(model: Path) -> None:
    n, t = (torch.from_numpy(a) for a in example_events(6))
    network = load_model(model).network  # type: ignore[attr-defined]
    with torch.no_grad():
        now = network(n, t, *validity(n, t))
        network.corrections.corrected = lambda task, answer: answer
        network.corrections.corrected_width = lambda task, sigma: sigma
        plain = network(n, t, *validity(n, t))
    assert all(torch.equal(now[name], plain[name]) for name in plain)


# ----------------------------------------------------------------------------------------------------------- fits


def draw_line(rng: np.random.Generator, n: int, peak: float, sigma: float, tail: float) -> NDArray[np.float64]:
    """Energies of a Gaussian line with an exponential low side, by rejection from a broad box."""
    box = rng.uniform(-12, 5, 40 * n)
    density = np.where(box > -tail, np.exp(-(box**2) / 2), np.exp(tail * (tail / 2 + box)))
    drawn = box[rng.random(len(box)) < density][:n]
    assert len(drawn) == n
    return peak + sigma * drawn


@pytest.mark.parametrize("tail", [0.6, 1.0, 2.5])
def test_a_line_with_a_tail_is_found_and_its_error_is_right(tail: float) -> None:
    """Pulls of 60 spectra: mean within 0.45 of 0 (3.5 errors), width within 0.33 of 1 (3.6 errors)."""
    rng = np.random.default_rng(4)
    found = [fit_line(draw_line(rng, 1500, 52.8, 1.1, tail)) for _ in range(60)]
    assert all(line is not None for line in found)
    pulls = np.array([(line.peak - 52.8) / line.error for line in found if line])
    assert abs(pulls.mean()) < 0.45
    assert pulls.std() == pytest.approx(1, abs=0.33)
    assert np.mean([line.sigma for line in found if line]) == pytest.approx(1.1, rel=0.05)
    assert np.mean([line.chi2 for line in found if line]) == pytest.approx(1, abs=0.1)


def test_the_tail_moves_the_mean_and_not_the_peak() -> None:
    energies = draw_line(np.random.default_rng(1), 40_000, 17.6, 0.5, 0.7)
    line = fit_line(np.concatenate([energies, np.full(300, 3.0), np.full(20, 90.0)]))
    assert line is not None
    assert line.peak == pytest.approx(17.6, abs=4 * line.error)
    assert line.error < 0.01
    assert energies.mean() < 17.4


def test_what_is_no_line_is_not_fitted() -> None:
    rng = np.random.default_rng(2)
    assert fit_line(rng.uniform(15, 60, 4000)) is None
    assert fit_line(np.full(500, 52.8)) is None
    assert fit_line(rng.normal(0.0, 1.0, 500)) is None


def test_errors_of_medians_are_right() -> None:
    """Of samples with far tails; 400 pulls have a width of 1 within 0.15 (four errors)."""
    rng = np.random.default_rng(3)
    found = [median(rng.standard_t(2, 300)) for _ in range(400)]
    pulls = np.array([value / error for value, error in found])
    assert pulls.std() == pytest.approx(1, abs=0.15)
    assert abs(pulls.mean()) < 0.2


def sample(*columns: NDArray[Any]) -> Sample:
    made = Sample(sum(1 if c.ndim == 1 else c.shape[1] for c in columns))
    made.add(*columns)
    return made


def test_corrections_of_synthetic_answers_are_exact_and_come_on_top_of_what_stands() -> None:
    rng = np.random.default_rng(5)
    known = rng.uniform(0.015, 0.06, 5000)
    answered = known * 1.04 * (1 + rng.normal(0, 0.02, 5000) - rng.exponential(0.02, 5000) * (rng.random(5000) < 0.2))
    energy = fit_ratio(sample(answered, known), [1.1], "truth")
    ratio = np.median(answered / known)
    assert energy.values[0] == pytest.approx(1.1 / ratio, rel=1e-12)
    assert energy.before[0] == pytest.approx(ratio - 1)
    assert energy.after[0] == pytest.approx(0, abs=1e-12)
    assert energy.errors[0] == pytest.approx(1.1 / ratio**2 * energy.errors_before[0])
    assert energy.significance[0] > 50
    residuals = rng.normal((0.1, -0.2, 0.3), 0.5, (5000, 3))
    position = fit_offsets("uvwFI", sample(residuals), [1.0, 2.0, 3.0], "reco")
    np.testing.assert_allclose(position.values, np.array([1.0, 2.0, 3.0]) - np.median(residuals, 0), rtol=1e-12)
    assert np.abs(position.after).max() < 1e-12
    assert position.errors[0] == pytest.approx(1.2533 * 0.5 / np.sqrt(5000), rel=0.15)


def test_positions_of_points_are_those_of_the_nearest() -> None:
    rng = np.random.default_rng(6)
    points = np.array([[u, v, 12.0] for u in (-24.8, -12.4, 0, 12.4, 24.8) for v in (-45.0, 0.0, 45.0)])
    answers = points[rng.integers(0, len(points), 3000)] + rng.normal((5.5, -1.0, 0.2), 0.6, (3000, 3))
    found = fit_points("uvwFI", sample(answers), points, [0.0, 0.0, 0.0])
    # at first one in eight is given to the wrong point, 5.5 cm away of 6.2
    np.testing.assert_allclose(found.values, [-5.5, 1.0, -0.2], atol=4 * max(found.errors))


def test_biases_that_no_constant_mends_are_called_so() -> None:
    def offset(task: str, value: float, size: int) -> list[str]:
        away = np.random.default_rng(0).normal(value, 0.01 * abs(value), (300, size))
        return warnings_of(fit_offsets(task, sample(away), [0.0] * size, "truth"))

    assert offset("uvwFI", 0.4, 3) == []
    assert "position is off by more than 5 mm" in offset("uvwFI", -0.6, 3)[0]
    assert offset("timing", 1e-6, 1) == []
    known = np.linspace(0.02, 0.05, 300)
    assert "energy is off by more than 20 %" in warnings_of(fit_ratio(sample(known * 1.3, known), [1.0], "truth"))[0]
    assert warnings_of(fit_ratio(sample(known * 0.9, known), [1.0], "truth")) == []
    rng = np.random.default_rng(1)
    two = [sample(MEV * np.concatenate([rng.normal(16.3, 0.5, 3000), rng.normal(17.9, 0.5, 3000)]))]
    assert "two.root does not look like a line" in warnings_of(fit_lines(two, [17.6], ["two.root"], [1.0]))[0]


def test_lines_have_one_factor_and_say_how_linear_they_are() -> None:
    rng, energies = np.random.default_rng(7), (17.6, 54.9, 82.9)
    spectra = [sample(MEV * draw_line(rng, 4000, 1.05 * e, 0.02 * e + 0.2, 1.2)) for e in energies]
    fitted = fit_lines(spectra, energies, ["a", "b", "c"], [1.0])
    assert fitted.values[0] == pytest.approx(1 / 1.05, abs=4 * fitted.errors[0])
    assert fitted.events == 12_000
    assert fitted.chi2 is not None
    assert fitted.chi2 < 14
    alone = fit_lines(spectra[1:2], energies[1:2], ["b"], [1.0])
    assert alone.chi2 is None
    assert linearity(alone) == ""
    bent = [*spectra[:2], sample(MEV * draw_line(rng, 4000, 82.9 * 1.08, 2.0, 1.2))]
    scaled = fit_lines(bent, energies, ["a", "b", "c"], [1.0])
    assert scaled.errors[0] > 5 * fitted.errors[0]
    assert "the error of the factor is scaled" in linearity(scaled)
    assert max(line.after for line in scaled.lines) > 0.01


def test_large_samples_are_kept_evenly_and_do_not_depend_on_chunks() -> None:
    values = np.arange(10_000, dtype=np.float64)
    values[::100] = np.nan
    whole, parts = Sample(1, most=2000), Sample(1, most=2000)
    whole.add(values)
    for chunk in np.array_split(values, 37):
        parts.add(chunk)
    assert whole.events == parts.events == 9900
    assert len(whole.rows) == 2000
    np.testing.assert_array_equal(np.sort(whole.rows[:, 0]), np.sort(parts.rows[:, 0]))
    assert whole.rows.mean() == pytest.approx(5000, abs=4 * 10_000 / np.sqrt(12 * 2000))


# ------------------------------------------------------------------------------------------------------ the command


TRUTH = Known(reference="truth")


def test_a_calibrated_model_has_no_bias_left_and_keeps_all_else(model: Path, other: Path, tmp_path: Path) -> None:
    files, out = [other / "1.root", other / "2.root"], tmp_path / "c.pth"
    report = calibrate_files(model, files, TRUTH, out=out)
    by_task = {one.task: one for one in report.fitted}
    assert list(by_task) == list(CORRECTABLE)
    assert by_task["energy"].before[0] == pytest.approx(0.08, abs=0.015)
    assert by_task["timing"].before[0] == pytest.approx(0.7e-9, abs=1e-10)
    assert all(one.events == 800 for one in report.fitted)
    one, two = load_model(model), load_model(out)
    assert one.calibration == {}
    assert two.calibration == report.calibration
    n, t = example_events(5)
    before, after = one.predict(n, t), two.predict(n, t)
    factor = np.float32(report.calibration["energy"].values[0])
    np.testing.assert_array_equal(after["energy"], before["energy"] * factor)
    np.testing.assert_array_equal(after["sigma_energy"], before["sigma_energy"] * factor)
    np.testing.assert_array_equal(after["sigma_uvwFI"], before["sigma_uvwFI"])
    offset = np.array(report.calibration["uvwFI"].values, np.float32)
    np.testing.assert_array_equal(after["uvwFI"], before["uvwFI"] + offset)
    old, new = read(model), read(out)
    assert new["made_by"] == "made by 'xec calibrate'"
    assert {k for k in old if k not in new} == set()
    for name, weight in old["model_state"].items():
        if name not in BUFFERS:
            assert torch.equal(weight, new["ema_state"][name])
    # twice on the same sample changes nothing, and the second says what stood there
    again = calibrate_files(out, files, TRUTH, dry_run=True)
    for fitted in again.fitted:
        assert fitted.stood == by_task[fitted.task].values
        np.testing.assert_allclose(fitted.values, fitted.stood, atol=0.02 * max(fitted.errors))
        assert max(fitted.significance) < 0.02
    assert sorted(tmp_path.iterdir()) == [out]


def test_a_calibration_holds_on_other_events_of_the_same_detector(model: Path, other: Path, tmp_path: Path) -> None:
    calibrate_files(model, [other / "1.root"], TRUTH, out=tmp_path / "c.pth")
    second = calibrate_files(tmp_path / "c.pth", [other / "2.root"], TRUTH, dry_run=True)
    for one in second.fitted:
        assert max(one.significance) < 4.5, one  # two samples' errors: 3.2 of these


def test_a_line_and_a_reconstruction_do_the_same_as_truth(model: Path, other: Path, tmp_path: Path) -> None:
    line = line_of(tmp_path, 52.8)
    report = calibrate_files(model, [line], Known(lines=(52.8,)), out=tmp_path / "line.pth")
    assert [one.task for one in report.fitted] == ["energy"]
    assert "timing, uvwFI" in report.left_out[0]
    again = calibrate_files(tmp_path / "line.pth", [line], Known(lines=(52.8,)), dry_run=True)
    assert again.fitted[0].before[0] == pytest.approx(0, abs=0.02 * again.fitted[0].errors[0])
    assert again.fitted[0].stood == report.fitted[0].values
    reco = calibrate_files(model, [other], Known(reference="reco"), dry_run=True)
    truth = calibrate_files(model, [other], TRUTH, dry_run=True)
    assert [one.values for one in reco.fitted] == [one.values for one in truth.fitted]
    assert [row[1] for row in reco.tables()[0][2]] == ["reconstruction"] * 5


def test_several_lines_are_those_of_the_files_in_order(model: Path, tmp_path: Path) -> None:
    files = [line_of(tmp_path, e, seed=8 + i, name=f"{i}.root") for i, e in enumerate((54.9, 30.0))]
    report = calibrate_files(model, files, Known(lines=(54.9, 30.0)), dry_run=True)
    lines = report.fitted[0].lines
    assert [(x.energy, x.file, x.events) for x in lines] == [(54.9, "0.root", 400), (30.0, "1.root", 400)]
    assert any(sentence.startswith("Linearity: ") for sentence in report.sentences())
    assert [title for title, _, _ in report.tables()] == ["", "Lines"]
    with pytest.raises(InputError, match=r"The line of 30 MeV is not in 0.root: its peak is at 5\d"):
        calibrate_files(model, files, Known(lines=(30.0, 54.9)), dry_run=True)


def test_corrections_are_taken_out_again(model: Path, other: Path, tmp_path: Path) -> None:
    calibrated = tmp_path / "c.pth"
    calibrate_files(model, [other], TRUTH, out=calibrated)
    report = calibrate_files(calibrated, [], Known(), reset=True)
    assert report.out == tmp_path / "c_uncalibrated.pth"
    assert set(report.removed) == set(CORRECTABLE)
    assert load_model(report.out).calibration == {}
    n, t = example_events(3)
    for name, values in load_model(report.out).predict(n, t).items():
        np.testing.assert_array_equal(values, load_model(model).predict(n, t)[name])
    with pytest.raises(InputError, match="no corrections to remove"):
        calibrate_files(model, [], Known(), reset=True)
    twice = calibrate_files(calibrated, [other], TRUTH, out=tmp_path / "twice.pth").calibration
    assert "; before: x" not in describe_file(str(calibrated))["calibration"]["energy"]
    assert "; before: energy x 0.9" in describe_file(str(tmp_path / "twice.pth"))["calibration"]["energy"]
    assert twice["timing"].before == load_model(calibrated).calibration["timing"].values
    one = calibrate_files(calibrated, [other], TRUTH, reset=True, correct=["timing"], dry_run=True)
    assert one.fitted[0].stood == (0.0,)
    assert one.fitted[0].values == pytest.approx(load_model(calibrated).calibration["timing"].values)
    assert set(one.calibration) == set(CORRECTABLE)


def test_older_checkpoints_without_corrections_can_be_calibrated(model: Path, other: Path, tmp_path: Path) -> None:
    content = read(model)
    for key in ("model_state", "ema_state"):
        content[key] = {name: w for name, w in content[key].items() if name not in BUFFERS}
    torch.save(content, tmp_path / "old.pth")
    n, t = example_events(3)
    for name, values in load_model(tmp_path / "old.pth").predict(n, t).items():
        np.testing.assert_array_equal(values, load_model(model).predict(n, t)[name])
    report = calibrate_files(tmp_path / "old.pth", [other], TRUTH)
    assert report.out == tmp_path / "old_calibrated.pth"
    assert load_model(report.out).calibration.keys() == set(CORRECTABLE)


@pytest.mark.parametrize("wrong", ["record", "weights", "factor", "task", "size"])
def test_a_record_that_does_not_fit_the_network_is_refused(
    wrong: str, model: Path, other: Path, tmp_path: Path
) -> None:
    calibrate_files(model, [other], TRUTH, out=tmp_path / "c.pth")
    content = read(tmp_path / "c.pth")
    if wrong == "record":
        content["calibration"].pop("energy")
    elif wrong == "weights":
        content["ema_state"]["corrections.uvwFI_offset"][1] += 0.5
    elif wrong == "factor":
        content["calibration"]["energy"]["values"] = [-1.0]
    elif wrong == "task":
        content["calibration"]["angle"] = content["calibration"]["energy"]
    else:
        content["calibration"]["uvwFI"]["errors"] = [1.0]
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(InputError, match=r"c\.pth is damaged: .*(calibration|energy)"):
        load_model(tmp_path / "c.pth")


def test_training_leaves_a_calibration_behind_and_says_so(model: Path, other: Path, tmp_path: Path) -> None:
    """Weights come as they were, so that a training goes on from a calibrated model as from the one before."""
    calibrate_files(model, [other], TRUTH, out=tmp_path / "c.pth")
    states, lines = [], []
    for path in (model, tmp_path / "c.pth"):
        config = load_config(
            TINY,
            [*WIDTHS, "checkpoint.weights_only=true", f"checkpoint.resume_from={path}"],
        )  # fmt: skip
        network = build_model(config)
        begun = start(network, config, kind="regress", tasks=list(network.tasks))  # type: ignore[arg-type]
        states.append(network.state_dict())
        lines.append(begun.line)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert "calibration" not in lines[0]
    assert "Its calibration (energy x 0.9" in lines[1]
    assert "is left behind" in lines[1]


def test_no_command_is_silent_about_a_calibration(
    model: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def xec(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["xec", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert not ended.value.code, captured.err
        return captured.out

    out = tmp_path / "c.pth"
    said = xec("calibrate", model, other, "--reference", "truth", "--correct", "energy,timing", "--out", out)
    assert f"Wrote {out}." in said
    assert "energy     truth" in said
    assert "Nothing was written" in xec("calibrate", model, other, "--reference", "truth", "--dry-run")
    content = json.loads(xec("calibrate", out, other, "--reference", "truth", "--dry-run", "--json"))
    assert (
        content["fitted"][0]["stood"] == content["fitted"][0]["values"] or content["fitted"][0]["significance"][0] < 0.1
    )
    assert content["calibration"]["energy"]["events"] == 800
    said = xec("predict", out, other / "1.root", "--out", tmp_path / "p.root")
    assert "Calibrated: energy x 0.9" in said
    assert "time -" in said
    assert "Calibrated" not in xec("predict", model, other / "1.root", "--out", tmp_path / "p.root")
    assert "energy x 0.9" in describe_file(str(out))["calibration"]["energy"]
    assert "calibration" not in describe_file(str(model))
    assert "800 events of other0, " in xec("info", out)
    # what it wrote it may write again, and nothing else
    xec("calibrate", model, other, "--reference", "truth", "--out", out)
    with pytest.raises(InputError, match="is the input"):
        calibrate_files(out, [other], TRUTH, out=out)
    (tmp_path / "mine.pth").write_bytes(b"something else")
    with pytest.raises(InputError, match="was not made by 'xec calibrate'"):
        calibrate_files(model, [other], TRUTH, out=tmp_path / "mine.pth")


@pytest.mark.slow
def test_the_exported_model_is_calibrated_too(model: Path, other: Path, tmp_path: Path) -> None:
    calibrated, out = tmp_path / "c.pth", tmp_path / "c.onnx"
    calibrate_files(model, [other / "1.root"], TRUTH, out=calibrated)
    report = export(calibrated, out, tasks=["energy", "uvwFI"])
    assert set(report.calibration) == {"energy", "uvwFI"}
    one, two, plain = load_model(calibrated), load_model(out), load_model(model)
    assert two.calibration == {task: one.calibration[task] for task in ("energy", "uvwFI")}
    events = shifted(point_sources(40, seed=50))
    answers = [m.predict(events["npho"], events["time"]) for m in (one, two, plain)]
    for name in ("energy", "uvwFI", "sigma_energy", "sigma_uvwFI"):
        np.testing.assert_allclose(answers[1][name], answers[0][name], rtol=1e-4, atol=1e-4)
    assert np.abs(answers[1]["energy"] / answers[2]["energy"] - 1).min() > 0.05
    assert "energy x 0.9" in describe_file(str(out))["calibration"]["energy"]
    measured = calibrate_files(out, [other / "1.root"], TRUTH, dry_run=True)
    for fitted in measured.fitted:
        assert max(fitted.significance) < 0.1
    assert "timing" not in measured.calibration
    for options in ({}, {"dry_run": True, "reset": True}):
        with pytest.raises(InputError, match="is exported; calibrate its checkpoint"):
            calibrate_files(out, [other], TRUTH, **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run_goes_on_from_its_calibrated_checkpoint_bit_for_bit(sample: Path, tmp_path: Path) -> None:
    first = loop.train(recipe(sample, tmp_path, "training.epochs=1"), name="first", quiet=True)
    last, calibrated = first.folder / "checkpoint_last.pth", first.folder / "c.pth"
    calibrate_files(last, [sample / "test.root"], TRUTH, out=calibrated)
    states = []
    for name, path in (("plain", last), ("calibrated", calibrated)):
        on = recipe(sample, tmp_path, "training.epochs=2", f"checkpoint.resume_from={path}")
        states.append(read(loop.train(on, name=name, quiet=True).folder / "checkpoint_last.pth"))
    for key in ("model_state", "ema_state"):
        assert states[0][key].keys() == states[1][key].keys()
        assert all(torch.equal(weight, states[1][key][name]) for name, weight in states[0][key].items())
    assert {**states[0]["sums"]} == {**states[1]["sums"]}
    assert not states[1].get("calibration")
    assert "cannot be gone on from, without" not in describe_file(str(calibrated))


@pytest.mark.slow
def test_an_evaluation_says_which_models_are_calibrated(model: Path, other: Path, tmp_path: Path) -> None:
    calibrate_files(model, [other / "1.root"], TRUTH, out=tmp_path / "c.pth")
    report = evaluate_files(tmp_path / "c.pth", [other / "2.root"], tmp_path / "out", others=[model])
    assert list(report.calibrations) == ["c.pth"]
    assert "energy x 0.9" in json.loads((tmp_path / "out" / "evaluation.json").read_text())["calibrations"]["c.pth"]
    found = [
        {q: e.figures[q]["all"].median for q in ("energy_relative", "timing", "u")} for e in report.evaluations[:2]
    ]
    assert abs(found[0]["timing"]) < 60 < found[1]["timing"]
    assert abs(found[0]["energy_relative"]) < 1 < found[1]["energy_relative"]
    assert abs(found[0]["u"]) < 1 < abs(found[1]["u"])


# --------------------------------------------------------------------------------------------------------- bad input


def test_bad_input_is_one_sentence(model: Path, other: Path, tmp_path: Path) -> None:
    few, empty, dark = tmp_path / "few.root", tmp_path / "bare.root", tmp_path / "dark.root"
    events = point_sources(250, seed=9)
    rootio.write(few, {name: values[:150] for name, values in events.items()})
    rootio.write(empty, {name: events[name] for name in ("npho", "time")})
    rootio.write(dark, events | {"npho": np.full_like(events["npho"], INVALID)})
    half = events | {"timeTruth": np.where(np.arange(250) < 120, events["timeTruth"], INVALID).astype(np.float32)}
    rootio.write(tmp_path / "half.root", half)
    rootio.write(tmp_path / "mev.root", events | {"energyTruth": events["energyTruth"] * 1000})
    line = Known(lines=(52.8,))
    cases: list[tuple[Sequence[Path], Known, dict[str, Any], str]] = [
        ([few], TRUTH, {}, "Only 150 events of the files can serve to calibrate 'energy'.*at least 200"),
        ([tmp_path / "half.root"], TRUTH, {}, "Only 120 events of the files can serve to calibrate 'timing'"),
        ([dark], TRUTH, {}, "No event of .*dark.root can serve"),
        ([dark], line, {}, "Only 0 events of dark.root can serve to calibrate 'energy'"),
        ([tmp_path / "mev.root"], TRUTH, {}, "0.00(1|0999) times the known ones.*in GeV"),
        ([empty], TRUTH, {}, "there is no energyTruth in .*bare.root"),
        ([empty], Known(reference="reco"), {}, "there is no energyReco in"),
        ([empty], Known(lines=(52.8,), reference="truth"), {"correct": ["timing", "energy"]}, "no timeTruth in"),
        ([other], line, {}, "no peak narrower than 20 %, so that there is no visible line of 52.8 MeV"),
        ([other], line, {"correct": ["energy", "timing"]}, r"timing \(give --reference truth or reco\)"),
        ([other], line, {"correct": ["timing"]}, "--line calibrates 'energy', which --correct leaves out"),
        ([other], TRUTH, {"correct": ["energie"]}, "no correction of 'energie' .did you mean 'energy'"),
        ([other], TRUTH, {"correct": ["angle"]}, "no correction of 'angle'"),
        ([other], Known(), {}, "The calibration needs known events; give --line"),
        ([other], Known(lines=(-5.0,)), {}, "A line cannot be at -5 MeV"),
        ([other], Known(lines=(0.0528,)), {}, "in MeV, between 1 and 1000"),
        ([other], Known(lines=(float("nan"),)), {}, "A line cannot be at nan MeV"),
        ([other], Known(lines=(17.6, 52.8)), {}, "2 lines are given for 1 file;"),
        ([other], Known(reference="thruth"), {}, "Unknown reference 'thruth'"),  # type: ignore[arg-type]
        ([], TRUTH, {}, "No event files were named to calibrate on"),
        ([], TRUTH, {"reset": True}, "--line, --reference and --points need event files"),
        ([other], TRUTH, {"out": tmp_path / "x.onnx"}, "must end in .pth"),
        ([tmp_path / "none.root"], TRUTH, {}, "none.root"),
    ]
    before = sorted(tmp_path.iterdir())
    for files, known, options, message in cases:
        with pytest.raises(InputError, match=message):
            calibrate_files(model, files, known, **{"out": tmp_path / "x.pth"} | options)
    assert sorted(tmp_path.iterdir()) == before


def test_a_line_that_is_not_in_the_file_is_refused(model: Path, tmp_path: Path) -> None:
    line = line_of(tmp_path, 40.0)
    with pytest.raises(InputError, match=r"52\.8 MeV is not in line\.root: its peak is at \d\d\.\d+ ± .*% off"):
        calibrate_files(model, [line], Known(lines=(52.8,)))
    assert calibrate_files(model, [line], Known(lines=(44.0,)), dry_run=True).fitted[0].before[0] < -0.05


def test_models_that_lack_what_is_asked_for_are_refused(other: Path, tmp_path: Path) -> None:
    off = [f"tasks.{task}.enabled=false" for task in ("energy", "uvwFI")]
    timing = written(tmp_path, *off, name="timing.pth")
    for known, correct, message in (
        (Known(lines=(52.8,)), [], "--line calibrates the energy, which .*timing.pth does not predict"),
        (Known(points=np.zeros((1, 3))), [], "--points calibrates the position"),
        (TRUTH, ["energy"], "does not predict 'energy'; choose among timing"),
    ):
        with pytest.raises(InputError, match=message):
            calibrate_files(timing, [other], known, correct=correct)
    angle = written(tmp_path, *off, "tasks.timing.enabled=false", name="angle.pth")
    with pytest.raises(InputError, match="predicts angle, none of which can be calibrated"):
        calibrate_files(angle, [other], TRUTH)


def test_models_of_the_replaced_system_are_refused(other: Path, tmp_path: Path) -> None:
    original.save(tmp_path / "theirs.pth", original.recipe("finegrid"))
    with pytest.raises(InputError, match="theirs.pth is of the replaced system, whose files cannot store corrections"):
        calibrate_files(tmp_path / "theirs.pth", [other], TRUTH)


def test_answers_that_are_no_numbers_are_left_out(model: Path, tmp_path: Path) -> None:
    events = shifted(point_sources(420, seed=60))
    whole = {name: values[100:] for name, values in events.items()}
    rootio.write(tmp_path / "whole.root", whole)
    events["npho"][:60] = INVALID
    events["time"][60:100] = np.nan
    for branch in ("energyTruth", "uvwTruth"):
        events[branch][60:100] = INVALID
    rootio.write(tmp_path / "holes.root", events)
    one, two = (calibrate_files(model, [tmp_path / f"{n}.root"], TRUTH, dry_run=True) for n in ("whole", "holes"))
    assert [x.events for x in two.fitted] == [320, 320, 320]
    for a, b in zip(one.fitted, two.fitted, strict=True):
        np.testing.assert_allclose(a.values, b.values, rtol=1e-6)
    assert two.answered.without_count == 60
    assert "60 not answered" in " ".join(two.sentences())


def test_points_are_read_from_a_list(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("# u v w\n1 2 3\n\n4 5 6.5  # wire 2\n")
    assert read_points(tmp_path / "good.txt").tolist() == [[1, 2, 3], [4, 5, 6.5]]
    for text in ("", "1 2\n", "1 2 3\n4 5\n", "1 2 three\n", "1 2 nan\n", "\udcff"):
        (tmp_path / "bad.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(InputError, match="three numbers a line"):
            read_points(tmp_path / "bad.txt")
    with pytest.raises(InputError, match="No such list of points"):
        read_points(tmp_path / "none.txt")


def test_numbers_are_said_to_the_digits_of_their_errors() -> None:
    said = calibration_record.corrections_in_words("uvwFI", [0.1234, -0.02, 0.0], [0.01, 0.0021, 0.3])
    assert said == ["u +1.23 ± 0.10 mm", "v -0.200 ± 0.021 mm", "w +0.0 ± 3.0 mm"]
    assert calibration_record.corrections_in_words("energy", [1.012345], [0.00123]) == ["energy x 1.0123 ± 0.0012"]
    assert calibration_record.corrections_in_words("timing", [-1.5e-10], [2e-12]) == ["time -150.0 ± 2.0 ps"]
    assert calibration_record.with_error(1.0, 0.0) == "1"
    assert calibration_fit.LEAST_EVENTS == 200
    assert geometry.N_SENSORS == 4760
    assert calibrate.Report(None, [], {}, {}, []).tables() == []
