"""The grid of archived fields: cells of the codec's zoom, or points interpolated from them."""

from dataclasses import dataclass

import numpy as np

from fsae.runtime.arrays import F64, Ints
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import npix
from fsae.runtime.sphere.regrid import Weights, apply, cell_areas, interpolation_weights, make_weights

WEIGHT_ONE = 1 << 15  # unit of interpolation weights, so that they are the same on every machine
ROUNDS = 4  # of iterative refinement


@dataclass(frozen=True, kw_only=True)
class CodecGrid:
    """Points of archived fields: interpolated from four cells each, or the cells themselves if there are no weights."""

    area: F64  # (point), of sum 1
    cells: int
    index: Ints | None = None  # (point, 4)
    weight: F64 | None = None  # (point, 4), integers whose sum is WEIGHT_ONE
    back: Weights | None = None  # from points to cells

    def interpolate(self, field: F64) -> F64:
        """Points (time, point) of cells (time, cell): sums of four products in a fixed order."""
        if self.index is None or self.weight is None:
            return field
        made: F64 = field[:, self.index[:, 0]] * self.weight[:, 0]
        for place in range(1, 4):
            made += field[:, self.index[:, place]] * self.weight[:, place]
        return made / WEIGHT_ONE

    def fit(self, points: F64) -> F64:
        """Cells (time, cell) whose interpolation comes near points (time, point), by iterative refinement."""
        if self.back is None:
            return points
        cells: F64 = apply(self.back, points).astype(np.float64)
        for _ in range(ROUNDS):
            cells = cells + apply(self.back, points - self.interpolate(cells)).astype(np.float64)
        return cells


def cells_of(zoom: int) -> CodecGrid:
    """All cells of a zoom."""
    count = npix(zoom)
    return CodecGrid(area=np.full(count, 1.0 / count), cells=count)


def points_of(grid: LatLonGrid, zoom: int) -> CodecGrid:
    """The points of a lat-lon grid, flattened (lat, lon), over the cells of a zoom."""
    rows, columns = grid.shape
    lat, lon = np.repeat(grid.lat_deg, columns), np.tile(grid.lon_deg, rows)
    weights = interpolation_weights(zoom, lat, lon)
    index, weight = _four(weights)
    area = cell_areas(grid).ravel()
    return CodecGrid(
        area=area / area.sum(), cells=npix(zoom), index=index, weight=weight, back=make_weights(grid, zoom)
    )


def _four(weights: Weights) -> tuple[Ints, F64]:
    """Sparse weights of at most four entries a row as integers (point, 4); the largest takes what rounding leaves."""
    count = np.diff(weights.indptr)
    index = np.zeros((count.size, 4), dtype=np.int64)
    value = np.zeros((count.size, 4))
    row = np.repeat(np.arange(count.size), count)
    place = np.arange(row.size) - np.repeat(weights.indptr[:-1], count)
    index[row, place], value[row, place] = weights.index, np.round(weights.weight * WEIGHT_ONE)
    value[np.arange(count.size), value.argmax(1)] += WEIGHT_ONE - value.sum(1)
    return index, value
