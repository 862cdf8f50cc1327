"""Figures of merit of a sample of residuals, and their statistical errors.

One definition for the whole package: the training loop, the reconstruction without learning and the
evaluation of both call these functions. A residual is prediction minus truth, in the unit the caller quotes.

    bias    mean
    rms     standard deviation about the mean
    skew    third standardised moment
    s68     half of the distance between the 15.9 % and the 84.1 % quantile
    fwhm    FWHM / 2.355 of a Gaussian kernel density of bandwidth h = 0.9 s68 n^(-1/5) (Silverman 1986,
            eq. 3.31), with h subtracted in quadrature: the width of the core, whatever the tails
    upper   (upper half-maximum point - mode) / 1.177, the same subtraction: the side of an energy peak
            that leakage does not reach
    tail    fraction with |x - median| > 3 s68 (0.27 % for a Gaussian)

Moments and quantiles are exact. The kernel density and the bootstrap work on a fine histogram (bins of
0.01 s68), so that their cost does not grow with the sample. Values that are not finite are counted and left
out. This module needs numpy alone.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

QUANTILES = (0.15865, 0.84135)
FWHM_PER_SIGMA = 2.35482
HWHM_PER_SIGMA = FWHM_PER_SIGMA / 2
MIN_FOR_PEAK = 30
"""Below this many values the half-maximum points of a kernel density mean nothing: they are NaN."""

# the histogram reaches six s68 to both sides of the median; beyond lie an underflow and an overflow bin
_REACH = 6.0
_BINS = 1201
_STEP = 2 * _REACH / (_BINS - 1)
# a power of two with room for the kernel, so that the circular convolution does not wrap around
_FFT_LENGTH = 2048
_NAN = math.nan


@dataclass(frozen=True)
class Resolution:
    """Figures of merit of a sample, in the unit of its residuals (skew, tail: none), and standard errors.

    NaN stands for what the sample is too small to tell, or what was not asked for.
    """

    n: int
    n_not_finite: int
    bias: float = _NAN
    median: float = _NAN
    rms: float = _NAN
    skew: float = _NAN
    s68: float = _NAN
    mode: float = _NAN
    fwhm: float = _NAN
    upper: float = _NAN
    tail: float = _NAN
    bias_error: float = _NAN
    rms_error: float = _NAN
    skew_error: float = _NAN
    s68_error: float = _NAN
    fwhm_error: float = _NAN
    upper_error: float = _NAN
    tail_error: float = _NAN

    def as_dict(self) -> dict[str, float | None]:
        """Values by name for JSON, which has no NaN: None in its place."""
        return without_nan(asdict(self))


@dataclass(frozen=True)
class Containment:
    """Median and 68 % quantile of non-negative values such as opening angles, with standard errors."""

    n: int
    n_not_finite: int
    median: float = _NAN
    q68: float = _NAN
    median_error: float = _NAN
    q68_error: float = _NAN

    def as_dict(self) -> dict[str, float | None]:
        """Values by name for JSON: None for NaN."""
        return without_nan(asdict(self))


def without_nan(values: dict[str, float]) -> dict[str, float | None]:
    """Put None in the place of NaN and infinity, which JSON does not know."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def s68(residuals: ArrayLike) -> float:
    """Half of the distance between the 15.9 % and 84.1 % quantiles of the finite values; NaN without any."""
    x, _ = _finite(residuals)
    return _median_and_s68(x)[1] if len(x) else _NAN


def peak(residuals: ArrayLike) -> tuple[float, float, float]:
    """Mode, fwhm and upper side of the finite values; NaN for fewer than 30 of them."""
    x, _ = _finite(residuals)
    return _peak(x, *_median_and_s68(x)) if len(x) >= MIN_FOR_PEAK else (_NAN, _NAN, _NAN)


def figures_of_merit(residuals: ArrayLike, *, replicas: int = 100, seed: int = 0, with_peak: bool = True) -> Resolution:
    """Compute all figures of merit of a sample.

    Args:
        residuals: any shape; not finite values are counted and left out.
        replicas: bootstrap samples for the errors of s68, fwhm, upper and tail; 0 leaves these errors NaN.
            The errors of moments are the bootstrap's limit for many replicas, in closed form.
        seed: of the bootstrap; the same sample and seed give the same errors.
        with_peak: whether to compute mode, fwhm and upper, the slower part.
    """
    x, lost = _finite(residuals)
    if len(x) < 2:
        return Resolution(len(x), lost, *([float(x[0])] * 2 if len(x) else []))
    median, half = _median_and_s68(x)
    values = _moments(x) | {
        "median": median,
        "s68": half,
        "tail": float(np.mean(np.abs(x - median) > 3 * half)),
    }
    with_peak = with_peak and len(x) >= MIN_FOR_PEAK
    if with_peak:
        values |= dict(zip(("mode", "fwhm", "upper"), _peak(x, median, half), strict=True))
    if replicas > 0:
        values |= _bootstrap_errors(x, median, half, replicas, seed, with_peak)
    return Resolution(len(x), lost, **values)


