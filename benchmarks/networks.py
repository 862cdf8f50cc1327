# ruff: noqa: D101, D102
"""Events a second of the reference network, in training and inference, beside a plain form of the same network.

Run: python benchmarks/networks.py [--batch 64 256] [--threads N] [--compile] [--rounds R]

The forms take turns in one process; a rate is the median over rounds, a ratio the median of the rounds' ratios. One
thread is timed by processor time, which other work on the machine hardly disturbs; more threads by the clock.
`matrix` is the rate of multiplications and additions reached, as a share of the rate of a large product.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from plain_reference import PlainReference, plain_head
from xecml import geometry
from xecml.events import TASKS
from xecml.models import cpu
from xecml.models.normalise import ABSOLUTE_DEFAULTS, Normaliser, validity
from xecml.models.reference import reference, reference_head

HEADS = ("angle", "energy", "timing", "uvwFI")
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass
class Form:
    name: str
    forward: Callable[..., Tensor]
    network: nn.Module
    optimiser: torch.optim.Optimizer
    precision: contextlib.AbstractContextManager[object]


class WithHeads(nn.Module):
    """All answers side by side, (B, 7)."""

    def __init__(self, encoder: nn.Module, heads: list[nn.Module], plain: bool) -> None:
        super().__init__()
        self.encoder, self.heads, self.plain = encoder, nn.ModuleList(heads), plain

    def forward(self, *inputs: Tensor) -> Tensor:
        code = self.encoder(*inputs).flatten(1) if self.plain else self.encoder(*inputs)[0]
        with torch.autocast("cpu", enabled=False):
            return torch.cat([head(code.float()) for head in self.heads], 1)


def networks() -> tuple[WithHeads, WithHeads]:
    """Ours and the plain form, with equal weights."""
    torch.manual_seed(0)
    sizes = [TASKS[task].size for task in HEADS]
    encoder = reference(Normaliser(**ABSOLUTE_DEFAULTS))
    for name, parameter in encoder.named_parameters():
        if "grn" in name:  # zero at the start, which would hide mistakes
            nn.init.normal_(parameter, std=0.3)
    ours = WithHeads(encoder, [reference_head(6144, size) for size in sizes], plain=False)
    plain = WithHeads(
        PlainReference(Normaliser(**ABSOLUTE_DEFAULTS)), [plain_head(6144, size) for size in sizes], plain=True
    )
    plain.load_state_dict({name.replace("views.", ""): w for name, w in ours.state_dict().items()})
    return ours, plain


def events(batch: int) -> Inputs:
    """Counts that fall off as in showers, times, and a few dead sensors."""
    torch.manual_seed(1)
    npho = 300 * torch.rand(batch, geometry.N_SENSORS).pow(4) / torch.rand(batch, geometry.N_SENSORS).add(0.01)
    npho[torch.rand(npho.shape) < 0.02] = 1e10
    moment = 1e-8 * torch.randn(npho.shape)
    return npho, moment, *validity(npho, moment)


def infer(form: Form, inputs: Inputs) -> None:
    form.network.eval()
    with torch.no_grad(), form.precision:
        form.forward(*inputs)


def train(form: Form, inputs: Inputs) -> None:
    form.network.train()
    with form.precision:
        loss = form.forward(*inputs).square().mean()
    loss.backward()
    nn.utils.clip_grad_norm_(form.network.parameters(), 1.0)
    form.optimiser.step()
    form.optimiser.zero_grad()


def matrix_rate(clock: Callable[[], float]) -> float:
    """GFLOP/s of a product (1536, 1024) x (1024, 4096) by the faster of the two libraries."""
    x, w = torch.randn(1536, 1024), torch.randn(4096, 1024)
    rates = []
    for product in (torch.nn.functional.linear, cpu.linear):
        for _ in range(6):
            start = clock()
            product(x, w)
            rates.append(2e-9 * x.shape[0] * w.numel() / (clock() - start))
    return max(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[64])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="add compiled rows; takes minutes")
    parser.add_argument("--only", choices=("infer", "train"), help="one of the two jobs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cpu.keep_memory()
    clock = time.process_time if options.threads == 1 else time.perf_counter
    ours, plain = networks()
    inputs = events(2)
    with FlopCounterMode(display=False) as counter:  # in training mode: the transformer's fast path is not counted
        plain.train()(*inputs)
    flop = counter.get_total_flops() / 2
    with torch.no_grad():
        expected = plain.eval()(*inputs)
        difference = (ours.eval()(*inputs) - expected).abs().max() / expected.abs().max()
    peak = matrix_rate(clock)
    print(
        f"{options.threads} threads; {flop / 1e9:.2f} GFLOP an event; large product {peak:.0f} GFLOP/s; "
        f"answers agree to {difference:.1e}; load {os.getloadavg()[0]:.1f}"
    )
    exact = contextlib.nullcontext()
    forms = [
        Form("plain", plain, plain, torch.optim.AdamW(plain.parameters(), 1e-5), exact),
        Form("ours", ours, ours, torch.optim.AdamW(ours.parameters(), 1e-5, fused=True), exact),
        Form(
            "ours, bf16", ours, ours, torch.optim.AdamW(ours.parameters(), 1e-5, fused=True),
            torch.autocast("cpu", torch.bfloat16),
        ),
    ]  # fmt: skip
    if options.compile:
        forms += [
            Form(f"{f.name}, compiled", torch.compile(f.forward), f.network, f.optimiser, exact) for f in forms[:2]
        ]
    print(f"{'':18s}{'job':>10s}{'batch':>7s}{'events/s':>10s}{'ratio':>7s}{'matrix':>8s}")
    jobs = {"infer": (infer, flop), "train": (train, 3 * flop)}
    for name, (job, work) in jobs.items():
        for batch in options.batch if options.only in (None, name) else ():
            seconds = race(forms, partial(job, inputs=events(batch)), clock, options.rounds)
            for form in forms:
                times = sorted(seconds[form.name])
                rate = batch / times[len(times) // 2]
                ratios = sorted(p / t for p, t in zip(seconds["plain"], seconds[form.name], strict=True))
                share, ratio = 100 * rate * work / 1e9 / peak, ratios[len(ratios) // 2]
                print(f"{form.name:18s}{name:>10s}{batch:7d}{rate:10.1f}{ratio:7.2f}{share:7.0f}%")


def race(
    forms: list[Form], job: Callable[[Form], None], clock: Callable[[], float], rounds: int
) -> dict[str, list[float]]:
    """Seconds a call of every form, in turn, after one call of each to warm up."""
    seconds: dict[str, list[float]] = {form.name: [] for form in forms}
    for turn in range(rounds + 1):
        for form in forms:
            start = clock()
            job(form)
            if turn:
                seconds[form.name].append(clock() - start)
    return seconds


if __name__ == "__main__":
    main()
