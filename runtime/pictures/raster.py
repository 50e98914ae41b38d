"""Fields as pictures of points: for each point of a map the value of the cell that holds it."""

import numpy as np

from fsae.runtime.arrays import F64, Ints
from fsae.runtime.sphere.grids import Grid, LatLonGrid
from fsae.runtime.sphere.healpix import pixel_of, ring_to_nested

from .projections import Projection

COLUMNS = 1200  # of a map


def map_points(projection: Projection, columns: int = COLUMNS) -> tuple[F64, F64]:
    """Latitude and longitude [degrees] of the points of a map (row, column), from the north down; NaN outside."""
    rows = round(columns * projection.height / projection.width)
    x, y = ((2 * np.arange(count) + 1) / count - 1 for count in (columns, rows))
    return projection.inverse(*np.meshgrid(projection.width * x, -projection.height * y))


def nearest_cells(grid: Grid, lat_deg: F64, lon_deg: F64) -> Ints:
    """The cell of a grid, flattened, that holds each point [degrees]."""
    if not isinstance(grid, LatLonGrid):
        nested = pixel_of(grid.zoom, lat_deg, lon_deg)
        return nested if grid.order == "nested" else ring_to_nested(grid.zoom)[nested]
    order = np.argsort(grid.lat_deg)
    middle = (grid.lat_deg[order][1:] + grid.lat_deg[order][:-1]) / 2
    row = order[np.searchsorted(middle, lat_deg)]
    columns = grid.lon_deg.size
    eastward = np.median((np.diff(grid.lon_deg) + 180.0) % 360.0 - 180.0) > 0
    spacing = 360.0 / columns * (1 if eastward else -1)
    cell: Ints = row * columns + np.rint((lon_deg - grid.lon_deg[0]) / spacing).astype(np.int64) % columns
    return cell


def drawn(values: F64, grid: Grid, projection: Projection, columns: int = COLUMNS) -> F64:
    """A field (point,) as a picture (row, column); NaN outside the map and where values are missing."""
    lat, lon = map_points(projection, columns)
    inside = np.isfinite(lat)
    picture = np.full(lat.shape, np.nan)
    picture[inside] = values[nearest_cells(grid, lat[inside], lon[inside])]
    return picture
