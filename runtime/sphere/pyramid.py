"""The field pyramid: a base field and zero-mean residuals on consecutive zooms (Meuer et al. 2026, section 3).

x_k is the mean over descendants, the base is x_0 and r_k[p] = x_k[p] - x_{k-1}[parent of p]. The residuals have zero
mean over every ancestor cell, so levels are orthogonal and their mean squares add up to the mean square of the field.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import Floating

from .healpix import coarsen, refine


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
    """The levels, each residual without its mean over the parent cell; the base stays."""
    steps = [fine - coarse for coarse, fine in pairwise(zooms)]
    return [levels[0], *(r - refine(coarsen(r, step), step) for r, step in zip(levels[1:], steps, strict=True))]


def level_mask(zooms: Sequence[int], finest_zoom: int) -> NDArray[np.float32]:
    """One for every level that a field of `finest_zoom` resolves, zero for the finer ones.

    >>> level_mask([0, 1, 2, 3], 2).tolist()
    [1.0, 1.0, 1.0, 0.0]
    """
    return np.array([zoom <= finest_zoom for zoom in zooms], dtype=np.float32)
