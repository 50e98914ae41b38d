"""Dense maps between the coarse levels and a latent of few cells: EOFs of a localised covariance, by season.

With a latent of some hundred numbers the best linear compression has patterns of the whole sphere, which change over
the year; with one of thousands, patterns of large cells do. Hundreds of months say too little of hundreds of pixels, so
the sample covariance is damped with distance, and mixed with those of fields moved by a pixel, before its eigenvectors
are taken (localisation.py).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from fsae.runtime.arrays import F64, Floating
from fsae.runtime.climate.climatology import season
from fsae.runtime.sphere.healpix import npix, zoom_of

from .localisation import damping, moved

# The fewer numbers a latent has, the larger the patterns that it holds. Measured for zooms 1 to 3 on training years.
LENGTH_RADIANS = 0.3  # of the Gaussian damping of latents of `FINE` and finer: 1,900 km
FLOOR = 0.1  # share of the covariance that no distance takes away: patterns such as El Nino span the sphere
FINE = 3  # zoom
LONGER, HIGHER = 1.6, 0.1  # factor of the length and rise of the floor, at every zoom below
MOVED_SHARE = 0.3  # of the covariance that is taken of fields moved by a pixel
PHASES = 12  # of the year, at which covariances are taken
KERNEL_YEARS = 1.5 / 12  # standard deviation of the Gaussian weight of months around a phase
LARGEST_BYTE = 127
FEWEST_SCALED = 8  # numbers that share a scale, where maps are rounded to bytes
NUGGET = 1e-6  # share of the mean variance added to what is inverted


def global_maps(
    fields: Floating,
    phase: Floating,
    zooms: tuple[int, int, int],
    harmonics: int,
    cell_zoom: int | None = None,
) -> tuple[F64, F64]:
    """Maps from fields to latents (1 + 2K, block, pixel, latent pixel), and back (1 + 2K, block, latent pixel, pixel).

    `zooms` are those of base, latent and maps. A block is the whole sphere, or a cell of `cell_zoom`. The maps are
    fitted to fields (time, finer pixel) of their zoom or of a finer one, all details of which count. The map of a
    season is the sum over k of its features (1, then cosine and sine of 1 ... K cycles a year) times map k, fitted to
    maps at `PHASES` times of the year; with K = `harmonics` = 0 there is one map for the whole year.

    The latent keeps the means over the cells of the base zoom, or of blocks if these are smaller. The rest of it is
    what tells most of the residual of a regression on those means, in the basis nearest to block means (orthogonal
    Procrustes problem, Schoenemann 1966), so that the latent looks like a field and changes little from month to month.
    The way back is the regression of the field on the latent.
    """
    base_zoom, latent_zoom, zoom = zooms
    length, floor = reach(latent_zoom)
    finer, blocks = zoom_of(fields.shape[-1]), 1 if cell_zoom is None else npix(cell_zoom)
    size = fields.shape[-1] // blocks
    copies = list(moved(finer, MOVED_SHARE))
    made = []
    for block in range(blocks):
        inside = slice(block * size, (block + 1) * size)
        pixels = slice(block * npix(zoom) // blocks, (block + 1) * npix(zoom) // blocks)
        # (finer pixel, pixel) and (pixel, pixel)
        far = damping(finer, length, floor, part=inside, other_zoom=zoom, other_part=pixels)
        near = damping(zoom, length, floor, part=pixels, other_part=pixels)
        bases, latents = max(npix(base_zoom) // blocks, 1), npix(latent_zoom) // blocks
        parts = [(share, pixel[inside]) for share, pixel in copies]
        made.append(_maps(fields, parts, phase, near, far, (bases, latents), harmonics))
    to_latent, from_latent = zip(*made, strict=True)
    return in_bytes(np.stack(to_latent, axis=1)), in_bytes(np.stack(from_latent, axis=1))


def reach(latent_zoom: int) -> tuple[float, float]:
    """Length [radians] and floor of the damping for a latent of a zoom.

    >>> reach(4), reach(2)
    ((0.3, 0.1), (0.48, 0.2))
    """
    steps = max(FINE - latent_zoom, 0)
    return LENGTH_RADIANS * LONGER**steps, FLOOR + HIGHER * steps


def _maps(
    fields: Floating,
    copies: Sequence[tuple[float, NDArray[np.int32]]],
    phase: Floating,
    near: F64,
    far: F64,
    counts: tuple[int, int],
    harmonics: int,
) -> tuple[F64, F64]:
    """Maps (1 + 2K, pixel, latent pixel) and (1 + 2K, latent pixel, pixel) of a block of fields (time, finer pixel).

    `copies` are shares of the covariance, and the finer pixels that stand in the block in each. `near` and `far` damp
    covariances of pixels, and of finer pixels with these; `counts` are those of bases and latents.
    """
    pixels, (bases, latents) = len(near), counts
    to_base = _means(pixels, bases)
    repeat = np.kron(np.eye(bases), np.ones((1, latents // bases)))  # (base, latent)
    blocks = _means(pixels, latents) - to_base @ repeat  # (pixel, latent)

    def covariances(weights: F64 | None = None) -> tuple[F64, F64]:
        """Those of pixels (pixel, pixel), and of finer pixels with them (finer pixel, pixel)."""
        own, across = np.zeros_like(near), np.zeros_like(far)
        for share, taken in copies:
            values = fields[:, taken].astype(np.float64)
            coarse = values.reshape(len(values), pixels, -1).mean(axis=-1)
            each = np.full(len(coarse), 1 / len(coarse)) if weights is None else weights / weights.sum()
            weighted = share * coarse * each[:, None]
            own += coarse.T @ weighted
            across += values.T @ weighted
        return own * near, across * far

    def compress(own: F64, across: F64, towards: Floating) -> F64:
        regression = linalg.solve(to_base.T @ own @ to_base, to_base.T @ own, assume_a="pos")
        rest = np.eye(pixels) - to_base @ regression  # (pixel, pixel): a field without what its base means explain
        left, gained = rest.T @ own @ rest, across @ rest
        left += NUGGET * np.trace(left) / pixels * np.eye(pixels)
        first = pixels - (latents - bases)
        # most of tr(G' G P (P' L P)^-1 P'), the variance of the finer fields that P tells
        patterns = linalg.eigh(gained.T @ gained, left, subset_by_index=[first, pixels - 1])[1]
        patterns = linalg.qr(patterns, mode="economic")[0]
        turn, size, back = linalg.svd(patterns.T @ towards, full_matrices=False)
        return np.asarray(to_base @ repeat + size.mean() * rest @ patterns @ turn @ back)

    whole = covariances()
    yearly = compress(*whole, blocks)
    if harmonics == 0:
        return yearly[None], _regression(whole[0], yearly)[None]
    phases = (np.arange(PHASES) + 0.5) / PHASES
    features = np.concatenate([np.ones((PHASES, 1)), season(phases, harmonics)], axis=1).astype(np.float64)
    fit = np.linalg.pinv(features)  # (1 + 2K, phase)
    seasonal, patterns = [], []
    for centre in phases:
        own, across = covariances(_weights(phase, centre))
        seasonal.append(own)
        patterns.append(compress(own, across, yearly - to_base @ repeat))
    to_latent = np.einsum("km,mpc->kpc", fit, np.stack(patterns))
    used = np.einsum("mk,kpc->mpc", features, to_latent)
    back = np.stack([_regression(covariance, map_) for covariance, map_ in zip(seasonal, used, strict=True)])
    return to_latent, np.einsum("km,mcp->kcp", fit, back)


def completions(fields: Floating, to_latent: Floating, zooms: Sequence[int]) -> list[F64]:
    """What the latents of block means at each of `zooms` lack (block, block mean, latent pixel), one array a zoom.

    Fields (time, pixel) at the zoom of the maps that are known as block means alone, and have the same value all over a
    block, give latents of too little variance. Added to them, the block means times this map give the latents that are
    to be expected: the regression on block means under the damped covariance. One for the whole year, of the part
    (block, pixel, latent pixel) of the maps that has no season.
    """
    blocks, pixels, _ = to_latent.shape
    zoom = zoom_of(fields.shape[-1])
    length, floor = reach(zoom_of(blocks * to_latent.shape[-1]))
    made: list[list[F64]] = [[] for _ in zooms]
    for block in range(blocks):
        inside = slice(block * pixels, (block + 1) * pixels)
        values = fields[:, inside].astype(np.float64)
        covariance = values.T @ values / len(values)
        covariance *= damping(zoom, length, floor, part=inside, other_part=inside)
        for found, coarser in zip(made, zooms, strict=True):
            to_means = _means(pixels, npix(coarser) // blocks)
            repeat = (to_means.T > 0).astype(np.float64)
            expected = _regression(covariance, to_means) @ to_latent[block]
            found.append(expected - repeat @ to_latent[block])
    return [in_bytes(np.stack(found)) for found in made]


def _means(pixels: int, cells: int) -> F64:
    """Map (pixel, cell) to the means over cells."""
    return np.kron(np.eye(cells), np.full((pixels // cells, 1), cells / pixels))


def in_bytes(maps: Floating, axis: int = -2) -> F64:
    """Maps (..., row, column) rounded so that graphs can store them as one byte an entry and a scale a column.

    With `axis` -1 there is a scale a row. Products of the bytes and scales are exact in float32: a scale has at most 16
    bits.
    """
    largest = np.abs(maps).max(axis=axis, keepdims=True)
    mantissa, exponent = np.frexp(largest / LARGEST_BYTE)
    scale = np.ldexp(np.ceil(mantissa * 2**16) / 2**16, exponent)
    return np.asarray(np.round(maps / np.where(scale > 0, scale, 1.0)) * scale)


def _weights(phase: Floating, centre: float) -> F64:
    """Weight (time,) of steps by their distance in the year from the phase `centre`."""
    distance = np.abs((np.asarray(phase, dtype=np.float64) - centre + 0.5) % 1.0 - 0.5)
    weights: F64 = np.exp(-0.5 * (distance / KERNEL_YEARS) ** 2)
    return weights


def _regression(covariance: F64, to_latent: F64) -> F64:
    """Map (latent pixel, pixel) of least mean square error from latents = fields @ to_latent back to the fields.

    Or from block means, which are a map of fields too.
    """
    inner = to_latent.T @ covariance @ to_latent
    inner += NUGGET * np.trace(inner) / len(inner) * np.eye(len(inner))
    return np.asarray(linalg.solve(inner, to_latent.T @ covariance, assume_a="pos"))
