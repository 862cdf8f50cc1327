"""Products and depthwise convolutions by the fastest route that a processor has.

On CPUs PyTorch multiplies float32 matrices through MKL, which on some processors reaches less than half the rate of
oneDNN, and oneDNN computes the weight gradient of a depthwise convolution ten times slower than the convolution
itself. Both are replaced here for float32 on a CPU; elsewhere, in other precisions and while a model is being
exported, PyTorch's own operations are used. Results agree to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from xecml.compiled import fast
from xecml.data.freed_memory import keep_blocks

_KEEP_BYTES = 2**30
_CACHE_BYTES = 8 * 2**20
_TINY = 1e-12


def keep_memory() -> bool:
    """Let the process keep freed memory up to 1 GiB a block, instead of giving it back and asking again.

    A training step frees and takes gigabytes; with glibc's defaults every large tensor is fresh memory that the
    system must clear first, which costs as much as the arithmetic. Returns whether the C library knows the setting.
    """
    return keep_blocks(_KEEP_BYTES, 2**31 - 1)


_HAS_ONEDNN = bool(torch.backends.mkldnn.is_available()) and hasattr(  # type: ignore[no-untyped-call]
    torch.ops.mkldnn, "_linear_pointwise"
)


def _direct(x: Tensor) -> bool:
    """Whether the routes of this module apply to x."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    return _HAS_ONEDNN and not torch.compiler.is_exporting()


