"""From raw counts and times to what networks see, and back: the constants are buffers of the model.

    npho_norm = log1p(npho / npho_scale) / npho_scale2
    time_norm = time / time_scale - time_shift

An invalid count becomes 0, an invalid time the sentinel. Everything here runs in float32, whatever the precision of
the rest, because 16-bit numbers cannot hold counts up to 1e6 or picoseconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xecml.data.batch import full as full
from xecml.data.batch import validity as validity
from xecml.errors import InputError

COUNT_SCHEMES = ("log1p", "sqrt", "anscombe", "linear")
RELATIVE_DEFAULTS = {"npho_scale": 0.58, "npho_scale2": 1.0, "time_scale": 6.5e-8, "time_shift": 0.5}
ABSOLUTE_DEFAULTS = {"npho_scale": 1000.0, "npho_scale2": 4.08, "time_scale": 1.14e-7, "time_shift": -0.46}
SENTINEL = -5.0
_ANSCOMBE = 0.375  # Anscombe 1948: sqrt(n + 3/8) has nearly constant variance


class Normaliser(nn.Module):
    """Transforms of counts and times, and their exact inverses.

    Args:
        npho_scale: photons; the scale of the count transform.
        npho_scale2: divides the transformed count.
        time_scale: seconds per unit of normalised time.
        time_shift: subtracted from the normalised time.
        sentinel: normalised value of an invalid time.
        scheme: `log1p`, or `sqrt`: sqrt(n / scale), `anscombe`: sqrt(n / scale + 3/8), `linear`: n / scale.
    """

    said = (
        "input[:, :, 0] = log1p(npho / npho_scale) / npho_scale2 (or by npho_scheme), 0 where not measured; "
        "input[:, :, 1] = time / time_scale - time_shift, sentinel where not measured"
    )
    """What `inputs` makes, in words for a file."""
    npho_scale: Tensor
    npho_scale2: Tensor
    time_scale: Tensor
    time_shift: Tensor
    sentinel: Tensor

    def __init__(
        self,
        *,
        npho_scale: float,
        npho_scale2: float,
        time_scale: float,
        time_shift: float,
        sentinel: float = SENTINEL,
        scheme: str = "log1p",
    ) -> None:
        super().__init__()
        if scheme not in COUNT_SCHEMES:
            raise InputError(f"Unknown count scheme '{scheme}'; choose one of {', '.join(COUNT_SCHEMES)}.")
        if min(npho_scale, npho_scale2, time_scale) <= 0:
            raise InputError(
                "npho_scale, npho_scale2 and time_scale must be above zero; correct the section 'normalization'."
            )
        self.scheme = scheme
        constants = (npho_scale, npho_scale2, time_scale, time_shift, sentinel)
        names = ("npho_scale", "npho_scale2", "time_scale", "time_shift", "sentinel")
        for name, value in zip(names, constants, strict=True):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))

    def counts(self, npho: Tensor, valid: Tensor) -> Tensor:
        """Normalised counts of photons `npho`; 0 where not `valid`. Same shape, float32."""
        n = torch.where(valid, full(npho), 0.0) / self.npho_scale
        if self.scheme == "log1p":
            transformed = torch.log1p(n)
        elif self.scheme == "sqrt":
            transformed = torch.sqrt(n.clamp_min(1e-12))  # the root has no derivative at zero
        elif self.scheme == "anscombe":
            # shifted so that no light is 0, as in the other schemes
            transformed = torch.sqrt(n + _ANSCOMBE) - _ANSCOMBE**0.5
        else:
            transformed = n
        return transformed / self.npho_scale2

    def known(self, counts: Tensor) -> Tensor:
        """Which normalised counts were measured; dark sensors count as not measured."""
        return full(counts) > 0

    def inputs(self, npho: Tensor, time: Tensor) -> Tensor:
        """Normalised counts and times (..., 2), float32, of raw ones (...), seconds."""
        valid, timed = validity(npho, time)
        return torch.stack([self.counts(npho, valid), self.times(time, timed)], -1)

    def photons(self, counts: Tensor) -> Tensor:
        """Inverse of `counts`: photons."""
        c = full(counts) * self.npho_scale2
        if self.scheme == "log1p":
            n = torch.expm1(c)
        elif self.scheme == "sqrt":
            n = c.square()
        elif self.scheme == "anscombe":
            n = (c + _ANSCOMBE**0.5).square() - _ANSCOMBE
        else:
            n = c
        return n * self.npho_scale

    def times(self, time: Tensor, timed: Tensor) -> Tensor:
        """Normalised times of seconds `time`; the sentinel where not `timed`. Same shape, float32."""
        return torch.where(timed, full(time) / self.time_scale - self.time_shift, self.sentinel)

    def seconds(self, times: Tensor) -> Tensor:
        """Inverse of `times`: seconds."""
        return (full(times) + self.time_shift) * self.time_scale
