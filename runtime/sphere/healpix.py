"""HEALPix index arithmetic and pixel centres (Gorski et al. 2005, ApJ 622, 759), nested order unless said otherwise."""

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F64, Ints
from fsae.runtime.errors import DataError

# Row of the southernmost corner, and column, of each of the 12 base pixels, in units of a base pixel (eqs. 10-11).
FACE_ROW = np.array([2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4])

FACE_COLUMN = np.array([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7])

MAX_ZOOM = 29


def npix(zoom: int) -> int:
    """Number of pixels of the whole sphere at `zoom`: 12 * 4**zoom.

    >>> npix(5)
    12288
    """
    return 12 << (2 * zoom)


def zoom_of(pixels: int) -> int:
    """Zoom with that many pixels; DataError where no zoom has.

    >>> zoom_of(768)
    3
    """
    for zoom in range(MAX_ZOOM + 1):
        if npix(zoom) == pixels:
            return zoom
    raise DataError(f"found {pixels} cells, expected a whole HEALPix sphere of 12 * 4**zoom cells (12, 48, 192, ...)")


def _spread_bits(value: Ints) -> Ints:
    """The bits of `value` moved to the even places: bit i goes to bit 2i."""
    out = value.astype(np.uint64)
    for shift, mask in ((16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F)):
        out = (out | (out << np.uint64(shift))) & np.uint64(mask)
    for shift, mask in ((2, 0x3333333333333333), (1, 0x5555555555555555)):
        out = (out | (out << np.uint64(shift))) & np.uint64(mask)
    return out.astype(np.int64)


def _gather_bits(value: Ints) -> Ints:
    """The even bits of `value` side by side: bit 2i goes to bit i."""
    out = value.astype(np.uint64) & np.uint64(0x5555555555555555)
    for shift, mask in ((1, 0x3333333333333333), (2, 0x0F0F0F0F0F0F0F0F), (4, 0x00FF00FF00FF00FF)):
        out = (out | (out >> np.uint64(shift))) & np.uint64(mask)
    for shift, mask in ((8, 0x0000FFFF0000FFFF), (16, 0x00000000FFFFFFFF)):
        out = (out | (out >> np.uint64(shift))) & np.uint64(mask)
    return out.astype(np.int64)


def nested_to_xyf(zoom: int, pixel: Ints) -> tuple[Ints, Ints, Ints]:
    """Column x (towards north-east), row y (towards north-west) and base pixel of nested pixels."""
    face, inside = np.divmod(np.asarray(pixel, dtype=np.int64), 1 << (2 * zoom))
    return _gather_bits(inside), _gather_bits(inside >> 1), face


def xyf_to_nested(zoom: int, x: Ints, y: Ints, face: Ints) -> Ints:
    """Nested pixel of column x, row y of base pixel `face`; the inverse of `nested_to_xyf`."""
    nested: Ints = (np.asarray(face, dtype=np.int64) << (2 * zoom)) + _spread_bits(x) + (_spread_bits(y) << 1)
    return nested


def _ring_and_place(zoom: int, pixel: Ints) -> tuple[Ints, Ints, Ints]:
    """Ring counted from the north pole (1 ... 4 nside - 1), place in the ring (from 0) and pixels in that ring."""
    nside = 1 << zoom
    x, y, face = nested_to_xyf(zoom, pixel)
    ring = FACE_ROW[face] * nside - x - y - 1
    in_ring = np.minimum(np.minimum(ring, 4 * nside - ring), nside)  # a quarter of the pixels of this ring
    shift = np.where((ring < nside) | (ring > 3 * nside), 0, (ring - nside) & 1)  # every second belt ring starts at 0
    twice = FACE_COLUMN[face] * in_ring + x - y
    # On the belt FACE_COLUMN counts in half base pixels of nside pixels; on the caps the ring is shorter than nside.
    place = (twice + shift - 1) >> 1
    # face 4 straddles longitude 0, so its left half belongs to the end of the ring
    return ring, place % (4 * in_ring), 4 * in_ring


