"""What a period or an ensemble has in common with the true period: mean, variability, spectrum, memory.

All fields are anomalies about the training climatology, (time, pixel) or (member, time, pixel).
A member is compared as the truth is, as one stretch of its own: its own mean map is removed before everything but the
bias, so that a shift of the mean is counted once and a member's wandering mean is not taken for variability.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .report import Climate, Range
from .scores import correlation, fair_crps, nearest_distances, rmse
from .spectra import autocorrelation, power_spectrum, share_within

Floating = NDArray[np.floating]
Array = NDArray[np.float64]

LAGS = 6  # [steps]


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Statistics that are compared: maps (pixel,), power at degrees 2 ... lmax, autocorrelation per lag."""

    mean: Array
    std: Array
    power: Array
    memory: Array


def moments(members: Floating, lmax: int) -> Moments:
    """Statistics of (member, time, pixel), averaged over members; the mean map is over members and time."""
    means = members.mean(axis=1, keepdims=True, dtype=np.float64)
    own = members - means.astype(members.dtype)
    return Moments(
        mean=means.mean(axis=(0, 1)),
        std=np.sqrt(np.mean(own**2, axis=(0, 1), dtype=np.float64)),
        power=power_spectrum(own, lmax)[2:],  # l = 0 is the global mean and l = 1 little more: the bias holds them
        memory=autocorrelation(own.mean(axis=-1, dtype=np.float64), LAGS).mean(axis=0),
    )


def compare(
    name: str, members: Floating, truth: Floating, true: Moments, *, library: Floating | None, scale: float = 1.0
) -> Climate:
    """The row of an ensemble (member, time, pixel) beside the truth (time, pixel) with its moments.

    `library` (entry, pixel) are the training fields to look for the nearest neighbours in. All are in units of `scale`
    [the variable's unit], in which the row is given.
    """
    found = moments(members, len(true.power) + 1)
    ratio = found.power / true.power
    near = None if library is None else nearest_distances(members.reshape(-1, members.shape[-1]), library)
    return Climate(
        name=name,
        members=len(members),
        bias=scale * float(found.mean.mean() - true.mean.mean()),
        mean_map_rmse=scale * rmse(found.mean, true.mean),
        std_correlation=correlation(found.std, true.std),
        std_ratio=float(found.std.mean() / true.std.mean()),
        spectrum_ratio=tuple(ratio.tolist()),
        within_25=share_within(ratio, 0.25),
        within_20=share_within(ratio, 0.20),
        within_10=share_within(ratio, 0.10),
        spectrum_median=float(np.median(np.abs(ratio - 1))),
        autocorrelation=tuple(found.memory.tolist()),
        crps=scale * fair_crps(members, truth) if len(members) > 1 else None,
        nearest_training=None if near is None else scale * float(np.median(near)),
    )


def memory_ranges(series: Floating, length: int, steps_a_year: int) -> tuple[Range, Range]:
    """Range of the autocorrelation over stretches of `length` steps of a training series (time,) of global means.

    First the stretches side by side, counted back from the end; then every stretch that starts a whole number of years
    before the last one. The second holds the first, and is the range that a figure is held against: with five decades
    side by side even a sixth real one would leave their range one time in three.
    """
    last = len(series) - length
    return _range("side by side", series, range(last, -1, -length), length), _range(
        "every start year", series, range(last, -1, -steps_a_year), length
    )


def _range(name: str, series: Floating, starts: Sequence[int], length: int) -> Range:
    memory = np.stack([autocorrelation(series[start : start + length], LAGS) for start in starts])
    return Range(
        name=name,
        stretches=len(memory),
        low=tuple(memory.min(axis=0).tolist()),
        high=tuple(memory.max(axis=0).tolist()),
    )
