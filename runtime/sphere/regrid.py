"""Weights between lat-lon grids and nested HEALPix, in NumPy alone.

Bilinear: periodic in longitude; between the last row and the pole towards the mean of that row. Conservative: by the
areas that cells and pixels have in common, so that the global mean is kept and constants stay constants.
"""

from collections.abc import Callable

import numpy as np

from fsae.runtime.arrays import F64, Ints
from fsae.runtime.errors import DataError

from .grids import Grid, LatLonGrid, is_same
from .healpix import npix, pixel_centres, ring_to_nested
from .overlaps import overlaps
from .weights import Weights, from_entries
from .weights_cache import Between, cached

METHODS = ("auto", "bilinear", "conservative")
WeightMaker = Callable[[LatLonGrid, int, str], Weights]  # (grid, zoom, one of `METHODS`)


def bilinear_weights(grid: LatLonGrid, lat_deg: F64, lon_deg: F64) -> Weights:
    """Bilinear weights from fields on `grid`, flattened (lat, lon), to points [degrees]."""
    rows, columns = grid.shape
    order = np.argsort(grid.lat_deg)  # from south to north
    # Virtual rows at the poles, which stand for the mean of the last row; without a gap they are never reached.
    lat = np.concatenate([[-90.0], grid.lat_deg[order], [90.0]])
    below = np.clip(np.searchsorted(lat, lat_deg, side="right") - 1, 0, rows)
    gap = lat[below + 1] - lat[below]
    up = np.where(gap > 0, (lat_deg - lat[below]) / np.where(gap > 0, gap, 1.0), 0.0)
    west, east, right = _columns(grid.lon_deg, lon_deg)
    point = np.arange(lat_deg.size)
    entries: list[tuple[Ints, Ints, F64]] = []
    for line, share in ((below, 1 - up), (below + 1, up)):
        pole = (line == 0) | (line == rows + 1)
        row = order[np.clip(line - 1, 0, rows - 1)]
        for column, part in ((west, 1 - right), (east, right)):
            inside = ~pole
            entries.append((point[inside], (row * columns + column)[inside], (share * part)[inside]))
        whole = row[pole][:, None] * columns + np.arange(columns)  # (point near a pole, lon)
        entries.append(
            (np.repeat(point[pole], columns), whole.reshape(-1), np.repeat(share[pole] / columns, columns)),
        )
    target, source, weight = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    return from_entries(target, source, weight, lat_deg.size, grid.size)


def _columns(axis: F64, lon_deg: F64) -> tuple[Ints, Ints, F64]:
    """Columns west and east of each longitude on a periodic axis, and the share of the eastern one."""
    turned = axis % 360.0
    order = np.argsort(turned)
    ring = turned[order]
    ring = np.concatenate([ring, ring[:1] + 360.0])
    lon = (lon_deg - ring[0]) % 360.0 + ring[0]
    place = np.clip(np.searchsorted(ring, lon, side="right") - 1, 0, axis.size - 1)
    share = (lon - ring[place]) / (ring[place + 1] - ring[place])
    return order[place], order[(place + 1) % axis.size], np.clip(share, 0.0, 1.0)


def cell_edges(grid: LatLonGrid) -> tuple[F64, F64]:
    """Edges [degrees] of the cells: south and north (lat, 2), midway between rows, and west and east (lon, 2)."""
    order = np.argsort(grid.lat_deg)
    middle = (grid.lat_deg[order][1:] + grid.lat_deg[order][:-1]) / 2
    edges = np.concatenate([[-90.0], middle, [90.0]])
    lat = np.empty((grid.lat_deg.size, 2))
    lat[order] = np.stack([edges[:-1], edges[1:]], axis=-1)
    half = 180.0 / grid.lon_deg.size
    return lat, np.stack([grid.lon_deg - half, grid.lon_deg + half], axis=-1)


def cell_areas(grid: LatLonGrid) -> F64:
    """Share of the sphere of every cell (lat * lon,), flattened (lat, lon); adds up to 1."""
    lat, _ = cell_edges(grid)
    band = np.diff(np.sin(np.radians(lat)), axis=-1)[:, 0] / 2
    return np.repeat(band / grid.lon_deg.size, grid.lon_deg.size)


def areas(grid: Grid) -> F64:
    """Share of the sphere of every cell of a grid; adds up to 1."""
    return cell_areas(grid) if isinstance(grid, LatLonGrid) else np.full(grid.size, 1 / grid.size)


def conservative_weights(grid: LatLonGrid, zoom: int) -> Weights:
    """Area-conserving weights from fields on `grid`, flattened (lat, lon), to the nested pixels of `zoom`."""
    return from_entries(*overlaps(grid, zoom), npix(zoom), grid.size)


def cell_mean_weights(grid: LatLonGrid, zoom: int) -> Weights:
    """Area-conserving weights from the nested pixels of `zoom` to the cells of `grid`, flattened (lat, lon).

    By the overlaps of `conservative_weights`: a cell gets the mean of the pixels it covers, and the global mean stays.
    """
    back = conservative_weights(grid, zoom)
    pixel = np.repeat(np.arange(npix(zoom)), np.diff(back.indptr))
    share = back.weight / npix(zoom) / cell_areas(grid)[back.index]
    return from_entries(back.index.astype(np.int64), pixel, share, grid.size, npix(zoom))


