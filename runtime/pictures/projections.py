"""Map projections of the unit sphere, both ways, in NumPy alone.

Formulas: Snyder (1987), Map Projections: A Working Manual, USGS Professional Paper 1395; table of the Robinson
projection: Robinson (1974), International Yearbook of Cartography 14, with a cubic spline between its parallels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fsae.runtime.arrays import F64
from fsae.runtime.errors import UsageError

from . import PROJECTIONS

# Length of the parallels and their distance from the equator, every 5 degrees, of those of equator and pole.
ROBINSON_LENGTH = (
    *(1.0, 0.9986, 0.9954, 0.99, 0.9822, 0.973, 0.96, 0.9427, 0.9216, 0.8962),
    *(0.8679, 0.835, 0.7986, 0.7597, 0.7186, 0.6732, 0.6213, 0.5722, 0.5322),
)
ROBINSON_HEIGHT = (
    *(0.0, 0.062, 0.124, 0.186, 0.248, 0.31, 0.372, 0.434, 0.4958, 0.5571),
    *(0.6176, 0.6769, 0.7346, 0.7903, 0.8435, 0.8936, 0.9394, 0.9761, 1.0),
)
ROBINSON_X, ROBINSON_Y = 0.8487, 1.3523
EDGE_DEG = 179.9999  # of a map of the whole sphere, from its central meridian

Pair = tuple[F64, F64]


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A projection around a centre (longitude, latitude) [degrees]; its map is 2 `width` wide and 2 `height` high."""

    name: str
    centre: tuple[float, float]
    width: float
    height: float
    to_plane: Callable[[F64, F64, float], Pair]  # latitude, longitude from the central meridian, central latitude [rad]
    to_sphere: Callable[[F64, F64, float], Pair]

    def forward(self, lat_deg: F64, lon_deg: F64) -> Pair:
        """Places x, y of points [degrees] on a unit sphere, y northward; NaN for those on the far side."""
        lon0, lat0 = self.centre
        turned = (np.asarray(lon_deg, dtype=np.float64) - lon0 + 180.0) % 360.0 - 180.0
        return self.to_plane(np.radians(np.asarray(lat_deg, dtype=np.float64)), np.radians(turned), np.radians(lat0))

    def inverse(self, x: F64, y: F64) -> Pair:
        """Latitudes and longitudes [degrees, longitudes in 0..360) of places; NaN outside the map."""
        lon0, lat0 = self.centre
        lat, turned = self.to_sphere(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), np.radians(lat0))
        return np.degrees(lat), (np.degrees(turned) + lon0) % 360.0

    def outline(self, points: int = 181) -> Pair:
        """The edge of the map, closed."""
        if self.name == "orthographic":
            angle = np.linspace(0.0, 2 * np.pi, 2 * points)
            return np.cos(angle), np.sin(angle)
        side = np.linspace(-90.0, 90.0, points)
        lat = np.concatenate([side, side[::-1], side[:1]])
        lon = np.repeat([EDGE_DEG, -EDGE_DEG, EDGE_DEG], [points, points, 1]) + self.centre[0]
        return self.forward(lat, lon)


def _plate_carree(lat: F64, lon: F64, lat0: float) -> Pair:
    return lon, lat


def _from_plate_carree(x: F64, y: F64, lat0: float) -> Pair:
    inside = (np.abs(x) <= np.pi) & (np.abs(y) <= np.pi / 2)
    return np.where(inside, y, np.nan), np.where(inside, x, np.nan)


def _orthographic(lat: F64, lon: F64, lat0: float) -> Pair:
    """See Snyder, equations 20-3 to 20-5."""
    near = np.sin(lat0) * np.sin(lat) + np.cos(lat0) * np.cos(lat) * np.cos(lon) >= 0
    x = np.cos(lat) * np.sin(lon)
    y = np.cos(lat0) * np.sin(lat) - np.sin(lat0) * np.cos(lat) * np.cos(lon)
    return np.where(near, x, np.nan), np.where(near, y, np.nan)


