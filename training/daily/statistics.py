"""Statistics of daily weather: memory, storm tracks, rain, and how variables go together.

Fields are (member, time, pixel) or (member, time, variable, pixel) on equal-area pixels. Each member is one stretch:
its own mean map is removed, statistics are taken of it, and averaged over members, so that an ensemble is compared with
one stretch of the truth as one stretch is. All share the bias of a short stretch.
"""

from itertools import combinations

import numpy as np
from scipy import signal

from fsae.runtime.arrays import F64, Floating

WET = 1.0  # [mm day-1], from which on a day is wet (Klein Tank et al. 2009, WMO-TD 1500)
QUANTILES = (0.5, 0.9, 0.99, 0.999)
STORM_DAYS = (2.0, 6.0)  # periods of the eddies of storm tracks (Blackmon 1976)


def own_departures(fields: Floating) -> F64:
    """Fields (member, time, ...) less each member's own mean over time."""
    values = fields.astype(np.float64)
    found: F64 = values - values.mean(axis=1, keepdims=True)
    return found


def pooled_autocorrelation(departures: Floating, lags: int) -> F64:
    """Autocorrelation at lags 1 ... `lags` of departures (member, time, pixel): all pixels' covariance over variance.

    sum x_t x_(t + k) / sum x_t^2 over times, pixels and members: pixels count by their variance. k of n terms are
    missing in the covariance, so it is biased towards zero by k / n, as that of every stretch of n days is.

    >>> pooled_autocorrelation(np.array([1.0, -1.0, 1.0, -1.0])[None, :, None], 2).tolist()
    [-0.75, 0.5]
    """
    variance = np.square(departures, dtype=np.float64).sum()
    found = [
        np.einsum("mtp,mtp->", departures[:, :-lag], departures[:, lag:], dtype=np.float64)
        for lag in range(1, lags + 1)
    ]
    return np.asarray(np.array(found) / variance)


def storm_track(departures: Floating) -> F64:
    """Map (pixel,) of the variance at periods of `STORM_DAYS` of daily departures (member, time, pixel).

    The periodogram under a Hann window, without a linear trend, summed over the frequencies of the band (Welch 1967,
    doi:10.1109/TAU.1967.1161901): a wave of amplitude a within it has a^2 / 2.
    """
    frequency, power = signal.periodogram(
        departures.astype(np.float64), fs=1.0, window="hann", detrend="linear", scaling="density", axis=1
    )
    low, high = 1 / STORM_DAYS[1], 1 / STORM_DAYS[0]
    inside = (frequency >= low) & (frequency <= high)
    found: F64 = (power[:, inside].sum(axis=1) * frequency[1]).mean(axis=0)
    return found


def wet_share(rain: Floating) -> float:
    """Share of days and places (any axes) with `WET` [mm day-1] or more.

    >>> wet_share(np.array([0.0, 0.9, 1.0, 30.0]))
    0.5
    """
    return float(np.mean(rain >= WET))


def rain_quantiles(rain: Floating) -> tuple[float, ...]:
    """The quantiles `QUANTILES` of all days and places (any axes), dry ones included, interpolated between ranks."""
    return tuple(np.quantile(rain, QUANTILES).tolist())


def correlation_maps(departures: Floating) -> F64:
    """Maps (pair, pixel) of the correlation in time between variables of departures (member, time, variable, pixel).

    Pairs are in the order of `itertools.combinations`. Of each member, averaged; zero where a variable never varies.
    """
    values = departures.astype(np.float64)
    size = np.sqrt(np.einsum("mtvp,mtvp->mvp", values, values))
    found = []
    for one, other in combinations(range(values.shape[2]), 2):
        both = np.einsum("mtp,mtp->mp", values[:, :, one], values[:, :, other])
        scale = size[:, one] * size[:, other]
        found.append(np.divide(both, scale, out=np.zeros_like(both), where=scale > 0).mean(axis=0))
    return np.stack(found)


def pattern_correlation(maps: Floating, truth: Floating) -> float:
    """Correlation of two maps about zero, of any shape: their product's mean over the root of their mean squares.

    >>> pattern_correlation(np.array([1.0, -2.0]), np.array([2.0, -4.0]))
    1.0
    """
    square = np.mean(np.square(maps)) * np.mean(np.square(truth))
    return float(np.mean(maps * truth) / np.sqrt(square))
