"""A grid whose points are interpolated from HEALPix cells by integer weights, exactly; and cells fitted to points."""

from dataclasses import dataclass, replace

import numpy as np

from fsae.runtime.arrays import F64

from .columns import Columns, columns_of
from .grids import LatLonGrid
from .healpix import npix
from .regrid import cell_areas, make_weights, weights_back
from .weights import Weights

WEIGHT_ONE = 1 << 15  # unit of interpolation weights, so that they are the same on every machine
ROUNDS = 4  # of iterative refinement


@dataclass(frozen=True, kw_only=True)
class InterpolatedGrid:
    """Points interpolated from four cells each, or the cells themselves if there are no weights."""

    area: F64  # (point), of sum 1
    cells: int
    forth: Columns | None = None  # from cells to points, integers whose sum is WEIGHT_ONE
    back: Columns | None = None  # from points to cells

    def interpolate(self, field: F64) -> F64:
        """Points (time, point) of cells (time, cell): sums of four products in a fixed order."""
        if self.forth is None:
            return field
        made: F64 = np.ascontiguousarray(self.forth.apply(np.ascontiguousarray(field.T)).T) / WEIGHT_ONE
        return made

    def fit(self, points: F64) -> F64:
        """Cells (time, cell) whose interpolation comes near points (time, point), by iterative refinement."""
        if self.forth is None or self.back is None:
            return points
        wanted = np.ascontiguousarray(points.T, dtype=np.float32)
        cells = self.back.apply(wanted)
        for _ in range(ROUNDS):
            cells += self.back.apply(wanted - self.forth.apply(cells) / WEIGHT_ONE)
        return np.ascontiguousarray(cells.T, dtype=np.float64)


def cells_of(zoom: int) -> InterpolatedGrid:
    """All cells of a zoom."""
    count = npix(zoom)
    return InterpolatedGrid(area=np.full(count, 1.0 / count), cells=count)


def points_of(grid: LatLonGrid, zoom: int) -> InterpolatedGrid:
    """The points of a lat-lon grid, flattened (lat, lon), over the cells of a zoom."""
    weights = weights_back(grid, zoom, "bilinear")
    area = cell_areas(grid).ravel()
    back = columns_of(make_weights(grid, zoom))
    return InterpolatedGrid(area=area / area.sum(), cells=npix(zoom), forth=columns_of(_whole(weights)), back=back)


def _whole(weights: Weights) -> Weights:
    """Weights in integers of 1 / WEIGHT_ONE; the largest of a target takes what rounding leaves."""
    row = np.repeat(np.arange(weights.target_size), np.diff(weights.indptr))
    whole = np.round(weights.weight * WEIGHT_ONE)
    left = WEIGHT_ONE - np.bincount(row, weights=whole, minlength=weights.target_size)
    by_size = np.lexsort((-whole, row))  # within a row the largest first, of equal ones the first
    whole[by_size[weights.indptr[:-1]]] += left
    return replace(weights, weight=whole)