def _from_orthographic(x: F64, y: F64, lat0: float) -> Pair:
    """See Snyder, equations 20-14 and 20-15, written with the depth of the point instead of its angle."""
    square = x**2 + y**2
    depth = np.sqrt(np.where(square <= 1, 1 - square, np.nan))
    lat = np.arcsin(np.clip(depth * np.sin(lat0) + y * np.cos(lat0), -1.0, 1.0))
    return lat, np.arctan2(x, depth * np.cos(lat0) - y * np.sin(lat0))


@lru_cache(maxsize=1)
def _robinson_table() -> tuple[F64, F64, F64]:
    """Latitude [rad], length and distance from the equator of fine parallels from pole to pole."""
    knots = np.radians(np.arange(-90.0, 91.0, 5.0))
    fine = np.radians(np.linspace(-90.0, 90.0, 36_001))
    length, height = np.array(ROBINSON_LENGTH), np.array(ROBINSON_HEIGHT)
    lengths, heights = np.concatenate([length[:0:-1], length]), np.concatenate([-height[:0:-1], height])
    return fine, _spline(knots, lengths, fine), _spline(knots, heights, fine)


def _spline(knots: F64, values: F64, at: F64) -> F64:
    """The natural cubic spline through values at evenly spaced knots."""
    gap, inner = float(knots[1] - knots[0]), knots.size - 2
    bend = np.zeros(knots.size)  # second derivatives
    bend[1:-1] = np.linalg.solve(
        4 * np.eye(inner) + np.eye(inner, k=1) + np.eye(inner, k=-1), 6 * np.diff(values, 2) / gap**2
    )
    left = np.clip(((at - knots[0]) / gap).astype(np.int64), 0, knots.size - 2)
    b = (at - knots[left]) / gap
    a = 1 - b
    cubes = (a**3 - a) * bend[left] + (b**3 - b) * bend[left + 1]
    found: F64 = a * values[left] + b * values[left + 1] + cubes * gap**2 / 6
    return found


def _robinson(lat: F64, lon: F64, lat0: float) -> Pair:
    fine, length, height = _robinson_table()
    return ROBINSON_X * np.interp(lat, fine, length) * lon, ROBINSON_Y * np.interp(lat, fine, height)


def _from_robinson(x: F64, y: F64, lat0: float) -> Pair:
    fine, length, height = _robinson_table()
    lat = np.interp(y / ROBINSON_Y, height, fine, left=np.nan, right=np.nan)
    lon = x / (ROBINSON_X * np.interp(lat, fine, length))
    inside = np.abs(lon) <= np.pi
    return np.where(inside, lat, np.nan), np.where(inside, lon, np.nan)


# By name: half the width and height of a map, and the ways there and back.
KINDS = dict(
    zip(
        PROJECTIONS,
        (
            (np.pi * ROBINSON_X, ROBINSON_Y, _robinson, _from_robinson),
            (1.0, 1.0, _orthographic, _from_orthographic),
            (np.pi, np.pi / 2, _plate_carree, _from_plate_carree),
        ),
        strict=True,
    )
)


def make_projection(name: str, centre: str | None = None) -> Projection:
    """The projection of a name of `KINDS`, around LON,LAT [degrees]; UsageError for what is no centre of it.

    Maps of the whole sphere are centred on the equator.

    >>> make_projection("orthographic", "10,50").centre, make_projection("robinson", "180").centre
    ((10.0, 50.0), (180.0, 0.0))
    """
    width, height, to_plane, to_sphere = KINDS[name]
    try:
        lon, lat, *more = [*map(float, (centre or "0,0").split(",")), *([0.0] if "," not in (centre or ",") else [])]
    except ValueError:
        lon, lat, more = np.nan, np.nan, []
    if more or not abs(lon) <= 360 or not abs(lat) <= 90:
        raise UsageError(
            f"found --centre {centre}", "a longitude and a latitude in degrees", "give such as --centre 10,50"
        )
    if lat and name != "orthographic":
        raise UsageError(
            f"found --centre {centre} for the projection {name}",
            "the latitude 0",
            f"give --centre {lon:g}, or --projection orthographic",
        )
    return Projection(name=name, centre=(lon, lat), width=width, height=height, to_plane=to_plane, to_sphere=to_sphere)