def containment(values: ArrayLike, *, replicas: int = 100, seed: int = 0) -> Containment:
    """Median and 68 % quantile of values >= 0, any shape; those not finite are counted and left out."""
    x, lost = _finite(values)
    if len(x) == 0:
        return Containment(0, lost)
    median, q68 = (float(q) for q in np.quantile(x, (0.5, 0.68)))
    if len(x) < 2 or replicas <= 0:
        return Containment(len(x), lost, median, q68)
    centre, half = _median_and_s68(x)
    if half == 0:
        return Containment(len(x), lost, median, q68, 0.0, 0.0)
    cumulative = _resampled(_histogram(x, centre, half), replicas, seed).cumsum(axis=-1)
    errors = [float(_binned_quantile(cumulative, p).std() * _STEP * half) for p in (0.5, 0.68)]
    return Containment(len(x), lost, median, q68, *errors)


# ---------------------------------------------------------------------------------------- exact quantities


def _finite(values: ArrayLike) -> tuple[Floats, int]:
    x = np.asarray(values, np.float64).ravel()
    good = np.isfinite(x)
    return x[good], int(len(x) - good.sum())


def _median_and_s68(x: Floats) -> tuple[float, float]:
    low, median, high = np.quantile(x, (QUANTILES[0], 0.5, QUANTILES[1]))
    return float(median), float(high - low) / 2


def _moments(x: Floats) -> dict[str, float]:
    """Mean, standard deviation, skewness, and their standard errors from the influence of each value.

    The errors are what a bootstrap of many replicas tends to (infinitesimal jackknife, Efron 1982, ch. 6).
    """
    mean, rms = float(x.mean()), float(x.std())
    # equal values leave nothing but the rounding of their mean
    if rms <= 1e-12 * float(np.abs(x).max()):
        names = ("rms", "skew", "bias_error", "rms_error", "skew_error")
        return {"bias": mean} | dict.fromkeys(names, 0.0)
    z = (x - mean) / rms
    skew = float((z**3).mean())
    root_n = math.sqrt(len(x))
    influence = z**3 - skew - 1.5 * skew * (z**2 - 1) - 3 * z
    return {
        "bias": mean,
        "rms": rms,
        "skew": skew,
        "bias_error": rms / root_n,
        "rms_error": rms / 2 * float((z**2).std()) / root_n,
        "skew_error": float(influence.std()) / root_n,
    }


# ---------------------------------------------------------------------------- on a histogram about the median
#
# Bin j = 0 .. 1200 is centred on median + (j - 600) 0.01 s68. Positions below are in bins, so that bin j
# reaches from j - 0.5 to j + 0.5; histograms (..., 1203) carry the underflow first and the overflow last.


def _histogram(x: Floats, median: float, half: float) -> NDArray[np.int64]:
    """Counts (1203,) of the sample."""
    position = (x - median) / (half * _STEP) + (_BINS - 1) / 2
    index = np.clip(np.floor(position + 0.5), -1, _BINS).astype(np.int64) + 1
    return np.bincount(index, minlength=_BINS + 2)


def _peak(x: Floats, median: float, half: float) -> tuple[float, float, float]:
    if half == 0:
        return median, 0.0, 0.0
    mode, fwhm, upper = _peak_shape(_histogram(x, median, half), _bandwidth(len(x)))
    scale = _STEP * half
    return median + (float(mode) - (_BINS - 1) / 2) * scale, float(fwhm) * scale, float(upper) * scale


def _bandwidth(n: int) -> float:
    """Bandwidth of the kernel density in bins."""
    return 0.9 / (_STEP * math.pow(n, 0.2))


def _peak_shape(histogram: NDArray[Any], h: float) -> tuple[Floats, Floats, Floats]:
    """Mode, fwhm and upper side, all in bins, of histograms (..., 1203); h is the bandwidth in bins."""
    density = _smoothed(histogram[..., 1:-1], h)
    mode, left, right = _half_maximum(density)

    def without_kernel(width: Floats) -> Floats:
        return np.sqrt(np.maximum(width**2 - h**2, 0.0))

    return (
        mode,
        without_kernel((right - left) / FWHM_PER_SIGMA),
        without_kernel((right - mode) / HWHM_PER_SIGMA),
    )


