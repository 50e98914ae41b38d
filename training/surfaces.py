"""Where a codec finds it hardest: masks of steep orography and of coasts on nested HEALPix."""

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.errors import DataError
from fsae.runtime.healpix import pixel_centres, zoom_of

from .halo import halo_table

Floats = NDArray[np.floating]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

EARTH_RADIUS_M = 6_371_229.0  # [m], GRIB2 shape 6
STEEP_SHARE = 0.1  # of the sphere
ALL_SEA, ALL_LAND = 0.05, 0.95  # land fractions up to and from which a pixel is of one kind


def slope(orography_m: Floats) -> F64:
    """Root mean square slope [m/m] of each pixel (pixel,) to its neighbours, eight or, at 24 corners, seven.

    The slope to a neighbour is the difference of the mean heights over the great-circle distance of the centres.
    """
    zoom = zoom_of(orography_m.shape[-1])
    neighbours = halo_table(zoom, zoom)  # (pixel, 8); where one is lacking the pixel itself
    lat, lon = (np.radians(angle) for angle in pixel_centres(zoom))
    centre = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    chord = np.linalg.norm(centre[neighbours] - centre[:, None], axis=-1)
    distance_m = 2 * EARTH_RADIUS_M * np.arcsin(np.minimum(chord / 2, 1))
    rise_m = orography_m[neighbours].astype(np.float64) - orography_m[:, None]
    there = distance_m > 0
    square = (np.divide(rise_m, distance_m, out=np.zeros_like(rise_m), where=there) ** 2).sum(axis=-1)
    steepness: F64 = np.sqrt(square / there.sum(axis=-1))
    return steepness


def steep(orography_m: Floats) -> Mask:
    """The tenth of the sphere (pixel,) with the steepest slopes: as many pixels as come nearest to a tenth of its area.

    DataError where fewer pixels have a slope at all.
    """
    steepness = slope(orography_m)
    count = round(STEEP_SHARE * steepness.size)
    order = np.argsort(-steepness, kind="stable")
    if steepness[order[count - 1]] == 0:
        raise DataError(
            f"found orography with a slope in {np.count_nonzero(steepness)} pixels, expected {count} or more"
        )
    chosen = np.zeros(steepness.size, dtype=np.bool_)
    chosen[order[:count]] = True
    return chosen


def coasts(land: Floats) -> Mask:
    """Coastal pixels (pixel,) by their land fraction 0 ... 1: the mixed ones, and where land and sea pixels touch.

    Mixed is a fraction strictly between 0.05 and 0.95; a pixel of one kind counts where one of its eight neighbours is
    of the other kind. A land pixel beside a mixed one is no coast: the mixed one is.

    >>> coasts(np.array([0.0, 0.5, 1.0] + [0.0] * 45))[:3].tolist()
    [True, True, True]
    """
    zoom = zoom_of(land.shape[-1])
    neighbours = land[halo_table(zoom, zoom)]  # (pixel, 8)
    is_sea, is_land = land <= ALL_SEA, land >= ALL_LAND
    beside = (is_sea & (neighbours >= ALL_LAND).any(axis=-1)) | (is_land & (neighbours <= ALL_SEA).any(axis=-1))
    found: Mask = ~(is_sea | is_land) | beside
    return found
