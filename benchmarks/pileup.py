"""Light of a second photon, sensor by sensor: a network that finds it, against a cut and against removal by hand.

    python benchmarks/pileup.py [--events 51200] [--epochs 1] [--out artifacts/pileup] [--ship]

Half of the training photons, of signal and decoupled ones alike, are followed by a second one, and the simulation
writes how much of each sensor's light is of that one. The network (`xecml.models.separator`) sees counts, times, and
what the shipped model of the kind answers for position and time. Test events of the nominal detector and of detectors
that vary, with and without a second photon, are then predicted by the shipped model

- as they are,
- without those events in which the network finds more than 2 % of the light to be of further photons (a cut),
- without the sensors whose times are more than 10 ns from where they belong (removal by hand),
- without the light that the network finds, as `xec predict --without-pileup` does, which leaves the energy as it is,
- without the true light of others, removed in the same way: what there is to gain.

With --ship the weights are written into the package. What was made stays in the folder and is not made again.
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
from xecml.events import INVALID, valid_times
from xecml.files import atomic_path
from xecml.inference.trained_model import Model, load_model
from xecml.inference.without_pileup import LEAST_SHARE, WEIGHTS, WithoutPileup, light_of_others, removed
from xecml.models.networks.quick_look import GROUP_VELOCITY
from xecml.models.normalise import validity
from xecml.models.rebuild.point_light import cartesian
from xecml.models.separator import Separator
from xecml.progress import progress
from xecml.resolution import figures_of_merit
from xecml.simulation.generate import simulate
from xecml.simulation.settings import load_vary, make_settings

SEED = 311_801
KINDS = ("signal", "decoupled")
TESTS = (("signal", False), ("signal", True), ("decoupled", False))
"""Kind of photons, and whether detectors vary."""
_BATCH = 64
_CHUNK = 1024
BY_HAND_NS = 10.0
WAYS = ("as they are", "cut", "by hand", "network", "truth")
WINDOW_MEV = (48.0, 58.0)
FIGURES = ("u [mm]", "v [mm]", "w [mm]", "energy [%]", "time [ps]", "opening angle [deg]")
Floats = NDArray[Any]


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--events", type=int, default=51_200, help="training events of each kind")
    found.add_argument("--epochs", type=int, default=1)
    found.add_argument("--lr", type=float, default=2e-3)
    found.add_argument("--test", type=int, default=4096, help="test events of each sample")
    found.add_argument("--out", type=Path, default=Path("artifacts/pileup"), help="folder of all that is made")
    found.add_argument("--ship", action="store_true", help="write the weights into the package")
    found.add_argument("--jobs", type=int, default=2)
    return found


def events(
    options: argparse.Namespace, kind: str, number: int, seed: int, *, vary: bool, second: float, flat: bool = False
) -> Path:
    """A file of simulated photons, of which a share `second` is followed by another; of 15 to 60 MeV, or as usual."""
    name = f"{kind}_{'varied' if vary else 'nominal'}_{second:g}_{'flat' if flat else 'usual'}_{number}"
    path: Path = options.out / "events" / f"{name}.root"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        values: dict[str, Any] = {
            "vertex": kind, "relative_branches": False, "expected_counts": True, "pileup_counts": True,
            "n_gamma": (0.0, 1.0 - second, second, 0.0, 0.0),
        }  # fmt: skip
        if flat:
            values["energy_mev"] = (15.0, 60.0)
        if vary:  # how many photons an event has is said above
            values["vary"] = {name: v for name, v in load_vary("varied").items() if name != "pileup_fraction"}
        simulate(path, number, settings=make_settings(values), seed=seed, jobs=options.jobs)
    return path


def chunks(path: Path) -> Iterator[dict[str, Floats]]:
    """Counts, times and truth of the first photon; `share` (N, 4760), the true share of further photons."""
    truth = ("emiAng", "energyTruth", "timeTruth", "uvwTruth")
    for chunk in rootio.read([path], ["npho", "time", "npho_expected", "npho_pileup", *truth], chunk_events=_CHUNK):
        share = chunk.pop("npho_pileup") / np.maximum(chunk.pop("npho_expected"), 1e-9)
        yield chunk | {"share": np.clip(share, 0.0, 1.0).astype(np.float32)}


def train(options: argparse.Namespace, models: Mapping[str, Model]) -> Separator:
    """The network, trained where it is not there."""
    path = options.out / f"separator_{options.events}_{options.epochs}_{options.lr:g}.pt"
    torch.manual_seed(SEED)
    network = Separator()
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval()
    files = {kind: events(options, kind, options.events, SEED + k, vary=True, second=0.5, flat=True)
             for k, kind in enumerate(KINDS)}  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=0.01)
    total, done, mean = options.epochs * options.events * len(KINDS), 0, 0.0
    generator, started = np.random.default_rng(SEED), time.monotonic()
    with progress(total, "train") as bar:
        for _ in range(options.epochs):
            for pair in zip(*(chunks(files[kind]) for kind in KINDS), strict=True):
                both = [prepared(models[kind], chunk) for kind, chunk in zip(KINDS, pair, strict=True)]
                npho, times, spot, moment, share = (torch.cat(parts) for parts in zip(*both, strict=True))
                for rows in torch.from_numpy(generator.permutation(len(npho))).split(_BATCH):
                    for group in optimizer.param_groups:
                        group["lr"] = options.lr * rate_at(done / total)
                    n, t = npho[rows], times[rows]
                    valid, timed = validity(n, t)
                    loss = loss_of(network(n, t, valid, timed, spot[rows], moment[rows]), share[rows], n, valid)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                    optimizer.step()
                    done, mean = done + len(rows), mean + 0.02 * (float(loss.detach()) - mean)
                    bar.advance(len(rows), f"loss {mean:.4f}")
    print(f"trained in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    with atomic_path(path) as temporary:
        torch.save(network.state_dict(), temporary)
    return network.eval()


def rate_at(share: float) -> float:
    """Learning rate over the largest, when a share of the training is done: up within 3 %, down as a cosine."""
    return min(1.0, (share + 1e-3) / 0.03) * 0.5 * (1 + math.cos(math.pi * share))


def prepared(model: Model, chunk: Mapping[str, Floats]) -> tuple[Tensor, ...]:
    """Counts, times, answers for place and moment, and shares of the events that the model answers."""
    said = model.predict(chunk["npho"], chunk["time"])
    known = np.isfinite(said["uvwFI"]).all(1) & np.isfinite(said["timing"])
    parts = (chunk["npho"], chunk["time"], said["uvwFI"], said["timing"], chunk["share"])
    return tuple(torch.from_numpy(np.asarray(part[known], np.float32)) for part in parts)


def loss_of(logits: Tensor, share: Tensor, npho: Tensor, valid: Tensor) -> Tensor:
    """Cross entropy with the true shares; sensors weigh as the root of their light, and each event alike."""
    weight = torch.where(valid, npho.clamp_min(0.0).sqrt(), 0.0)
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1.0)
    found = F.binary_cross_entropy_with_logits(logits, share, reduction="none")
    return (weight * found).sum(1).mean()


def by_hand(npho: Floats, times: Floats, said: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """No count and no time where a time is far from the way of the light from where the first interaction seems."""
    spot = cartesian(*torch.from_numpy(np.asarray(said["uvwFI"], np.float32)).unbind(1)).numpy()
    distance = np.linalg.norm(geometry.positions()[None].astype(np.float32) - spot[:, None], axis=2)
    timed = valid_times(npho, times)
    late = np.where(timed, (times - np.asarray(said["timing"])[:, None]) * 1e9 - distance / GROUP_VELOCITY, 0.0)
    # scattered light is late by itself: what is far counts from the middle of the event's own sensors
    far = timed & (np.abs(late - medians(late, timed)) > BY_HAND_NS)
    return np.where(far, INVALID, npho).astype(np.float32), np.where(far, INVALID, times).astype(np.float32)


def medians(values: Floats, there: NDArray[np.bool_]) -> Floats:
    """Medians (N, 1) of the values (N, S) that are there; zero where none is."""
    ordered = np.sort(np.where(there, values, np.inf), axis=1)
    middle = np.take_along_axis(ordered, np.maximum(there.sum(1, keepdims=True) - 1, 0) // 2, axis=1)
    return np.where(np.isfinite(middle), middle, 0.0)


def measured(model: Model, network: Separator, file: Path) -> dict[str, Any]:
    """Medians and half-widths of each way, and what is kept of the events."""
    wrapped = WithoutPileup(model, network)
    found: dict[str, list[Floats]] = {way: [] for way in WAYS}
    light: list[Floats] = []
    for chunk in chunks(file):
        n, t = chunk["npho"], chunk["time"]
        plain, without = model.predict(n, t), wrapped.predict(n, t)
        share = without["pileup_share"]
        light.append(np.column_stack([share, light_of_others(n, chunk["share"])]))
        said = {
            "as they are": plain, "by hand": model.predict(*by_hand(n, t, plain)), "network": without,
            "truth": model.predict(*removed(n, t, chunk["share"])),
        }  # fmt: skip
        for way, answers in said.items():
            found[way].append(residuals(answers, chunk))
        found["cut"].append(found["as they are"][-1][share < LEAST_SHARE])
    every = np.concatenate(light)
    result: dict[str, Any] = {"light_found": float(np.nanmean(every[:, 0])), "light": float(every[:, 1].mean())}
    for way in WAYS:
        values = np.concatenate(found[way])
        merits = [figures_of_merit(values[:, k], replicas=0, with_peak=False) for k in range(5)]
        angle = values[:, 5]
        result[way] = {
            "median": [m.median for m in merits],
            "s68": [*(m.s68 for m in merits), float(np.nanquantile(angle, 0.68))] if len(angle) else [math.nan] * 6,
            "kept": len(values) / len(every),
            "inside": float(((values[:, 6] > WINDOW_MEV[0]) & (values[:, 6] < WINDOW_MEV[1])).sum() / len(every)),
            "above": float((values[:, 6] > WINDOW_MEV[1]).sum() / len(every)),
        }
    return result


def residuals(answers: Mapping[str, Floats], chunk: Mapping[str, Floats]) -> Floats:
    """Columns: u, v, w in mm, energy in %, time in ps, opening angle in degrees; and the energy in MeV."""
    return np.column_stack([
        10 * (answers["uvwFI"] - chunk["uvwTruth"]), 100 * (answers["energy"] / chunk["energyTruth"] - 1),
        1e12 * (answers["timing"] - chunk["timeTruth"]), geometry.opening_angle(answers["angle"], chunk["emiAng"]),
        1e3 * answers["energy"],
    ])  # fmt: skip


def table(result: Mapping[str, Any]) -> str:
    """All figures in Markdown: median and s68, of the opening angle the 68 % quantile; shares of all events."""
    heads = ["events", "way", *FIGURES, "kept [%]", "48-58 MeV [%]", "above [%]"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for which, found in result.items():
        for way in WAYS:
            one = found[way]
            cells = [
                f"{m:+.{d}f}, {s:.{d}f}" for m, s, d in zip(one["median"], one["s68"], (2, 2, 2, 2, 0), strict=False)
            ]
            cells += [f"{one['s68'][5]:.2f}", *(f"{100 * one[name]:.1f}" for name in ("kept", "inside", "above"))]
            lines.append(f"| {' | '.join([which, way, *cells])} |")
    return "\n".join(lines)


def ship(network: Separator) -> None:
    """Write the weights into the package, in 16 bits."""
    content = {"width": network.first.out_channels, "state": {k: v.half() for k, v in network.state_dict().items()}}
    with atomic_path(WEIGHTS) as temporary:
        torch.save(content, temporary)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure everything; writes `pileup.json` and `pileup.md` in the folder."""
    if options.events < 2 * _CHUNK:
        raise InputError(f"--events takes {2 * _CHUNK} events or more.")
    models = {kind: load_model(f"pretrained:{kind}") for kind in KINDS}
    network = train(options, models)
    if options.ship:
        ship(network)
    result = {}
    for k, (kind, vary) in enumerate(TESTS):
        for second in (1, 0):
            file = events(options, kind, options.test, SEED + 10 + 2 * k + second, vary=vary, second=second)
            which = f"{kind}, {'varied detectors, ' if vary else ''}{'two photons' if second else 'one photon'}"
            result[which] = measured(models[kind], network, file)
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
