"""What more would have to be known to tell the counts of a dead block at the hot spot.

    python benchmarks/blocklimit.py TRAIN.root ... --test TEST.root [--truth [--smear MM]]

A block of 4 x 4 SiPMs is dead, its middle at most some chips from where the photon converts (all such places alike, but
for the edges of the face, so that the block says nothing of the light). A network learns its sixteen counts, and
nothing else, from the 18 x 18 chips around, the light of the inner face in parts of 4 x 4, and every PMT. With
`--truth` it is told where the photon converts, its energy and its direction besides; with `--smear` this as a
reconstruction might know it. Printed is its error over that of the conventional fit, as it learns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xecml import geometry, rootio
from xecml.conventional.deadchannels import ConventionalRepair
from xecml.events import INVALID
from xecml.models.layers import DenseResidual
from xecml.training.average import WeightAverage

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
S, N_SIPM = geometry.N_SENSORS, geometry.N_SIPM
INNER = geometry.inner_map()
ROWS, COLUMNS = INNER.shape
SIDE, REACH, AROUND = 4, 4, 7


def main() -> None:
    """Train a network, and print its error over the conventional fit's as it learns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", nargs="+")
    parser.add_argument("--test", required=True)
    parser.add_argument("--truth", action="store_true", help="tell the conversion point, energy and direction")
    parser.add_argument(
        "--smear", type=float, default=0.0, help="mm in u, v and w; then also 3 %% of the energy and 25 deg"
    )
    parser.add_argument("--events", type=int, default=130_000, help="of each training file")
    parser.add_argument("--steps", type=int, default=6_000, help="of 256 events")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args()
    if options.smear and not options.truth:
        parser.error("--smear goes with --truth")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train, test = Events(options.train, options.events, options.smear), Events([options.test], 10**9, options.smear)
    fit = errors_of(conventional, test)
    network = BlockNetwork(truth=options.truth, width=options.width)
    average = WeightAverage(network, 0.999)
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=0.02, fused=True)
    order, started = np.random.default_rng(5), time.monotonic()
    for step in range(1, options.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min(1, step / 300) * 0.5 * (1 + np.cos(np.pi * step / options.steps))
        counts, truth, row, column = train.batch(np.sort(order.choice(len(train.truth), 256)), order)
        dead, block = hide(row, column)
        if order.random() < 0.5:  # others that are dead
            dead |= torch.rand(dead.shape) < 0.03 * (torch.arange(S) < N_SIPM)
        share, seen = network(counts, truth, row, column, dead)
        true = (counts.gather(1, block) / seen[:, None]).sqrt()
        # as errors of counts weigh, and a little as those of roots do
        weight = 300 * (seen / 2e5).clamp_max(2)[:, None].square()
        loss = (weight * (share.square() - true.square()).square() + 3 * (share - true).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimizer.step()
        average.update()
        if step % 1000 == 0 or step == options.steps:
            found = errors_of(average.module, test)
            ratio = np.sqrt(found.mean() / fit.mean())
            print(f"{step} steps, {time.monotonic() - started:.0f} s: network {rms(found)} photons, point source "
                  f"{rms(fit)}, ratio {ratio:.3f}", flush=True)  # fmt: skip


def chips(uvw: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Row and column, with fractions, of points uvw (n, 3) in cm over the inner face."""
    ends = geometry.uvw_from_xyz(geometry.positions()[INNER[[0, -1], [0, -1]]])
    at = (uvw[:, :2] - ends[0, :2]) / (ends[1, :2] - ends[0, :2])
    return at[:, 1] * (ROWS - 1), at[:, 0] * (COLUMNS - 1)


def block_corners(uvw: NDArray[np.floating], rng: np.random.Generator) -> tuple[Ints, Ints]:
    """First row and column of a block for each conversion point uvw (n, 3)."""
    row, column = (np.rint(x).astype(np.int64) for x in chips(uvw))
    shift = rng.integers(-REACH, REACH + 1, (2, len(uvw))) - SIDE // 2
    return np.clip(row + shift[0], 0, ROWS - SIDE), np.clip(column + shift[1], 0, COLUMNS - SIDE)


def rms(squares: Floats) -> str:
    """Root mean square of a chip with its statistical error, from sums of squares over a block by event."""
    value = np.sqrt(squares.mean() / SIDE**2)
    error = 0.5 * value * squares.std() / squares.mean() / np.sqrt(len(squares))
    return f"{value:.0f} +- {error:.0f}"


class Events:
    """Square roots of counts (half the memory), and truth: u, v, w (cm), direction, energy (MeV)."""

    def __init__(self, files: list[str], most: int, smear: float) -> None:
        roots, truth = [], []
        for file in files:
            left = most
            for chunk in rootio.read(file, ("npho", "uvwTruth", "emiAng", "energyTruth"), chunk_events=4096):
                npho = np.where(chunk["npho"] < INVALID / 10, np.maximum(chunk["npho"], 0), 0)[:left]
                roots.append(np.sqrt(npho).astype(np.float16))
                direction = geometry.direction_from_angles(chunk["emiAng"])
                energy = 1e3 * chunk["energyTruth"].reshape(-1, 1)
                truth.append(np.concatenate([chunk["uvwTruth"], direction, energy], 1)[:left].astype(np.float32))
                left -= len(npho)
                if left <= 0:
                    break
        self.roots, self.truth, self.smear = np.concatenate(roots), np.concatenate(truth), smear

    def batch(self, which: Ints, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Counts (B, 4760), truth, first row and column of the blocks (B,) of some events."""
        counts = torch.from_numpy(self.roots[which].astype(np.float32)).square()
        truth = self.truth[which]
        row, column = block_corners(truth, rng)
        if self.smear:
            noise = rng.standard_normal(truth.shape).astype(np.float32)
            # a direction 25 degrees off on average leans by 0.3 along each of two axes
            truth = truth + noise * [*[self.smear / 10] * 3, *[0.3] * 3, 0.0] + noise * truth * [*[0.0] * 6, 0.03]
            truth = truth.astype(np.float32)
        return counts, torch.from_numpy(truth), torch.from_numpy(row), torch.from_numpy(column)


class BlockNetwork(nn.Module):
    """Shares of the light seen, (B, 16), of the chips of a block, from counts (B, 4760).

    Args:
        truth: whether it is told the truth.
        width: of the layers.
    """

    inner: Tensor
    faces: Tensor

    def __init__(self, *, truth: bool, width: int, layers: int = 4) -> None:
        super().__init__()
        self.truth = truth
        self.register_buffer("inner", torch.tensor(INNER))
        self.register_buffer("faces", torch.tensor(np.eye(6, dtype=np.float32)[geometry.face_codes()]))
        window = SIDE + 2 * AROUND
        parts = -(-ROWS // SIDE) * -(-COLUMNS // SIDE)
        inputs = 2 * window**2 + S - N_SIPM + parts + 6 + 3 + 26 * truth
        self.first = nn.Linear(inputs, width)
        self.layers = nn.Sequential(*(DenseResidual(width, width) for _ in range(layers)), nn.LayerNorm(width))
        self.last = nn.Linear(width, SIDE**2)
        nn.init.zeros_(self.last.weight)
        nn.init.constant_(self.last.bias, 0.15)

    def forward(
        self, counts: Tensor, truth: Tensor, row: Tensor, column: Tensor, dead: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Square roots of the shares (B, 16), and the light seen (B,), which counts PMTs half."""
        live = ~dead
        counts = torch.where(live, counts, 0.0)
        sums = counts @ self.faces
        seen = 0.5 * (sums[:, 0] + sums.sum(1))
        roots = torch.sqrt(counts / seen[:, None])
        face = nn.functional.pad(torch.stack([roots, live.float()], 1)[:, :, self.inner], (AROUND,) * 4)
        near = face[(torch.arange(len(row))[:, None, None], slice(None), *window(row, column, SIDE + 2 * AROUND))]
        parts = nn.functional.avg_pool2d(counts[:, None, self.inner], SIDE, ceil_mode=True) / seen[:, None, None, None]
        said = [
            5 * near[..., 0].flatten(1), near[..., 1].flatten(1), 2 * roots[:, N_SIPM:], 4 * parts.sqrt().flatten(1),
            torch.log(sums / seen[:, None] + 1e-4), torch.log(seen)[:, None] - 12,
            row[:, None] / 30 - 1.5, column[:, None] / 15 - 1.3,
        ]  # fmt: skip
        if self.truth:
            said.append(told(truth, row, column))
        answer: Tensor = self.last(self.layers(self.first(torch.cat(said, 1))))
        return nn.functional.softplus(4 * answer) / 4, seen


def window(row: Tensor, column: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Rows and columns (B, side, side) of squares that begin at row and column (B,)."""
    steps = torch.arange(side)
    square = torch.broadcast_tensors(row[:, None, None] + steps[:, None], column[:, None, None] + steps)
    return square[0], square[1]


def told(truth: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """The truth as a network can use it, (B, 26): place in the block, depth, direction, energy."""
    at = chips(truth[:, :3].numpy())
    r, c = (torch.from_numpy(x).float() - corner - (SIDE - 1) / 2 for x, corner in zip(at, (row, column), strict=True))
    w, energy = truth[:, 2].clamp_min(0.01), truth[:, 6]
    ticks = torch.linspace(-REACH, REACH, 9)
    bumps = [torch.exp(-0.5 * ((x[:, None] - ticks) / 0.7).square()) for x in (r, c)]
    plain = torch.stack([r, c, torch.log(w), w.sqrt(), energy / 30 - 1], 1)
    return torch.cat([*bumps, plain, truth[:, 3:6]], 1)


def hide(row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Dead sensors (B, 4760) of blocks, and the blocks' ids (B, 16)."""
    rows, columns = window(row, column, SIDE)
    block = torch.tensor(INNER)[rows, columns].flatten(1)
    return torch.zeros(len(row), S, dtype=torch.bool).scatter(1, block, True), block


def conventional(counts: Tensor, _: Tensor, row: Tensor, column: Tensor, dead: Tensor) -> tuple[Tensor, Tensor]:
    """What the fitted point source answers, as a `BlockNetwork` does."""
    seen = torch.where(dead, INVALID, counts).numpy()
    seconds = np.where(dead.numpy() | (seen <= 0), INVALID, 0.0).astype(np.float32)
    filled = torch.from_numpy(ConventionalRepair("point_source").fill(seen, seconds, dead.numpy())[0])
    return filled.gather(1, hide(row, column)[1]).sqrt(), torch.ones(len(row))


def errors_of(network: nn.Module | Callable[..., tuple[Tensor, Tensor]], test: Events) -> Floats:
    """Squared errors of counts summed over each event's block; the blocks are the same at every call."""
    rng, found = np.random.default_rng(1), []
    with torch.no_grad():
        for first in range(0, len(test.truth), 500):
            counts, truth, row, column = test.batch(np.arange(first, min(first + 500, len(test.truth))), rng)
            dead, block = hide(row, column)
            share, seen = network(counts, truth, row, column, dead)
            found.append((share.square() * seen[:, None] - counts.gather(1, block)).square().sum(1).numpy())
    return np.concatenate(found)


if __name__ == "__main__":
    main()
