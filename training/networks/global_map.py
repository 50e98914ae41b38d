"""Dense maps between the coarse levels and a latent of few cells: EOFs of a localised covariance, by season.

With a latent of some hundred numbers the best linear compression has patterns of the whole sphere, which change over
the year. Hundreds of months say too little of hundreds of pixels, so the sample covariance is damped with distance
(localisation.py) before its eigenvectors are taken.
"""

import numpy as np
from scipy import linalg

from fsae.runtime.arrays import F64, Floating
from fsae.runtime.climate.climatology import season
from fsae.runtime.sphere.healpix import coarsen, npix, zoom_of

from .localisation import localised_covariance

LENGTH_RADIANS = 0.8  # of the Gaussian damping: 5,000 km
FLOOR = 0.3  # share of the covariance that no distance takes away: patterns such as El Nino span the sphere
PHASES = 12  # of the year, at which covariances are taken
KERNEL_YEARS = 1 / 12  # standard deviation of the Gaussian weight of months around a phase
NUGGET = 1e-6  # share of the mean variance added before latents are inverted


def global_maps(fields: Floating, phase: Floating, latent_zoom: int, base_zoom: int, harmonics: int) -> tuple[F64, F64]:
    """Maps of fields (time, pixel) to latents and back: (1 + 2K, pixel, latent pixel), (1 + 2K, latent pixel, pixel).

    The map of a season is the sum over k of its features (1, then cosine and sine of 1 ... K cycles a year) times map
    k, fitted to maps at `PHASES` times of the year; with K = `harmonics` = 0 there is one map for the whole year.

    The latent keeps the means over the cells of `base_zoom`. The rest of it is the leading eigenvectors of the
    residual of a regression on those means, in the basis nearest to block means (orthogonal Procrustes problem,
    Schoenemann 1966), so that the latent looks like a field and changes little from month to month. The way back is the
    regression of the field on the latent.
    """
    whole = localised_covariance(fields, LENGTH_RADIANS, FLOOR)
    pixels, latents, bases = fields.shape[-1], npix(latent_zoom), npix(base_zoom)
    to_base = coarsen(np.eye(pixels), zoom_of(pixels) - base_zoom)  # (pixel, base)
    repeat = np.kron(np.eye(bases), np.ones((1, latents // bases)))  # (base, latent)
    blocks = coarsen(np.eye(pixels), zoom_of(pixels) - latent_zoom) - to_base @ repeat  # (pixel, latent)

    def compress(covariance: F64, towards: Floating) -> F64:
        regression = linalg.solve(to_base.T @ covariance @ to_base, to_base.T @ covariance, assume_a="pos")
        rest = np.eye(pixels) - to_base @ regression  # (pixel, pixel): a field without what its base means explain
        first = pixels - (latents - bases)
        patterns = linalg.eigh(rest.T @ covariance @ rest, subset_by_index=[first, pixels - 1])[1]  # (pixel, mode)
        left, size, right = linalg.svd(patterns.T @ towards, full_matrices=False)
        return np.asarray(to_base @ repeat + size.mean() * rest @ patterns @ left @ right)

    yearly = compress(whole, blocks)
    if harmonics == 0:
        return yearly[None], _regression(whole, yearly)[None]
    phases = (np.arange(PHASES) + 0.5) / PHASES
    features = np.concatenate([np.ones((PHASES, 1)), season(phases, harmonics)], axis=1).astype(np.float64)
    fit = np.linalg.pinv(features)  # (1 + 2K, phase)
    covariances = [localised_covariance(fields, LENGTH_RADIANS, FLOOR, _weights(phase, centre)) for centre in phases]
    patterns = np.stack([compress(covariance, yearly - to_base @ repeat) for covariance in covariances])
    to_latent = np.einsum("km,mpc->kpc", fit, patterns)
    used = np.einsum("mk,kpc->mpc", features, to_latent)
    back = np.stack([_regression(covariance, map_) for covariance, map_ in zip(covariances, used, strict=True)])
    return to_latent, np.einsum("km,mcp->kcp", fit, back)


def _weights(phase: Floating, centre: float) -> F64:
    """Weight (time,) of steps by their distance in the year from the phase `centre`."""
    distance = np.abs((np.asarray(phase, dtype=np.float64) - centre + 0.5) % 1.0 - 0.5)
    weights: F64 = np.exp(-0.5 * (distance / KERNEL_YEARS) ** 2)
    return weights


def _regression(covariance: F64, to_latent: F64) -> F64:
    """Map (latent pixel, pixel) of least mean square error from latents = fields @ to_latent back to the fields."""
    inner = to_latent.T @ covariance @ to_latent
    inner += NUGGET * np.trace(inner) / len(inner) * np.eye(len(inner))
    return np.asarray(linalg.solve(inner, to_latent.T @ covariance, assume_a="pos"))
