# ruff: noqa: D101, D102
"""Size and events a second of every preset, in training and inference, beside a plain form of the reference network.

Run: python benchmarks/networks.py [--presets compact reference ...] [--batch 64 256] [--threads N] [--compile]

All forms have four heads and take turns in one process; a rate is the median over rounds, a ratio the median of the
rounds' ratios to the plain form. One thread is timed by processor time, which other work on the machine hardly
disturbs; more threads by the clock. `matrix` is the rate of multiplications and additions reached, as a share of the
float32 rate of a large product. A training step is forward, backward, clipping and AdamW.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from plain_reference import PlainReference, plain_head
from xecml import geometry
from xecml.events import TASKS
from xecml.models import cpu
from xecml.models.networks import compact
from xecml.models.networks.reference import reference
from xecml.models.normalise import ABSOLUTE_DEFAULTS, Normaliser, validity
from xecml.models.regressor import Regressor

HEADS = ("angle", "energy", "timing", "uvwFI")
PRESETS: dict[str, Callable[[Normaliser], nn.Module]] = {**compact.PRESETS, "reference": reference}
LEAST_SECONDS = 0.3
"""A call that is quicker is repeated within its turn."""
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
Seconds = dict[str, list[float]]


@dataclass
class Form:
    name: str
    forward: Callable[..., Mapping[str, Tensor]]
    network: nn.Module
    optimiser: torch.optim.Optimizer
    flop: float
    """Of a forward pass, for an event."""
    sixteen_bits: bool = False

    def precision(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if self.sixteen_bits else contextlib.nullcontext()


class Plain(nn.Module):
    """The plain reference network with heads, named as in `Regressor`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = PlainReference(Normaliser(**ABSOLUTE_DEFAULTS))
        self.heads = nn.ModuleDict({task: plain_head(6144, TASKS[task].size) for task in HEADS})

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        code = self.encoder(*inputs).flatten(1)
        return {task: head(code) for task, head in self.heads.items()}


def preset(name: str) -> Regressor:
    torch.manual_seed(0)
    dropout = 0.2 if name == "reference" else 0.0
    network = Regressor(PRESETS[name](Normaliser(**ABSOLUTE_DEFAULTS)), HEADS, dropout=dropout)
    for label, parameter in network.named_parameters():
        if "grn" in label:  # zero at the start, which would hide mistakes
            nn.init.normal_(parameter, std=0.3)
    return network


def disagreement(plain: Plain, ours: Regressor) -> float:
    """Give the plain form our weights; largest difference of answers over the largest answer."""
    weights = {name.replace("views.", ""): w for name, w in ours.state_dict().items()}
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    inputs = events(2)
    with torch.no_grad():
        wanted, got = plain.eval()(*inputs), ours.eval().standardised(*inputs)[0]
    return max(float((got[t] - wanted[t]).abs().max() / wanted[t].abs().max()) for t in HEADS)


def flop(network: nn.Module) -> float:
    """Of a forward pass, for an event."""
    # in training mode: the fast path of torch's transformer is not counted
    with FlopCounterMode(display=False) as counter:
        network.train()(*events(2))
    return counter.get_total_flops() / 2


def events(batch: int) -> Inputs:
    """Counts that fall off as in showers, times, and a few dead sensors."""
    torch.manual_seed(1)
    npho = 300 * torch.rand(batch, geometry.N_SENSORS).pow(4) / torch.rand(batch, geometry.N_SENSORS).add(0.01)
    npho[torch.rand(npho.shape) < 0.02] = 1e10
    moment = 1e-8 * torch.randn(npho.shape)
    return npho, moment, *validity(npho, moment)


def infer(form: Form, inputs: Inputs) -> None:
    form.network.eval()
    with torch.no_grad(), form.precision():
        form.forward(*inputs)


def train(form: Form, inputs: Inputs) -> None:
    form.network.train()
    with form.precision():
        answers = form.forward(*inputs)
        loss = torch.stack([y.float().square().mean() for y in answers.values()]).sum()
    loss.backward()
    nn.utils.clip_grad_norm_(form.network.parameters(), 1.0)
    form.optimiser.step()
    form.optimiser.zero_grad()


