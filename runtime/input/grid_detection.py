"""Find the grid of a variable and the order of its points: lat-lon, or HEALPix as its many conventions mark it.

Attributes declare the HEALPix zoom and order: those of a CF grid mapping, the older healpix_nside and healpix_order,
those of xdggs on the coordinate of cell numbers, or the object `dggs` of the Zarr convention
(https://github.com/zarr-conventions/dggs). Coordinates have the last word: cells are put where their numbers say, and
latitudes and longitudes of cells must agree with the declared order.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fsae.runtime.arrays import F64, Ints
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.grids import Grid, HealpixGrid
from fsae.runtime.sphere.healpix import face_orders, npix, pixel_centres, pixel_of, ring_to_nested

from .lat_lon import Located, coordinates_of_points, find_lat_lon
from .variables import standard

if TYPE_CHECKING:
    import xarray as xr


CELL_NAMES = ("cell", "cells", "ncells", "pix", "pixel", "healpix", "hp", "hpx", "healpix_index", "values")
FACE_NAMES = ("face", "faces")
INDEX_NAMES = ("cell_ids", "cell_id", "healpix_index", "ipix")
ORDERS = {"nested": "nested", "nest": "nested", "ring": "ring", "true": "nested", "false": "ring"}
ORDER_KEYS = ("indexing_scheme", "healpix_order", "ordering", "nest")
LEVEL_KEYS = ("refinement_level", "level", "resolution", "depth")
BARE_KEYS = ("nside", "ordering")  # that count without a word on HEALPix
NSIDE_KEYS = ("healpix_nside", "nside")
MOST_ZOOM = 15
ELLIPSOID_DEG = 0.2  # between the latitude of a cell on an ellipsoid and on a sphere
CLEAR = 0.5  # the right order of cells leaves jumps between faces with less than this share of the next best's


def find_grid(array: "xr.DataArray", dataset: "xr.Dataset") -> Grid:
    """The grid of a variable; DataError if it is regional, curvilinear, unstructured or unclear."""
    return locate(array, dataset).grid


def locate(array: "xr.DataArray", dataset: "xr.Dataset") -> Located:
    """The grid of a variable, the dimensions of its points, (lat, lon) or (cell,), and their order.

    DataError if the grid is regional, curvilinear, unstructured or unclear, or if its description contradicts itself.
    """
    mapping = _grid_mapping(array, dataset)
    healpix = _healpix(array, dataset, mapping)
    if healpix is not None:
        return healpix
    kind = str(mapping.get("grid_mapping_name", "latitude_longitude"))
    if kind == "latitude_longitude":
        return find_lat_lon(array, dataset)
    if coordinates_of_points(array, dataset) is None:
        raise DataError(f"{array.name} is on a {kind!r} grid", "lat-lon or HEALPix", "regrid it first")
    return find_lat_lon(array, dataset, axes=False)


def _grid_mapping(array: "xr.DataArray", dataset: "xr.Dataset") -> dict[str, Any]:
    """Attributes of the variable that `grid_mapping` names (decoding moves that attribute to the encoding)."""
    named = str(array.attrs.get("grid_mapping", array.encoding.get("grid_mapping", "")))
    name = named.split(":", maxsplit=1)[0].strip()
    return dict(dataset.variables[name].attrs) if name in dataset.variables else {}


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What attributes say about HEALPix cells; `where` names the holder of each order found."""

    attributes: Mapping[str, Any]
    whole: bool  # the grid is said to be HEALPix, not only an order
    orders: Mapping[str, str]  # order as written, by where
    dim: str | None  # dimension of cells, if it is named
    index: str | None  # coordinate of cell numbers, if one is named


def _healpix(array: "xr.DataArray", dataset: "xr.Dataset", mapping: dict[str, Any]) -> Located | None:
    """The HEALPix grid of a variable; None for other grids."""
    declared = _declared(array, dataset, mapping)
    faces = _faces(array)
    if faces is not None:
        return _on_faces(array, dataset, faces)
    dim = declared.dim or next((str(d) for d in reversed(array.dims) if str(d).lower() in CELL_NAMES), None)
    if not declared.whole and not declared.orders:
        by_places = _by_places_alone(array, dataset)
        if by_places is not None or dim is None or coordinates_of_points(array, dataset) is not None:
            return by_places
    if dim is None and not {"lat", "latitude"} & {str(d).lower() for d in array.dims}:
        dim = str(array.dims[-1]) if array.dims else None
    cells = 0 if dim is None else int(array.sizes.get(dim, 0))
    if dim is None or (not declared.whole and not _is_sphere(cells)):
        return None  # attributes of the dataset that are about other variables, or a dimension of a HEALPix name alone
    return _on_cells(array, dataset, dim, declared)


