"""Overlaps of HEALPix pixels and the cells of a lat-lon grid, exactly.

On the plane of the HEALPix projection (Calabretta and Roukema 2007, MNRAS 381, 865), which keeps areas, pixels are
squares that stand on a corner, parallels are level, and meridians are straight: upright between the polar caps, and in
a cap towards the points that stand for the pole, one for each base pixel. So the overlap of a cell and half a pixel is
a polygon. Lengths are in units of half a pixel's diagonal, which makes the corners of pixels whole numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fsae.runtime.arrays import F64, Ints

from .grids import LatLonGrid
from .healpix import face_orders

HALF_FACE_DEG = 45.0  # half the width of a base pixel
PIXEL_AREA = 2.0  # of a square of diagonal 2
NEGLIGIBLE = 1e-12  # shares of a pixel up to here are rounding errors
BLOCK = 1 << 17  # meridians at once, which the processor's cache holds


@dataclass(frozen=True, kw_only=True)
class Strips:
    """The parts of the pixels of a face that lie in one row of the grid, above or below the pixel's middle.

    Everything is (strip,), or (2, strip) at the southern and northern end of a strip.
    """

    pixel: Ints  # place in the face
    row: Ints  # from the south
    length: F64  # from south to north
    left: F64  # the western end, east of the face's centre
    right: F64
    spacing: F64  # of meridians a unit of the equator apart


def overlaps(grid: LatLonGrid, zoom: int) -> tuple[Ints, Ints, F64]:
    """Nested pixel, point of the grid, flattened (lat, lon), and share of the pixel's area, of each overlap.

    Cells end midway between rows and midway between columns, which are taken to be evenly spaced once around. An
    overlap may come in two parts, one for the southern and one for the northern half of the pixel.
    """
    side, columns = 1 << zoom, grid.lon_deg.size
    unit_deg = HALF_FACE_DEG / side
    turned = grid.lon_deg % 360.0
    eastward, northward = np.argsort(turned), np.argsort(grid.lat_deg)
    step_deg = 360.0 / columns
    west_deg = float((turned[eastward] - step_deg * np.arange(columns)).mean()) - step_deg / 2
    lat_deg = grid.lat_deg[northward]
    edges = _heights(np.concatenate([[-90.0], (lat_deg[1:] + lat_deg[:-1]) / 2, [90.0]]), side)
    found = []
    for face, nested in enumerate(face_orders(zoom)["S, counterclockwise"].reshape(12, -1)):
        centre_deg = HALF_FACE_DEG * (2 * (face % 4) + (face // 4 != 1))
        for north in (False, True):
            strips = _strips(edges, side, face, north=north)
            for strip, column, share in _shares(strips, (west_deg - centre_deg) / unit_deg, step_deg / unit_deg):
                source = northward[strips.row[strip]] * columns + eastward[column % columns]
                found.append((nested[strips.pixel[strip]], source, share))
    pixel, point, share = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return pixel, point, share


def _heights(lat_deg: F64, side: int) -> F64:
    """Heights of latitudes on the plane: from -2 * side to 2 * side at the poles; the caps begin at +-side."""
    sigma = np.sqrt(6.0) * np.sin(np.radians(90.0 - np.abs(lat_deg)) / 2)  # sqrt(3 (1 - |sin|)), without cancellation
    height: F64 = side * np.where(sigma < 1, np.copysign(2 - sigma, lat_deg), 1.5 * np.sin(np.radians(lat_deg)))
    return height


def _strips(edges: F64, side: int, face: int, *, north: bool) -> Strips:
    """The strips of the northern or southern halves of the pixels of a face; `edges` are the heights of rows' edges."""
    y, x = (index.ravel() for index in np.indices((side, side)))
    middle = x + y + 1 - side + side * (1 - face // 4)  # height of the pixels' centres
    levels = np.arange(-2 * side, 2 * side)
    first = np.searchsorted(edges, levels, side="right") - 1
    last = np.searchsorted(edges, levels + 1, side="left") - 1
    bottom = middle + north - 1
    pixel, place = _repeated((last - first + 1)[bottom + 2 * side])
    bottom = bottom[pixel]
    row = first[bottom + 2 * side] + place
    height = np.stack([np.maximum(edges[row], bottom), np.minimum(edges[row + 1], bottom + 1)])
    off = np.abs(height - middle[pixel])
    across = (x - y)[pixel]
    return Strips(
        pixel=pixel,
        row=row,
        length=height[1] - height[0],
        left=across - 1 + off,
        right=across + 1 - off,
        spacing=np.minimum(2 * side - np.abs(height), side) / side,
    )


def _shares(strips: Strips, west: float, step: float) -> Iterator[tuple[Ints, Ints, F64]]:
    """Strip, column and share of the pixel of each overlap; column 0 begins at `west`, counted as `Strips.left`."""
    with np.errstate(divide="ignore", invalid="ignore"):  # at a pole the other end of a strip tells
        most_west = np.fmin(*np.where(strips.spacing > 0, strips.left / strips.spacing, np.nan))
        most_east = np.fmax(*np.where(strips.spacing > 0, strips.right / strips.spacing, np.nan))
    first = np.floor((most_west - west) / step).astype(np.int64)
    count = np.ceil((most_east - west) / step).astype(np.int64) - first + 1  # of meridians between columns
    ends = np.cumsum(count)
    cuts = np.searchsorted(ends, np.arange(0, ends[-1] + BLOCK, BLOCK), side="right")
    for begin, end in pairwise(cuts):
        strip, place = _repeated(count[begin:end])
        strip += begin
        column = first[strip] + place
        meridian = (west + step * column) * strips.spacing[:, strip]
        beyond = _mean_positive(*(strips.right[:, strip] - meridian)) - _mean_positive(
            *(strips.left[:, strip] - meridian)
        )
        east = beyond * strips.length[strip]  # area of the strip east of the meridian
        share = (east[:-1] - east[1:]) / PIXEL_AREA
        kept = np.flatnonzero((share > NEGLIGIBLE) & (strip[1:] == strip[:-1]))
        yield strip[kept], column[kept], share[kept]


def _mean_positive(one: F64, other: F64) -> F64:
    """Mean of the positive part of what goes evenly from `one` to `other`."""
    positive = np.maximum(one, 0.0) + np.maximum(other, 0.0)
    whole = 2 * positive - one - other  # |one| + |other|
    mean: F64 = positive * positive / (2 * np.maximum(whole, np.finfo(np.float64).tiny))
    return mean


def _repeated(count: Ints) -> tuple[Ints, Ints]:
    """Each item as often as its count says, and a counter from 0 within the item.

    >>> [part.tolist() for part in _repeated(np.array([2, 0, 1]))]
    [[0, 0, 2], [0, 1, 0]]
    """
    item = np.repeat(np.arange(count.size), count)
    return item, np.arange(item.size) - (np.cumsum(count) - count)[item]
