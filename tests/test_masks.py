"""Masks: exact numbers, only valid sensors, patterns as they are named, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from xecml import geometry
from xecml.config import MaskingConfig
from xecml.data.masks import PATTERNS, Masking, boards, nearest_sensors
from xecml.errors import InputError

B = 12


@pytest.fixture(scope="module")
def events() -> tuple[np.ndarray, np.ndarray]:
    """Counts over five decades about a hot spot, a third of the sensors invalid."""
    random = np.random.default_rng(1)
    far = np.linalg.norm(geometry.positions() - geometry.positions()[2000], axis=1)
    npho = (3e4 / (1 + (far / 3) ** 2) * random.uniform(0.8, 1.2, (B, 4760))).astype(np.float32)
    return npho, random.random((B, 4760)) > 0.3


def test_every_pattern_is_a_key_of_the_recipe() -> None:
    assert tuple(MaskingConfig().patterns()) == PATTERNS


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("ratio", [0.01, 0.05, 0.6])
def test_exactly_the_share_of_valid_sensors_is_hidden(events, pattern, ratio) -> None:
    npho, valid = events
    hidden = Masking(ratio, {pattern: 1.0})(npho, valid, (3, 1))
    assert not (hidden & ~valid).any()
    assert (hidden.sum(1) == np.floor(ratio * valid.sum(1) + 1e-9)).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_same_seed_same_mask(events, pattern) -> None:
    masking = Masking(0.2, {pattern: 1.0})
    first, again, other = (masking(*events, seed) for seed in ((0, 1, 2), (0, 1, 2), (0, 1, 3)))
    assert (first == again).all()
    assert (first != other).any()


def test_random_masks_choose_all_sensors_alike(events) -> None:
    npho = np.repeat(events[0][:1], 3000, 0)
    hidden = Masking(0.3)(npho, np.ones(npho.shape, bool), (5,))
    share = hidden.mean(0)
    assert abs(share.mean() - 0.3) < 1e-3
    # binomial spread of 3000 events: 0.0084
    assert 0.007 < share.std() < 0.010
    assert np.abs(share - 0.3).max() < 0.05


def test_light_masks_choose_bright_sensors_more_often_but_not_all_of_them(events) -> None:
    npho, valid = events
    hidden = Masking(0.05, {"light": 1.0})(npho, valid, (5,))
    bright = valid & (npho > 5000)
    share = hidden[bright].mean()
    assert 0.3 < share < 0.6
    assert hidden[valid & (npho < 100)].mean() < 0.06


def test_clusters_are_patches_of_neighbours(events) -> None:
    npho = events[0]
    full = np.ones(npho.shape, bool)
    nearest = nearest_sensors(7)[:, 1:]

    def of_neighbours(pattern: str) -> float:
        hidden = Masking(0.05, {pattern: 1.0})(npho, full, (5,))
        return float(np.mean([h[nearest[h]].mean() for h in hidden]))

    assert of_neighbours("random") < 0.1
    assert of_neighbours("clusters") > 0.5
    assert of_neighbours("boards") > 0.5


def test_boards_are_hidden_whole(events) -> None:
    npho = events[0]
    hidden = Masking(0.1, {"boards": 1.0})(npho, np.ones(npho.shape, bool), (5,))
    sizes = np.bincount(boards())
    for h in hidden:
        touched = np.bincount(boards(), h)
        partly = (touched > 0) & (touched < sizes)
        assert partly.sum() <= 1  # the last one, for the exact number


def test_boards_cover_every_sensor_once() -> None:
    sizes = np.bincount(boards())
    assert sizes.sum() == geometry.N_SENSORS
    assert sizes.min() >= 1
    assert sizes.max() == 16
    one_face = [len(set(geometry.face_codes()[boards() == b])) for b in range(len(sizes))]
    assert set(one_face) == {1}


def test_face_masks_hide_one_face(events) -> None:
    npho = events[0]
    hidden = Masking(0.2, {"face": 1.0})(npho, np.ones(npho.shape, bool), (5,))
    codes = geometry.face_codes()
    for h in hidden:
        whole = [h[codes == face].all() for face in range(6)]
        assert sum(whole) >= 1
        assert not whole[0]


def test_spot_masks_hide_one_of_the_nearest_and_a_share_of_others_or_blocks(events) -> None:
    npho = np.repeat(events[0][:1], 1200, 0)
    hidden = Masking(0.03, {"spot": 1.0})(npho, np.ones(npho.shape, bool), (7,))
    brightest = int(npho[0].argmax())
    near = nearest_sensors(64)[brightest]
    # eight in ten events hide blocks, most of them one: of those about 36 sensors 16 hold the brightest
    missed = sum(share * (20 / 36) ** n for n, share in enumerate((0.65, 0.2275, 0.0796, 0.0429), 1))
    others = 0.29 / np.log(30)  # mean share of the others
    alone = 1 / 5 + 4 / 5 * others
    assert abs(hidden[:, brightest].mean() - (0.2 * alone + 0.8 * (1 - missed))) < 0.04
    far = np.setdiff1d(np.arange(4760), near)
    assert hidden[:, far].mean() < 0.03
    # a dead sensor on the hot spot has mostly live neighbours, as in a detector of few scattered ones
    scattered = hidden[:, near[:5]].sum(1) <= 2
    assert (hidden[:, near[1:9]].sum(1)[hidden[:, brightest] & scattered] <= 1).mean() > 0.5
    # what is hidden does not depend on how bright a chip beside the brightest is
    dim = npho.copy()
    dim[:, near[3]] = 1
    assert (Masking(0.03, {"spot": 1.0})(dim, np.ones(npho.shape, bool), (7,)) == hidden).all()


def test_light_masks_do_not_go_by_a_sensor_itself(events) -> None:
    npho = np.repeat(events[0][:1], 2000, 0)
    full = np.ones(npho.shape, bool)
    sensor = int(nearest_sensors(9)[int(npho[0].argmax())][8])
    other = npho.copy()
    other[:, sensor] = 1.0
    shares = [Masking(0.05, {"light": 1.0})(n, full, (4,))[:, sensor].mean() for n in (npho, other)]
    assert shares[0] > 0.2
    assert abs(shares[0] - shares[1]) < 0.06


def test_listed_sensors_are_hidden_first(events) -> None:
    npho, valid = events
    few, many = tuple(range(100, 140)), tuple(range(100, 1500))
    hidden = Masking(0.05, {"listed": 1.0}, listed=few)(npho, valid, (2,))
    assert (hidden[:, few] == valid[:, few]).all()
    assert (hidden.sum(1) == np.floor(0.05 * valid.sum(1) + 1e-9)).all()
    hidden = Masking(0.05, {"listed": 1.0}, listed=many)(npho, valid, (2,))
    assert hidden[:, many].sum() == hidden.sum()
    assert (hidden.sum(1) == np.floor(0.05 * valid.sum(1) + 1e-9)).all()


def test_masks_of_an_event_do_not_depend_on_its_batch(events) -> None:
    npho, valid = events
    masking = Masking(0.1, {"random": 1.0, "clusters": 1.0, "spot": 1.0})
    whole = masking(npho, valid, (3, 9))
    parts = [masking(npho[a:b], valid[a:b], (3, 9), first=a) for a, b in ((0, 5), (5, len(npho)))]
    assert (np.concatenate(parts) == whole).all()


def test_patterns_mix_in_their_shares(events) -> None:
    npho = np.repeat(events[0][:1], 400, 0)
    hidden = Masking(0.2, {"random": 3.0, "face": 1.0})(npho, np.ones(npho.shape, bool), (5,))
    codes = geometry.face_codes()
    whole = np.array([any(h[codes == face].all() for face in range(1, 6)) for h in hidden])
    assert 0.18 < whole.mean() < 0.32


def test_ratio_ramps() -> None:
    masking = Masking(0.6, ratio_start=0.2, ramp_epochs=4)
    assert [masking.ratio_at(e) for e in (0, 2, 4, 9)] == pytest.approx([0.2, 0.4, 0.6, 0.6])


def test_wrong_masks_are_named() -> None:
    with pytest.raises(InputError, match="stripes"):
        Masking(0.5, {"stripes": 1.0})
    with pytest.raises(InputError, match="above 0"):
        Masking(0.5, {"random": 0.0})
    with pytest.raises(InputError, match="between 0 and 1"):
        Masking(1.0)


def test_an_event_without_valid_sensors_hides_none(events) -> None:
    hidden = Masking(0.5, {"clusters": 1.0})(events[0], np.zeros((B, 4760), bool), (1,))
    assert not hidden.any()