def choose_method(grid: LatLonGrid, zoom: int) -> str:
    """The method for a grid: conservative if a pixel is larger than two of its cells, else bilinear.

    >>> grid = LatLonGrid(lat_deg=np.linspace(90, -90, 73), lon_deg=np.arange(144) * 2.5)
    >>> choose_method(grid, 5), choose_method(grid, 4)
    ('bilinear', 'conservative')
    """
    return "conservative" if grid.size > 2 * npix(zoom) else "bilinear"


def make_weights(grid: LatLonGrid, zoom: int, method: str = "auto") -> Weights:
    """Weights from a lat-lon grid to nested HEALPix of `zoom` by a method of `METHODS`."""
    if method not in METHODS:
        raise DataError(
            f"found the regridding method {method!r}",
            f"one of {', '.join(METHODS)}",
            "take conservative for coarse grids, bilinear for fine ones",
        )
    chosen = choose_method(grid, zoom) if method == "auto" else method

    def make() -> Weights:
        if chosen == "conservative":
            return conservative_weights(grid, zoom)
        return bilinear_weights(grid, *pixel_centres(zoom))

    return cached(Between(method=chosen, grid=grid, zoom=zoom), make)


def weights_back(grid: LatLonGrid, zoom: int, method: str) -> Weights:
    """Weights from nested pixels of `zoom` to points of a grid, flattened (lat, lon): "conservative" or "bilinear"."""

    def make() -> Weights:
        if method == "conservative":
            return cell_mean_weights(grid, zoom)
        lat_deg, lon_deg = np.meshgrid(grid.lat_deg, grid.lon_deg, indexing="ij")
        return interpolation_weights(zoom, lat_deg.reshape(-1), lon_deg.reshape(-1))

    return cached(Between(method=method, grid=grid, zoom=zoom, back=True), make)


def once_a_grid(make: WeightMaker = make_weights) -> WeightMaker:
    """The maker with a memory: the weights of each grid are made once."""
    known: list[tuple[LatLonGrid, tuple[int, str], Weights]] = []

    def remembered(grid: LatLonGrid, zoom: int, method: str) -> Weights:
        for other, asked, weights in known:
            if asked == (zoom, method) and is_same(grid, other):
                return weights
        known.append((grid, (zoom, method), make(grid, zoom, method)))
        return known[-1][2]

    return remembered


def interpolation_weights(zoom: int, lat_deg: F64, lon_deg: F64) -> Weights:
    """Weights from nested pixels of `zoom` to points [degrees]: along the rings north and south of each, then across.

    As in `healpy.get_interp_weights`; north of the first ring (south of the last) towards the mean of its four pixels.
    """
    nside = 1 << zoom
    lat_deg, lon_deg = np.asarray(lat_deg, dtype=np.float64), np.asarray(lon_deg, dtype=np.float64)
    nested = np.argsort(ring_to_nested(zoom))  # by place in ring order
    centre_lat, centre_lon = pixel_centres(zoom)
    ring_lat, first, count = _rings(nside, centre_lat[nested])
    above = np.searchsorted(-ring_lat, -lat_deg, side="right") - 1  # -1 north of all rings
    entries: list[tuple[Ints, Ints, F64]] = []
    point = np.arange(lat_deg.size)
    colatitude = 90.0 - lat_deg
    upper = np.where(above < 0, 0.0, 90.0 - ring_lat[np.maximum(above, 0)])
    lower = np.where(above == ring_lat.size - 1, 180.0, 90.0 - ring_lat[np.minimum(above + 1, ring_lat.size - 1)])
    down = (colatitude - upper) / (lower - upper)
    for ring, share in ((above, 1 - down), (above + 1, down)):
        pole = (ring < 0) | (ring == ring_lat.size)
        known = np.clip(ring, 0, ring_lat.size - 1)
        length = count[known]
        place = (lon_deg - centre_lon[nested][first[known]]) % 360.0 / 360.0 * length
        west = np.minimum(place.astype(np.int64), length - 1)
        for column, part in ((west, 1 - (place - west)), ((west + 1) % length, place - west)):
            entries.append((point[~pole], nested[first[known] + column][~pole], (share * part)[~pole]))
        polar = nested[first[known][pole][:, None] + np.arange(4)]  # (point near a pole, its four pixels)
        entries.append((np.repeat(point[pole], 4), polar.reshape(-1), np.repeat(share[pole] / 4, 4)))
    target, source, weight = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    return from_entries(target, source, weight, lat_deg.size, npix(zoom))


def _rings(nside: int, lat: F64) -> tuple[F64, Ints, Ints]:
    """Latitude, first pixel and number of pixels of every ring, from the pixel latitudes in ring order."""
    ring = np.arange(1, 4 * nside)
    count = 4 * np.minimum(np.minimum(ring, 4 * nside - ring), nside)
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    return lat[first], first, count
