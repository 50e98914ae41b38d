"""The part of the fields that is given out, and its grid: variables, a box, steps, native cells or a lat-lon grid."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arguments import of_kind, real, refused, text, texts
from fsae.runtime.arrays import F32, F64, Ints
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Variable
from fsae.runtime.climate.calendar import Date, parse_period
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.sphere.grids import LatLonGrid, regular_grid
from fsae.runtime.sphere.healpix import npix, pixel_centres
from fsae.runtime.sphere.regrid import METHODS, weights_back
from fsae.runtime.sphere.weights import Weights, apply, target_rows

from .layout import Cells

NATIVE, TRAINING = "native", "training"
ALIASES = {"source": TRAINING}
GRIDS, GRID = "native, training, degrees, or rows x columns", "'120x240'"
SIDES, BOX = "west, south, east, north in degrees", "(-10, 35, 30, 70)"
NEAR_DEG = 1e-6  # a tenth of a metre: axes that were rounded


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The wanted part of a model's fields; its values are those of the same points without a selection.

    `grid`: "native" (HEALPix, as the model computes), "training" (the lat-lon grid of its training data; "source" is an
    alias), or a regular lat-lon grid by the degrees between points ("1.5") or by rows and columns ("120x240"); or any
    lat-lon grid, such as that of a file by `grid_like`.
    `regrid`: the way to a lat-lon grid, one of `regrid.METHODS`; by default the bundle's own way to "training", and to
    other grids conservative if their cells are larger than two of the model's, else bilinear.
    `variables`: some of the model's by name; none means all. `bbox`: west, south, east and north [degrees]; a box whose
    west is greater than its east crosses the date line. `times`: first and last date, as in "2005-01/2010".
    `centres`: whether latitudes and longitudes of HEALPix cells are written, which readers that know HEALPix can do
    without.
    """

    grid: str | LatLonGrid = NATIVE
    regrid: str = "auto"
    variables: Sequence[str] = ()
    bbox: tuple[float, float, float, float] | None = None
    times: str | None = None
    centres: bool = True

    def __post_init__(self) -> None:
        grid = self.grid
        if not isinstance(grid, str | LatLonGrid):
            grid = f"{real('grid', grid, GRIDS, GRID):g}"
        box: Any = self.bbox
        if box is not None:
            box = of_kind("bbox", box, (tuple, list, np.ndarray), SIDES, BOX)
            if getattr(box, "ndim", 1) != 1 or len(box) != 4:
                raise refused("bbox", self.bbox, SIDES, BOX)
            box = tuple(real("bbox", side, SIDES, BOX) for side in box)
        found = {
            "grid": grid,
            "regrid": text("regrid", self.regrid, f"one of {', '.join(METHODS)}", "'bilinear'"),
            "variables": texts("variables", self.variables, "['tas']"),
            "bbox": box,
            "times": None if self.times is None else text("times", self.times, "first and last date", "'2005-01/2010'"),
            "centres": of_kind("centres", self.centres, bool, "True or False", "False"),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    @property
    def on(self) -> str:
        """The grid by its name without an alias; one without a name by its size and a hash of its axes."""
        if isinstance(self.grid, LatLonGrid):
            axes = np.concatenate([self.grid.lat_deg, self.grid.lon_deg]).astype("<f8").tobytes()
            return f"{self.grid}, SHA-256 {hashlib.sha256(axes).hexdigest()}"
        return ALIASES.get(self.grid, self.grid)

    def record(self) -> dict[str, Any]:
        """The selection as a request keeps it: the grid, and what differs from the defaults."""
        found: dict[str, Any] = {"grid": self.on}
        found |= {"regrid": self.regrid} if self.regrid != "auto" else {}
        found |= {"variables": list(self.variables)} if self.variables else {}
        found |= {"bbox": list(self.bbox)} if self.bbox is not None else {}
        found |= {"times": self.times} if self.times is not None else {}
        return found | ({} if self.centres else {"centres": False})


EVERYTHING = Selection()


def grid_files(selection: Selection) -> tuple[Path, ...]:
    """The files that the grid of a selection was read from, which no output may replace."""
    of_kind("select", selection, Selection, "a Selection", "Selection(grid='1.5')")
    return selection.grid.files if isinstance(selection.grid, LatLonGrid) else ()


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """A selection of a bundle's fields, worked out: the points, and the way to them."""

    variables: tuple[Variable, ...]
    places: tuple[int, ...]  # of the variables among the model's
    grid: Cells | LatLonGrid
    weights: Weights | None = None  # from the cells of the model to the lat-lon points

    def take(self, values: F32) -> F32:
        """Fields (..., chosen variable, point) of whole ones (..., variable, cell)."""
        if len(self.places) < values.shape[-2]:
            values = values[..., list(self.places), :]
        if self.weights is not None:
            return apply(self.weights, values).astype(np.float32)
        cells = self.grid.chosen if isinstance(self.grid, Cells) else None
        return values if cells is None else values[..., cells]


def view_of(bundle: Bundle, selection: Selection) -> View:
    """The view of a selection; UsageError for what the bundle does not have and for an empty box."""
    of_kind("select", selection, Selection, "a Selection", "Selection(grid='1.5')")
    known = bundle.manifest.variables
    places = _places([v.name for v in known], selection.variables)
    chosen = tuple(known[place] for place in places)
    if selection.regrid not in METHODS:
        raise UsageError(
            f"found the regridding {selection.regrid!r}", f"one of {', '.join(METHODS)}", "leave it out for auto"
        )
    if selection.on == NATIVE:
        if selection.regrid != "auto":
            raise UsageError(
                "found a way of regridding for the native grid", advice="give --grid training, or such as 1.5"
            )
        zoom = bundle.manifest.grid.zoom
        cells = None if selection.bbox is None else cells_inside(zoom, selection.bbox)
        return View(variables=chosen, places=places, grid=Cells(zoom=zoom, chosen=cells, centres=selection.centres))
    check_axes_stay(selection, "a lat-lon grid without centres", "leave --no-centres out, or give --grid native")
    grid = selection.grid
    if isinstance(grid, str):
        grid = _source_grid(bundle) if selection.on == TRAINING else regular_grid(grid)
    rows, columns, lon_deg = np.arange(grid.lat_deg.size), np.arange(grid.lon_deg.size), grid.lon_deg
    if selection.bbox is not None:
        rows, columns, lon_deg = rows_and_columns(grid, selection.bbox)
    return View(
        variables=chosen,
        places=places,
        grid=LatLonGrid(lat_deg=grid.lat_deg[rows], lon_deg=lon_deg),
        weights=_weights(bundle, grid, selection, rows, columns),
    )


def check_axes_stay(selection: Selection, found: str, advice: str) -> None:
    """Raise UsageError if a selection of a lat-lon grid, named in `found`, leaves out centres: its axes always stay."""
    if not selection.centres:
        raise UsageError(f"found {found}", "HEALPix cells, as the axes of a lat-lon grid always stay", advice)


def _places(known: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...]:
    """Places of the wanted variables, in the model's order; all of them if none is named."""
    unknown = [name for name in wanted if name not in known]
    if unknown or len(set(wanted)) != len(wanted):
        raise UsageError(
            f"found the variables {', '.join(map(repr, wanted))}",
            f"some of the model's, each once: {', '.join(known)}",
            "leave --variables out for all of them",
        )
    return tuple(place for place, name in enumerate(known) if not wanted or name in wanted)


def _source_grid(bundle: Bundle) -> LatLonGrid:
    """The lat-lon grid of the training data."""
    tables = bundle.tables
    if 0 in tables.source_shape:
        raise UsageError(
            f"bundle {bundle.manifest.name} was trained on HEALPix",
            advice="use --grid native, or a lat-lon grid such as 1.5",
        )
    return LatLonGrid(lat_deg=tables.source_lat_deg, lon_deg=tables.source_lon_deg)


def _weights(bundle: Bundle, grid: LatLonGrid, selection: Selection, rows: Ints, columns: Ints) -> Weights:
    """Weights from the model's cells to the points of some rows and columns of a grid, flattened (lat, lon)."""
    zoom, points = bundle.manifest.grid.zoom, (rows[:, None] * grid.lon_deg.size + columns).reshape(-1)
    if selection.on == TRAINING and selection.regrid == "auto":
        return target_rows(bundle.tables.to_source, points)
    method = selection.regrid
    if method == "auto":  # as for input, the other way round
        method = "conservative" if npix(zoom) > 2 * grid.size and grid.is_global else "bilinear"
    if method == "conservative" and not grid.is_global:
        expected = "a global one, evenly spaced in longitude, for --regrid conservative"
        raise UsageError(f"found the {grid} of a region, or of uneven spacing", expected, "give --regrid bilinear")
    if method == "conservative":
        return target_rows(weights_back(grid, zoom, method), points)
    return weights_back(LatLonGrid(lat_deg=grid.lat_deg[rows], lon_deg=grid.lon_deg[columns]), zoom, method)


def parse_bbox(text: str) -> tuple[float, float, float, float]:
    """West, south, east and north [degrees] of a text.

    >>> parse_bbox("-10,35,30,70")
    (-10.0, 35.0, 30.0, 70.0)
    """
    try:
        west, south, east, north = map(float, text.split(","))
    except ValueError:
        raise UsageError(
            f"found the box {text!r}",
            "west,south,east,north in degrees: -10,35,30,70",
            "give such as --bbox=-10,35,30,70",
        ) from None
    return west, south, east, north


def _check_box(box: tuple[float, float, float, float]) -> None:
    """Raise UsageError if the edges do not make a box."""
    west, south, east, north = box
    good = -90 <= south <= north <= 90 and -360 <= west <= 360 and -360 <= east <= 360 and east - west <= 360
    if not good:  # also if one is NaN
        raise UsageError(
            f"found the box {_text(box)}",
            "west,south,east,north in degrees with south below north and longitudes of -360 to 360, at most once "
            "around",
            "give such as --bbox=-10,35,30,70",
        )


def _eastward(lon_deg: F64, west: float, east: float) -> NDArray[np.bool_]:
    """Mask of the longitudes on the way east from `west` to `east` [degrees]."""
    width = 360.0 if east - west == 360 else (east - west) % 360.0
    inside: NDArray[np.bool_] = (lon_deg - west + NEAR_DEG) % 360.0 <= width + 2 * NEAR_DEG
    return inside


def _between(lat_deg: F64, south: float, north: float) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (lat_deg >= south - NEAR_DEG) & (lat_deg <= north + NEAR_DEG)
    return inside


def _empty(box: tuple[float, float, float, float], what: str) -> UsageError:
    return UsageError(f"found no {what} in the box {_text(box)} (west,south,east,north)", advice="give a larger one")


def _text(box: tuple[float, float, float, float]) -> str:
    return ",".join(f"{edge:g}" for edge in box)


def cells_inside(zoom: int, box: tuple[float, float, float, float]) -> Ints:
    """The nested cells whose centres lie in a box, rising.

    >>> cells_inside(0, (0, 0, 180, 90)).tolist()
    [0, 1, 4, 5, 6]
    """
    _check_box(box)
    west, south, east, north = box
    lat_deg, lon_deg = pixel_centres(zoom)
    cells: Ints = np.flatnonzero(_between(lat_deg, south, north) & _eastward(lon_deg, west, east))
    if not cells.size:
        raise _empty(box, f"centre of a cell of zoom {zoom}")
    return cells


def rows_and_columns(grid: LatLonGrid, box: tuple[float, float, float, float]) -> tuple[Ints, Ints, F64]:
    """Rows in a box in their order, columns in it from west to east, and the longitudes of these, which rise.

    >>> rows_and_columns(regular_grid("4x4"), (-90, 0, 90, 30))[1:]
    (array([3, 0, 1]), array([-90.,   0.,  90.]))
    """
    _check_box(box)
    west, south, east, north = box
    rows = np.flatnonzero(_between(grid.lat_deg, south, north))
    columns = np.flatnonzero(_eastward(grid.lon_deg, west, east))
    if not rows.size or not columns.size:
        raise _empty(box, f"row and column of the {grid}")
    if columns.size == grid.lon_deg.size:
        return rows, columns, grid.lon_deg
    turns = np.floor((grid.lon_deg[columns] - west + NEAR_DEG) / 360.0)
    lon_deg = grid.lon_deg[columns] - 360.0 * turns
    order = np.argsort(lon_deg)
    lon_deg = lon_deg[order]
    return rows, columns[order], lon_deg - (360.0 if lon_deg[-1] > 360 else 0.0)


def steps_inside(stamps: Sequence[Date], times: str | None, name: str) -> slice:
    """The steps with stamps in a period such as 2005-01/2010, which must follow each other; all steps without one."""
    if times is None:
        return slice(0, len(stamps))
    first, end = parse_period(times, str(stamps[0].calendar))
    inside = [i for i, stamp in enumerate(stamps) if first <= stamp < end]
    if not inside:
        raise DataError(
            f"{name} holds no step in {times}, its steps run from {stamps[0].isoformat()} to {stamps[-1].isoformat()}",
            advice="give other --times",
        )
    if inside[-1] - inside[0] + 1 != len(inside):
        raise DataError(f"{name} has steps of {times} that do not follow each other", advice="sort it by time first")
    return slice(inside[0], inside[-1] + 1)
