"""A training's step of any preset and job on any device: its rate, arithmetic, memory; and the device's matrix rate."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xecml.config import Config
from xecml.data.batch import Batch, validity
from xecml.events import TASKS
from xecml.inference.example_events import analogue, example_events
from xecml.recipes import load_config
from xecml.training import setup
from xecml.training.learning_rate import parameter_groups
from xecml.training.weight_average import WeightAverage

JOBS = ("regress", "mae", "inpaint")
PRECISIONS = ("bf16", "tf32", "float32")
QUIET = ("mlflow.enabled=false", "mlflow.tensorboard=null")
_BATCHES = 3
"""Batches that take turns, since of hidden sensors each has another number."""
_FIT_EVENTS = 64


@dataclass(frozen=True)
class Case:
    """What is timed."""

    preset: str
    job: str
    batch: int
    precision: str
    compiled: bool = False

    @property
    def label(self) -> str:
        """In words."""
        form = ", compiled" if self.compiled else ""
        return f"{self.job} {self.preset}, batches of {self.batch}, {self.precision}{form}"


def recipe(preset: str, job: str, *settings: str) -> Config:
    """The shipped recipe of a job with another network."""
    encoder = "model.hidden_dim=32" if preset == "tiny" else ""
    own = (f"model.preset={preset}", *QUIET, *filter(None, (encoder,)), *settings)
    return load_config(job, own, job=job)


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[Callable[[], Any]]:
    """While active, arithmetic is that of a precision; gives the context of a forward pass."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision != "float32"  # as PyTorch has it, and a training
    try:
        yield lambda: torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def events(batch: int, seed: int = 0, different: int = 256) -> Batch:
    """Events that look like showers, so many of them different; their truth is drawn at random: nothing is learnt."""
    rng = np.random.default_rng(seed + 1)
    which = np.arange(batch) % min(batch, different)
    npho, moment = (torch.from_numpy(x[which]) for x in _showers(min(batch, different), seed))
    truth = {}
    for task, info in TASKS.items():
        values = rng.normal(size=(batch, info.size))
        if info.kind == "vector":
            values /= np.linalg.norm(values, axis=1, keepdims=True)
        truth[task] = torch.from_numpy(values.astype(np.float32))
    truth["n_gamma"] = torch.ones(batch, 1)
    numbers = torch.arange(batch, dtype=torch.int32)
    return Batch(npho, moment, *validity(npho, moment), truth, torch.zeros_like(numbers), numbers)


@cache
def _showers(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    counts, times = example_events(number, seed)
    # whole numbers of photons lie on limits, and two devices choose differently between sensors that are equal
    return analogue(counts, seed), times


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    """Give back what earlier measurements left, so that the peak of memory is that of the next one."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


class Step:
    """Forward, backward, clipping, AdamW and averaging of a preset and job, as the training loop does them.

    Args:
        config: the recipe.
        job: of the training.
        batch: events a step.
        device: where.
    """

    def __init__(self, config: Config, job: str, batch: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device, self.config = device, config
        self.job = setup.make_job(config, job)
        self.job.fit([events(_FIT_EVENTS, seed=i) for i in range(2)], keep_features=False)
        self.batches = [self._prepared(events(batch, seed=i), i) for i in range(_BATCHES)]
        self.module: Any = self.job.step.to(device).train()
        self.call: Any = self.module
        groups = parameter_groups(
            self.module, config.training.weight_decay, encoder_scale=config.training.encoder_lr_scale
        )
        self.optimizer = torch.optim.AdamW(groups, lr=1e-5, fused=True)
        self.average = WeightAverage(self.job.model, 0.999)

    def _prepared(self, batch: Batch, number: int) -> Batch:
        return self.job.prepare(batch, (0, 1, number), 1.0).to(self.device)

    def loss(self, number: int, forward: Callable[[], Any]) -> Tensor:
        """Loss of one of the batches."""
        with forward():
            total, _ = self.call(self.batches[number % _BATCHES])
        return total

    def __call__(self, number: int, forward: Callable[[], Any]) -> None:
        """A whole step."""
        self.loss(number, forward).backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.config.training.grad_clip or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update()


def work(preset: str, job: str, device: torch.device, batch: int = 2) -> float:
    """FLOP of forward and backward, for an event; products and convolutions alone."""
    step = Step(recipe(preset, job), job, batch, device)
    # in 16 bits the processor's own routes, which are not counted, are not taken either
    with arithmetic("bf16", device) as forward, FlopCounterMode(display=False) as counter:
        step.loss(0, forward).backward()
    return counter.get_total_flops() / batch


def matrix_rate(precision: str, device: torch.device, size: int, least_s: float) -> float:
    """FLOP/s of a product of two square matrices."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    with arithmetic(precision, device) as forward, forward(), torch.no_grad():
        if precision == "bf16":
            a, b = a.bfloat16(), b.bfloat16()
        seconds = timed(lambda _: a @ b, device, least_s, warm=3)
    return 2 * size**3 / seconds


def timed(call: Callable[[int], Any], device: torch.device, least_s: float, *, warm: int = _BATCHES) -> float:
    """Seconds a call, of as many as take the least time; those that warm up are not counted."""
    for number in range(warm):
        call(number)
    wait(device)
    start = time.perf_counter()
    call(0)
    wait(device)
    calls = max(_BATCHES, min(500, int(least_s / max(time.perf_counter() - start, 1e-6))))
    start = time.perf_counter()
    for number in range(calls):
        call(number)
    wait(device)
    return (time.perf_counter() - start) / calls


def measured(case: Case, device: torch.device, flop: float, peak: float, least_s: float, backend: str) -> dict:
    """Rate, share of the matrix rate, and memory of a case; why there is none where it fails.

    Args:
        case: what is timed.
        device: where.
        flop: of an event.
        peak: FLOP/s of a large product in the case's precision.
        least_s: seconds to time for.
        backend: of torch.compile.
    """
    found: dict[str, Any] = asdict(case)
    on_gpu = device.type == "cuda"
    try:
        free(device)
        step = Step(recipe(case.preset, case.job), case.job, case.batch, device)
        with arithmetic(case.precision, device) as forward:
            started = time.perf_counter()
            if case.compiled:
                torch._dynamo.reset()
                step.call = torch.compile(step.module, backend=backend)
                for number in range(_BATCHES):  # the number of hidden sensors differs, which compiles once more
                    step(number, forward)
                wait(device)
                found["compile_s"] = time.perf_counter() - started
            seconds = timed(lambda number: step(number, forward), device, least_s)
            last = float(step.loss(0, forward).detach())
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        return found | {"failed": reason(error)}
    rate = case.batch / seconds
    found |= {"events_per_s": rate, "step_ms": 1e3 * seconds, "share_of_matrix_rate": flop * rate / peak}
    if on_gpu:
        found["peak_memory_bytes"] = torch.cuda.max_memory_allocated(device)
    return found if np.isfinite(last) else found | {"failed": "its loss is no number"}


def reason(error: BaseException) -> str:
    """The first line of an error, or that it was out of memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
