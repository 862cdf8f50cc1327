"""Changes of training events that keep their physics correct: dead sensors, jitter, pile-up, mirrors.

Everything works on whole batches and draws from a given generator. Batches are not changed in place: they are views
of memory that others share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from xecml import geometry
from xecml.data.batch import Batch
from xecml.data.damage import block_table
from xecml.errors import InputError
from xecml.events import INVALID, TASKS

# the mirror image of a truth by its kind: theta, phi in degrees; u, v, w; unit vector
_TRUTH_Z: dict[str, Callable[[Tensor], Tensor]] = {
    "angles": lambda y: torch.stack([180 - y[:, 0], y[:, 1]], 1),
    "position": lambda y: y * y.new_tensor([-1, 1, 1]),
    "vector": lambda y: y * y.new_tensor([1, 1, -1]),
}
_TRUTH_Y: dict[str, Callable[[Tensor], Tensor]] = {
    "angles": lambda y: y * y.new_tensor([1, -1]),
    "position": lambda y: y * y.new_tensor([1, -1, 1]),
    "vector": lambda y: y * y.new_tensor([1, -1, 1]),
}
_MOST_GAMMAS = 4


@dataclass(frozen=True)
class Augmentation:
    """What is done to a batch, in this order; each step can be called by itself below.

    Attributes:
        pileup: share of events that get a second one of the batch added.
        pileup_light: least and largest share of its light that the second event brings.
        pileup_time: half width in s of the uniform difference between the two events' times.
        mirror_z: share of events mirrored in z.
        mirror_y: share of events mirrored in y.
        gain_jitter: relative spread of each sensor's gain.
        time_jitter: spread in s of each sensor's time.
        dead_clusters: share of events with a round patch of dead sensors.
        cluster_radius: its radius, cm.
        dead_channels: share of events with dead sensors, scattered or in the blocks of `xecml.data.damage`.
        dead_fraction: largest share of sensors that are dead in those.
        channel_dropout: share of sensors that are dead, anew in each event.
        relative: whether counts are relative to the event's largest.

    Raises:
        InputError: pile-up with relative counts, which do not add.
    """

    pileup: float = 0.0
    pileup_light: tuple[float, float] = (0.05, 0.5)
    pileup_time: float = 5e-8
    mirror_z: float = 0.0
    mirror_y: float = 0.0
    gain_jitter: float = 0.0
    time_jitter: float = 0.0
    dead_clusters: float = 0.0
    cluster_radius: float = 5.0
    dead_channels: float = 0.0
    dead_fraction: float = 0.1
    channel_dropout: float = 0.1
    relative: bool = False

    def __post_init__(self) -> None:
        if self.relative and self.pileup:
            raise InputError(
                "Pile-up cannot be added to relative counts; read npho and time instead, or set pile-up to 0."
            )

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Apply what is switched on; the generator is on the batch's device."""
        for keys, change in CHANGES.items():
            if any(getattr(self, key) for key in keys):
                batch = change(batch, self, generator)
        return batch


CHANGES: dict[tuple[str, ...], Callable[[Batch, Augmentation, torch.Generator], Batch]] = {
    ("pileup",): lambda b, a, g: add_pileup(b, a.pileup, a.pileup_light, a.pileup_time, g),
    ("mirror_z",): lambda b, a, g: mirror(b, "z", _chance(b, a.mirror_z, g)),
    ("mirror_y",): lambda b, a, g: mirror(b, "y", _chance(b, a.mirror_y, g)),
    ("gain_jitter", "time_jitter"): lambda b, a, g: jitter(b, a.gain_jitter, a.time_jitter, g, relative=a.relative),
    ("dead_clusters",): lambda b, a, g: drop_clusters(b, a.dead_clusters, a.cluster_radius, g),
    ("dead_channels",): lambda b, a, g: add_damage(b, a.dead_channels, a.dead_fraction, g),
    ("channel_dropout",): lambda b, a, g: drop_channels(b, a.channel_dropout, g),
}
"""Changes in their order, by the keys of which one switches them on."""


