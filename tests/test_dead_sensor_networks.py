"""Networks as repairs of dead sensors: raw in, raw out, live ones bit for bit, from checkpoint and from ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import point_sources
from xecml.errors import InputError
from xecml.events import INVALID, photoelectrons, valid_times
from xecml.geometry import face_codes, positions
from xecml.inference import repair_models
from xecml.inference.export import export
from xecml.inference.repair_models import NetworkRepair, OnnxRepair, is_repair, load_repair
from xecml.inference.trained_model import load_model
from xecml.models.rebuild.filler import Filler, around_on_face, mean_of_roots, untruncated_mean
from xecml.recipes import load_config
from xecml.recipes.shipped import shipped
from xecml.training import loop

pytestmark = pytest.mark.slow
TINY = shipped()["tiny"].path


@pytest.fixture(scope="module", params=["mae", "inpaint"])
def trained(request: pytest.FixtureRequest, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    paths = {"data.train_path": str(sample / "train.root"), "data.val_path": str(sample / "val.root"),
             "checkpoint.save_dir": str(tmp_path_factory.mktemp(request.param))}  # fmt: skip
    settings = ["model.freeze_encoder=false", "checkpoint.save_predictions=0"]
    return loop.train(
        load_config(TINY, settings, paths, job=request.param), name="run", kind=request.param, quiet=True
    ).best


@pytest.fixture(scope="module")
def events() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    chunk = point_sources(150, 9)
    some = chunk["npho"][::2]  # of these events dark sensors read zero
    some[some > 9e9] = 0
    return chunk["npho"], chunk["time"], np.random.default_rng(0).random((150, 4760)) < 0.05


def test_live_sensors_pass_and_dead_ones_are_not_looked_at(trained, events) -> None:
    npho, time, dead = events
    repair = load_repair(trained)
    n, t = repair.fill(npho, time, dead)
    assert (n[~dead] == npho[~dead]).all()
    assert (t[~dead] == time[~dead]).all()
    gone = np.where(dead, np.float32(INVALID), npho), np.where(dead, np.float32(INVALID), time)
    again = repair.fill(*gone, dead)
    np.testing.assert_array_equal(n, again[0])
    np.testing.assert_array_equal(t, again[1])
    bright = dead & (npho > 3000) & (npho < 9e9)
    assert np.median(np.abs(n[bright] / npho[bright] - 1)) < 0.25
    assert np.median(np.abs(t[bright] - time[bright])) < 1.5e-9


def assert_alike(found: tuple[np.ndarray, ...], wanted: tuple[np.ndarray, ...]) -> None:
    """Counts and times within rounding; a sensor of one photoelectron may have a time in one and none in the other."""
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-3, atol=0.1)
    known = [valid_times(*pair) for pair in (found, wanted)]
    assert np.abs(photoelectrons(wanted[0])[known[0] != known[1]] - 1).max(initial=0) < 0.02
    both = known[0] & known[1]
    np.testing.assert_allclose(found[1][both], wanted[1][both], rtol=0, atol=2e-12)


def test_times_are_filled_only_where_there_are_some(trained, events) -> None:
    npho, time, dead = (x[:12].copy() for x in events)
    time[3] = INVALID
    n, t = load_repair(trained).fill(npho, time, dead)
    assert (t[3] == np.float32(INVALID)).all()
    assert (n[3][dead[3]] < 9e9).all()
    hardly = dead & (photoelectrons(n) < 1)
    assert hardly.any()
    assert (t[hardly] == np.float32(INVALID)).all()
    lit = dead & ~hardly
    lit[3] = False
    assert (np.abs(t[lit]) < 1e-6).all()


def test_many_dead_sensors_go_in_smaller_batches(trained, events, monkeypatch) -> None:
    npho, time, dead = (x[:20] for x in events)
    repair = load_repair(trained)
    whole = repair.fill(npho, time, dead)
    monkeypatch.setattr(repair_models, "_HIDDEN", 700)
    assert_alike(repair.fill(npho, time, dead), whole)


def test_a_list_of_sensors_is_dead_in_all_events(trained, events) -> None:
    npho, time, dead = events
    repair = load_repair(trained)
    one, all_alike = repair.fill(npho, time, dead[0]), repair.fill(npho, time, np.repeat(dead[:1], len(npho), 0))
    np.testing.assert_array_equal(one[0], all_alike[0])


def test_no_event_and_no_dead_sensor(trained, events) -> None:
    npho, time, _ = events
    repair = load_repair(trained)
    n, t = repair.fill(npho[:0], time[:0], np.zeros((0, 4760), bool))
    assert n.shape == t.shape == (0, 4760)
    n, t = repair.fill(npho[:3], time[:3], np.zeros(4760, bool))
    assert (n == npho[:3]).all()


@pytest.mark.parametrize("trained", [pytest.param("mae", marks=pytest.mark.long), "inpaint"], indirect=True)
def test_an_exported_file_fills_alike(trained, events, tmp_path: Path) -> None:
    npho, time, dead = (x[:9] for x in events)
    report = export(trained, tmp_path / "repair.onnx")
    assert max(report.largest_difference.values()) < 1e-4
    ours, theirs = load_repair(trained), load_repair(report.out)
    assert isinstance(ours, NetworkRepair)
    assert isinstance(theirs, OnnxRepair)
    (n, t), (n2, t2) = ours.fill(npho, time, dead), theirs.fill(npho, time, dead)
    assert (n2[~dead] == npho[~dead]).all()
    assert_alike((n2, t2), (n, t))
    for some in (np.zeros_like(dead), np.tile(np.arange(4760) >= 4092, (9, 1)) & dead):  # none, PMTs alone
        assert_alike(theirs.fill(npho, time, some), ours.fill(npho, time, some))
    with pytest.raises(InputError, match="xec inpaint"):
        load_model(report.out)


def test_kinds_are_told_apart(trained, events, tmp_path: Path) -> None:
    assert is_repair(trained)
    with pytest.raises(InputError, match="No such model"):
        is_repair(tmp_path / "nothing.pth")
    with pytest.raises(InputError, match="predicts no physical quantities"):
        load_model(trained)
    with pytest.raises(InputError, match="no tasks"):
        export(trained, tmp_path / "x.onnx", tasks=["angle"])
    with pytest.raises(InputError, match="point_source"):
        load_repair("nearest_guess")
    for repair in (load_repair(trained), load_repair("point_source")):
        with pytest.raises(InputError, match=r"dead has shape \(7, 4760\); it must be \(4760,\) or \(150, 4760\)"):
            repair.fill(events[0], events[1], events[2][:7])
    with pytest.raises(InputError, match="4760"):
        load_repair(trained).fill(events[0][:, :100], events[1][:, :100], events[2][:, :100])


def test_zeros_belong_to_the_mean() -> None:
    x = torch.tensor([0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0, 1e4])
    mean = x / -torch.expm1(-x)
    torch.testing.assert_close(untruncated_mean(mean), x, rtol=2e-3, atol=2e-3)
    assert untruncated_mean(torch.tensor([0.3, 1.0])).tolist() == [0.0, 0.0]


class Answers(torch.nn.Module):
    """A network that answers so many photoelectrons for every sensor, at time zero."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.photons = torch.tensor(number / photoelectrons(np.ones(4760)), dtype=torch.float32)
        self.ground = self

    def forward(self, npho: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return rest[-1], torch.zeros(len(npho))

    def raw(self, answer: torch.Tensor, light_time: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.photons[answer % 4760], torch.zeros(len(answer))


def test_dim_sensors_are_filled_with_the_mean_around_dark_ones_among_it() -> None:
    """Half a photoelectron everywhere: what saw light saw 1.3 on average, and six in ten saw nothing."""
    efficiency = photoelectrons(np.ones(4760))
    rng = np.random.default_rng(0)
    npho = torch.tensor(rng.poisson(0.5, (40, 4760)) / efficiency, dtype=torch.float32)
    dead = torch.tensor(rng.random((40, 4760)) < 0.05)
    # is not looked at
    npho[dead] = torch.tensor(rng.choice([0.0, 500.0, INVALID], int(dead.sum())), dtype=torch.float32)
    time = torch.full_like(npho, INVALID)
    dim, bright = (Filler(Answers(number))(npho, time, dead)[0] for number in (1.3, 8.0))  # type: ignore[arg-type]
    found = dim.numpy() * efficiency
    for sensors in (np.arange(4760) < 4092, np.arange(4760) >= 4092):
        values = found[:, sensors][dead.numpy()[:, sensors]]
        assert values.mean() == pytest.approx(0.5, abs=0.02)
        assert values.std() < 0.3
    assert bright.numpy()[dead.numpy()] * efficiency[dead.nonzero()[:, 1]] == pytest.approx(8.0, abs=0.01)
    # a hot sensor does not make those around it brighter than lit ones are
    hot = torch.where(torch.arange(4760) == 2000, 1e5, npho).where(~dead, INVALID)
    most = Filler(Answers(1.3))(hot, time, dead)[0].numpy()[dead.numpy()]  # type: ignore[arg-type]
    assert (most * efficiency[dead.nonzero()[:, 1]]).max() < 1.31
    # where dark sensors are not measured, or none is left around, the network has the word
    lit = torch.where(npho == 0, INVALID, npho)
    told = Filler(Answers(1.3))(lit, time, dead)[0].numpy()[dead.numpy()]  # type: ignore[arg-type]
    assert told * efficiency[dead.nonzero()[:, 1]] == pytest.approx(
        float(untruncated_mean(torch.tensor(1.3))), abs=0.01
    )
    face = torch.tensor(face_codes() == 3).expand(40, -1)
    alone = Filler(Answers(1.3))(npho, time, face)[0].numpy() * efficiency  # type: ignore[arg-type]
    assert alone[face.numpy()] == pytest.approx(float(untruncated_mean(torch.tensor(1.3))), abs=0.01)


def test_sensors_around_are_near_and_of_one_face() -> None:
    table, faces, xyz = around_on_face(), face_codes(), positions()
    assert (faces[table] == faces[:, None]).all()
    far = np.linalg.norm(xyz[table] - xyz[:, None], axis=2)
    inner = faces == 0
    assert far[inner].max() < 6
    assert far[~inner].max() < 20
    number = (far > 0).sum(1)
    assert number.min() >= 4
    assert np.median(number[inner]) == table.shape[1]


@pytest.mark.parametrize("noise", [1.0, 1.2])
def test_means_come_back_from_mean_roots(noise: float) -> None:
    """Of Poisson numbers that are not zero, each photoelectron with some noise of its own."""
    rng = np.random.default_rng(0)
    for mean in (0.1, 0.5, 1.0, 2.0, 4.0, 10.0, 100.0):
        number = rng.poisson(mean, 400_000)
        number = number[number > 0]
        charge = np.maximum(number + np.sqrt((noise - 1) * number) * rng.standard_normal(len(number)), 0.1)
        squared = torch.tensor([np.sqrt(charge).mean() ** 2], dtype=torch.float32)
        again = mean_of_roots(squared, torch.tensor([noise], dtype=torch.float32))
        assert abs(float(again) - charge.mean()) < 0.07
        assert charge.mean() - float(squared) > (0.2 if mean > 3 else 0)
