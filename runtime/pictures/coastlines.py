"""Coastlines for maps of the globe, from the file beside this module.

Source of coastlines.npz: the terrain of NOAA's GDAS on its T1534 Gaussian grid (NCEP, sflux of 2024-01-20) and, for
land at or below sea level, NOAA's monthly land temperatures GHCN_CAMS (CPC, 0.5 degrees). Both are works of the US
Government and in the public domain; so are these lines. tests/support/make_coastlines.py makes them: the border of
cells of 0.35 degrees of which half is land, with islands and lakes of more than 3 degrees around. `lat` and `lon` are
in hundredths of a degree, one line after the other, of `count` points each.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from fsae.runtime.arrays import F64

from .projections import Projection

FILE = Path(__file__).with_name("coastlines.npz")
UNIT_DEG = 0.01


@lru_cache(maxsize=1)
def coastlines() -> tuple[tuple[F64, F64], ...]:
    """Latitudes and longitudes [degrees] of the points of each line."""
    with np.load(FILE, allow_pickle=False) as stored:
        lat, lon, ends = stored["lat"] * UNIT_DEG, stored["lon"] * UNIT_DEG, np.cumsum(stored["count"])[:-1]
    return tuple(zip(np.split(lat, ends), np.split(lon, ends), strict=True))


def projected(lat_deg: F64, lon_deg: F64, projection: Projection) -> tuple[F64, F64]:
    """A line on the map; NaN parts it where it is hidden, and where it leaves one side of the map for the other."""
    x, y = projection.forward(lat_deg, lon_deg)
    if projection.name == "orthographic":
        return x, y
    breaks = np.flatnonzero(np.abs(np.diff(x)) > projection.width) + 1
    return np.insert(x, breaks, np.nan), np.insert(y, breaks, np.nan)


def all_projected(lines: Iterable[tuple[F64, F64]], projection: Projection) -> tuple[F64, F64]:
    """Lines on the map as one, NaN between them."""
    places = [projected(lat, lon, projection) for lat, lon in lines]
    apart = np.full(1, np.nan)
    x, y = (np.concatenate([part for line in places for part in (line[axis], apart)]) for axis in (0, 1))
    return x, y


def graticule(spacing_deg: float = 30.0) -> list[tuple[F64, F64]]:
    """Parallels and meridians, as `coastlines` has its lines."""
    along_lat, along_lon = np.linspace(-90.0, 90.0, 91), np.linspace(-180.0, 180.0, 361)[:-1]
    meridians = [(along_lat, np.full(along_lat.size, lon)) for lon in np.arange(-180.0, 180.0, spacing_deg)]
    rows = np.arange(-90.0 + spacing_deg, 90.0, spacing_deg)
    return meridians + [(np.full(along_lon.size, lat), along_lon) for lat in rows]
