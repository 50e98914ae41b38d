"""Verification scores of fields on equal-area pixels, so plain means are area means; `scores` computes what it has."""

import math
from collections.abc import Sequence

import numpy as np
import scores.continuous
import scores.probability
import xarray as xr

from fsae.runtime.arrays import F64, Floating
from fsae.runtime.sphere.healpix import coarsen
from fsae.runtime.sphere.pyramid import decompose

CRPS_CHUNK = 12  # time steps at once: the sorted copies of a large ensemble would not fit otherwise


def labelled(array: Floating, *last: str) -> xr.DataArray:
    """The array as `scores` wants it: its last axes by their names, those before them numbered."""
    return xr.DataArray(array, dims=[*(f"axis{i}" for i in range(array.ndim - len(last))), *last])


def rmse(forecast: Floating, truth: Floating) -> float:
    """Root of the mean square difference over every axis, in the unit of the fields."""
    return float(scores.continuous.rmse(labelled(forecast), labelled(truth)))


def weighted_rmse(difference: Floating, weights: Floating) -> float:
    """Root of the mean square of `difference` (time, point), the points counting by `weights` (point,).

    Weights are areas, such as the cosine of latitude, or a mask; their unit does not matter.

    >>> round(weighted_rmse(np.array([[1.0, 7.0]]), np.array([0.75, 0.25])), 6)
    3.605551
    """
    square = np.mean(difference.astype(np.float64) ** 2, axis=0)
    return float(np.sqrt(np.average(square, weights=weights)))


def correlation(forecast: Floating, truth: Floating) -> float:
    """Pearson correlation over every axis: the pattern correlation of two maps (pixel,), their means removed."""
    return float(scores.continuous.correlation.pearsonr(labelled(forecast), labelled(truth)))


def map_rmse(maps: Floating, truth: Floating) -> F64:
    """Root mean square difference (..., map) of maps (..., map, pixel), each from the true one (map, pixel)."""
    pair = (labelled(array, "map", "pixel") for array in (maps, truth))
    return np.asarray(scores.continuous.rmse(*pair, reduce_dims="pixel"), dtype=np.float64)


def map_correlation(maps: Floating, truth: Floating) -> F64:
    """Pattern correlation (..., map) of maps (..., map, pixel), each with the true one (map, pixel), means removed."""
    pair = (labelled(array, "map", "pixel") for array in (maps, truth))
    return np.asarray(scores.continuous.correlation.pearsonr(*pair, reduce_dims="pixel"), dtype=np.float64)


def pointwise_crps(members: Floating, truth: Floating) -> F64:
    """Fair CRPS (Ferro 2014) at every point of members (member, ...) against truth (...), in their unit.

    Fair: its expectation does not depend on the number of members. Of a single member it is the absolute error, which
    the CRPS of a deterministic forecast is.
    """
    if len(members) == 1:
        return np.abs(np.asarray(members[0], dtype=np.float64) - truth)
    known = labelled(truth)
    forecast = xr.DataArray(members, dims=["member", *known.dims])
    score = scores.probability.crps_for_ensemble(
        forecast, known, "member", method="fair", preserve_dims=list(known.dims)
    )
    return np.asarray(score.values, dtype=np.float64)


def fair_crps(members: Floating, truth: Floating) -> float:
    """Mean fair CRPS of an ensemble (member, time, pixel) against (time, pixel), in the fields' unit."""
    parts = [slice(start, start + CRPS_CHUNK) for start in range(0, len(truth), CRPS_CHUNK)]
    return sum(float(pointwise_crps(members[:, part], truth[part]).sum()) for part in parts) / truth.size


def psnr_db(error: float, truth: Floating) -> float:
    """Peak signal-to-noise ratio [dB]: the range (maximum - minimum) of `truth` over the RMSE `error`.

    >>> round(psnr_db(1.0, np.array([200.0, 300.0])), 6)
    40.0
    """
    return 20 * math.log10(float(np.ptp(truth)) / error) if error > 0 else math.inf


def level_rmse(difference: Floating, zooms: Sequence[int]) -> tuple[float, ...]:
    """Root mean square of each pyramid level of `difference` (..., pixel); their squares add up to the whole's."""
    levels = decompose(difference.astype(np.float64), zooms)
    return tuple(float(np.sqrt(np.mean(level**2))) for level in levels)


def worst_pixel(difference: Floating) -> float:
    """Largest root mean square over time of any pixel of (time, pixel)."""
    return float(np.sqrt(np.mean(difference.astype(np.float64) ** 2, axis=0)).max())


def cell_mean_error(difference: Floating, levels: int) -> float:
    """Largest absolute mean of `difference` over a cell `levels` zooms coarser: zero if cell means are conserved."""
    return float(np.abs(coarsen(difference.astype(np.float64), levels)).max())


def nearest_distances(fields: Floating, library: Floating, exclude_near: int | None = None) -> F64:
    """Root mean square distance of each field (time, pixel) to the nearest of `library` (entry, pixel).

    With `exclude_near` the fields are the library itself and entries less than that many steps away do not count.

    >>> nearest_distances(np.array([[3.0, 4.0]]), np.array([[0.0, 0.0], [3.0, 3.0]])).round(6).tolist()
    [0.707107]
    """
    product = fields.astype(np.float32) @ library.astype(np.float32).T
    square = [np.einsum("tp,tp->t", f, f, dtype=np.float64) for f in (fields, library)]
    distance = square[0][:, None] + square[1][None, :] - 2.0 * product
    if exclude_near is not None:
        steps = np.arange(len(library))
        distance[np.abs(steps[:, None] - steps[None, :]) < exclude_near] = np.inf
    nearest: F64 = np.sqrt(np.maximum(distance.min(axis=1), 0) / fields.shape[-1])
    return nearest
