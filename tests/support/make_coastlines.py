"""Make runtime/pictures/coastlines.npz of terrain and land temperatures: python make_coastlines.py TERRAIN LAND OUT.

TERRAIN is the height of the lowest model level of NOAA's GDAS (T1534, variable `orog`), about 10 m over the sea; LAND
is NOAA's GHCN_CAMS (0.5 degrees, variable `tas`), missing over the sea. Both are works of the US Government and in the
public domain.
"""

import sys

import numpy as np
import xarray as xr
from contourpy import contour_generator
from numpy.typing import NDArray

SEA_M = (8.5, 12.5)  # lowest model level over the sea, colder to warmer
CASPIAN_M, CASPIAN_DEG = (-18.5, -16.0), (36.0, 48.0, 46.0, 55.5)  # and over the Caspian Sea; south, north, west, east
BLOCK = 3  # cells of the terrain on a side of one cell of the mask: 0.35 degrees
SHORTEST_DEG = 3.0  # rings of a smaller circumference are islands and lakes too small for a map of the globe
TOLERANCE_DEG = 0.06
UNIT_DEG = 0.01


def land_share(terrain: xr.DataArray, land: xr.DataArray) -> NDArray[np.float64]:
    """Share of land in blocks of the terrain's cells: what is not at sea level, or lies inside the land of LAND."""
    height, lat, lon = terrain.values, terrain.lat.values[:, None], terrain.lon.values[None]
    sea = (height >= SEA_M[0]) & (height <= SEA_M[1])
    south, north, west, east = CASPIAN_DEG
    inside = (lat > south) & (lat < north) & (lon > west) & (lon < east)
    sea |= inside & (height >= CASPIAN_M[0]) & (height <= CASPIAN_M[1])
    known = np.isfinite(land.values)
    core = known.copy()
    for row, column in np.ndindex(3, 3):
        core &= np.roll(known, (row - 1, column - 1), axis=(0, 1))
    nearest = xr.DataArray(core, coords=land.coords).sel(lat=terrain.lat, lon=terrain.lon, method="nearest").values
    whole = (~sea | nearest).astype(np.float64)
    rows, columns = (size // BLOCK for size in whole.shape)
    return whole.reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3))


def simplified(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """The line with as few points as keep within the tolerance (Douglas and Peucker 1973)."""
    keep = np.zeros(len(line), dtype=bool)
    half = len(line) // 2
    keep[[0, half, -1]] = True
    left = [(0, half), (half, len(line) - 1)]
    while left:
        first, last = left.pop()
        if last - first < 2:
            continue
        start, way = line[first], line[last] - line[first]
        length = max(float(np.hypot(*way)), 1e-12)
        east, north = (line[first:last] - start).T
        off = np.abs(way[0] * north - way[1] * east) / length
        if off.max() > TOLERANCE_DEG:
            middle = first + int(off.argmax())
            keep[middle] = True
            left += [(first, middle), (middle, last)]
    return line[keep]


def main(terrain: str, land: str, out: str) -> None:
    """Write the file."""
    with xr.open_dataset(terrain) as high, xr.open_dataset(land) as warm:
        share = land_share(high.orog, warm.tas[0].load())
        lat = high.lat.values.reshape(-1, BLOCK).mean(axis=1)
        lon = high.lon.values.reshape(-1, BLOCK).mean(axis=1)
    around = np.concatenate([share, share[:, :1]], axis=1)
    lines = contour_generator(np.append(lon, lon[0] + 360.0), lat, around).lines(0.5)
    lines = [line for line in lines if np.hypot(*np.diff(line, axis=0).T).sum() > SHORTEST_DEG]
    whole = [np.round(simplified(line) / UNIT_DEG).astype(np.int32) for line in lines]
    lon_units = np.concatenate([line[:, 0] for line in whole])
    lon_units = (lon_units + 18_000) % 36_000 - 18_000
    lat_units = np.concatenate([line[:, 1] for line in whole])
    count = np.array([len(line) for line in whole], dtype=np.int32)
    np.savez_compressed(out, lat=lat_units.astype(np.int16), lon=lon_units.astype(np.int16), count=count)
    print(len(whole), "lines of", lat_units.size, "points")


if __name__ == "__main__":
    main(*sys.argv[1:])
