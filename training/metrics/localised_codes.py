"""The strongest linear code that we know: EOFs of a covariance that is damped with distance.

EOFs of some hundred months span at most as many patterns, and what they know of far places is mostly chance. Damped
(localisation.py), the covariance has all patterns.
Everything works on anomalies about the training climatology and is fitted on training years only.
"""

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from fsae.runtime.arrays import F32, F64, Floating
from fsae.runtime.sphere.healpix import coarsen, npix, zoom_of
from fsae.training.networks.localisation import damping, localised_covariance

LENGTH_RADIANS, FLOOR = 0.4, 0.1  # of the Gaussian damping: 2,500 km, and the share that no distance takes away
SPHERE_ZOOM = 4  # patterns of the whole sphere are of means over cells of this zoom
MOST_ON_SPHERE = 768  # more numbers are patterns inside cells, which cost less
FINEST_ON_SPHERE = 6  # zoom: finer fields have too many pixels for patterns of the sphere
CELL_LEVELS = 5  # of 1,024 pixels each
PIXELS_AT_ONCE = 4096  # of a regression, to bound the memory


@dataclass(frozen=True, kw_only=True)
class SphereCode:
    """Patterns of the whole sphere, of coarse means, and the regression of the fields on them."""

    patterns: F64  # (coarse pixel, number)
    fields: F32  # (number, pixel)


@dataclass(frozen=True, kw_only=True)
class CellCode:
    """Patterns inside each cell, the first of which is the cell's mean."""

    patterns: F64  # (cell, pixel in the cell, number), orthonormal


def fit_localised_code(anomalies: Floating, numbers: int) -> SphereCode | CellCode:
    """The code of anomalies (time, pixel) in nested order with that many numbers a step.

    Up to `MOST_ON_SPHERE` numbers are coefficients of patterns of the whole sphere, more are shared out evenly to cells
    of 1,024 pixels, or of all of a coarser field's base cells.
    """
    zoom = zoom_of(anomalies.shape[1])
    if zoom <= FINEST_ON_SPHERE and numbers <= min(MOST_ON_SPHERE, npix(min(zoom, SPHERE_ZOOM))):
        return _on_sphere(anomalies, numbers)
    return _in_cells(anomalies, max(zoom - CELL_LEVELS, 0), numbers)


def rebuild_from_code(code: SphereCode | CellCode, anomalies: Floating) -> F32:
    """Anomalies (time, pixel) rebuilt from their numbers."""
    values = anomalies.astype(np.float64)
    if isinstance(code, SphereCode):
        levels = zoom_of(values.shape[1]) - zoom_of(len(code.patterns))
        rebuilt = (coarsen(values, levels) @ code.patterns) @ code.fields
    else:
        cells, pixels, _ = code.patterns.shape
        numbers = np.einsum("tcp,cpn->tcn", values.reshape(-1, cells, pixels), code.patterns, optimize=True)
        rebuilt = np.einsum("tcn,cpn->tcp", numbers, code.patterns, optimize=True).reshape(values.shape)
    return rebuilt.astype(np.float32)


def _on_sphere(anomalies: Floating, numbers: int) -> SphereCode:
    """Leading patterns of coarse means, and fields of least mean square error given their coefficients."""
    values = anomalies.astype(np.float64)
    zoom = zoom_of(values.shape[1])
    coarse_zoom = min(zoom, SPHERE_ZOOM)
    means = coarsen(values, zoom - coarse_zoom)
    covariance = localised_covariance(means, LENGTH_RADIANS, FLOOR)
    first = len(covariance) - numbers
    patterns = linalg.eigh(covariance, subset_by_index=[first, len(covariance) - 1])[1]
    inverse = linalg.inv(patterns.T @ covariance @ patterns) @ patterns.T
    fields = np.empty((numbers, values.shape[1]), dtype=np.float32)
    for begin in range(0, values.shape[1], PIXELS_AT_ONCE):
        part = slice(begin, begin + PIXELS_AT_ONCE)
        across = (
            means.T
            @ values[:, part]
            / len(values)
            * damping(coarse_zoom, LENGTH_RADIANS, FLOOR, other_zoom=zoom, other_part=part)
        )
        fields[:, part] = inverse @ across
    return SphereCode(patterns=patterns, fields=fields)


def _in_cells(anomalies: Floating, cell_zoom: int, numbers: int) -> CellCode:
    """The mean of each cell, and the leading patterns of what is left inside of it."""
    zoom, cells = zoom_of(anomalies.shape[1]), npix(cell_zoom)
    pixels, each = anomalies.shape[1] // cells, numbers // cells
    patterns = np.empty((cells, pixels, each))
    mean = np.full((pixels, 1), pixels**-0.5)
    for cell in range(cells):
        inside = slice(cell * pixels, (cell + 1) * pixels)
        values = anomalies[:, inside].astype(np.float64)
        left = values - values.mean(axis=1, keepdims=True)
        covariance = left.T @ left / len(left) * damping(zoom, LENGTH_RADIANS, FLOOR, part=inside, other_part=inside)
        covariance -= mean @ (mean.T @ covariance)
        covariance -= (covariance @ mean) @ mean.T  # damping brought the mean back
        leading = linalg.eigh(covariance)[1][:, pixels - each + 1 :]
        patterns[cell] = np.concatenate([mean, leading], axis=1)
    return CellCode(patterns=patterns)