JOBS = {"infer": (infer, 1), "train": (train, 3)}
"""Name to function, and how many forward passes its arithmetic is worth."""


def matrix_rate(clock: Callable[[], float]) -> float:
    """FLOP/s of a float32 product (1536, 1024) x (1024, 4096) by the faster of the two libraries."""
    x, w = torch.randn(1536, 1024), torch.randn(4096, 1024)
    rates = []
    for product in (torch.nn.functional.linear, cpu.linear):
        for _ in range(6):
            start = clock()
            product(x, w)
            rates.append(2 * x.shape[0] * w.numel() / (clock() - start))
    return max(rates)


def race(
    forms: Sequence[Form], job: Callable[[Form, Inputs], None], inputs: Inputs, clock: Callable[[], float], rounds: int
) -> Seconds:
    """Seconds a call of every form, in turn, after one call of each to warm up."""
    seconds: Seconds = {form.name: [] for form in forms}
    for form in forms:
        job(form, inputs)
    for _ in range(rounds):
        for form in forms:
            start, calls = clock(), 0
            while not calls or clock() - start < LEAST_SECONDS:
                job(form, inputs)
                calls += 1
            seconds[form.name].append((clock() - start) / calls)
    return seconds


def forms_of(presets: Sequence[str], compiled: bool) -> list[Form]:
    """The plain form, then every preset in 32 and in 16 bits, and compiled on request."""
    plain, ours = Plain(), {name: preset(name) for name in presets}
    reference_flop = flop(plain)  # the products of ours go past the counter
    forms = [Form("plain reference", plain, plain, torch.optim.AdamW(plain.parameters(), 1e-5), reference_flop)]
    for name, network in ours.items():
        optimiser = torch.optim.AdamW(network.parameters(), 1e-5, fused=True)
        work = reference_flop if name == "reference" else flop(network)
        forms += [Form(f"{name}{', bf16' * half}", network, network, optimiser, work, half) for half in (False, True)]
        if compiled:
            forms.append(Form(f"{name}, compiled", torch.compile(network), network, optimiser, work))
    if "reference" in ours:
        print(f"Answers of the reference and of the plain form agree to {disagreement(plain, ours['reference']):.1e}.")
    return forms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["compact", "base", "large", "reference"])
    parser.add_argument("--batch", type=int, nargs="+", default=[64])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="add compiled rows; takes minutes")
    parser.add_argument("--only", choices=JOBS, help="one of the two jobs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cpu.keep_memory()
    clock = time.process_time if options.threads == 1 else time.perf_counter
    forms, peak = forms_of(options.presets, options.compile), matrix_rate(clock)
    print(f"{options.threads} threads; large float32 product {peak / 1e9:.0f} GFLOP/s; load {os.getloadavg()[0]:.1f}")
    jobs = [name for name in JOBS if options.only in (None, name)]
    print(f"{'network':20s}{'parameters':>12s}{'MFLOP':>7s}{'batch':>7s}", end="")
    print("".join(f"{job + ' ev/s':>13s}{'ratio':>7s}{'matrix':>8s}" for job in jobs))
    for batch in options.batch:
        inputs = events(batch)
        seconds = {job: race(forms, JOBS[job][0], inputs, clock, options.rounds) for job in jobs}
        for form in forms:
            size = sum(p.numel() for p in form.network.parameters())
            print(f"{form.name:20s}{size:12,d}{form.flop / 1e6:7.0f}{batch:7d}", end="")
            print("".join(result(seconds[job], form, batch, JOBS[job][1] * form.flop / peak) for job in jobs))
    print(f"Load at the end {os.getloadavg()[0]:.1f}.")


def result(seconds: Seconds, form: Form, batch: int, least: float) -> str:
    """Rate, ratio to the plain form, share of the matrix rate; `least` seconds an event at that rate."""
    own = seconds[form.name]
    rate = batch / median(own)
    ratio = median(p / t for p, t in zip(seconds["plain reference"], own, strict=True))
    return f"{rate:13.1f}{ratio:7.1f}{100 * rate * least:7.0f}%"


if __name__ == "__main__":
    main()
