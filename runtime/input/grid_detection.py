"""Find the grid of a variable: a global regular or Gaussian lat-lon grid, or HEALPix in either order.

Our own search, as cf-xarray takes the axes of a rotated pole (grid_latitude in degrees_north), or a dimension that is
called "lateral", for latitudes.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from fsae.runtime.arrays import F64
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.grids import Grid, HealpixGrid, LatLonGrid
from fsae.runtime.sphere.healpix import npix

if TYPE_CHECKING:
    import xarray as xr


LAT_NAMES = ("lat", "latitude", "nav_lat", "y", "rlat")
LON_NAMES = ("lon", "longitude", "nav_lon", "x", "rlon")
CELL_NAMES = ("cell", "cells", "ncells", "pix", "pixel", "healpix", "hp", "hpx", "healpix_index", "values")
ORDERS = {"nested": "nested", "nest": "nested", "ring": "ring"}
LON_TOLERANCE = 0.02  # of the spacing: float32 axes and axes written with two digits


def find_grid(array: "xr.DataArray", dataset: "xr.Dataset") -> Grid:
    """The grid of a variable; DataError if it is regional, curvilinear, unstructured or unclear."""
    return locate(array, dataset)[0]


def locate(array: "xr.DataArray", dataset: "xr.Dataset") -> tuple[Grid, tuple[str, ...]]:
    """The grid of a variable and the names of its dimensions: (lat, lon) or (cell,).

    A last longitude that repeats the first is left out of the grid: read only the first `lon_deg.size` columns.
    """
    mapping = _grid_mapping(array, dataset)
    healpix = _healpix(array, dataset, mapping)
    if healpix is not None:
        return healpix
    kind = str(mapping.get("grid_mapping_name", "latitude_longitude"))
    if kind != "latitude_longitude":
        raise DataError(f"{array.name} is on a {kind!r} grid", "lat-lon or HEALPix", "regrid it first")
    return _lat_lon(array, dataset)


def _grid_mapping(array: "xr.DataArray", dataset: "xr.Dataset") -> dict[str, Any]:
    """Attributes of the variable that `grid_mapping` names (decoding moves that attribute to the encoding)."""
    named = str(array.attrs.get("grid_mapping", array.encoding.get("grid_mapping", "")))
    name = named.split(":", maxsplit=1)[0].strip()
    return dict(dataset.variables[name].attrs) if name in dataset.variables else {}


def _healpix(
    array: "xr.DataArray", dataset: "xr.Dataset", mapping: dict[str, Any]
) -> tuple[HealpixGrid, tuple[str, ...]] | None:
    """HEALPix grid and cell dimension, from the CF grid mapping or the older attributes; None for other grids."""
    attributes = dict(mapping)
    crs = dict(dataset.variables["crs"].attrs) if "crs" in dataset.variables and not mapping else {}
    for holder in (crs, dict(dataset.attrs), dict(array.attrs)):  # the closer to the variable, the stronger
        attributes |= {k: v for k, v in holder.items() if k.startswith("healpix_") or k in ("nside", "ordering")}
        if holder.get("grid_mapping_name") == "healpix":
            attributes |= holder
    dim = next((str(d) for d in reversed(array.dims) if str(d).lower() in CELL_NAMES), None)
    declared = attributes.get("grid_mapping_name") == "healpix" or "healpix_nside" in attributes
    if not declared and "healpix_order" not in attributes and dim is None:
        return None
    if dim is None:
        dim = str(array.dims[-1]) if array.dims else ""
        if {"lat", "latitude"} & {str(d).lower() for d in array.dims}:
            return None  # attributes of the dataset that are about other variables
    cells = int(array.sizes.get(dim, 0))
    if not declared and not _is_sphere(cells):
        return None  # a dimension of a HEALPix name alone
    zoom = _healpix_zoom(array, attributes, cells)
    named = attributes.get("indexing_scheme", attributes.get("healpix_order", attributes.get("ordering")))
    order = ORDERS.get(str(named).lower())
    if order is None:
        found = "does not say" if named is None else f"has {named!r} as"
        raise DataError(
            f"{array.name} {found} its order of HEALPix cells",
            "nested or ring",
            "set the attribute healpix_order to one of them",
        )
    return HealpixGrid(zoom=zoom, order=order), (dim,)


def _is_sphere(cells: int) -> bool:
    return cells > 0 and cells in (npix(zoom) for zoom in range(16))


def _healpix_zoom(array: "xr.DataArray", attributes: dict[str, Any], cells: int) -> int:
    """Zoom by the attributes, or else by the number of cells; both must agree."""
    try:
        if "refinement_level" in attributes:
            zoom = int(attributes["refinement_level"])
        elif "healpix_nside" in attributes or "nside" in attributes:
            nside = int(attributes.get("healpix_nside", attributes.get("nside", 0)))
            zoom = nside.bit_length() - 1
            if nside < 1 or nside != 1 << zoom:
                raise DataError(f"{array.name} is on HEALPix of nside {nside}", "a power of two", "regrid it first")
        else:
            zoom = next((z for z in range(16) if npix(z) == cells), -1)
    except (TypeError, ValueError):
        raise DataError(f"the HEALPix attributes of {array.name} are not numbers", advice="correct them") from None
    if not 0 <= zoom <= 15 or npix(zoom) != cells:
        expected = f"{npix(zoom)} cells for zoom {zoom}" if 0 <= zoom <= 15 else "12 * 4**zoom cells"
        raise DataError(f"{array.name} has {cells} cells along {array.dims}", expected, "the whole sphere is needed")
    return zoom


def _is_axis(variable: "xr.Variable", name: str, kind: str) -> bool:
    """True if a variable is a "latitude" or "longitude" by its CF attributes, or else by its usual name."""
    standard = str(variable.attrs.get("standard_name", "")).lower()
    units = str(variable.attrs.get("units", "")).lower().replace("_", "").replace(" ", "")
    if standard:
        return standard == kind
    compass = ("degreesnorth", "degreenorth", "degreesn", "degreen")
    if kind == "longitude":
        compass = ("degreeseast", "degreeeast", "degreese", "degreee")
    if units in compass:
        return True
    return name.lower() in (LAT_NAMES if kind == "latitude" else LON_NAMES)[:3]


def _axis_letter(variable: "xr.Variable") -> str:
    return str(variable.attrs.get("axis", "")).upper()


def _lat_lon(array: "xr.DataArray", dataset: "xr.Dataset") -> tuple[LatLonGrid, tuple[str, str]]:
    found: dict[str, tuple[str, F64]] = {}
    for kind, letter, names in (("latitude", "Y", LAT_NAMES), ("longitude", "X", LON_NAMES)):
        own = [str(d) for d in array.dims if str(d) in dataset.variables and dataset.variables[d].ndim == 1]
        dim = next((d for d in own if _is_axis(dataset.variables[d], d, kind)), None)
        if dim is None:  # an axis marked or named as X or Y only, in degrees or without a unit
            plain = ("", "degrees", "degree", "deg")
            bare = [d for d in own if str(dataset.variables[d].attrs.get("units", "")).lower() in plain]
            bare = [d for d in bare if "standard_name" not in dataset.variables[d].attrs]
            bare = [d for d in bare if _axis_letter(dataset.variables[d]) == letter or d.lower() in names]
            dim = bare[0] if bare else None
        if dim is None:
            raise DataError(_no_axis(array, dataset, kind))
        found[kind] = dim, np.asarray(dataset.variables[dim].values, dtype=np.float64)
    (lat_dim, lat), (lon_dim, lon) = found["latitude"], found["longitude"]
    return LatLonGrid(lat_deg=_check_lat(lat, array.name), lon_deg=_check_lon(lon, array.name)), (lat_dim, lon_dim)


def _no_axis(array: "xr.DataArray", dataset: "xr.Dataset", kind: str) -> str:
    """The message for a variable without an axis of that kind."""
    others = [v for n, v in dataset.variables.items() if _is_axis(v, str(n), kind) and set(v.dims) <= set(array.dims)]
    dims = f"{array.name} has the dimensions {array.dims}"
    if any(v.ndim == 2 for v in others):
        return f"{dims} and a two-dimensional {kind}: a curvilinear grid; regrid it to a lat-lon grid first"
    if any(v.ndim == 1 for v in others):
        return f"{dims} and a {kind} for each point: an unstructured or reduced grid; regrid it to a lat-lon grid first"
    return f"{dims}, none of which is a {kind}: expected a lat-lon grid, or HEALPix marked by its grid mapping"


def _check_lat(lat: F64, name: Any) -> F64:
    """The latitude axis, checked: monotone and from pole to pole."""
    steps = np.diff(lat)
    if lat.size < 4 or not np.isfinite(lat).all() or not ((steps > 0).all() or (steps < 0).all()):
        raise DataError(f"the latitudes of {name} are not 4 or more rising or falling numbers")
    if np.abs(lat).max() > 90.001:
        raise DataError(f"the latitudes of {name} reach {lat[np.abs(lat).argmax()]:g}", "-90 to 90 degrees")
    reach = 1.5 * float(np.abs(steps).max())
    low, high = float(lat.min()), float(lat.max())
    if low > -90 + reach or high < 90 - reach:
        raise DataError(f"{name} covers latitudes {low:g} to {high:g} only", "a global field from pole to pole")
    clipped: F64 = np.clip(lat, -90.0, 90.0)
    return clipped


def _check_lon(lon: F64, name: Any) -> F64:
    """The longitude axis, checked: evenly spaced and once around, without a repeated last column."""
    if lon.size < 4 or not np.isfinite(lon).all():
        raise DataError(f"the longitudes of {name} are not 4 or more numbers")
    steps = (np.diff(lon) + 180.0) % 360.0 - 180.0  # an axis may jump from 180 to -180
    step = float(np.median(steps))
    turns = lon.size * abs(step) / 360.0
    if step and np.abs(steps / step - 1).max() <= LON_TOLERANCE:
        spare = turns * lon.size - lon.size  # columns more than once around
        if abs(spare) < 0.5:
            return lon
        if abs(spare - 1) < 0.5:
            return lon[:-1]
        if turns < 1:
            raise DataError(f"{name} covers longitudes {lon[0]:g} to {lon[-1]:g} only", "a global field once around")
    raise DataError(
        f"the longitudes of {name} ({lon[0]:g} to {lon[-1]:g}, {lon.size} of them) are not evenly spaced once around"
    )
