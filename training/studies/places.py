"""Regions for error statistics: the whole sphere, steep orography and coasts, by pixel and by point of a grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F64, Floating, Ints
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import npix, pixel_centres, pixel_of, zoom_of
from fsae.runtime.sphere.regrid import make_weights
from fsae.runtime.sphere.weights import Weights
from fsae.training.data.static_fields import read_static
from fsae.training.networks.halo import halo_table

Mask = NDArray[np.bool_]
EVERYWHERE, STEEP, COAST = "everywhere", "steep", "coast"
EARTH_RADIUS_M = 6_371_229.0  # [m], GRIB2 shape 6
STEEP_SHARE = 0.1  # of the sphere
ALL_SEA, ALL_LAND = 0.05, 0.95  # land fractions up to and from which a pixel is of one kind


def slope(orography_m: Floating) -> F64:
    """Root mean square slope [m/m] of each pixel (pixel,) to its neighbours, eight or, at 24 corners, seven.

    The slope to a neighbour is the difference of the mean heights over the great-circle distance of the centres.
    """
    zoom = zoom_of(orography_m.shape[-1])
    neighbours = halo_table(zoom, zoom)  # (pixel, 8); the pixel itself for a missing one
    lat, lon = (np.radians(angle) for angle in pixel_centres(zoom))
    centre = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    chord = np.linalg.norm(centre[neighbours] - centre[:, None], axis=-1)
    distance_m = 2 * EARTH_RADIUS_M * np.arcsin(np.minimum(chord / 2, 1))
    rise_m = orography_m[neighbours].astype(np.float64) - orography_m[:, None]
    there = distance_m > 0
    square = (np.divide(rise_m, distance_m, out=np.zeros_like(rise_m), where=there) ** 2).sum(axis=-1)
    steepness: F64 = np.sqrt(square / there.sum(axis=-1))
    return steepness


def steep(orography_m: Floating) -> Mask:
    """The tenth of the sphere (pixel,) with the steepest slopes: as many pixels as come nearest to a tenth of its area.

    DataError if fewer pixels have a slope at all.
    """
    steepness = slope(orography_m)
    count = round(STEEP_SHARE * steepness.size)
    order = np.argsort(-steepness, kind="stable")
    if steepness[order[count - 1]] == 0:
        raise DataError(
            f"found orography with a slope in {np.count_nonzero(steepness)} pixels",
            f"{count} or more",
            "take a finer zoom, or fewer places",
        )
    chosen = np.zeros(steepness.size, dtype=np.bool_)
    chosen[order[:count]] = True
    return chosen


def coasts(land: Floating) -> Mask:
    """Coastal pixels (pixel,) by their land fraction 0 ... 1: the mixed ones, and where land and sea pixels touch.

    Mixed is a fraction strictly between 0.05 and 0.95; a pixel of one kind counts if one of its eight neighbours is of
    the other kind. A land pixel beside a mixed one is not a coast: the mixed one is.

    >>> coasts(np.array([0.0, 0.5, 1.0] + [0.0] * 45))[:3].tolist()
    [True, True, True]
    """
    zoom = zoom_of(land.shape[-1])
    neighbours = land[halo_table(zoom, zoom)]  # (pixel, 8)
    is_sea, is_land = land <= ALL_SEA, land >= ALL_LAND
    beside = (is_sea & (neighbours >= ALL_LAND).any(axis=-1)) | (is_land & (neighbours <= ALL_SEA).any(axis=-1))
    found: Mask = ~(is_sea | is_land) | beside
    return found


def places_of(static: Sequence[Path], zoom: int) -> dict[str, F64]:
    """Weights (pixel,) of the whole sphere and, if the static files describe them, of steep slopes and coasts."""
    fields = read_static(static, zoom) if static else {}
    places = {EVERYWHERE: np.ones(npix(zoom))}
    if "orog" in fields:
        places[STEEP] = steep(fields["orog"]).astype(np.float64)
    if "lsm" in fields:
        places[COAST] = coasts(fields["lsm"]).astype(np.float64)
    return places


@dataclass(frozen=True, kw_only=True)
class Points:
    """The points of the source grid, flattened (lat, lon), and how they lie to the pixels."""

    weights: Mapping[str, F64]  # (point,) by place: the cosine of latitude, zero outside of the place
    pixel: Ints  # (point,) that holds the point
    nearest: Ints  # (pixel,) point nearest to the pixel's centre, in latitude and in longitude
    to_pixels: Weights  # those that prepared the data


def points_of(grid: LatLonGrid, zoom: int, weights: Mapping[str, F64], method: str = "auto") -> Points:
    """The points of a lat-lon grid, which take the `weights` (pixel,) of places from the pixels of `zoom`."""
    lat_deg, lon_deg = (axis.ravel() for axis in np.meshgrid(grid.lat_deg, grid.lon_deg, indexing="ij"))
    pixel = pixel_of(zoom, lat_deg, lon_deg)
    area = np.maximum(np.cos(np.radians(lat_deg)), 0)
    centre_lat_deg, centre_lon_deg = pixel_centres(zoom)
    order = np.argsort(grid.lat_deg)
    middle = (grid.lat_deg[order][1:] + grid.lat_deg[order][:-1]) / 2
    row = order[np.searchsorted(middle, centre_lat_deg)]
    columns = grid.lon_deg.size
    eastward = (grid.lon_deg[1] - grid.lon_deg[0]) % 360 < 180
    turn = (centre_lon_deg - grid.lon_deg[0]) / 360 * (1 if eastward else -1)
    column = np.rint(turn * columns).astype(np.int64) % columns
    return Points(
        weights={place: weight[pixel] * area for place, weight in weights.items()},
        pixel=pixel,
        nearest=row * columns + column,
        to_pixels=make_weights(grid, zoom, method),
    )