def _on_cells(array: "xr.DataArray", dataset: "xr.Dataset", dim: str, declared: "Declared") -> Located:
    """HEALPix cells along one dimension, in the declared order or by their coordinates."""
    cells = int(array.sizes.get(dim, 0))
    zoom = _zoom(array, declared.attributes, cells)
    order = _order(array, declared)
    numbers = _numbers(array, dataset, dim, declared)
    if order is None:
        found = _by_places_alone(array, dataset) if numbers is None else None
        if found is None:
            raise _no_order(array, declared)
        return found
    points = coordinates_of_points(array, dataset, (dim,))
    if points is not None:
        ids = np.arange(cells) if numbers is None else numbers.values
        _check_places(array, zoom, order, ids, points[1:], declared)
    take = None
    if numbers is not None and not np.array_equal(numbers.values, np.arange(cells)):
        take = np.argsort(numbers.values)
    how = "" if numbers is None else f", cells by their numbers in {numbers.name}"
    return Located(grid=HealpixGrid(zoom=zoom, order=order), dims=(dim,), take=take, how=how)


# What attributes declare.


def _declared(array: "xr.DataArray", dataset: "xr.Dataset", mapping: dict[str, Any]) -> Declared:
    """The attributes of a variable's HEALPix cells; DataError for cells of another discrete global grid."""
    attributes: dict[str, Any] = {}
    orders: dict[str, str] = {}
    dim = index = None
    whole = False
    for where, holder in _holders(array, dataset, mapping):  # the closer to the variable, the stronger
        if "grid_mapping_name" in holder and str(holder["grid_mapping_name"]) != "healpix":
            continue
        own = {k: v for k, v in holder.items() if k.startswith("healpix_") or k in BARE_KEYS}
        kind = next((str(holder[k]).lower() for k in ("grid_mapping_name", "grid_name", "name") if k in holder), None)
        if kind is not None and kind != "healpix":
            raise DataError(f"{array.name} is on a {kind!r} grid", "lat-lon or HEALPix", "regrid it first")
        if kind == "healpix":
            own, whole = dict(holder), True
            dim = str(holder["spatial_dimension"]) if "spatial_dimension" in holder else dim
            index = str(holder["coordinate"]) if "coordinate" in holder else index
        attributes |= own
        whole = whole or "healpix_nside" in own
        orders |= {f"{key} of {where}": str(own[key]) for key in ORDER_KEYS if key in own}
    return Declared(attributes=attributes, whole=whole, orders=orders, dim=dim, index=index)


