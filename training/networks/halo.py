"""Constant tables of the field-space layers: the ring around a cell and spherical harmonics at cell centres."""

import healpy
import numpy as np
from numpy.typing import NDArray
from scipy.special import sph_harm_y

from fsae.runtime.sphere.healpix import npix

# Rows of healpy.get_all_neighbours.
SW, W, NW, N, NE, E, SE, S = range(8)


def halo_size(zoom: int, token_zoom: int) -> int:
    """Pixels in the ring around a cell of `token_zoom` (4 m + 4, m pixels a side): 8 if the level is not finer."""
    return 4 * (1 << max(zoom - token_zoom, 0)) + 4


def halo_table(zoom: int, token_zoom: int) -> NDArray[np.int32]:
    """Nested pixels at `zoom` around each cell of `token_zoom`: (cell, 4 m + 4), m = 2**(zoom - token_zoom).

    Counter-clockwise on a map with east to the right, from the west end of the south-west side: its m pixels, the
    south corner, the south-east side, the east corner, the north-east side, the north corner, the north-west side and
    the west corner. 24 cells of each zoom touch a point where three base pixels meet and lack one corner: the entry
    before it stands there again, for m = 1 the cell itself.
    """
    m = 1 << (zoom - token_zoom)
    cells = npix(token_zoom)
    side = np.arange(m)
    last = np.full(m, m - 1)
    first = np.zeros(m, dtype=int)
    # Each edge pixel of the cell (x, y) and the neighbour of it that lies in the ring.
    ring = [
        *zip(first, side[::-1], np.full(m, SW), strict=True),
        (0, 0, S),
        *zip(side, first, np.full(m, SE), strict=True),
        (m - 1, 0, E),
        *zip(last, side, np.full(m, NE), strict=True),
        (m - 1, m - 1, N),
        *zip(side[::-1], last, np.full(m, NW), strict=True),
        (0, m - 1, W),
    ]
    x, y, direction = (np.array(column) for column in zip(*ring, strict=True))
    inside = healpy.xyf2pix(m, x, y, 0, nest=True)  # place in the cell: the bits of x and y interleaved
    pixel = np.arange(cells)[:, None] * m * m + inside  # (cell, ring)
    table = healpy.get_all_neighbours(1 << zoom, pixel.ravel(), nest=True).reshape(8, cells, -1)
    table = np.take_along_axis(table, direction[None, None, :], axis=0)[0]
    substitute = pixel if m == 1 else np.roll(table, 1, axis=1)
    ring_pixels: NDArray[np.int32] = np.where(table < 0, substitute, table).astype(np.int32)
    return ring_pixels


def spherical_harmonic(zoom: int, degree: int, order: int) -> NDArray[np.float64]:
    """The real spherical harmonic of that degree and order at nested pixel centres, (pixel,), unit mean square."""
    colatitude, longitude = healpy.pix2ang(1 << zoom, np.arange(npix(zoom)), nest=True)
    wave = sph_harm_y(degree, abs(order), colatitude, longitude)
    values: NDArray[np.float64] = np.asarray(wave.real if order >= 0 else wave.imag)
    unit: NDArray[np.float64] = values / np.sqrt((values**2).mean())
    return unit


def spherical_harmonics(zoom: int, count: int) -> NDArray[np.float32]:
    """The first `count` real harmonics, by degree l and then order -l ... l, at pixel centres: (pixel, count)."""
    degrees = [int(np.sqrt(index)) for index in range(count)]
    columns = [spherical_harmonic(zoom, degree, index - degree * (degree + 1)) for index, degree in enumerate(degrees)]
    return np.stack(columns, axis=1).astype(np.float32)
