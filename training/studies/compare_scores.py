"""Figures of one way to store and rebuild fields: errors by place, levels of the pyramid, spectra, coherence.

An error on a lat-lon grid and one on HEALPix are compared at the points of the lat-lon grid: the HEALPix error there is
that of the pixel that holds the point, for interpolation would make it smaller.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fsae.runtime.arrays import F32, F64
from fsae.runtime.climate.transforms import forward
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.weights import apply
from fsae.training.evaluation.model import TrainedModel, departures_of
from fsae.training.evaluation.periods import Period
from fsae.training.metrics import scores, spectra

from .places import COAST, EVERYWHERE, STEEP, Points, points_of

LMAX = 60  # lowered to 2 nside on coarser grids
LOWEST_DEGREE = 2  # l = 0 is the global mean and l = 1 little more
BANDS = ((2, 10), (11, 20), (21, 30), (31, 45), (46, 60))
COHERENT = 0.5


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The truth that every method is compared with, and the places where errors are taken."""

    values: F32  # (time, variable, pixel) true fields, as the model sees them
    zooms: tuple[int, ...]
    weights: Mapping[str, F64]  # (pixel,) by place, one inside and zero outside; as far as the static files go
    points: Points | None  # None: the source is on HEALPix
    coefficients: tuple[spectra.Coefficients, ...]  # of the true anomalies, by variable

    @property
    def lmax(self) -> int:
        """Highest degree of the spectra."""
        return min(LMAX, 2 << self.zooms[-1])


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """One method and its error (time, variable, pixel), or (time, variable, point) on the source grid."""

    method: str
    run: str | None  # None: a baseline
    ratio: int
    numbers: int
    parameters: int
    error: F32
    on_points: bool = False


@dataclass(frozen=True, kw_only=True)
class Band:
    """Degrees `first` to `last` of a spectrum together."""

    first: int
    last: int
    error_share: float  # power of the error over that of the truth
    coherence: float  # mean over the degrees of the squared coherence with the truth


@dataclass(frozen=True, kw_only=True)
class Row:
    """Figures of one way to store and rebuild a variable, in its unit; `None` if a figure does not apply."""

    method: str
    run: str | None  # None: a baseline
    ratio: int
    numbers: int  # stored per step, all variables together
    parameters: int  # fitted numbers
    rmse: float  # by area, on the method's own grid
    lat_lon_rmse: float | None  # at the points of the source grid, by the cosine of latitude
    psnr_db: float | None  # range of the true fields over rmse; None if the error is zero
    level_rmse: tuple[float, ...]  # of each pyramid level of the error
    worst_pixel: float  # largest RMSE over time of any pixel or point
    steep_rmse: float | None
    coast_rmse: float | None
    error_share: tuple[float, ...]  # power of the error over that of the truth, l = 2 ... lmax
    coherence: tuple[float, ...]  # squared, of rebuilt and true anomalies, l = 2 ... lmax
    coherent_share: float  # of these degrees, with a coherence above 0.5
    coherent_degree: int | None  # up to which all of them are; None: not even the lowest
    bands: tuple[Band, ...]


def scene_of(
    model: TrainedModel,
    evaluation: Period,
    *,
    weights: Mapping[str, F64],
    grid: LatLonGrid | None,
    method: str = "auto",
) -> Scene:
    """The evaluation period with the `weights` (pixel,) of places, and the source grid with its regridding method."""
    zoom = model.zoom
    truth = departures_of(model, evaluation)
    return Scene(
        values=forward(evaluation.values, model.transforms),
        zooms=tuple(range(zoom + 1)),
        weights=weights,
        points=None if grid is None else points_of(grid, zoom, weights, method),
        coefficients=tuple(
            spectra.harmonic_coefficients(truth[:, v], min(LMAX, 2 << zoom)) for v in range(truth.shape[1])
        ),
    )


def row_of(rebuilt: Rebuilt, scene: Scene, variable: int) -> Row:
    """The figures of one method and variable."""
    error, points, weights = rebuilt.error[:, variable], scene.points, scene.weights
    sampled, on_pixels, lat_lon_rmse = error, error, None
    if points is not None and rebuilt.on_points:
        weights = points.weights
        sampled, on_pixels = error[:, points.nearest], apply(points.to_pixels, error)
        lat_lon_rmse = scores.weighted_rmse(error, weights[EVERYWHERE])
    elif points is not None:
        lat_lon_rmse = scores.weighted_rmse(error[:, points.pixel], points.weights[EVERYWHERE])
    rmse = {place: scores.weighted_rmse(error, weight) for place, weight in weights.items()}
    psnr_db = scores.psnr_db(rmse[EVERYWHERE], scene.values[:, variable])
    true = scene.coefficients[variable]
    of_error = spectra.harmonic_coefficients(on_pixels, scene.lmax)
    error_power, true_power = (spectra.cross_power(part, part)[LOWEST_DEGREE:] for part in (of_error, true))
    coherence = np.nan_to_num(spectra.coherence(true + of_error, true)[LOWEST_DEGREE:])  # nothing rebuilt: no phase
    above = coherence > COHERENT
    leading = len(above) if above.all() else int(np.argmin(above))
    return Row(
        method=rebuilt.method,
        run=rebuilt.run,
        ratio=rebuilt.ratio,
        numbers=rebuilt.numbers,
        parameters=rebuilt.parameters,
        rmse=rmse[EVERYWHERE],
        lat_lon_rmse=lat_lon_rmse,
        psnr_db=psnr_db if math.isfinite(psnr_db) else None,
        level_rmse=scores.level_rmse(sampled, scene.zooms),
        worst_pixel=scores.worst_pixel(error),
        steep_rmse=rmse.get(STEEP),
        coast_rmse=rmse.get(COAST),
        error_share=tuple(map(float, error_power / true_power)),
        coherence=tuple(map(float, coherence)),
        coherent_share=float(above.mean()),
        coherent_degree=LOWEST_DEGREE + leading - 1 if leading else None,
        bands=tuple(_bands(error_power, true_power, coherence)),
    )


def _bands(error_power: F64, true_power: F64, coherence: F64) -> Iterator[Band]:
    """The bands of spectra from `LOWEST_DEGREE` on, as far as these go; every order of every degree counts alike."""
    degree = LOWEST_DEGREE + np.arange(coherence.size)
    for first, last in BANDS:
        inside = (degree >= first) & (degree <= last)
        if inside.any():
            orders = 2 * degree[inside] + 1
            yield Band(
                first=first,
                last=min(last, int(degree[-1])),
                error_share=float(np.sum(orders * error_power[inside]) / np.sum(orders * true_power[inside])),
                coherence=float(coherence[inside].mean()),
            )
