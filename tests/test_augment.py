"""Augmentation: each step is what the detector could have done."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import point_sources
from xecml import geometry
from xecml.data import augment
from xecml.data.augment import Augmentation, step_generator
from xecml.data.batch import Batch, validity
from xecml.data.damage import block_table
from xecml.errors import InputError
from xecml.events import INVALID

EVENTS = 64


def batch_of(events: dict[str, np.ndarray]) -> Batch:
    npho, time = torch.from_numpy(events["npho"]), torch.from_numpy(events["time"])
    truth = {
        "angle": torch.from_numpy(events["emiAng"]),
        "energy": torch.from_numpy(events["energyTruth"])[:, None],
        "timing": torch.from_numpy(events["timeTruth"])[:, None],
        "uvwFI": torch.from_numpy(events["uvwTruth"]),
        "angleVec": torch.from_numpy(events["emiVec"]),
        "n_gamma": torch.from_numpy(events["nGamma"])[:, None],
    }
    run, event = torch.from_numpy(events["run"]), torch.from_numpy(events["event"])
    return Batch(npho, time, *validity(npho, time), truth, run, event)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return batch_of(point_sources(EVENTS, seed=5, dead=0.02))


@pytest.fixture
def generator() -> torch.Generator:
    return step_generator(1, 2, 3)


def same(a: Batch, b: Batch) -> bool:
    pairs = [*zip(a.inputs(), b.inputs(), strict=True), *((a.truth[t], b.truth[t]) for t in a.truth)]
    return all(torch.equal(x, y) for x, y in pairs)


def test_a_dropped_channel_is_a_dead_channel(batch: Batch, generator: torch.Generator) -> None:
    """What is read from a file in which the same sensors are dead is the same, in values and masks."""
    dropped = augment.drop_channels(batch, 0.1, generator)
    off = dropped.npho == INVALID
    dead = point_sources(EVENTS, seed=5, dead=0.02)
    lost = (off & batch.valid).numpy()
    for branch in ("npho", "time"):
        dead[branch][lost] = INVALID
    assert same(dropped, batch_of(dead))
    assert not (dropped.valid & off).any()
    share = (batch.valid & ~dropped.valid).sum() / batch.valid.sum()
    assert float(share) == pytest.approx(0.1, abs=3 * (0.09 / float(batch.valid.sum())) ** 0.5)


def test_batches_are_not_changed_in_place(batch: Batch, generator: torch.Generator) -> None:
    everything = Augmentation(
        pileup=1, mirror_z=0.5, mirror_y=0.5, gain_jitter=0.1, time_jitter=1e-10, dead_clusters=0.5, dead_channels=0.5
    )
    before = batch_of(point_sources(EVENTS, seed=5, dead=0.02))
    after = everything(batch, generator)
    assert same(batch, before)
    assert not same(after, before)
    assert torch.equal(after.valid & after.timed, after.timed)


def test_by_default_only_channels_are_dropped(batch: Batch) -> None:
    default = Augmentation()(batch, step_generator(0, 1, 5))
    assert same(default, augment.drop_channels(batch, 0.1, step_generator(0, 1, 5)))
    assert same(Augmentation(channel_dropout=0)(batch, step_generator(0, 1, 5)), batch)


def test_the_same_step_draws_the_same(batch: Batch) -> None:
    draws = [Augmentation()(batch, step_generator(*key)).valid for key in ((0, 1, 5), (0, 1, 5), (0, 1, 6), (1, 1, 5))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])


def test_clusters_are_round_and_of_one_face(batch: Batch, generator: torch.Generator) -> None:
    ones, zeros = torch.ones_like(batch.npho), torch.zeros_like(batch.time)
    lit = Batch(ones, zeros, *validity(ones, zeros), {}, batch.run, batch.event)
    dead = ~augment.drop_clusters(lit, 1.0, 5.0, generator).valid
    where, faces = geometry.positions(), geometry.face_codes()
    for event in dead.numpy():
        (ids,) = np.nonzero(event)
        assert len(set(faces[ids])) == 1
        centred = [i for i in ids if np.linalg.norm(where[ids] - where[i], axis=1).max() <= 5.0]
        assert any(
            set(ids) == set(np.flatnonzero((np.linalg.norm(where - where[i], axis=1) <= 5.0) & (faces == faces[i])))
            for i in centred
        )
    hit = sum(int((~augment.drop_clusters(lit, 0.25, 5.0, generator).valid).any(1).sum()) for _ in range(20))
    assert hit / (20 * EVENTS) == pytest.approx(0.25, abs=0.04)


def test_damage_is_that_of_a_detector(generator: torch.Generator) -> None:
    events, most = 2000, 0.12
    ones = torch.ones(events, geometry.N_SENSORS)
    lit = Batch(ones, 0 * ones, *validity(ones, 0 * ones), {}, torch.zeros(events), torch.arange(events))
    dead = ~augment.add_damage(lit, 0.75, most, generator).valid.numpy()
    share = dead.mean(1)
    assert (share > 0).mean() == pytest.approx(0.75, abs=0.04)
    # in blocks every dead sensor is of a block that is dead as a whole, scattered few are
    padded = np.pad(dead, ((0, 0), (0, 1)), constant_values=True)
    whole = padded[:, block_table()].all(2)
    inside = np.zeros_like(padded)
    np.logical_or.at(inside, (np.nonzero(whole)[0][:, None], block_table()[np.nonzero(whole)[1]]), True)
    in_blocks = (inside[:, :-1] & dead).sum(1) / np.maximum(dead.sum(1), 1)
    blocks = in_blocks == 1
    scattered = in_blocks < 0.5
    assert (blocks | scattered | (share == 0)).all()
    assert blocks.sum() == pytest.approx(0.375 * events, abs=90)
    assert share[scattered & (share > 0)].mean() == pytest.approx(most / 2, rel=0.06)
    assert share[scattered].max() < most * 1.2
    sipms = dead[:, : geometry.N_SIPM]
    assert sipms[blocks].mean() == pytest.approx(most / 2, rel=0.08)


def test_jitter_has_its_width_and_keeps_the_mean(batch: Batch, generator: torch.Generator) -> None:
    jittered = augment.jitter(batch, 0.1, 2e-10, generator)
    valid, timed = batch.valid, batch.timed
    ratio = (jittered.npho[valid] / batch.npho[valid]).double()
    assert float(ratio.mean()) == pytest.approx(1, abs=1e-3)
    assert float(ratio.log().std()) == pytest.approx(0.1, rel=0.02)
    shift = (jittered.time[timed] - batch.time[timed]).double()
    assert float(shift.std()) == pytest.approx(2e-10, rel=0.02)
    assert abs(float(shift.mean())) < 5e-12
    for old, new, mask in ((batch.npho, jittered.npho, valid), (batch.time, jittered.time, timed)):
        assert torch.equal(old[~mask], new[~mask])


def test_relative_counts_stay_relative(batch: Batch, generator: torch.Generator) -> None:
    largest = torch.where(batch.valid, batch.npho, 0.0).amax(1, keepdim=True)
    relative = batch_of(point_sources(EVENTS, seed=5, dead=0.02))
    relative.npho = torch.where(batch.valid, batch.npho / largest, batch.npho)
    jittered = augment.jitter(relative, 0.2, 0.0, generator, relative=True)
    torch.testing.assert_close(torch.where(batch.valid, jittered.npho, 0.0).amax(1), torch.ones(EVENTS))
    with pytest.raises(InputError, match="relative counts"):
        Augmentation(pileup=0.1, relative=True)


def test_pileup_adds_light_and_keeps_the_first_photons_truth(batch: Batch, generator: torch.Generator) -> None:
    mixed = augment.add_pileup(batch, 1.0, (0.3, 0.3), 0.0, generator)
    light = torch.where(batch.valid, batch.npho, 0.0).double()
    total = torch.where(mixed.valid, mixed.npho, 0.0).double().sum(1)
    added = (total - light.sum(1)) / 0.3
    # what was added is the light of one other event each
    distance = (added[:, None] - light.sum(1)[None]).abs() / added[:, None]
    partner = distance.argmin(1)
    assert float(distance.min(1).values.max()) < 1e-5
    assert (partner != torch.arange(EVENTS)).all()
    n1, n2 = light, 0.3 * light[partner]
    torch.testing.assert_close(torch.where(mixed.valid, mixed.npho, 0.0).double(), n1 + n2, rtol=1e-6, atol=1e-6)
    assert torch.equal(mixed.valid, batch.valid | batch.valid[partner])
    both = batch.timed & batch.timed[partner]
    mean = (n1 * batch.time.double() + n2 * batch.time[partner].double()) / (n1 + n2).clamp_min(1e-30)
    torch.testing.assert_close(mixed.time[both].double(), mean[both], rtol=0, atol=1e-14)
    only_first = batch.timed & ~batch.timed[partner]
    assert torch.equal(mixed.time[only_first], batch.time[only_first])
    for task in ("angle", "energy", "timing", "uvwFI"):
        assert torch.equal(mixed.truth[task], batch.truth[task])
    assert (mixed.truth["n_gamma"] == 2).all()


def test_pileup_comes_later_by_the_drawn_time(generator: torch.Generator) -> None:
    """A dark first event shows the second one's times, shifted by the same time in all sensors."""
    batch = batch_of(point_sources(2, seed=6))
    dark = torch.tensor([[True], [False]])
    first = augment.switch_off(batch, dark.expand(2, 4760))
    mixed = augment.add_pileup(first, 1.0, (1.0, 1.0), 5e-8, generator)
    shift = (mixed.time[0] - batch.time[1])[batch.timed[1]].double()
    assert 0 < abs(float(shift.mean())) <= 5e-8
    assert float(shift.std()) < 1e-13
    assert torch.equal(mixed.timed[0], batch.timed[1])