def step_generator(seed: int, epoch: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one training step: a function of its arguments, so that a resumed run draws the same."""
    mixed = np.random.SeedSequence((seed, epoch, step)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed >> np.uint64(1)))


def switch_off(batch: Batch, dead: Tensor) -> Batch:
    """Make sensors `dead` (B, 4760) look exactly as in a file where they are: 1e10, and masks false."""
    return replace(
        batch,
        npho=batch.npho.masked_fill(dead, INVALID),
        time=batch.time.masked_fill(dead, INVALID),
        valid=batch.valid & ~dead,
        timed=batch.timed & ~dead,
    )


def drop_channels(batch: Batch, rate: float, generator: torch.Generator) -> Batch:
    """Switch each sensor of each event off with probability `rate`."""
    return switch_off(batch, torch.rand(batch.npho.shape, generator=generator, device=batch.npho.device) < rate)


def drop_clusters(batch: Batch, rate: float, radius: float, generator: torch.Generator) -> Batch:
    """In a share `rate` of events, switch off all sensors of a face within `radius` cm of a random sensor."""
    device, events = batch.npho.device, len(batch)
    where, face = _positions(device), _faces(device)
    centre = torch.randint(geometry.N_SENSORS, (events,), generator=generator, device=device)
    near = torch.cdist(where[centre], where) <= radius
    dead = near & (face[centre][:, None] == face) & _chance(batch, rate, generator)[:, None]
    return switch_off(batch, dead)


def add_damage(batch: Batch, rate: float, most: float, generator: torch.Generator) -> Batch:
    """In a share `rate` of events, switch off a share of the sensors that is uniform from 0 to `most`.

    In half of these sensors die one by one, in the others by blocks of `xecml.data.damage.block_table`. Unlike with
    `xecml.data.damage.draw_damage`, which evaluations use, the share is that of the chance: the number dead varies, and
    is lower on faces of smaller blocks; the draw costs a tenth, and runs where the batch is.
    """
    device, shape = batch.npho.device, batch.npho.shape
    share = most * torch.rand((shape[0], 1), generator=generator, device=device)
    share = torch.where(_chance(batch, rate, generator)[:, None], share, 0.0)
    blocks = _chance(batch, 0.5, generator)
    table = _blocks(device)
    # a sensor lives where none of the blocks that hold it dies
    chance = torch.where(blocks[:, None], 1 - (1 - share) ** (1 / table.shape[1]), share)
    dead = torch.rand(shape, generator=generator, device=device) < chance
    event, middle = (dead & blocks[:, None]).nonzero(as_tuple=True)
    places = (event * (shape[1] + 1))[:, None] + table[middle]
    inside = torch.zeros(shape[0] * (shape[1] + 1), dtype=torch.bool, device=device)
    inside = inside.index_fill(0, places.flatten(), True).reshape(shape[0], -1)[:, : shape[1]]
    return switch_off(batch, dead | inside)


def jitter(batch: Batch, gain: float, time: float, generator: torch.Generator, *, relative: bool = False) -> Batch:
    """Multiply counts by exp(gain x - gain^2 / 2), of mean 1, and add `time` x seconds to times, x normal.

    Relative counts are divided anew by the largest valid one, as they are in files.
    """
    device, shape = batch.npho.device, batch.npho.shape
    normal = torch.randn((2, *shape), generator=generator, device=device)
    npho = torch.where(batch.valid, batch.npho * torch.exp(gain * normal[0] - gain**2 / 2), batch.npho)
    if relative:
        largest = torch.where(batch.valid, npho, 0.0).amax(1, keepdim=True)
        npho = torch.where(batch.valid, npho / largest, npho)
    return replace(batch, npho=npho, time=torch.where(batch.timed, batch.time + time * normal[1], batch.time))


def add_pileup(
    batch: Batch, rate: float, light: tuple[float, float], width: float, generator: torch.Generator
) -> Batch:
    """Add to a share `rate` of events the light of another event of the batch, as a second photon would.

    The second event brings a share of its light, uniform in `light`, and comes later by a time uniform in
    +-`width` (s). Counts add. The time of a sensor that both lit is the light-weighted mean of both times, as the
    simulation has it for all photons of an event; of a sensor that one of them lit, its own. Truth is that of the
    first event, but for the number of photons, which adds. Sensors dead in both events stay dead.
    """
    device, events = batch.npho.device, len(batch)
    # no event is its own second
    shift = torch.randint(1, max(events, 2), (events,), generator=generator, device=device)
    other = (torch.arange(events, device=device) + shift) % events
    draws = torch.rand((2, events, 1), generator=generator, device=device)
    share = light[0] + (light[1] - light[0]) * draws[0]
    later = (2 * draws[1] - 1) * width
    hit = _chance(batch, rate, generator)[:, None]
    valid, timed = batch.valid[other] & hit, batch.timed[other] & hit
    n1, n2 = torch.where(batch.valid, batch.npho, 0.0), torch.where(valid, batch.npho[other] * share, 0.0)
    t1, t2 = (torch.where(m, t, 0.0) for m, t in ((batch.timed, batch.time), (timed, batch.time[other] + later)))
    w1, w2 = torch.where(batch.timed, n1, 0.0), torch.where(timed, n2, 0.0)
    mean = t1 + (t2 - t1) * (w2 / (w1 + w2).clamp_min(1e-30))
    lit, clocked = batch.valid | valid, batch.timed | timed
    truth = dict(batch.truth)
    if "n_gamma" in truth:
        both = truth["n_gamma"] + torch.where(hit, truth["n_gamma"][other], 0)
        truth["n_gamma"] = both.clamp_max(_MOST_GAMMAS)
    return replace(
        batch,
        npho=torch.where(valid, n1 + n2, batch.npho),
        time=torch.where(timed, mean, batch.time),
        valid=lit,
        timed=clocked,
        truth=truth,
    )


def mirror(batch: Batch, axis: str, which: Tensor | None = None) -> Batch:
    """Mirror events in z -> -z or y -> -y: sensors, and truth with them.

    The detector has both symmetries. Vertices on the slanted target have neither in z (x = -0.268 z there), so that
    angles of such events are mirrored into ones that do not occur.

    Args:
        batch: the events.
        axis: `z` or `y`.
        which: (B,) events to mirror; all by default.
    """
    sensors = mirrored_sensors(axis).to(batch.npho.device)
    chosen = torch.ones(len(batch), dtype=torch.bool, device=batch.npho.device) if which is None else which
    images = _TRUTH_Z if axis == "z" else _TRUTH_Y
    npho, time, valid, timed = (torch.where(chosen[:, None], x[:, sensors], x) for x in batch.inputs())
    kinds = {task: TASKS[task].kind for task in batch.truth}
    truth = {
        task: torch.where(chosen[:, None], images[kinds[task]](y), y) if kinds[task] in images else y
        for task, y in batch.truth.items()
    }
    return replace(batch, npho=npho, time=time, valid=valid, timed=timed, truth=truth)


@cache
def mirrored_sensors(axis: str) -> Tensor:
    """Id of the sensor at each sensor's mirror image, (4760,); applied twice, each sensor's own."""
    sign = {"z": [1, 1, -1], "y": [1, -1, 1]}[axis]
    where = geometry.positions()
    order = np.lexsort(np.round(where, 3).T)
    image = np.round(where * sign, 3) + 0.0  # no negative zeros, which sort alike but print otherwise
    partner = np.empty(geometry.N_SENSORS, np.int64)
    partner[np.lexsort(image.T)] = order
    if np.abs(where[partner] - where * sign).max() > 1e-2:
        raise AssertionError(f"the detector has no mirror image in {axis}")
    return torch.from_numpy(partner)


def _chance(batch: Batch, share: float, generator: torch.Generator) -> Tensor:
    return torch.rand(len(batch), generator=generator, device=batch.npho.device) < share


@cache
def _positions(device: torch.device) -> Tensor:
    return torch.tensor(geometry.positions(), dtype=torch.float32, device=device)


@cache
def _blocks(device: torch.device) -> Tensor:
    return torch.tensor(block_table(), device=device)


@cache
def _faces(device: torch.device) -> Tensor:
    return torch.tensor(geometry.face_codes().astype(np.int64), device=device)
