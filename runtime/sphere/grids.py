"""The grids of variables: global regular or Gaussian lat-lon grids, and HEALPix in either order."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fsae.runtime.arrays import F64
from fsae.runtime.errors import UsageError

from .healpix import npix

UNEVEN = 0.02  # of the spacing of longitudes: float32 axes and axes written with two digits
RESOLVED = 1.25  # HEALPix cells may outnumber the points of a lat-lon grid by this factor


@dataclass(frozen=True, kw_only=True, eq=False)  # see `is_same`
class LatLonGrid:
    """A lat-lon grid by its axes [degrees] as stored: latitude falling or rising.

    Only grids for output may be regional, or repeat a longitude. `files` are those it was read from, if it is told.
    """

    lat_deg: F64  # (lat)
    lon_deg: F64  # (lon)
    files: tuple[Path, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(lat, lon)."""
        return self.lat_deg.size, self.lon_deg.size

    @property
    def size(self) -> int:
        """Points of a field."""
        return self.lat_deg.size * self.lon_deg.size

    @property
    def is_global(self) -> bool:
        """True if the cells around the points cover the sphere once, all as wide in longitude."""
        lat, lon = np.sort(self.lat_deg), np.sort(self.lon_deg % 360.0)
        if min(lat.size, lon.size) < FEWEST_ROWS:
            return False
        reach = 1.5 * np.diff(lat).max()
        uneven = np.abs(np.diff(lon) * lon.size / 360.0 - 1).max()
        return bool(lat[0] <= reach - 90 and lat[-1] >= 90 - reach and uneven <= UNEVEN)

    def __str__(self) -> str:
        return f"{self.lat_deg.size} x {self.lon_deg.size} lat-lon grid"


@dataclass(frozen=True, kw_only=True)
class HealpixGrid:
    """A whole HEALPix sphere, "nested" or "ring"."""

    zoom: int
    order: str

    @property
    def size(self) -> int:
        """Points of a field."""
        return npix(self.zoom)

    def __str__(self) -> str:
        return f"HEALPix grid of zoom {self.zoom} ({self.order})"


Grid = LatLonGrid | HealpixGrid


def is_same(one: Grid, other: Grid) -> bool:
    """True if two grids have the same points in the same order."""
    if isinstance(one, LatLonGrid) and isinstance(other, LatLonGrid):
        return np.array_equal(one.lat_deg, other.lat_deg) and np.array_equal(one.lon_deg, other.lon_deg)
    return isinstance(one, HealpixGrid) and one == other


def supported_zoom(grid: Grid) -> int:
    """The finest zoom a grid supports: at most 1.25 cells for every point of a lat-lon grid.

    >>> supported_zoom(LatLonGrid(lat_deg=np.linspace(90, -90, 73), lon_deg=np.arange(144) * 2.5))
    5
    """
    if isinstance(grid, HealpixGrid):
        return grid.zoom
    zoom = 0
    while npix(zoom + 1) <= RESOLVED * grid.size:
        zoom += 1
    return zoom


MOST_POINTS = 1 << 25  # of a lat-lon grid: 0.05 degrees, 100 MiB a field
FEWEST_ROWS = 4  # as for grids that are read


def regular_grid(text: str) -> LatLonGrid:
    """The global grid of a text: degrees between points, or rows x columns.

    Like CDO's r240x120 and the like: longitudes from 0 eastward, latitudes from south to north, half a row off the
    poles if the number of rows is even, and on both poles if it is odd.

    >>> regular_grid("30").lat_deg.tolist(), regular_grid("30").shape
    ([-75.0, -45.0, -15.0, 15.0, 45.0, 75.0], (6, 12))
    >>> regular_grid("5x8").lat_deg.tolist()
    [-90.0, -45.0, 0.0, 45.0, 90.0]
    """
    found = f"found the grid {text!r}"
    pair = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text.strip())
    if pair is not None:
        rows, columns = int(pair[1]), int(pair[2])
    elif re.fullmatch(r"\d+(\.\d+)?", text.strip()) and float(text) > 0:
        exact = 180 / float(text)
        rows = round(exact)
        columns = 2 * rows
        if rows % 2 or abs(exact - rows) > 1e-6 * exact:
            raise UsageError(found, "degrees that 90 is a whole multiple of", "give rows x columns")
    else:
        expected = "native, training, like FILE, degrees such as 1.5, or rows x columns such as 120x240"
        raise UsageError(found, expected, "give it in one of these forms")
    if rows < FEWEST_ROWS or rows > columns or rows * columns > MOST_POINTS:
        expected = f"{FEWEST_ROWS} rows or more, no fewer columns than rows, and at most {MOST_POINTS} points"
        raise UsageError(found, expected, "give such as 120x240")
    step = 180 / (rows - 1) if rows % 2 else 180 / rows
    first = -90.0 if rows % 2 else -90.0 + step / 2
    lat_deg, lon_deg = (np.arange(count, dtype=np.float64) for count in (rows, columns))
    return LatLonGrid(lat_deg=first + step * lat_deg, lon_deg=360.0 / columns * lon_deg)
