"""Find a global regular or Gaussian lat-lon grid: from two axes, or from the latitude and longitude of every point.

Our own search, as cf-xarray takes the axes of a rotated pole (grid_latitude in degrees_north), or a dimension that is
called "lateral", for latitudes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fsae.runtime.arrays import F64, Floating, Ints
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.grids import UNEVEN, Grid, LatLonGrid

if TYPE_CHECKING:
    import xarray as xr


KINDS = ("latitude", "longitude")
# Per kind: names that tell it alone, axis letter and names without a meaning of their own, units, CDM axis type.
NAMES = {"latitude": ("lat", "latitude", "nav_lat"), "longitude": ("lon", "longitude", "nav_lon")}
BARE_NAMES = {"latitude": ("y", "rlat"), "longitude": ("x", "rlon")}
LETTERS = {"latitude": "Y", "longitude": "X"}
COMPASS = {
    "latitude": ("degreesnorth", "degreenorth", "degreesn", "degreen"),
    "longitude": ("degreeseast", "degreeeast", "degreese", "degreee"),
}
AXIS_TYPES = {"latitude": "lat", "longitude": "lon"}
PLAIN_UNITS = ("", "degrees", "degree", "deg")
SAME_DEG = 1e-3  # points of a row have latitudes that differ by less, and points of a column longitudes


@dataclass(frozen=True, kw_only=True, eq=False)
class Located:
    """Where the values of a variable are: its grid, the dimensions of its points, and their order."""

    grid: Grid
    dims: tuple[str, ...]
    take: Ints | None = None  # for each point of the grid its place among the stored points; None: as stored
    how: str = ""  # how the order of the points is known, in words, unless it is that of the axes

    def __str__(self) -> str:
        return f"{self.grid}{self.how}"

    def points(self, values: Floating) -> Floating:
        """Values (..., point) in the order of the grid, of stored ones (..., *dims)."""
        flat = values.reshape(*values.shape[: values.ndim - len(self.dims)], -1)
        return flat if self.take is None else flat[..., self.take]


def find_lat_lon(array: "xr.DataArray", dataset: "xr.Dataset", *, axes: bool = True) -> Located:
    """The lat-lon grid of a variable; DataError if it is regional, curvilinear, unstructured or unclear.

    With `axes=False` only the latitudes and longitudes of every point count, as on a rotated grid.
    """
    told = {kind: _axis(array, dataset, kind) if axes else None for kind in KINDS}
    points = coordinates_of_points(array, dataset)
    lat, lon = told["latitude"], told["longitude"]
    if points is None or (lat is not None and lon is not None):
        if axes:
            lat, lon = lat or _bare_axis(array, dataset, "latitude"), lon or _bare_axis(array, dataset, "longitude")
        if lat is None or lon is None:
            raise _no_axis(array, dataset, KINDS[lat is not None])
        found = _from_axes(array, lat, lon)
        if points is not None:
            _check_agreement(array, found, points)
        return found
    dims, lat_deg, lon_deg = points
    found_points = _rows_and_columns(lat_deg.ravel(), lon_deg.ravel())
    if found_points is None:
        raise _no_axis(array, dataset, KINDS[0])
    lat_axis, lon_axis, take = found_points
    grid = LatLonGrid(lat_deg=_check_lat(lat_axis, array.name), lon_deg=_check_lon(lon_axis, array.name))
    as_stored = take.size == lat_deg.size and bool((take == np.arange(take.size)).all())
    return Located(
        grid=grid, dims=dims, take=None if as_stored else take, how=" by the latitude and longitude of each point"
    )


def is_kind(variable: "xr.Variable", name: str, kind: str) -> bool:
    """True if a variable is a "latitude" or "longitude" by its attributes, or else by its usual name."""
    standard = str(variable.attrs.get("standard_name", "")).lower()
    if standard:
        return standard == kind
    if str(variable.attrs.get("_CoordinateAxisType", "")).lower() == AXIS_TYPES[kind]:
        return True
    return _units(variable) in COMPASS[kind] or name.lower() in NAMES[kind]


def _units(variable: "xr.Variable") -> str:
    return str(variable.attrs.get("units", "")).lower().replace("_", "").replace(" ", "")


def degrees(variable: "xr.Variable") -> F64:
    """The values of a latitude or longitude in degrees, also of one in radians, as ICON writes them."""
    values = np.asarray(variable.values, dtype=np.float64)
    return np.degrees(values) if _units(variable).startswith("rad") else values


def coordinates_of_points(
    array: "xr.DataArray", dataset: "xr.Dataset", dims: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], F64, F64] | None:
    """Dimensions, latitudes and longitudes [degrees] of the points of a variable; None if they are not given.

    They are given along the same one or more dimensions of the variable, by default whichever these are.
    """
    for lat_name, lat in dataset.variables.items():
        if not is_kind(lat, str(lat_name), "latitude") or not lat.ndim or not set(lat.dims) <= set(array.dims):
            continue
        if dims is not None and set(lat.dims) != set(dims):
            continue
        for lon_name, lon in dataset.variables.items():
            if set(lon.dims) == set(lat.dims) and is_kind(lon, str(lon_name), "longitude"):
                order = tuple(str(dim) for dim in array.dims if dim in lat.dims)
                return order, degrees(lat.transpose(*order)), degrees(lon.transpose(*order))
    return None


def _axis(array: "xr.DataArray", dataset: "xr.Dataset", kind: str) -> tuple[str, F64] | None:
    """Dimension and values of the axis of that kind, which need not be called as its dimension; None without one.

    An axis along the same dimension as one of the other kind gives the points of an unstructured grid instead.
    """
    found = [
        (str(name), variable)
        for name, variable in dataset.variables.items()
        if variable.ndim == 1 and variable.dims[0] in array.dims and is_kind(variable, str(name), kind)
    ]
    found.sort(key=lambda one: one[0] != one[1].dims[0])  # dimension coordinates first
    other = KINDS[kind == KINDS[0]]
    for _, variable in found:
        dim = variable.dims[0]
        if not any(v.dims == (dim,) and is_kind(v, str(n), other) for n, v in dataset.variables.items()):
            return str(dim), degrees(variable)
    return None


def _bare_axis(array: "xr.DataArray", dataset: "xr.Dataset", kind: str) -> tuple[str, F64] | None:
    """An axis that is marked or named as X or Y only, in degrees or without a unit."""
    for dim in (str(d) for d in array.dims if str(d) in dataset.variables and dataset.variables[d].ndim == 1):
        variable = dataset.variables[dim]
        letter = str(variable.attrs.get("axis", "")).upper()
        plain = str(variable.attrs.get("units", "")).lower() in PLAIN_UNITS and "standard_name" not in variable.attrs
        if plain and (letter == LETTERS[kind] or dim.lower() in BARE_NAMES[kind]):
            return dim, degrees(variable)
    return None


def _from_axes(array: "xr.DataArray", lat: tuple[str, F64], lon: tuple[str, F64]) -> Located:
    rows, columns = lat[1].size, lon[1].size
    grid = LatLonGrid(lat_deg=_check_lat(lat[1], array.name), lon_deg=_check_lon(lon[1], array.name))
    used = np.arange(rows * columns).reshape(rows, columns)[:, : grid.lon_deg.size]
    take = None if grid.lon_deg.size == columns else used.ravel()  # without the column that repeats the first
    return Located(grid=grid, dims=(lat[0], lon[0]), take=take)


def _check_agreement(array: "xr.DataArray", found: Located, points: tuple[tuple[str, ...], F64, F64]) -> None:
    """Raise DataError if the latitudes and longitudes of the points are not those of the axes."""
    dims, lat_deg, lon_deg = points
    if not isinstance(found.grid, LatLonGrid) or set(dims) != set(found.dims):
        return
    if dims != found.dims:
        lat_deg, lon_deg = lat_deg.T, lon_deg.T
    lat, lon = np.meshgrid(found.grid.lat_deg, found.grid.lon_deg, indexing="ij")
    away = max(
        float(np.abs(found.points(lat_deg) - lat.ravel()).max()),
        float(np.abs((found.points(lon_deg) - lon.ravel() + 180.0) % 360.0 - 180.0).max()),
    )
    if not away < UNEVEN * 180.0 / found.grid.lat_deg.size:
        raise DataError(
            f"the axes {' and '.join(found.dims)} of {array.name} and the latitudes and longitudes of its points "
            f"contradict each other by up to {away:.3g} degrees",
            advice="drop whichever is wrong",
        )


def _rows_and_columns(lat_deg: F64, lon_deg: F64) -> tuple[F64, F64, Ints] | None:
    """Axes of points (point,) on rows and columns in any order, and the place of each point of (lat, lon), flattened.

    None if the points are not those of a lat-lon grid. Latitudes fall if the first point is north of the last one;
    longitudes run eastward from 0. A column that repeats another one is left out.
    """
    if not (np.isfinite(lat_deg).all() and np.isfinite(lon_deg).all()):
        return None
    lat_axis, row = _levels(lat_deg)
    turned = lon_deg % 360.0
    lon_axis, column = _levels(np.where(turned > 360.0 - SAME_DEG, turned - 360.0, turned))
    if lat_deg[0] > lat_deg[-1]:
        lat_axis, row = lat_axis[::-1], lat_axis.size - 1 - row
    points = lat_axis.size * lon_axis.size
    if lat_deg.size not in (points, points + lat_axis.size):
        return None
    filled, take = np.unique(row * lon_axis.size + column, return_index=True)
    if filled.size != points:
        return None
    spare = np.setdiff1d(np.arange(lat_deg.size), take)
    if spare.size and (np.unique(column[spare]).size != 1 or np.unique(row[spare]).size != lat_axis.size):
        return None
    return lat_axis, lon_axis, take


def _levels(values: F64) -> tuple[F64, Ints]:
    """The rising levels of values that differ by rounding errors only, and the level of each value."""
    order = np.argsort(values, kind="stable")
    level = np.concatenate([[0], np.cumsum(np.diff(values[order]) > SAME_DEG)])
    place = np.empty(values.size, dtype=np.int64)
    place[order] = level
    return values[order][np.concatenate([[True], np.diff(level) > 0])], place


def _no_axis(array: "xr.DataArray", dataset: "xr.Dataset", kind: str) -> DataError:
    """The error for a variable without an axis of that kind."""
    others = [v for n, v in dataset.variables.items() if is_kind(v, str(n), kind) and set(v.dims) <= set(array.dims)]
    dims = f"{array.name} has the dimensions {array.dims}"
    advice = "regrid it to a lat-lon grid first, for example with `cdo remapbil,r360x180 IN OUT`"
    if any(v.ndim == 2 for v in others):
        return DataError(f"{dims} and a two-dimensional {kind}: a curvilinear grid", advice=advice)
    if any(v.ndim == 1 for v in others):
        return DataError(f"{dims} and a {kind} for each point: an unstructured or reduced grid", advice=advice)
    return DataError(
        f"{dims}, none of which is a {kind}",
        "a lat-lon grid, or HEALPix marked by its grid mapping",
        f"name the axis {NAMES[kind][0]}, or set its attribute standard_name to {kind}",
    )


def _check_lat(lat: F64, name: Any) -> F64:
    """The latitude axis, checked: monotone and from pole to pole."""
    steps = np.diff(lat)
    if lat.size < 4 or not np.isfinite(lat).all() or not ((steps > 0).all() or (steps < 0).all()):
        raise DataError(
            f"the latitudes of {name} are not 4 or more rising or falling numbers",
            advice="check the axis, and that the data covers the globe",
        )
    if np.abs(lat).max() > 90.001:
        raise DataError(
            f"the latitudes of {name} reach {lat[np.abs(lat).argmax()]:g}", "-90 to 90 degrees", "correct the latitudes"
        )
    reach = 1.5 * float(np.abs(steps).max())
    low, high = float(lat.min()), float(lat.max())
    if low > -90 + reach or high < 90 - reach:
        raise DataError(
            f"{name} covers latitudes {low:g} to {high:g} only",
            "a global field from pole to pole",
            "give data of the whole globe",
        )
    clipped: F64 = np.clip(lat, -90.0, 90.0)
    return clipped


def _check_lon(lon: F64, name: Any) -> F64:
    """The longitude axis, checked: evenly spaced and once around, without a repeated last column."""
    if lon.size < 4 or not np.isfinite(lon).all():
        raise DataError(
            f"the longitudes of {name} are not 4 or more numbers",
            advice="check the axis, and that the data covers the globe",
        )
    steps = (np.diff(lon) + 180.0) % 360.0 - 180.0  # an axis may jump from 180 to -180
    step = float(np.median(steps))
    turns = lon.size * abs(step) / 360.0
    if step and np.abs(steps / step - 1).max() <= UNEVEN:
        spare = turns * lon.size - lon.size  # columns more than once around
        if abs(spare) < 0.5:
            return lon
        if abs(spare - 1) < 0.5:
            return lon[:-1]
        if turns < 1:
            raise DataError(
                f"{name} covers longitudes {lon[0]:g} to {lon[-1]:g} only",
                "a global field once around",
                "give data of the whole globe",
            )
    raise DataError(
        f"the longitudes of {name} ({lon[0]:g} to {lon[-1]:g}, {lon.size} of them) are not evenly spaced once around",
        advice="regrid it first, for example with `cdo remapbil,r360x180 IN OUT`",
    )