def _holders(
    array: "xr.DataArray", dataset: "xr.Dataset", mapping: dict[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Whatever may hold attributes of HEALPix cells, and its name: grid mapping, file, cell numbers, variable."""
    if mapping:
        yield "its grid mapping", _without_names(mapping)
    elif "crs" in dataset.variables:
        yield "crs", _without_names(dataset.variables["crs"].attrs)
    for where, attrs in (("the file", dataset.attrs), (str(array.name), array.attrs)):
        dggs = _object(attrs.get("dggs"))
        if dggs is not None and str(dggs.get("spatial_dimension")) in array.dims:
            if str(dggs.get("compression", "none")) != "none":
                raise DataError(
                    f"the cell numbers of {array.name} are compressed ({dggs['compression']!r})",
                    "one number for each cell",
                    "write them with the compression 'none'",
                )
            yield f"the attribute dggs of {where}", {"name": "", **dggs}
    yield "the file", _without_names(dataset.attrs)
    for name, variable in dataset.variables.items():
        if variable.ndim == 1 and variable.dims[0] in array.dims and "grid_name" in variable.attrs:
            yield str(name), {**variable.attrs, "coordinate": name, "spatial_dimension": variable.dims[0]}
    yield str(array.name), _without_names(array.attrs)


def _without_names(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes without those that mean something else on a file or a variable."""
    others = ("name", "grid_name", "coordinate", "spatial_dimension")
    return {str(k): v for k, v in attrs.items() if k not in others}


def _object(value: Any) -> Mapping[str, Any] | None:
    """A JSON object, which NetCDF attributes hold as text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, Mapping) else None


def _is_sphere(cells: int) -> bool:
    return cells > 0 and cells in (npix(zoom) for zoom in range(MOST_ZOOM + 1))


def _zoom(array: "xr.DataArray", attributes: Mapping[str, Any], cells: int) -> int:
    """Zoom by the attributes, or else by the number of cells; both must agree."""
    try:
        level = next((attributes[key] for key in LEVEL_KEYS if attributes.get(key) is not None), None)
        nside = next((int(attributes[key]) for key in NSIDE_KEYS if key in attributes), None)
        if level is not None:
            zoom = int(level)
        elif nside is not None:
            zoom = nside.bit_length() - 1
            if nside < 1 or nside != 1 << zoom:
                raise DataError(f"{array.name} is on HEALPix of nside {nside}", "a power of two", "regrid it first")
        else:
            zoom = next((z for z in range(MOST_ZOOM + 1) if npix(z) == cells), -1)
    except (TypeError, ValueError):
        raise DataError(f"the HEALPix attributes of {array.name} are not numbers", advice="correct them") from None
    if not 0 <= zoom <= MOST_ZOOM or npix(zoom) != cells:
        expected = f"{npix(zoom)} cells for zoom {zoom}" if 0 <= zoom <= MOST_ZOOM else "12 * 4**zoom cells"
        raise DataError(f"{array.name} has {cells} cells along {array.dims}", expected, "the whole sphere is needed")
    return zoom


def _order(array: "xr.DataArray", declared: Declared) -> str | None:
    """The declared order, "nested" or "ring"; None if there is none that is known. DataError if two contradict."""
    known = {where: ORDERS[text.lower()] for where, text in declared.orders.items() if text.lower() in ORDERS}
    if len(set(known.values())) > 1:
        said = " and ".join(f"{order} ({where})" for where, order in known.items())
        raise DataError(
            f"the order of the HEALPix cells of {array.name} is contradictory: {said}",
            advice="correct the attribute that is wrong",
        )
    return next(iter(known.values()), None)


def _no_order(array: "xr.DataArray", declared: Declared) -> DataError:
    """The error for HEALPix cells of unknown order."""
    named = list(declared.orders.values())[-1:]
    found = f"has {named[0]!r} as" if named else "does not say"
    return DataError(
        f"{array.name} {found} its order of HEALPix cells",
        "nested or ring",
        "set the attribute healpix_order to one of them",
    )


# What coordinates tell: the numbers of the cells, or their latitudes and longitudes.


class Numbers(NamedTuple):
    """The number of each cell, and the name of the coordinate."""

    name: str
    values: Ints


def _numbers(array: "xr.DataArray", dataset: "xr.Dataset", dim: str, declared: Declared) -> Numbers | None:
    """The coordinate of cell numbers; None without one, or if it only counts from 1.

    DataError unless it holds each cell of the sphere once.
    """
    cells = int(array.sizes[dim])
    if declared.index is not None and declared.index not in dataset.variables:
        raise DataError(
            f"the cell numbers of {array.name} should be in {declared.index!r}, which is not there",
            advice="add that coordinate, or correct the attribute that names it",
        )
    found = []
    for name in map(str, dataset.variables):
        variable = dataset.variables[name]
        if variable.dims != (dim,) or variable.dtype.kind not in "iuf":
            continue
        said = name == declared.index or standard(variable) == "healpix_index"
        if said or (name in (dim, *INDEX_NAMES) and variable.dtype.kind in "iu"):
            found.append((not said, name, variable))
    if not found:
        return None
    loose, name, variable = min(found, key=lambda one: one[:2])
    values = np.asarray(variable.values)
    if loose and np.array_equal(values, np.arange(1, cells + 1)):
        return None
    if not np.array_equal(np.sort(values), np.arange(cells)):
        raise DataError(
            f"the cell numbers {name} of {array.name} run from {values.min()} to {values.max()}",
            f"each of 0 to {cells - 1} once",
            "the whole sphere is needed",
        )
    return Numbers(name=name, values=values.astype(np.int64))


def _check_places(
    array: "xr.DataArray", zoom: int, order: str, ids: Ints, points: tuple[F64, F64], declared: Declared
) -> None:
    """Raise DataError if the latitudes and longitudes of cells are not those of their places in the order."""
    nested = ids if order == "nested" else np.argsort(ring_to_nested(zoom))[ids]
    if _are_centres(zoom, nested, points):
        return
    other = "ring" if order == "nested" else "nested"
    turned = ids if other == "nested" else np.argsort(ring_to_nested(zoom))[ids]
    tell = f"{other} order" if _are_centres(zoom, turned, points) else "another order or other places"
    said = " and ".join(dict.fromkeys(declared.orders)) or "its attributes"
    raise DataError(
        f"the latitudes and longitudes of the cells of {array.name} tell {tell}, but {said} says {order}",
        advice=f"correct healpix_order, or drop the latitudes and longitudes if {order} is right",
    )


def _are_centres(zoom: int, nested: Ints, points: tuple[F64, F64]) -> bool:
    """True if points [degrees] are in the nested pixels, or as close to their centres as those on an ellipsoid are."""
    lat, lon = (values.ravel() for values in points)
    if not (np.isfinite(lat).all() and np.isfinite(lon).all() and np.abs(lat).max() <= 90.001):
        return False
    lat = np.clip(lat, -90.0, 90.0)
    off = np.flatnonzero(pixel_of(zoom, lat, lon) != nested)
    if not off.size:
        return True
    centre_lat, centre_lon = (centre[nested[off]] for centre in pixel_centres(zoom))
    east = (lon[off] - centre_lon + 180.0) % 360.0 - 180.0
    away = np.hypot(lat[off] - centre_lat, east * np.cos(np.radians(centre_lat)))
    return bool((away < ELLIPSOID_DEG).all())


def _by_places_alone(array: "xr.DataArray", dataset: "xr.Dataset") -> Located | None:
    """The HEALPix grid of which latitudes and longitudes are the centres; None if they are not."""
    points = coordinates_of_points(array, dataset)
    if points is None or len(points[0]) != 1 or not _is_sphere(points[1].size):
        return None
    (dim,), lat, lon = points
    zoom = next(z for z in range(MOST_ZOOM + 1) if npix(z) == lat.size)
    if not (np.isfinite(lat).all() and np.isfinite(lon).all() and np.abs(lat).max() <= 90.0):
        return None
    nested = pixel_of(zoom, lat, lon)
    centre_lat, _ = pixel_centres(zoom)
    if np.unique(nested).size != nested.size or np.abs(centre_lat[nested] - lat).max() > ELLIPSOID_DEG:
        return None
    return Located(
        grid=HealpixGrid(zoom=zoom, order="nested"),
        dims=(dim,),
        take=np.argsort(nested),
        how=", cells by their latitudes and longitudes",
    )


# Cells as 12 square faces, as convolutional networks take them.


def _faces(array: "xr.DataArray") -> tuple[str, str, str] | None:
    """The dimensions of 12 faces and of the cells in each, as (face, height, width); None for other variables."""
    face = next((str(d) for d in array.dims if str(d).lower() in FACE_NAMES and array.sizes[d] == 12), None)
    rest = [str(d) for d in array.dims if str(d) != face]
    if face is None or len(rest) < 2 or array.sizes[rest[-1]] != array.sizes[rest[-2]]:
        return None
    side = int(array.sizes[rest[-1]])
    return (face, rest[-2], rest[-1]) if side == side & -side and _is_sphere(12 * side * side) else None


def _on_faces(array: "xr.DataArray", dataset: "xr.Dataset", dims: tuple[str, str, str]) -> Located:
    """HEALPix cells on faces: by latitudes and longitudes, or in the order in which neighbours fit together.

    Files do not say how cells are arranged in a face: from any corner either way round (earth2grid's HEALPIX_PAD_XY
    starts at the northern one, clockwise), or in nested order. In the right order values are continuous along rings
    from face to face; if the first field does not tell clearly, it is a DataError.
    """
    side = int(array.sizes[dims[-1]])
    zoom = side.bit_length() - 1
    orders = face_orders(zoom)
    points = coordinates_of_points(array, dataset, dims)
    if points is not None:
        lat, lon = (values.transpose([points[0].index(dim) for dim in dims]).ravel() for values in points[1:])
        told = next((name for name, nested in orders.items() if _are_centres(zoom, nested, (lat, lon))), None)
        reason = "by the latitudes and longitudes of the cells"
    else:
        first = array.isel({d: 0 for d in array.dims if d not in dims}).transpose(*dims).values
        told, reason = (
            _smoothest(np.asarray(first, dtype=np.float64).ravel(), zoom, orders),
            "in which the field is continuous",
        )
    if told is None:
        raise DataError(
            f"{array.name} is on 12 HEALPix faces of {side} x {side} cells and does not say their order in a face",
            advice=f"add the coordinates lat and lon along {', '.join(dims)}, or bring it to nested order",
        )
    return Located(
        grid=HealpixGrid(zoom=zoom, order="nested"),
        dims=dims,
        take=np.argsort(orders[told]),
        how=f", faces in {told} order, {reason}",
    )


def _smoothest(values: F64, zoom: int, orders: Mapping[str, Ints]) -> str | None:
    """The order in which values have by far the smallest jumps between neighbours in different faces."""
    ring = np.argsort(ring_to_nested(zoom))  # nested pixels along the rings
    pairs = np.stack([ring[:-1], ring[1:]])
    pairs = pairs[:, np.subtract(*(pairs >> (2 * zoom))) != 0]
    jumps = {name: values[np.argsort(nested)][pairs] for name, nested in orders.items()}
    sizes = {name: float(np.nanmean(np.square(one[1] - one[0]))) for name, one in jumps.items()}
    if not all(map(np.isfinite, sizes.values())):
        return None
    (best, least), (_, next_best) = sorted(sizes.items(), key=lambda one: one[1])[:2]
    return best if least < CLEAR * next_best else None
