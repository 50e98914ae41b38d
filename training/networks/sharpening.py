"""Two numbers per variable that give decoded fields the angular power of the true ones.

Trained on the mean square error, a decoder gives the mean of all fields with the same latent: smoother than any of
them, with less than half of the power at the finest scales. What power it has there is correlated with the truth, so
amplifying it to the true power costs little error: with the share R^2 explained, 2 (1 - R) of the variance instead of
1 - R^2. The filter is y + a Ly + b LLy, L the difference from the mean of the eight neighbours; a and b are fitted to
the spectra of training months once the autoencoder is trained. A term for power in the training loss did worse: it
either found loopholes (with fixed harmonics) or cost more error for the same power.
"""

import healpy
import numpy as np
from scipy.optimize import minimize

from fsae.runtime.arrays import F64, Floating
from fsae.runtime.sphere.healpix import zoom_of

from .halo import halo_table

LOWEST_DEGREE = 2  # below it is the global mean and its gradient, which the base cells hold


def laplacian(field: Floating) -> Floating:
    """Each pixel (..., pixel) minus the mean of its eight neighbours, nested order."""
    zoom = zoom_of(field.shape[-1])
    difference: Floating = field - field[..., halo_table(zoom, zoom)].mean(axis=-1)
    return difference


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


def fit_sharpening(rebuilt: Floating, true: Floating) -> F64:
    """a and b with the least mean of ln(power sharpened / power true)^2 over degrees; fields (sample, pixel).

    The filter is linear, so the power after it is a quadratic form of (1, a, b) in three fields' cross-powers.
    """
    first = laplacian(rebuilt)
    parts = (rebuilt, first, laplacian(first))
    pairs = [(0, 0, 1), (1, 1, 1), (2, 2, 1), (0, 1, 2), (0, 2, 2), (1, 2, 2)]  # and how often each counts
    cross = np.array([count * power(parts[i], parts[j]) for i, j, count in pairs])  # (pair, degree)
    wanted = power(true, true)

    def misfit(numbers: F64) -> float:
        weights = (1.0, *numbers)
        sharpened = np.array([weights[i] * weights[j] for i, j, _ in pairs]) @ cross
        return float(np.square(np.log(np.maximum(sharpened, 1e-12 * wanted) / wanted)).mean())

    found: F64 = np.asarray(minimize(misfit, np.zeros(2), method="Nelder-Mead").x, dtype=np.float64)
    return found
