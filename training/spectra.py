"""Angular power spectra on HEALPix (healpy) and autocorrelations of time series."""

import healpy
import numpy as np
from numpy.typing import NDArray

from fsae.runtime.healpix import npix, zoom_of

Floating = NDArray[np.floating]
Spectrum = NDArray[np.float64]


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

    The usual estimator sum(x_t x_{t+k}) / sum(x_t**2): k terms are missing, so it leans towards zero by k / n.

    >>> autocorrelation(np.array([1.0, -1.0, 1.0, -1.0]), 2).tolist()
    [-0.75, 0.5]
    """
    own = series.astype(np.float64) - series.mean(axis=-1, keepdims=True, dtype=np.float64)
    variance = np.sum(own**2, axis=-1)
    count = own.shape[-1]
    covariances = [np.sum(own[..., : count - lag] * own[..., lag:], axis=-1) for lag in range(1, lags + 1)]
    memory: Spectrum = np.stack(covariances, axis=-1) / variance[..., None]
    return memory
