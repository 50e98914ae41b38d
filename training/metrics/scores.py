"""Verification scores of fields on equal-area pixels, so plain means are area means; `scores` computes what it has."""

import math
from collections.abc import Sequence

import numpy as np
import scores.continuous
import scores.probability
import xarray as xr
from numpy.typing import NDArray

from fsae.runtime.arrays import Floating
from fsae.runtime.sphere.healpix import coarsen
from fsae.runtime.sphere.pyramid import decompose

CRPS_CHUNK = 12  # time steps at once: the sorted copies of a large ensemble would not fit otherwise


def rmse(forecast: Floating, truth: Floating) -> float:
    """Root of the mean square difference over every axis, in the unit of the fields."""
    axes = [f"axis{i}" for i in range(truth.ndim)]
    difference = scores.continuous.rmse(xr.DataArray(forecast, dims=axes), xr.DataArray(truth, dims=axes))
    return float(difference)


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
    axes = [f"axis{i}" for i in range(truth.ndim)]
    return float(
        scores.continuous.correlation.pearsonr(xr.DataArray(forecast, dims=axes), xr.DataArray(truth, dims=axes))
    )


def map_rmse(maps: Floating, truth: Floating) -> NDArray[np.float64]:
    """Root mean square difference (..., map) of maps (..., map, pixel), each from the true one (map, pixel)."""
    found = scores.continuous.rmse(*_maps(maps, truth), reduce_dims="pixel")
    return np.asarray(found, dtype=np.float64)


def map_correlation(maps: Floating, truth: Floating) -> NDArray[np.float64]:
    """Pattern correlation (..., map) of maps (..., map, pixel), each with the true one (map, pixel), means removed."""
    found = scores.continuous.correlation.pearsonr(*_maps(maps, truth), reduce_dims="pixel")
    return np.asarray(found, dtype=np.float64)


def _maps(maps: Floating, truth: Floating) -> tuple[xr.DataArray, xr.DataArray]:
    dims = [*(f"axis{i}" for i in range(maps.ndim - 2)), "map", "pixel"]
    return xr.DataArray(maps, dims=dims), xr.DataArray(truth, dims=dims[-2:])


def fair_crps(members: Floating, truth: Floating) -> float:
    """Mean fair CRPS (Ferro 2014) of an ensemble (member, time, pixel) against (time, pixel), in the fields' unit.

    Fair: its expectation does not depend on the number of members, of which two are needed at least.
    """
    total = 0.0
    for start in range(0, truth.shape[0], CRPS_CHUNK):
        part = slice(start, start + CRPS_CHUNK)
        score = scores.probability.crps_for_ensemble(
            xr.DataArray(members[:, part], dims=["member", "time", "pixel"]),
            xr.DataArray(truth[part], dims=["time", "pixel"]),
            "member",
            method="fair",
        )
        total += float(score) * truth[part].shape[0]
    return float(total / truth.shape[0])


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
    """Largest absolute mean of `difference` over a cell `levels` zooms coarser: zero where cell means are conserved."""
    return float(np.abs(coarsen(difference.astype(np.float64), levels)).max())


def nearest_distances(fields: Floating, library: Floating, exclude_near: int | None = None) -> NDArray[np.float64]:
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
    nearest: NDArray[np.float64] = np.sqrt(np.maximum(distance.min(axis=1), 0) / fields.shape[-1])
    return nearest
