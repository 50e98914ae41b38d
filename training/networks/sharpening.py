"""A few numbers per variable that give decoded fields the angular power of the true ones.

Trained on the mean square error, a decoder gives the mean of all fields with the same latent: smoother than any of
them, with less than half of the power at the finest scales. What power it has there is correlated with the truth, so
amplifying it to the true power costs little error: with the share R^2 explained, 2 (1 - R) of the variance instead of
1 - R^2. The filter is y + a Ly + b LLy ..., L the difference from the mean of the eight neighbours; its numbers are
fitted to spectra once the autoencoder is trained: two restore a power that falls short more and more, a lack that comes
and goes with the degree takes more. A term for power in the training loss did worse: it either found loopholes (with
fixed harmonics) or cost more error for the same power.
"""

from collections.abc import Callable
from itertools import combinations_with_replacement

import healpy
import numpy as np
from scipy.optimize import least_squares

from fsae.runtime.arrays import F64, Floating
from fsae.runtime.sphere.healpix import zoom_of

from .halo import halo_table

MOST_TRIES = 20  # of numbers for a variable that is learned as a root
LOWEST_DEGREE = 2  # below it is the global mean and its gradient, which the base cells hold


def laplacian(field: Floating) -> Floating:
    """Each pixel (..., pixel) minus the mean of its eight neighbours, nested order."""
    zoom = zoom_of(field.shape[-1])
    difference: Floating = field - field[..., halo_table(zoom, zoom)].mean(axis=-1)
    return difference


def differences(fields: Floating, terms: int) -> list[Floating]:
    """The fields, and `terms` times the Laplacian of the last."""
    found = [fields]
    for _ in range(terms):
        found.append(laplacian(found[-1]))
    return found


def highest_degree(pixels: int) -> int:
    """Degree up to which the power is matched: 15/16 of 2 nside, beyond which pixels alias."""
    return max(LOWEST_DEGREE + 2, 15 * (2 << zoom_of(pixels)) // 16)


def power(fields: Floating, others: Floating) -> F64:
    """Mean cross-power (degree,) of nested fields (sample, pixel) from `LOWEST_DEGREE` to `highest_degree`."""
    lmax = highest_degree(fields.shape[-1])
    total = np.zeros(lmax + 1)
    for one, other in zip(fields, others, strict=True):
        maps = [healpy.reorder(np.asarray(field, dtype=np.float64), n2r=True) for field in (one, other)]
        total += healpy.anafast(maps[0], maps[1], lmax=lmax, iter=1)
    found: F64 = (total / len(fields))[LOWEST_DEGREE:]
    return found


def fit_sharpening(rebuilt: Floating, true: Floating, terms: int = 2) -> F64:
    """The numbers (terms,) with the least mean of ln(power sharpened / power true)^2 over degrees.

    Fields are (sample, pixel). The filter is linear, so the power after it is a quadratic form of 1 and its numbers in
    the cross-powers of the field and its differences.
    """
    parts = differences(rebuilt, terms)
    wanted = power(true, true)
    cross = np.empty((len(wanted), terms + 1, terms + 1))
    for i, j in combinations_with_replacement(range(terms + 1), 2):
        cross[:, i, j] = cross[:, j, i] = power(parts[i], parts[j])

    def misfit(numbers: F64) -> F64:
        weights = np.concatenate([[1.0], numbers])
        sharpened = np.einsum("i,dij,j->d", weights, cross, weights)
        off: F64 = np.log(np.maximum(sharpened, 1e-12 * wanted) / wanted)
        return off

    return np.asarray(least_squares(misfit, np.zeros(terms)).x)


def fit_transformed(decoded: Floating, true: Floating, physical: Callable[[F64], F64], terms: int = 2) -> F64:
    """The same of a variable that is learned as a root: its power is that of `physical` fields (sample, pixel).

    That is no quadratic form. The power is about the mean of the samples, which is no departure to be amplified.
    """
    parts = differences(decoded.astype(np.float64), terms)

    def power_of(anomalies: F64) -> F64:
        fields = physical(anomalies)
        away = fields - fields.mean(axis=0)
        return power(away, away)

    wanted = power_of(true.astype(np.float64))

    def misfit(numbers: F64) -> F64:
        sharp: F64 = np.tensordot(np.concatenate([[1.0], numbers]), parts, axes=1)
        off: F64 = np.log(power_of(sharp) / wanted)
        return off

    return np.asarray(least_squares(misfit, np.zeros(terms), diff_step=1e-3, max_nfev=MOST_TRIES).x)
