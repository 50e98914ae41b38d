"""Angular power spectra and coherence on HEALPix (healpy), and autocorrelations of time series."""

import healpy
import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import Floating
from fsae.runtime.sphere.healpix import npix, zoom_of

Spectrum = NDArray[np.float64]
Coefficients = NDArray[np.complex128]


def power_spectrum(fields: Floating, lmax: int) -> Spectrum:
    """Mean over all fields (..., pixel), nested, of the power C_l, l = 0 ... lmax, in the square of their unit.

    C_l is the mean of |a_lm|**2 over the 2l + 1 orders m; `anafast` with its three default iterations, which makes the
    quadrature error negligible for lmax <= 2 nside. Any estimator bias is the same for all fields it compares.
    """
    zoom = zoom_of(fields.shape[-1])
    nested = healpy.ring2nest(1 << zoom, np.arange(npix(zoom)))  # nested pixel of each ring pixel
    maps = fields.reshape(-1, fields.shape[-1])
    total = np.zeros(lmax + 1)
    for field in maps:
        total += healpy.anafast(field[nested].astype(np.float64), lmax=lmax, pol=False)
    return total / len(maps)


def share_within(ratio: Floating, tolerance: float) -> float:
    """Share of the ratios that differ from one by no more than `tolerance`.

    >>> share_within(np.array([0.7, 0.9, 1.0, 1.2]), 0.25)
    0.75
    """
    return float(np.mean(np.abs(ratio - 1) <= tolerance))


def autocorrelation(series: Floating, lags: int) -> Spectrum:
    """Autocorrelation at lags 1 ... `lags` of (..., time): covariance over variance, the series' own mean removed.

    The usual estimator sum(x_t x_{t+k}) / sum(x_t**2): k terms are missing, so it is biased towards zero by k / n.

    >>> autocorrelation(np.array([1.0, -1.0, 1.0, -1.0]), 2).tolist()
    [-0.75, 0.5]
    """
    own = series.astype(np.float64) - series.mean(axis=-1, keepdims=True, dtype=np.float64)
    variance = np.sum(own**2, axis=-1)
    count = own.shape[-1]
    covariances = [np.sum(own[..., : count - lag] * own[..., lag:], axis=-1) for lag in range(1, lags + 1)]
    memory: Spectrum = np.stack(covariances, axis=-1) / variance[..., None]
    return memory


def harmonic_coefficients(fields: Floating, lmax: int) -> Coefficients:
    """Coefficients a_lm (field, coefficient) of nested fields (field, pixel), orders m >= 0 in healpy's order.

    The estimator is that of `power_spectrum`: three iterations.
    """
    nested = healpy.ring2nest(1 << zoom_of(fields.shape[-1]), np.arange(fields.shape[-1]))
    return np.stack([healpy.map2alm(field[nested].astype(np.float64), lmax=lmax, pol=False) for field in fields])


def cross_power(one: Coefficients, other: Coefficients) -> Spectrum:
    """Mean over fields of the real a_lm conj(b_lm), averaged over m = -l ... l, for each degree l = 0 ... lmax."""
    total: Spectrum = np.sum([healpy.alm2cl(a, b) for a, b in zip(one, other, strict=True)], axis=0)
    return total / len(one)


def coherence(one: Coefficients, other: Coefficients) -> Spectrum:
    """Squared coherence |sum a_lm conj(b_lm)|**2 / (sum |a_lm|**2 sum |b_lm|**2) of each degree l = 0 ... lmax.

    The sums run over all fields and orders m = -l ... l: one if the waves of that degree agree in phase and, up to
    one factor, in amplitude. NaN if either has no power.
    """
    power = cross_power(one, one) * cross_power(other, other)
    both = cross_power(one, other) ** 2
    squared: Spectrum = np.divide(both, power, out=np.full_like(power, np.nan), where=power > 0)
    return squared
