"""Light of a second photon, sensor by sensor: a network that tells it apart, against a cut and against removal by hand.

    python benchmarks/pileup.py [--events 76800] [--epochs 2] [--out artifacts/pileup]

Half of the training photons are followed by a second one, and the simulation writes how much of each sensor's light is
of that one. A small network sees counts and times and what the shipped model says of the event: how far each time is
from the light's way from the first interaction, and which solid angle a sensor has. It answers with the share of a
sensor's light that is not of the first photon. Test events of the nominal detector and of detectors that vary, with and
without a second photon, are then predicted by the shipped model

- as they are,
- without those events in which the network sees more than 2 % of the light as of further photons (a cut),
- without the sensors whose times are more than 10 ns from where they belong (removal by hand),
- with the shares of the network removed: counts times one minus the share, and no time where it is above one half,
- with the true shares removed in the same way.

What was made stays in the folder and is not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from xecml import geometry, rootio
from xecml.errors import InputError
from xecml.events import INVALID
from xecml.files import atomic_path
from xecml.inference.trained_model import TorchModel, load_model
from xecml.models.networks.quick_look import GROUP_VELOCITY
from xecml.models.networks.sensor_sums import face_sums
from xecml.models.normalise import validity
from xecml.models.rebuild.point_light import PointSource, cartesian
from xecml.progress import progress
from xecml.resolution import figures_of_merit
from xecml.simulation.generate import simulate
from xecml.simulation.settings import load_vary, make_settings

SEED = 311_801
_BATCH = 64
_CHUNK = 1024
ROWS, COLUMNS = geometry.inner_map().shape
BY_HAND_NS = 10.0
CUT = 0.02
WAYS = ("as they are", "cut", "by hand", "network", "truth")
WINDOW_MEV = (48.0, 58.0)
Floats = NDArray[Any]


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--events", type=int, default=76_800, help="training events")
    found.add_argument("--epochs", type=int, default=2)
    found.add_argument("--lr", type=float, default=2e-3)
    found.add_argument("--test", type=int, default=8192, help="test events of each kind")
    found.add_argument("--model", default="pretrained:signal", help="what predicts")
    found.add_argument("--out", type=Path, default=Path("artifacts/pileup"), help="folder of all that is made")
    found.add_argument("--jobs", type=int, default=2)
    return found


class Separator(nn.Module):
    """The share of each sensor's light that is not of the photon of interest.

    The inner face is seen in blocks of 2 x 2 SiPMs by a network of two levels; each sensor then judges by its own
    numbers, by what its block or its face says, and by the event as a whole.

    Args:
        width: channels of the first level.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.source = PointSource()
        n = N_NUMBERS
        self.first = nn.Conv2d(4 * n, width, 3, padding=1)
        self.fine = Block(width)
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.coarse = nn.Sequential(Block(2 * width), Block(2 * width))
        self.event = nn.Sequential(
            nn.Linear(2 * width + 2 * n * 6, 2 * width), nn.GELU(), nn.Linear(2 * width, 2 * width)
        )
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.again = Block(width)
        self.to_sensors = nn.Conv2d(width, 4 * 16, 1)
        self.of_event = nn.Linear(2 * width, 16)
        self.of_faces = nn.Linear(n * 6, 16)
        self.face = nn.Embedding(6, 16)
        self.judge = nn.Sequential(nn.Linear(n + 16, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 1))
        self.register_buffer("codes", torch.tensor(geometry.face_codes().astype(np.int64)), persistent=False)

    def numbers(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor, spot: Tensor, t0: Tensor) -> Tensor:
        """What each sensor has: (B, n, 4760), from raw values and the answers for the first interaction (cm, s)."""
        solid, distance = self.source.solid_angles(cartesian(*spot.unbind(1)))
        count = torch.where(valid, npho, 0.0)
        # light a solid angle, about the one of the event as a whole
        share = count / count.sum(1, keepdim=True).clamp_min(1.0)
        direct = solid / solid.sum(1, keepdim=True)
        late = torch.where(timed, (time - t0[:, None]) * 1e9 - distance / GROUP_VELOCITY, 0.0)
        found = [
            torch.log1p(count) / 5, valid.float(), timed.float(),
            torch.log(share + 1e-6) / 5 + 2, torch.log(direct + 1e-6) / 5 + 2,
            (torch.log(share + 1e-5) - torch.log(direct + 1e-5)) / 3,
            torch.tanh(late / 3), torch.tanh(late / 15), torch.tanh(late / 60),
        ]  # fmt: skip
        return torch.stack(found, 1)

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor, spot: Tensor, t0: Tensor) -> Tensor:
        """Logits (B, 4760) of the shares."""
        x = self.numbers(npho, time, valid, timed, spot, t0)
        of_faces = torch.cat([face_sums(x) / N_SENSORS_OF_FACES, face_sums(x * x[:, :1]) / N_SENSORS_OF_FACES], 1)
        grid = x[:, :, : geometry.N_SIPM].reshape(len(x), -1, ROWS, COLUMNS)
        blocks = F.pixel_unshuffle(F.pad(grid, (0, 0, 0, 3)), 2)
        fine = self.fine(F.gelu(self.first(blocks)))
        coarse = self.coarse(F.gelu(self.down(fine)))
        event = self.event(torch.cat([coarse.mean((2, 3)), of_faces.flatten(1)], 1))
        coarse = coarse + event[:, :, None, None]
        again = self.again(fine + self.up(coarse))
        around = F.pixel_shuffle(self.to_sensors(again), 2)[:, :, :ROWS].flatten(2)
        said = self.of_event(event)[:, :, None] + self.face(self.codes).T
        said = torch.cat([said[:, :, : geometry.N_SIPM] + around, said[:, :, geometry.N_SIPM :]], 2)
        logits: Tensor = self.judge(torch.cat([x, said], 1).transpose(1, 2)).squeeze(2)
        return logits