def pixel_centres(zoom: int) -> tuple[F64, F64]:
    """Latitude and longitude [degrees, longitude in 0..360) of every nested pixel centre.

    >>> lat, lon = pixel_centres(0)
    >>> [float(round(v, 3)) for v in lat[:5]], lon[:5].tolist()
    ([41.81, 41.81, 41.81, 41.81, 0.0], [45.0, 135.0, 225.0, 315.0, 0.0])
    """
    nside = 1 << zoom
    ring, place, count = _ring_and_place(zoom, np.arange(npix(zoom)))
    quarter = count // 4
    north = ring < nside
    south = ring > 3 * nside
    cap = quarter.astype(np.float64) ** 2 / (3.0 * nside**2)
    z = np.where(north, 1 - cap, np.where(south, cap - 1, (2 * nside - ring) * 2 / (3.0 * nside)))  # eqs. 4 and 8
    # near the poles the arc sine of z loses digits: there the colatitude follows from the cap area
    lat = np.degrees(np.arcsin(np.clip(z, -1, 1)))
    polar = np.degrees(2 * np.arcsin(np.sqrt(cap / 2)))
    lat = np.where(north, 90 - polar, np.where(south, polar - 90, lat))
    offset = np.where(north | south | ((ring - nside) % 2 == 0), 0.5, 0.0)  # eqs. 5 and 9
    return lat, (place + offset) * 360.0 / count


def pixel_of(zoom: int, lat_deg: F64, lon_deg: F64) -> Ints:
    """Nested pixel that holds each point of latitudes and longitudes [degrees].

    >>> pixel_of(0, np.array([90.0, 0.0, -41.8]), np.array([0.0, 181.0, -45.0])).tolist()
    [0, 6, 11]
    """
    nside = 1 << zoom
    lat = np.asarray(lat_deg, dtype=np.float64)
    z = np.sin(np.radians(lat))
    turn = np.asarray(lon_deg, dtype=np.float64) % 360.0 / 90.0  # longitude in quarter turns
    turn = np.where(turn >= 4.0, 0.0, turn)  # the remainder of -1e-20 is 360
    # Equatorial belt: columns of the lines rising to the north-east and to the north-west (section 5.1)
    falling = np.floor(nside * (0.5 + turn - 0.75 * z)).astype(np.int64)
    rising = np.floor(nside * (0.5 + turn + 0.75 * z)).astype(np.int64)
    face_falling, face_rising = falling >> zoom, rising >> zoom
    belt_face = np.where(
        face_falling == face_rising,
        face_falling & 3 | 4,
        np.where(face_falling < face_rising, face_falling & 3, (face_rising & 3) + 8),
    )
    belt_x, belt_y = rising & (nside - 1), nside - 1 - (falling & (nside - 1))
    # Polar caps: distance from the pole in rings, by the half angle, which keeps its digits near the pole
    quarter = np.minimum(turn.astype(np.int64), 3)
    inside = turn - quarter
    rings = nside * np.sqrt(6.0) * np.sin(np.radians(90.0 - np.abs(lat)) / 2)
    low = np.minimum((inside * rings).astype(np.int64), nside - 1)
    high = np.minimum(((1 - inside) * rings).astype(np.int64), nside - 1)
    north = z >= 0
    cap_face = np.where(north, quarter, quarter + 8)
    cap_x, cap_y = np.where(north, nside - 1 - high, low), np.where(north, nside - 1 - low, high)
    belt = np.abs(z) <= 2 / 3
    return xyf_to_nested(
        zoom, np.where(belt, belt_x, cap_x), np.where(belt, belt_y, cap_y), np.where(belt, belt_face, cap_face)
    )


def ring_to_nested(zoom: int) -> Ints:
    """For each nested pixel its index in ring order: `field_ring[..., ring_to_nested(zoom)]` is nested.

    >>> ring_to_nested(1)[:4].tolist()
    [13, 5, 4, 0]
    """
    nside = 1 << zoom
    ring, place, _ = _ring_and_place(zoom, np.arange(npix(zoom)))
    first = np.where(
        ring < nside,
        2 * ring * (ring - 1),
        np.where(
            ring > 3 * nside,
            npix(zoom) - 2 * (4 * nside - ring) * (4 * nside - ring + 1),
            2 * nside * (nside - 1) + (ring - nside) * 4 * nside,
        ),
    )
    nested: Ints = first + place
    return nested


def coarsen(field: NDArray[np.floating], levels: int = 1) -> NDArray[np.floating]:
    """Mean over the 4**levels descendants of each pixel, `levels` zooms down.

    Takes (..., pixel) in any unit and gives (..., pixel // 4**levels) in that unit; NaN spreads to the parent.

    >>> coarsen(np.arange(48.0))[:3].tolist()
    [1.5, 5.5, 9.5]
    """
    factor = 4**levels
    if field.shape[-1] % (12 * factor):
        raise DataError(f"cannot coarsen {field.shape[-1]} cells by {factor}: expected a multiple of {12 * factor}")
    parent: NDArray[np.floating] = field.reshape(*field.shape[:-1], -1, factor).mean(axis=-1)
    return parent  # the children of pixel p are 4p .. 4p + 3


def coarsen_valid(field: NDArray[np.floating], levels: int) -> NDArray[np.floating]:
    """Mean (..., pixel // 4**levels) over descendants that are not NaN; NaN where less than half of them are valid.

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
