"""Patterns of whitened latents and their variances, from which the denoiser's linear part is computed.

Hundreds of steps determine the covariance of few patterns only. Those that carry the climate's memory, the largest
waves of the sphere and the leading empirical orthogonal functions, have a full covariance among each other in space
and time. The rest has a covariance in space that is damped with distance (Houtekamer and Mitchell 2001,
doi:10.1175/1520-0493(2001)129<0123:ASEKFF>2.0.CO;2), and in time one for each of its eigenvectors. Without the waves
the damping would take away what balances far regions, and give means over them too much variance and too little memory.

A covariance of all latents of several variables takes too large a table. Then each patch of neighbouring latents of a
variable is first turned to the eigenvectors of its own covariance; as many of the leading ones enter the covariance as
there are cells at a coarser zoom. The others, whose variances differ by factors of a hundred, have a Gaussian each.
"""

from collections.abc import Sequence

import numpy as np
from scipy import linalg

from fsae.runtime.arrays import F32, F64
from fsae.runtime.sphere.healpix import zoom_of

from .localisation import damping

WAVES = 9  # of each variable: spherical harmonics of degree 0 to 2
FUNCTIONS = 6  # leading empirical orthogonal functions
LENGTH_RADIANS = 0.4  # of the Gaussian damping: 2,500 km
FLOOR = 0.1  # share of the covariance that no distance takes away
UNIT_SHARE = 0.05  # of the rest's covariance replaced by unit white noise of the same trace
FIELDS_UNIT_SHARE = 0.02  # the same where fields are damped, whose patterns differ more in variance
OWN_SHARE = 0.85  # least share of its variance in the series that a pattern keeps: about what later steps have of it


def fit_basis(series: Sequence[F64], waves: F64, fields: tuple[F64, F64] | None = None) -> tuple[F64, F64]:
    """Orthonormal patterns (feature, feature) of latents (time, feature), and the variances of all but the leading.

    The leading ones span `waves` (feature, wave) and `FUNCTIONS` empirical orthogonal functions. `fields` are the maps
    of each variable (variable, own feature, pixel) to the fields that its latents stand for, and back (variable, pixel,
    own feature), if latents spread over distances: damped in place of these, they would get several times too much
    power of small scale.
    """
    steps = sum(len(part) for part in series)
    covariance = np.sum([part.T @ part for part in series], axis=0) / steps
    functions = linalg.eigh(covariance)[1][:, ::-1][:, :FUNCTIONS]
    span = linalg.qr(np.concatenate([waves, functions], axis=1), mode="economic")[0]
    lead = span @ linalg.eigh(span.T @ covariance @ span)[1][:, ::-1]
    outside = np.eye(len(lead)) - lead @ lead.T
    rest = outside @ covariance @ outside
    share = UNIT_SHARE if fields is None else FIELDS_UNIT_SHARE
    rest = damped(rest, waves.shape[1] // WAVES) if fields is None else damped_fields(rest, *fields)
    rest = (1 - share) * rest + share * np.trace(rest) / len(rest) * np.eye(len(rest))
    variance, vectors = linalg.eigh(outside @ rest @ outside)
    kept = slice(None, lead.shape[1] - 1, -1)  # from the largest on, without the zeros of the span
    variance, vectors = variance[kept], vectors[:, kept]
    own = np.einsum("pk,pq,qk->k", vectors, covariance, vectors, optimize=True)  # damping has taken from the largest
    return np.concatenate([lead, vectors], axis=1), np.maximum(variance, OWN_SHARE * own)


def damped(covariance: F64, variables: int) -> F64:
    """A covariance between pixels of some variables (variable and pixel, twice), damped with distance."""
    factors = damping(zoom_of(len(covariance) // variables), LENGTH_RADIANS, FLOOR)
    return covariance * np.tile(factors, (variables, variables))


def damped_fields(covariance: F64, there: F64, back: F64) -> F64:
    """A covariance between features of some variables, damped with distance in the fields of `fit_basis`."""
    count = there.shape[1]
    factors = damping(zoom_of(there.shape[2]), LENGTH_RADIANS, FLOOR)
    found = np.empty_like(covariance)
    for one, first in enumerate(range(0, len(covariance), count)):
        for other, second in enumerate(range(0, len(covariance), count)):
            part = slice(first, first + count), slice(second, second + count)
            found[part] = back[one].T @ (there[one].T @ covariance[part] @ there[other] * factors) @ back[other]
    return found


def patch_patterns(series: Sequence[F32], size: int) -> F64:
    """Eigenvectors (variable, patch, latent, pattern) of the covariance of each patch of `size` neighbouring latents.

    Of latents (time, variable, pixel) about zero; from the largest variance on.
    """
    variables, pixels = series[0].shape[1:]
    covariance = np.zeros((variables, pixels // size, size, size))
    for part in series:
        patches = part.astype(np.float64).reshape(len(part), variables, -1, size).transpose(1, 2, 3, 0)
        covariance += patches @ patches.swapaxes(2, 3)
    return np.ascontiguousarray(np.linalg.eigh(covariance)[1][..., ::-1])