class Block(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.two.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Maps of the same shape."""
        found: Tensor = x + self.two(F.gelu(self.one(self.norm(x))))
        return found


N_NUMBERS = 9
N_SENSORS_OF_FACES = torch.tensor(np.bincount(geometry.face_codes(), minlength=6).astype(np.float32))


def events(options: argparse.Namespace, what: str, number: int, seed: int, *, vary: bool, second: float) -> Path:
    """A file of simulated signal photons, of which a share `second` is followed by another photon."""
    path: Path = options.out / "events" / f"{what}_{number}.root"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        energy: dict[str, Any] = {"energy_mev": (15.0, 60.0)} if what == "training" else {}
        tables: dict[str, Any] = {"vary": load_vary("varied")} if vary else {}
        if vary:  # how many photons an event has is said here
            tables["vary"].pop("pileup_fraction")
        settings = make_settings(
            {"relative_branches": False, "expected_counts": True, "pileup_counts": True,
             "n_gamma": (0.0, 1.0 - second, second, 0.0, 0.0)} | energy | tables
        )  # fmt: skip
        simulate(path, number, settings=settings, seed=seed, jobs=options.jobs)
    return path


def chunks(path: Path) -> Iterator[dict[str, Floats]]:
    """Counts, times, the true share of further photons (N, 4760), and the truth of the first one."""
    names = ["npho", "time", "npho_expected", "npho_pileup", "energyTruth", "timeTruth", "uvwTruth", "nGamma"]
    for chunk in rootio.read([path], names, chunk_events=_CHUNK):
        share = chunk["npho_pileup"] / np.maximum(chunk.pop("npho_expected"), 1e-9)
        yield chunk | {"npho_pileup": np.clip(share, 0.0, 1.0).astype(np.float32)}


def answers(model: TorchModel, npho: Floats, times: Floats) -> dict[str, Floats]:
    """Answers of the shipped model, finite numbers everywhere."""
    return {name: np.nan_to_num(y, nan=0.0, posinf=0.0, neginf=0.0) for name, y in model.predict(npho, times).items()}


def inputs(npho: Floats, times: Floats, said: Mapping[str, Floats]) -> tuple[Tensor, ...]:
    """What the network takes, of a batch."""
    n, t = torch.from_numpy(npho), torch.from_numpy(times)
    spot, t0 = (torch.from_numpy(np.asarray(said[name], np.float32)) for name in ("uvwFI", "timing"))
    return n, t, *validity(n, t), spot, t0


def train(options: argparse.Namespace, model: TorchModel) -> Separator:
    """The network, trained where it is not there."""
    path = options.out / f"separator_{options.events}_{options.epochs}_{options.lr:g}.pth"
    torch.manual_seed(SEED)
    network = Separator()
    if path.exists():
        network.load_state_dict(torch.load(path))
        return network.eval()
    file = events(options, "training", options.events, SEED, vary=True, second=0.5)
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=0.01)
    total = options.epochs * options.events
    done, sums = 0, 0.0
    generator = np.random.default_rng(SEED)
    started = time.monotonic()
    with progress(total, "train") as bar:
        for _ in range(options.epochs):
            for chunk in chunks(file):
                said = answers(model, chunk["npho"], chunk["time"])
                for rows in np.array_split(generator.permutation(len(chunk["npho"])), len(chunk["npho"]) // _BATCH):
                    rate = (
                        options.lr
                        * min(1.0, (done + 1) / (0.03 * total))
                        * 0.5
                        * (1 + math.cos(math.pi * done / total))
                    )
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    given = inputs(chunk["npho"][rows], chunk["time"][rows], {k: y[rows] for k, y in said.items()})
                    loss = loss_of(network(*given), torch.from_numpy(chunk["npho_pileup"][rows]), given[0], given[2])
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                    optimizer.step()
                    done += len(rows)
                    sums = 0.98 * sums + 0.02 * float(loss)
                    bar.advance(len(rows), f"loss {sums:.4f}")
    print(f"trained in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    with atomic_path(path) as temporary:
        torch.save(network.state_dict(), temporary)
    return network.eval()


def loss_of(logits: Tensor, share: Tensor, npho: Tensor, valid: Tensor) -> Tensor:
    """Cross entropy with the true shares; sensors weigh as the root of their light, and each event alike."""
    weight = torch.where(valid, npho.clamp_min(0.0).sqrt(), 0.0)
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1.0)
    found = F.binary_cross_entropy_with_logits(logits, share, reduction="none")
    return (weight * found).sum(1).mean()


@torch.no_grad()
def shares(network: Separator, npho: Floats, times: Floats, said: Mapping[str, Floats]) -> Floats:
    """Shares (N, 4760) that the network sees."""
    found = [
        torch.sigmoid(
            network(*inputs(npho[s : s + 256], times[s : s + 256], {k: y[s : s + 256] for k, y in said.items()}))
        )
        for s in range(0, len(npho), 256)
    ]
    return torch.cat(found).numpy()


def removed(npho: Floats, times: Floats, share: Floats) -> tuple[Floats, Floats]:
    """Counts without the shares of others, and no time where most is of others."""
    valid = np.abs(npho) < INVALID / 2
    left = np.where(valid & (npho > 0), npho * (1 - share), npho).astype(np.float32)
    return left, np.where(share > 0.5, INVALID, times).astype(np.float32)


def by_hand(npho: Floats, times: Floats, said: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """No count and no time where a time is far from the way of the light from where the first interaction seems."""
    spot = cartesian(*torch.from_numpy(np.asarray(said["uvwFI"], np.float32)).unbind(1)).numpy()
    distance = np.linalg.norm(geometry.positions()[None].astype(np.float32) - spot[:, None], axis=2)
    timed = np.abs(times) < INVALID / 2
    late = np.where(timed, (times - np.asarray(said["timing"])[:, None]) * 1e9 - distance / GROUP_VELOCITY, 0.0)
    # scattered light is late by itself: what is far counts from the middle of the event's own sensors
    middle = _medians(late, timed)
    far = timed & (np.abs(late - middle) > BY_HAND_NS)
    return np.where(far, INVALID, npho).astype(np.float32), np.where(far, INVALID, times).astype(np.float32)


def _medians(values: Floats, there: NDArray[np.bool_]) -> Floats:
    """Medians (N, 1) of the values (N, S) that are there; zero where none is."""
    ordered = np.sort(np.where(there, values, np.inf), axis=1)
    middle = np.take_along_axis(ordered, np.maximum(there.sum(1, keepdims=True) - 1, 0) // 2, axis=1)
    return np.where(np.isfinite(middle), middle, 0.0)


def measured(options: argparse.Namespace, model: TorchModel, network: Separator, file: Path) -> dict[str, Any]:
    """Residuals of each way, and what is kept of the events."""
    residuals: dict[str, list[Floats]] = {way: [] for way in WAYS}
    kept: list[Floats] = []
    seen: list[Floats] = []
    for chunk in chunks(file):
        n, t, true = chunk["npho"], chunk["time"], chunk["npho_pileup"]
        plain = answers(model, n, t)
        share = shares(network, n, t, plain)
        light = np.where((n > 0) & (n < INVALID / 2), n, 0.0)
        total = (light * share).sum(1) / np.maximum(light.sum(1), 1.0)
        seen.append(np.stack([total, (light * true).sum(1) / np.maximum(light.sum(1), 1.0)], 1))
        kept.append(total < CUT)
        cleaned = removed(n, t, share)
        again = answers(model, *cleaned)
        found = {"as they are": plain, "cut": plain, "by hand": answers(model, *by_hand(n, t, plain)), "network": again}
        found["truth"] = answers(model, *removed(n, t, true))
        for way, said in found.items():
            position = 10 * (said["uvwFI"] - chunk["uvwTruth"])
            energy = 1e3 * said["energy"]
            late = 1e12 * (said["timing"] - chunk["timeTruth"])
            relative = 100 * (said["energy"] / chunk["energyTruth"] - 1)
            residuals[way].append(np.column_stack([position, relative, late, energy]))
    keep, light = np.concatenate(kept), np.concatenate(seen)
    result: dict[str, Any] = {"light": [float(np.mean(light[:, 0])), float(np.mean(light[:, 1]))]}
    for way in WAYS:
        values = np.concatenate(residuals[way])
        chosen = values[keep] if way == "cut" else values
        merits = [figures_of_merit(chosen[:, k], replicas=0, with_peak=False) for k in range(5)]
        inside = (chosen[:, 5] > WINDOW_MEV[0]) & (chosen[:, 5] < WINDOW_MEV[1])
        result[way] = {
            "median": [m.median for m in merits], "s68": [m.s68 for m in merits],
            "kept": len(chosen) / len(values), "inside": float(inside.sum() / len(values)),
            "high": float((chosen[:, 5] > WINDOW_MEV[1]).sum() / len(values)),
        }  # fmt: skip
    return result


def table(result: Mapping[str, Any]) -> str:
    """All figures in Markdown."""
    lines = [
        "| events | way | u [mm] | v [mm] | w [mm] | energy [%] | time [ps] | kept [%] | 48-58 MeV [%] | above [%] |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for which, found in result.items():
        for way in WAYS:
            one = found[way]
            cells = [
                f"{one['median'][k]:+.{d}f}, {one['s68'][k]:.{d}f}"
                for k, d in zip(range(5), (2, 2, 2, 2, 0), strict=True)
            ]
            cells += [f"{100 * one[name]:.1f}" for name in ("kept", "inside", "high")]
            lines.append(f"| {' | '.join([which, way, *cells])} |")
    return "\n".join(lines)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure everything; writes `pileup.json` and `pileup.md` in the folder."""
    if options.events < 2 * _CHUNK:
        raise InputError(f"--events takes {2 * _CHUNK} events or more.")
    model = load_model(options.model)
    if not isinstance(model, TorchModel) or not {"uvwFI", "timing", "energy"} <= {*model.tasks}:
        raise InputError(f"{options.model} must be a checkpoint that answers uvwFI, energy and timing.")
    network = train(options, model)
    result = {}
    for k, (which, vary) in enumerate((("nominal", False), ("detectors that differ", True))):
        for second in (1.0, 0.0):
            name = f"{'varied' if vary else 'nominal'}_{'two' if second else 'one'}"
            file = events(options, name, options.test, SEED + 1 + 2 * k + int(second), vary=vary, second=second)
            result[f"{which}, {'two photons' if second else 'one photon'}"] = measured(options, model, network, file)
            for suffix, text in ((".json", json.dumps(result, indent=1)), (".md", table(result) + "\n")):
                with atomic_path(options.out / f"pileup{suffix}") as temporary:
                    temporary.write_text(text, encoding="utf-8")
    return result


def main() -> None:
    try:
        print(table(run(parser().parse_args())))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