@torch.library.custom_op("xecml::product", mutates_args=())
def _product(a: Tensor, b: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """A (N, K) times the transpose of b (M, K), plus bias (M,); then GELU if asked for."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "gelu" if gelu else "none", [], "none")
    return result


@_product.register_fake
def _(a: Tensor, b: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[0])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        result: Tensor = _product(x, weight, bias)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = _product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        # the narrower matrix first is the faster order for long sums
        grad_weight = _product(x.t(), grad.t()).t() if x.shape[1] < grad.shape[1] else _product(grad.t(), x.t())
        return grad_x, grad_weight, grad.sum(0) if ctx.has_bias else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x (..., in) times weight (out, in) transposed, plus bias: F.linear."""
    if not _direct(x):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    y: Tensor = _Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    return y.reshape(*x.shape[:-1], weight.shape[0])


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """GELU of `linear`; in one pass where no gradients are wanted."""
    if torch.is_grad_enabled() or not _direct(x):
        return F.gelu(linear(x, weight, bias))
    y: Tensor = _product(x.reshape(-1, x.shape[-1]), weight, bias, True)
    return y.reshape(*x.shape[:-1], weight.shape[0])


def response_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Global response norm of x (B, N, C) over N: x + gamma x G / (mean of G + eps) + beta, G the L2 norm over N."""
    if _direct(x):
        out: Tensor = _ResponseNorm.apply(x, gamma, beta, eps)  # type: ignore[no-untyped-call]
        return out
    norm = x.float().square().sum(1).add(_TINY).sqrt()  # (B, C); the small term keeps gradients finite
    scale = 1 + gamma * norm / (norm.mean(1, keepdim=True) + eps)
    return torch.addcmul(beta, x, scale[:, None].to(x.dtype))


class _ResponseNorm(torch.autograd.Function):
    """The same with the fewest passes over x, which is the widest tensor of a block."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
        norm = x.square().sum(1).add_(_TINY).sqrt_()
        mean = norm.mean(1, keepdim=True) + eps
        scale = 1 + gamma * norm / mean
        ctx.save_for_backward(x, gamma, norm, mean, scale)
        return torch.addcmul(beta, x, scale[:, None])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (grad,) = grads
        x, gamma, norm, mean, scale = ctx.saved_tensors
        along = (grad * x).sum(1)  # (B, C)
        ratio = norm / mean
        # the norm of every channel enters the mean of all
        pull = along * gamma / mean
        pull = pull - (pull * ratio).sum(1, keepdim=True) / norm.shape[1]
        grad_x = torch.addcmul(grad * scale[:, None], x, (pull / norm)[:, None])
        return grad_x, (along * ratio).sum(0), grad.sum((0, 1)), None


def chunks(x: Tensor, bytes_per_event: int) -> tuple[Tensor, ...]:
    """Split events of x (B, ...) so that what a chunk needs stays in the caches; whole while compiling or on a GPU."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return (x,)
    return torch.split(x, max(1, torch.get_num_threads() * _CACHE_BYTES // bytes_per_event))


def depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depthwise convolution of x (B, H, W, C), odd kernels (C, 1, k, k), same size out; channels stay last."""
    if not _direct(x):
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
        return y.permute(0, 2, 3, 1)
    out: Tensor = _Depthwise.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        # the gradient of a same-size convolution is the convolution with the turned kernel
        grad_x = _convolve(grad, weight.flip(2, 3), None)
        return grad_x, depthwise_weight_grad(x, grad, weight.shape[-1]), grad.sum((0, 1, 2))


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    return y.permute(0, 2, 3, 1)


@torch.library.custom_op("xecml::depthwise_weight_grad", mutates_args=())
def depthwise_weight_grad(x: Tensor, grad: Tensor, kernel: int) -> Tensor:
    """Gradient (C, 1, k, k) of a depthwise kernel from inputs and gradients of outputs, both (B, H, W, C) float32."""
    channels = x.shape[-1]
    images, gradients = x.contiguous().numpy(), grad.contiguous().numpy()
    edges = _edges(len(x))
    sums = np.zeros((len(edges) - 1, kernel, kernel, channels), np.float32)
    _side_by_side(
        [(_correlate, images[a:b], gradients[a:b], s) for (a, b), s in zip(pairwise(edges), sums, strict=True)]
    )
    return torch.from_numpy(np.ascontiguousarray(sums.sum(0).transpose(2, 0, 1)[:, None]))


@depthwise_weight_grad.register_fake
def _(x: Tensor, grad: Tensor, kernel: int) -> Tensor:
    return x.new_empty(x.shape[-1], 1, kernel, kernel)


def in_parts(kernel: Any, *tensors: Tensor, table: Tensor) -> None:
    """Call a compiled function on arrays of parts of the events, side by side, and on a table that all share.

    A tensor (B, ...) that is written must be contiguous.
    """
    arrays = [x.detach().contiguous().numpy() for x in tensors]
    shared = table.detach().contiguous().numpy()
    _side_by_side([(kernel, *(x[a:b] for x in arrays), shared) for a, b in pairwise(_edges(len(arrays[0])))])


def _edges(events: int) -> list[int]:
    """Where the parts of so many events begin, one a thread, and their end."""
    threads = max(1, min(torch.get_num_threads(), events))
    return [events * i // threads for i in range(threads + 1)]


def _side_by_side(calls: Sequence[tuple[Any, ...]]) -> None:
    """Make calls (function, arguments), each in a thread of its own."""
    if len(calls) == 1:
        calls[0][0](*calls[0][1:])
    else:
        list(_threads(len(calls)).map(lambda call: call[0](*call[1:]), calls))


@cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n)


@fast
def _correlate(x: NDArray[np.float32], grad: NDArray[np.float32], sums: NDArray[np.float32]) -> None:
    """Add to sums[i, j, c]: x[b, h + i - k/2, w + j - k/2, c] * grad[b, h, w, c]."""
    events, rows, columns, channels = x.shape
    k = sums.shape[0]
    half = k // 2
    # four columns at a time: a running sum is then read and written once for four products
    blocks = -(-columns // 4) * 4
    image = np.zeros((rows, blocks + k - 1, channels), np.float32)
    gradient = np.zeros((rows, blocks, channels), np.float32)
    row_sums = np.zeros((k, channels), np.float32)
    for b in range(events):
        image[:, half : half + columns] = x[b]
        gradient[:, :columns] = grad[b]
        for i in range(k):
            row_sums[:] = 0
            for h in range(max(0, half - i), min(rows, rows + half - i)):
                row, g = image[h + i - half], gradient[h]
                for w in range(0, blocks, 4):
                    for j in range(k):
                        for c in range(channels):
                            row_sums[j, c] += (
                                row[w + j, c] * g[w, c]
                                + row[w + j + 1, c] * g[w + 1, c]
                                + row[w + j + 2, c] * g[w + 2, c]
                                + row[w + j + 3, c] * g[w + 3, c]
                            )
            sums[i] += row_sums
