"""How fields vary about their mean: memory of regions, leading pattern, extremes, shape of the distribution.

Fields are (member, time, pixel) without their member's own mean map. Every figure is taken of each member and averaged,
so that it estimates the same as one stretch of the same length does; only the pattern is that of all members together.
"""

import numpy as np
from scipy import stats
from scipy.sparse import linalg

from fsae.runtime.arrays import F64, Floating

from .spectra import autocorrelation

PERCENTILES = (1.0, 99.0)


def regional_memory(own: Floating, weights: F64, lags: int) -> F64:
    """Autocorrelation (region, lag) at lags 1 ... `lags` of the means over regions with weights (region, pixel)."""
    mean = (weights / weights.sum(axis=-1, keepdims=True)).astype(own.dtype)
    series = np.moveaxis(own @ mean.T, -1, 1)  # (member, region, time)
    return np.asarray(autocorrelation(series, lags).mean(axis=0))


def leading_pattern(own: Floating) -> tuple[F64, float]:
    """First EOF (pixel,) of all members and times together, of norm one, and the share of variance a member's own has.

    Pixels are equal in area: none counts more. The sign is open.
    """
    pattern = _first(own.reshape(-1, own.shape[-1]))[1]
    shares = [_first(member)[0] ** 2 / np.sum(member**2, dtype=np.float64) for member in own]
    return pattern, float(np.mean(shares))


def _first(fields: Floating) -> tuple[float, F64]:
    """First singular value and right singular vector (pixel,) of fields (time, pixel)."""
    start = np.ones(min(fields.shape))  # the default start is random
    _, size, pattern = linalg.svds(fields.astype(np.float64), k=1, v0=start)
    return float(size[0]), pattern[0]


def extremes(own: Floating) -> F64:
    """Maps (percentile, pixel) of the percentiles `PERCENTILES` over time, interpolated linearly between ranks."""
    total = np.zeros((len(PERCENTILES), own.shape[-1]))
    for member in own:  # one at a time: the sorted copy is as large as the fields
        total += np.percentile(member, PERCENTILES, axis=0)
    return total / len(own)


def skewness_and_kurtosis(own: Floating) -> tuple[F64, F64]:
    """Maps (pixel,) of the skewness and the excess kurtosis over time: zero for a large Gaussian sample.

    The usual moments m3 / m2**1.5 and m4 / m2**2 - 3; the kurtosis of n values is too low by about 6 / n. Zero where
    nothing varies.
    """
    skewness, kurtosis = np.zeros(own.shape[-1]), np.zeros(own.shape[-1])
    for member in own:
        varies = np.ptp(member, axis=0) > 0
        values = member[:, varies].astype(np.float64)
        skewness[varies] += stats.skew(values, axis=0)
        kurtosis[varies] += stats.kurtosis(values, axis=0)
    return skewness / len(own), kurtosis / len(own)
