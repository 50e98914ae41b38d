"""The field pyramid: a base field and zero-mean residuals on consecutive zooms (Meuer et al. 2026, section 3).

x_k is the mean over descendants, the base is x_0 and r_k[p] = x_k[p] - x_{k-1}[parent of p]. The residuals have zero
mean over every ancestor cell, so levels are orthogonal and their mean squares add up to the mean square of the field.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .healpix import coarsen, refine

Floating = NDArray[np.floating]


def decompose(field: Floating, zooms: Sequence[int]) -> list[Floating]:
    """Base field and residuals of `field` (..., pixel) on rising `zooms`, the last being the field's own.

    >>> base, residual = decompose(np.arange(48.0), [0, 1])
    >>> base[:2].tolist(), residual[:4].tolist()
    ([1.5, 5.5], [-1.5, -0.5, 0.5, 1.5])
    """
    levels = []
    fine = field
    for coarse_zoom, fine_zoom in zip(reversed(zooms[:-1]), reversed(zooms[1:]), strict=True):
        step = fine_zoom - coarse_zoom
        coarse = coarsen(fine, step)
        levels.append(fine - refine(coarse, step))
        fine = coarse
    return [fine, *reversed(levels)]


def recompose(levels: Sequence[Floating], zooms: Sequence[int]) -> Floating:
    """The field on the last zoom: every level repeated to it and added; the inverse of `decompose`.

    >>> field = np.arange(192.0)
    >>> bool(np.array_equal(recompose(decompose(field, [0, 1, 2]), [0, 1, 2]), field))
    True
    """
    field = levels[0]
    for coarse_zoom, fine_zoom, residual in zip(zooms[:-1], zooms[1:], levels[1:], strict=True):
        field = refine(field, fine_zoom - coarse_zoom) + residual
    return field


def conserve(levels: Sequence[Floating], zooms: Sequence[int]) -> list[Floating]:
    """The levels with each residual's mean over its parent cell removed; the base is not touched."""
    steps = [fine - coarse for coarse, fine in pairwise(zooms)]
    return [levels[0], *(r - refine(coarsen(r, step), step) for r, step in zip(levels[1:], steps, strict=True))]


def level_mask(zooms: Sequence[int], finest_zoom: int) -> NDArray[np.float32]:
    """One for every level that a field of `finest_zoom` resolves, zero for the finer ones.

    >>> level_mask([0, 1, 2, 3], 2).tolist()
    [1.0, 1.0, 1.0, 0.0]
    """
    return np.array([zoom <= finest_zoom for zoom in zooms], dtype=np.float32)


def whiten(field: Floating, zooms: Sequence[int], cell_std: Floating, level_std: Floating) -> Floating:
    """Latents in which white pixel noise is unit noise on every level: what the diffusion model sees.

    field (..., variable, pixel), cell_std (variable, pixel) or with a step's own in front (step, variable, pixel), as
    `seasonal_std` gives it, and level_std (variable, level), in latent units. Each pixel
    is divided by its standard deviation, then each level k by `level_std[k]` and by 2**(z_last - z_k): block means of
    unit white noise have the standard deviation 2**-(z_last - z_k), so after this the levels of noise and signal match.
    """
    levels = decompose(field / cell_std, zooms)
    gains = [2.0 ** -(zooms[-1] - zoom) / level_std[:, k, None] for k, zoom in enumerate(zooms)]
    return recompose([level * gain.astype(field.dtype) for level, gain in zip(levels, gains, strict=True)], zooms)


def seasonal_std(cell_std: Floating, season_std: Floating, season: Floating) -> NDArray[np.float32]:
    """Standard deviations (..., variable, pixel) of cells at the season features (..., 2K) of steps.

    The deviation's logarithm varies with the season: cell_std (variable, pixel) at its mean, season_std (variable, 2H,
    pixel) its harmonics, H <= K.

    >>> float(seasonal_std(np.ones((1, 1)), np.full((1, 2, 1), np.log(2)), np.array([1.0, 0.0]))[0, 0])
    2.0
    """
    waves = season[..., : season_std.shape[1]].astype(np.float64)
    return np.asarray(cell_std * np.exp(np.einsum("...k,vkp->...vp", waves, season_std)), dtype=np.float32)


def unwhiten(field: Floating, zooms: Sequence[int], cell_std: Floating, level_std: Floating) -> Floating:
    """Latents back from `whiten`: the same maps undone, exact to rounding."""
    levels = decompose(field, zooms)
    gains = [2.0 ** (zooms[-1] - zoom) * level_std[:, k, None] for k, zoom in enumerate(zooms)]
    scaled = [level * gain.astype(field.dtype) for level, gain in zip(levels, gains, strict=True)]
    return recompose(scaled, zooms) * cell_std