def _smoothed(counts: NDArray[Any], sigma: float) -> Floats:
    """Convolve (..., 1201) with a Gaussian of `sigma` bins, by its Fourier transform."""
    frequency = np.fft.rfftfreq(_FFT_LENGTH)
    kernel = np.exp(-2 * (np.pi * frequency * sigma) ** 2)
    spectrum = np.fft.rfft(counts, _FFT_LENGTH, axis=-1) * kernel
    smooth: Floats = np.fft.irfft(spectrum, _FFT_LENGTH, axis=-1)[..., :_BINS]
    return smooth


def _half_maximum(density: Floats) -> tuple[Floats, Floats, Floats]:
    """Mode and the nearest points to its left and right where densities (..., 1201) fall to half, in bins."""
    bins = np.arange(_BINS)
    mode = density.argmax(axis=-1)[..., None]
    half = np.take_along_axis(density, mode, -1) / 2
    below = density < half
    left = np.where(below & (bins < mode), bins, 0).max(axis=-1, keepdims=True)
    right = np.where(below & (bins > mode), bins, _BINS - 1).min(axis=-1, keepdims=True)

    def crossing(outside: NDArray[Any], inside: NDArray[Any]) -> Floats:
        a, b = (np.take_along_axis(density, i, -1) for i in (outside, inside))
        return np.clip((half - a) / np.where(b > a, b - a, 1.0), 0.0, 1.0)

    left_point = left + crossing(left, left + 1)
    right_point = right - crossing(right, right - 1)
    return mode[..., 0].astype(np.float64), left_point[..., 0], right_point[..., 0]


def _resampled(histogram: NDArray[np.int64], replicas: int, seed: int) -> Floats:
    """Bootstrap histograms (replicas, 1203): as many events, drawn with the bins' contents as chances."""
    filled = np.flatnonzero(histogram)
    n = int(histogram.sum())
    drawn = np.zeros((replicas, len(histogram)))
    drawn[:, filled] = np.random.default_rng(seed).multinomial(n, histogram[filled] / n, size=replicas)
    return drawn


def _binned_quantile(cumulative: Floats, p: float) -> Floats:
    """Positions (replicas,) in bins where cumulative histograms (replicas, 1203) reach the fraction p."""
    target = p * cumulative[:, -1:]
    index = np.minimum((cumulative < target).sum(axis=-1, keepdims=True), cumulative.shape[-1] - 1)
    above = np.take_along_axis(cumulative, index, -1)
    before = np.where(index > 0, np.take_along_axis(cumulative, np.maximum(index - 1, 0), -1), 0.0)
    position = index - 1.5 + (target - before) / np.maximum(above - before, 1.0)
    return np.asarray(position[:, 0])


def _fraction_below(cumulative: Floats, position: Floats) -> Floats:
    """Fractions (replicas,) below positions (replicas,) in bins."""
    edge = np.clip(position + 0.5, 0, _BINS - 1e-9)[:, None]
    index = np.floor(edge).astype(np.int64)
    before, above = (np.take_along_axis(cumulative, i, -1) for i in (index, index + 1))
    return np.asarray(((before + (edge - index) * (above - before)) / cumulative[:, -1:])[:, 0])


def _bootstrap_errors(
    x: Floats, median: float, half: float, replicas: int, seed: int, with_peak: bool
) -> dict[str, float]:
    names = ("s68_error", "tail_error") + (("fwhm_error", "upper_error") if with_peak else ())
    if half == 0:
        return dict.fromkeys(names, 0.0)
    drawn = _resampled(_histogram(x, median, half), replicas, seed)
    cumulative = drawn.cumsum(axis=-1)
    low, centre, high = (_binned_quantile(cumulative, p) for p in (QUANTILES[0], 0.5, QUANTILES[1]))
    widths = (high - low) / 2
    core = _fraction_below(cumulative, centre + 3 * widths) - _fraction_below(cumulative, centre - 3 * widths)
    scale = _STEP * half
    errors = {"s68_error": float(widths.std()) * scale, "tail_error": float(core.std())}
    if with_peak:
        _, fwhm, upper = _peak_shape(drawn, _bandwidth(len(x)))
        errors |= {"fwhm_error": float(fwhm.std()) * scale, "upper_error": float(upper.std()) * scale}
    return errors
