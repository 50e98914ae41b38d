"""Angular power spectra by spherical harmonics on rings of equal latitude, in NumPy alone.

A Fourier transform along each ring and sums over the rings, repeated on what synthesis leaves over, as `anafast` of
HEALPix does (Gorski et al. 2005, ApJ 622, 759). On HEALPix the power is that of healpy.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F64, Floating, Ints

from .grids import Grid, LatLonGrid
from .healpix import pixel_centres, ring_to_nested
from .regrid import cell_areas

ROUNDS = 3  # of refinement
MOST_DEGREE = 512  # up to some 1000 the smallest Legendre function that counts is a normal number

Complex = NDArray[np.complex128]


@dataclass(frozen=True, kw_only=True)
class Rings:
    """The points of a grid by rings, from one pole to the other."""

    order: Ints  # for each point, ring by ring, its place in the field
    first: Ints  # (ring) place of the first point among all
    count: Ints  # (ring)
    sine: F64  # (ring) of the latitude
    lon: F64  # (ring) longitude of the first point [rad]; the power depends neither on where it is 0 nor on its sign
    area: F64  # (ring) of each point; 4 pi in all

    def transform(self, fields: Floating, orders: int) -> Complex:
        """Sums over the points of each ring of fields (map, point) times exp(-i m lon), (map, m, ring)."""
        found = np.empty((len(fields), orders, self.count.size), dtype=np.complex128)
        m = np.arange(orders)
        for count in np.unique(self.count):
            rings = np.flatnonzero(self.count == count)
            points = self.first[rings][:, None] + np.arange(count)
            waves = np.fft.fft(fields[:, points], axis=-1)[..., m % count]  # (map, ring, m)
            turn = np.exp(-1j * m * self.lon[rings][:, None])
            found[:, :, rings] = (waves * turn).transpose(0, 2, 1)
        return found

    def back(self, waves: Complex) -> F64:
        """Fields (map, point) that are sums of waves (map, m, ring) times exp(i m lon), and of those of -m."""
        fields = np.empty((len(waves), self.order.size))
        m = np.arange(waves.shape[1])
        twice = np.where(m == 0, 1.0, 2.0)
        for count in np.unique(self.count):
            rings = np.flatnonzero(self.count == count)
            turned = waves[:, :, rings].transpose(0, 2, 1) * twice * np.exp(1j * m * self.lon[rings][:, None])
            folded = np.zeros((*turned.shape[:2], int(count)), dtype=np.complex128)
            for start in range(0, m.size, int(count)):  # a ring of few points takes several m for one wave
                part = turned[..., start : start + int(count)]
                folded[..., : part.shape[-1]] += part
            points = self.first[rings][:, None] + np.arange(count)
            fields[:, points] = count * np.fft.ifft(folded, axis=-1).real
        return fields


def rings_of(grid: Grid) -> Rings:
    """The rings of a grid."""
    if isinstance(grid, LatLonGrid):
        rows, columns = grid.shape
        area = 4 * np.pi * cell_areas(grid).reshape(rows, columns)[:, 0]
        return Rings(
            order=np.arange(rows * columns),
            first=columns * np.arange(rows),
            count=np.full(rows, columns),
            sine=np.sin(np.radians(grid.lat_deg)),
            lon=np.zeros(rows),
            area=area,
        )
    nside = 1 << grid.zoom
    number = np.arange(1, 4 * nside)
    count = 4 * np.minimum(np.minimum(number, 4 * nside - number), nside)
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    nested = np.argsort(ring_to_nested(grid.zoom))  # of each point in ring order
    lat, lon = pixel_centres(grid.zoom)
    return Rings(
        order=nested if grid.order == "nested" else np.arange(nested.size),
        first=first,
        count=count,
        sine=np.sin(np.radians(lat[nested][first])),
        lon=np.radians(lon[nested][first]),
        area=np.full(count.size, 4 * np.pi / grid.size),
    )


def legendre(sine: F64, most: int) -> Iterator[F64]:
    """For l = 0 ... most the normalised Legendre functions (m, ring), m = 0 ... l, without the phase (-1)**m.

    Normalised so that the squares of the spherical harmonics integrate to one; by the recursion in l.
    """
    before, last = np.zeros((most + 1, sine.size)), np.zeros((most + 1, sine.size))
    cosine = np.sqrt(np.maximum(1 - sine**2, 0.0))
    diagonal = np.full(sine.size, np.sqrt(1 / (4 * np.pi)))
    m = np.arange(most + 1.0)[:, None]
    for degree in range(most + 1):
        if degree:
            diagonal = diagonal * cosine * np.sqrt((2 * degree + 1) / (2 * degree))
            lower = m[:degree]
            upward = np.sqrt((4 * degree**2 - 1) / (degree**2 - lower**2))
            back = np.sqrt(((degree - 1) ** 2 - lower**2).clip(0) / max(4 * (degree - 1) ** 2 - 1, 1))
            new = upward * (sine * last[:degree] - back * before[:degree])
            before[:degree] = last[:degree]
            last[:degree] = new
        last[degree] = diagonal
        yield last[: degree + 1]


def largest_degree(grid: Grid) -> int:
    """The largest degree whose power a grid gives well: 2 nside on HEALPix, half the rows on a lat-lon grid."""
    most = min(grid.shape[0], grid.shape[1]) // 2 if isinstance(grid, LatLonGrid) else 2 << grid.zoom
    return min(most, MOST_DEGREE)


def power_spectrum(fields: Floating, grid: Grid, most: int | None = None) -> F64:
    """Power C_l (map, l), l = 0 ... most, of fields (map, point) on a grid, in the square of their unit.

    C_l is the mean of |a_lm|**2 over the 2l + 1 orders m. Values must not be missing.
    """
    rings = rings_of(grid)
    most = largest_degree(grid) if most is None else most
    area = np.repeat(rings.area, rings.count)
    given = np.asarray(fields, dtype=np.float64)[:, rings.order]
    mean = given @ area / (4 * np.pi)
    given = given - mean[:, None]  # which is much larger than the rest, and would leak into it
    coefficients = np.zeros((len(given), most + 1, most + 1), dtype=np.complex128)  # (map, l, m)
    rest = given
    for round_ in range(ROUNDS + 1):
        waves = rings.transform(rest, most + 1) * rings.area
        for degree, functions in enumerate(legendre(rings.sine, most)):
            coefficients[:, degree, : degree + 1] += np.einsum("kmr,mr->km", waves[:, : degree + 1], functions)
        if round_ < ROUNDS:
            made = np.zeros_like(waves)
            for degree, functions in enumerate(legendre(rings.sine, most)):
                made[:, : degree + 1] += coefficients[:, degree, : degree + 1, None] * functions
            rest = given - rings.back(made)
    squares = np.abs(coefficients) ** 2
    power: F64 = (squares[..., 0] + 2 * squares[..., 1:].sum(axis=-1)) / (2 * np.arange(most + 1) + 1)
    power[:, 0] = 4 * np.pi * mean**2
    return power
