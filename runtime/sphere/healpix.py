"""HEALPix pixels (Gorski et al. 2005, ApJ 622, 759) in nested order: centres, places, and means over descendants.

The index arithmetic is that of the `healpix` package (the C library healpix_bare).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F64, Ints
from fsae.runtime.errors import DataError

MAX_ZOOM = 29


def npix(zoom: int) -> int:
    """Number of pixels of the whole sphere at `zoom`: 12 * 4**zoom.

    >>> npix(5)
    12288
    """
    return 12 << (2 * zoom)


def zoom_of(pixels: int) -> int:
    """Zoom with that many pixels; DataError if there is none.

    >>> zoom_of(768)
    3
    """
    for zoom in range(MAX_ZOOM + 1):
        if npix(zoom) == pixels:
            return zoom
    raise DataError(
        f"found {pixels} cells",
        "a whole HEALPix sphere of 12 * 4**zoom cells (12, 48, 192, ...)",
        "give all cells of the sphere",
    )


def pixel_centres(zoom: int) -> tuple[F64, F64]:
    """Latitude and longitude [degrees, longitude in 0..360) of every nested pixel centre.

    >>> lat, lon = pixel_centres(0)
    >>> [float(round(v, 3)) for v in lat[:5]], lon[:5].tolist()
    ([41.81, 41.81, 41.81, 41.81, 0.0], [45.0, 135.0, 225.0, 315.0, 0.0])
    """
    import healpix  # start-up time

    lon_deg, lat_deg = healpix.pix2ang(1 << zoom, np.arange(npix(zoom)), nest=True, lonlat=True)
    return lat_deg, lon_deg % 360.0  # west of Greenwich base pixel 4 has negative longitudes


def pixel_of(zoom: int, lat_deg: F64, lon_deg: F64) -> Ints:
    """Nested pixel that holds each point of latitudes and longitudes [degrees].

    >>> pixel_of(0, np.array([90.0, 0.0, -41.8]), np.array([0.0, 181.0, -45.0])).tolist()
    [0, 6, 11]
    """
    import healpix  # start-up time

    pixel: Ints = healpix.ang2pix(1 << zoom, lon_deg, lat_deg, nest=True, lonlat=True)
    return pixel


def ring_to_nested(zoom: int) -> Ints:
    """For each nested pixel its index in ring order: `field_ring[..., ring_to_nested(zoom)]` is nested.

    >>> ring_to_nested(1)[:4].tolist()
    [13, 5, 4, 0]
    """
    import healpix  # start-up time

    ring: Ints = healpix.nest2ring(1 << zoom, np.arange(npix(zoom)))
    return ring


def face_orders(zoom: int) -> dict[str, Ints]:
    """The arrangements of cells on 12 square faces: for each its nested pixels (face * row * column,), flattened.

    The faces are those of the nested order. "nested" fills the rows of a face with its cells in that order. The others
    have the same neighbours on the face as on the sphere: the first cell is at one corner (S, E, N or W), and the
    columns follow in the sense of the name. "N, clockwise" is HEALPIX_PAD_XY of NVIDIA's earth2grid.

    >>> face_orders(1)["N, clockwise"][:4].tolist(), face_orders(1)["S, counterclockwise"][:4].tolist()
    ([3, 1, 2, 0], [0, 1, 2, 3])
    """
    side = 1 << zoom
    row, column = (index.ravel() for index in np.indices((side, side)))
    back_row, back_column = side - 1 - row, side - 1 - column
    # north-eastward (x) and north-westward (y) place in the face of each cell
    places = {
        "S, counterclockwise": (column, row),
        "E, counterclockwise": (back_row, column),
        "N, counterclockwise": (back_column, back_row),
        "W, counterclockwise": (row, back_column),
        "S, clockwise": (row, column),
        "W, clockwise": (column, back_row),
        "N, clockwise": (back_row, back_column),
        "E, clockwise": (back_column, row),
    }
    faces = np.arange(12)[:, None] << (2 * zoom)
    orders = {name: (faces + _interleaved(x, y, zoom)).ravel() for name, (x, y) in places.items()}
    return {"nested": np.arange(npix(zoom)), **orders}


def _interleaved(x: Ints, y: Ints, zoom: int) -> Ints:
    """Nested pixels in a face: the bits of y before those of x."""
    pixel = np.zeros_like(x)
    for bit in range(zoom):
        pixel |= ((x >> bit & 1) << (2 * bit)) | ((y >> bit & 1) << (2 * bit + 1))
    return pixel


def coarsen(field: NDArray[np.floating], levels: int = 1) -> NDArray[np.floating]:
    """Mean over the 4**levels descendants of each pixel, `levels` zooms down.

    Takes (..., pixel) in any unit and gives (..., pixel // 4**levels) in that unit; NaN spreads to the parent.

    >>> coarsen(np.arange(48.0))[:3].tolist()
    [1.5, 5.5, 9.5]
    """
    factor = 4**levels
    if field.shape[-1] % (12 * factor):
        raise DataError(
            f"cannot coarsen {field.shape[-1]} cells by {factor}",
            f"a multiple of {12 * factor}",
            "coarsen by a smaller factor",
        )
    parent: NDArray[np.floating] = field.reshape(*field.shape[:-1], -1, factor).mean(axis=-1)
    return parent  # the children of pixel p are 4p .. 4p + 3


def coarsen_valid(field: NDArray[np.floating], levels: int) -> NDArray[np.floating]:
    """Mean (..., pixel // 4**levels) over descendants that are not NaN; NaN if less than half of them are valid.

    >>> coarsen_valid(np.array([1.0, 3.0, np.nan, np.nan, 1.0, np.nan, np.nan, np.nan]), 1).tolist()
    [2.0, nan]
    """
    if levels == 0:
        return field
    family = field.reshape(*field.shape[:-1], -1, 4**levels)  # (..., pixel, descendant)
    valid = ~np.isnan(family)
    count = valid.sum(axis=-1)
    total = np.where(valid, family, 0).sum(axis=-1, dtype=np.float64)
    mean = np.where(count >= 0.5 * 4**levels, total / np.maximum(count, 1), np.nan)
    return mean.astype(field.dtype)


def refine(field: NDArray[np.floating], levels: int = 1) -> NDArray[np.floating]:
    """Every pixel repeated for its 4**levels descendants: (..., pixel) -> (..., pixel * 4**levels)."""
    return np.repeat(field, 4**levels, axis=-1)


@lru_cache(maxsize=4)
def surroundings(zoom: int) -> Ints:
    """The 5 x 5 pixels around each nested pixel (pixel, 25), itself in the middle.

    Rows and columns follow the sides of the pixel. Where base pixels meet at a corner some pixels stand twice.
    """
    import healpix  # start-up time

    depth = 6  # descendants on the sides of a pixel, that much finer
    pixel, side = np.arange(npix(zoom)), (1 << depth) - 1
    inside = {
        "x": _interleaved(np.array([0, side]), np.array([side // 2] * 2), depth),
        "y": _interleaved(np.array([side // 2] * 2), np.array([0, side]), depth),
    }
    vectors = {
        name: np.stack(healpix.pix2vec(1 << (zoom + depth), (pixel[:, None] << 2 * depth) + places, nest=True), axis=-1)
        for name, places in inside.items()
    }
    along_x, along_y = (vectors[name][:, 1] - vectors[name][:, 0] for name in "xy")
    centre = np.stack(healpix.pix2vec(1 << zoom, pixel, nest=True), axis=-1)
    around = np.empty((pixel.size, 25), dtype=np.int64)
    for place, (row, column) in enumerate(np.ndindex(5, 5)):
        # A little off the centre: a point on a boundary would belong to either side by rounding.
        point = centre + along_x * (row - 2 + 0.013) + along_y * (column - 2 + 0.007)
        around[:, place] = healpix.vec2pix(1 << zoom, *point.T, nest=True)
    return around
