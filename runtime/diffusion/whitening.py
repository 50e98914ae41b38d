"""The whitened latent: standardised pyramid levels on which white noise has unit variance."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import Floating
from fsae.runtime.sphere.pyramid import decompose, recompose


def whiten(field: Floating, zooms: Sequence[int], cell_std: Floating, level_std: Floating) -> Floating:
    """Latents in which white pixel noise is unit noise on every level: the input of the diffusion model.

    Takes field (..., variable, pixel), cell_std (variable, pixel), or for each step (step, variable, pixel) as from
    `seasonal_std`, and level_std (variable, level), in latent units. Each pixel is divided by its standard deviation,
    then each level k by `level_std[k]` and by 2**(z_last - z_k): block means of unit white noise have the standard
    deviation 2**-(z_last - z_k), so after this the levels of noise and signal match.
    """
    levels = decompose(field / cell_std, zooms)
    gains = [2.0 ** -(zooms[-1] - zoom) / level_std[:, k, None] for k, zoom in enumerate(zooms)]
    return recompose([level * gain.astype(field.dtype) for level, gain in zip(levels, gains, strict=True)], zooms)


def seasonal_std(cell_std: Floating, season_std: Floating, season: Floating) -> NDArray[np.float32]:
    """Standard deviations (..., variable, pixel) of cells at the season features (..., 2K) of steps.

    Their logarithm varies with the season: cell_std (variable, pixel) is its mean, season_std (variable, 2H, pixel) its
    harmonics, H <= K.

    >>> float(seasonal_std(np.ones((1, 1)), np.full((1, 2, 1), np.log(2)), np.array([1.0, 0.0]))[0, 0])
    2.0
    """
    waves = season[..., : season_std.shape[1]].astype(np.float64)
    return np.asarray(cell_std * np.exp(np.einsum("...k,vkp->...vp", waves, season_std)), dtype=np.float32)


def unwhiten(field: Floating, zooms: Sequence[int], cell_std: Floating, level_std: Floating) -> Floating:
    """Latents from whitened ones: the inverse of `whiten`, exact to rounding."""
    levels = decompose(field, zooms)
    gains = [2.0 ** (zooms[-1] - zoom) * level_std[:, k, None] for k, zoom in enumerate(zooms)]
    scaled = [level * gain.astype(field.dtype) for level, gain in zip(levels, gains, strict=True)]
    return recompose(scaled, zooms) * cell_std
