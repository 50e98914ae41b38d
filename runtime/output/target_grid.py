"""The lat-lon grid of a file, for output on the same points: two axes, of the globe or of a region."""

from typing import TYPE_CHECKING

import numpy as np

from fsae.runtime.arrays import F64
from fsae.runtime.errors import UsageError
from fsae.runtime.input.lat_lon import degrees, is_kind
from fsae.runtime.input.sources import Given, open_source
from fsae.runtime.sphere.grids import MOST_POINTS, LatLonGrid

from .files import read_paths

if TYPE_CHECKING:
    import xarray as xr

LIKE = "like "  # begins a grid that is given as a file


def grid_like(given: Given) -> LatLonGrid:
    """The grid of the axes of latitude and longitude in a file or dataset, as stored; no output on it replaces that.

    UsageError if it has no such two axes, or more than one pair; DataError if it cannot be read.
    """
    with open_source(given) as (dataset, where):
        lat_deg, lon_deg = _axis(dataset, "latitude", where), _axis(dataset, "longitude", where)
    steps = np.diff(lat_deg)
    if not (
        np.isfinite(lat_deg).all() and (np.abs(lat_deg) <= 90.001).all() and ((steps > 0).all() or (steps < 0).all())
    ):
        raise UsageError(f"the latitudes in {where} do not rise or fall within -90 to 90 degrees", advice=ADVICE)
    if not (np.isfinite(lon_deg).all() and (np.abs(lon_deg) <= 540).all()):
        raise UsageError(f"the longitudes in {where} are not within -540 to 540 degrees", advice=ADVICE)
    if lat_deg.size * lon_deg.size > MOST_POINTS:
        raise UsageError(
            f"the grid in {where} has {lat_deg.size * lon_deg.size} points", f"at most {MOST_POINTS}", ADVICE
        )
    files = tuple(path.absolute() for path in read_paths(given))
    return LatLonGrid(lat_deg=np.clip(lat_deg, -90, 90), lon_deg=lon_deg, files=files)


ADVICE = "give --grid degrees such as 1.5, or rows x columns such as 120x240"


def _axis(dataset: "xr.Dataset", kind: str, where: str) -> F64:
    """The one axis of that kind."""
    found = [v for name, v in dataset.variables.items() if is_kind(v, str(name), kind)]
    axes = [variable for variable in found if variable.ndim == 1]
    if len(axes) != 1 or len({v.dims for v in found}) != 1:
        shapes = ", ".join(f"({', '.join(map(str, v.dims))})" for v in found) or "none"
        raise UsageError(f"found the {kind}s {shapes} in {where}", f"one axis of {kind}", ADVICE)
    other = "longitude" if kind == "latitude" else "latitude"
    if any(v.dims == axes[0].dims and is_kind(v, str(name), other) for name, v in dataset.variables.items()):
        raise UsageError(f"{where} has a {kind} for each point", f"one axis of {kind}", ADVICE)
    return degrees(axes[0])