@pytest.mark.parametrize("axis", ["z", "y"])
def test_a_mirror_twice_is_the_identity(batch: Batch, axis: str) -> None:
    once = augment.mirror(batch, axis)
    twice = augment.mirror(once, axis)
    for before, after in zip(batch.inputs(), twice.inputs(), strict=True):
        assert torch.equal(before, after)
    for task, truth in batch.truth.items():
        torch.testing.assert_close(twice.truth[task], truth, rtol=0, atol=2e-5)
    assert not torch.equal(once.npho, batch.npho)


@pytest.mark.parametrize(("axis", "sign"), [("z", [1, 1, -1]), ("y", [1, -1, 1])])
def test_a_mirror_maps_sensors_and_truth_alike(batch: Batch, axis: str, sign: list[int]) -> None:
    where = geometry.positions()
    sensors = augment.mirrored_sensors(axis).numpy()
    np.testing.assert_allclose(where[sensors], where * sign, atol=1e-9)
    swapped = {"z": {0: 0, 1: 2, 2: 1, 3: 3, 4: 4, 5: 5}, "y": {0: 0, 1: 1, 2: 2, 3: 3, 4: 5, 5: 4}}[axis]
    codes = geometry.face_codes()
    assert [swapped[c] for c in codes] == codes[sensors].tolist()
    image = augment.mirror(batch, axis)
    uvw, seen = image.truth["uvwFI"].numpy(), batch.truth["uvwFI"].numpy()
    xyz = geometry.xyz_from_uvw(seen) * sign
    np.testing.assert_allclose(geometry.xyz_from_uvw(uvw), xyz, atol=1e-4)
    directions = geometry.direction_from_angles(image.truth["angle"].numpy())
    np.testing.assert_allclose(directions, batch.truth["angleVec"].numpy() * sign, atol=1e-5)
    np.testing.assert_allclose(image.truth["angleVec"], batch.truth["angleVec"].numpy() * sign)
    assert torch.equal(image.truth["energy"], batch.truth["energy"])


@pytest.mark.parametrize(("axis", "sign"), [("z", [1, 1, -1]), ("y", [1, -1, 1])])
def test_light_follows_its_mirrored_source(batch: Batch, axis: str, sign: list[int]) -> None:
    """The centroid of the light is as far from the mirrored source as it was from the source."""
    image = augment.mirror(batch, axis)
    offsets = []
    for b in (batch, image):
        light = torch.where(b.valid, b.npho, 0.0).double().numpy()
        centroid = light @ geometry.positions() / light.sum(1, keepdims=True)
        offsets.append(centroid - geometry.xyz_from_uvw(b.truth["uvwFI"].numpy()))
    np.testing.assert_allclose(offsets[1], offsets[0] * sign, atol=1e-4)


def test_a_share_of_events_is_mirrored(batch: Batch) -> None:
    which = torch.arange(EVENTS) % 3 == 0
    image, whole = augment.mirror(batch, "z", which), augment.mirror(batch, "z")
    assert torch.equal(image.npho[which], whole.npho[which])
    assert torch.equal(image.npho[~which], batch.npho[~which])
    assert torch.equal(image.truth["uvwFI"][~which], batch.truth["uvwFI"][~which])
