"""The grid of fields as keys of ecCodes: WMO FM 92, templates 3.0 (lat-lon), 3.40 (Gaussian) and 3.150 (HEALPix)."""

import numpy as np

from fsae.runtime.arrays import F64
from fsae.runtime.errors import UsageError
from fsae.runtime.output.layout import Cells
from fsae.runtime.sphere.grids import LatLonGrid

MICRODEGREES, TURN = 1e6, 360_000_000  # in a degree, and in all of them: the unit of angles
HALF_TURN_DEG, FIRST_ZERO, TENTH = 180.0, 2.404826, 0.1  # the zero is that of the Bessel function J0
FEWEST_ROWS = 4
NEAR = 1e-3  # of the distance of two points: how far axes are from even spacing at most, as their numbers are rounded

Keys = dict[str, int | str | None]


def grid_keys(grid: Cells | LatLonGrid) -> Keys:
    """The keys of a grid; UsageError if it is a part of HEALPix, or neither evenly spaced nor a whole Gaussian grid."""
    sphere: Keys = {"shapeOfTheEarth": 6}  # a sphere of 6371.229 km
    if isinstance(grid, Cells):
        if grid.chosen is not None:
            raise UsageError(f"found {grid} for GRIB", "all of them, or a lat-lon grid", "give such as --grid 1.5")
        return {"gridType": "healpix", **sphere, "Nside": 1 << grid.zoom, "orderingConvention": "nested"} | {
            "longitudeOfFirstGridPointInDegrees": 45  # of the base cell 0
        }
    (south, north, lat_step), (west, east, lon_step) = (_axis(axis) for axis in (grid.lat_deg, grid.lon_deg))
    gaussian = gaussian_axis(grid.lat_deg) if lat_step is None else None
    if (lat_step is None and gaussian is None) or lon_step is None or abs(east - west) >= TURN:
        what = f"found a {grid} that is neither evenly spaced nor Gaussian, or closes the circle, for GRIB"
        raise UsageError(what, advice="give such as --grid 1.5")
    rows: Keys = {"jDirectionIncrement": abs(lat_step or 0) or None}
    if gaussian is not None:  # ecCodes wants ends that are rows of it
        south, north, _ = _axis(gaussian)
        rows = {"numberOfParallelsBetweenAPoleAndTheEquator": gaussian.size // 2}
    return {
        "gridType": "regular_ll" if gaussian is None else "regular_gg",
        **sphere,
        "Ni": grid.lon_deg.size,
        "Nj": grid.lat_deg.size,
        "latitudeOfFirstGridPoint": south,
        "latitudeOfLastGridPoint": north,
        "longitudeOfFirstGridPoint": west % TURN,
        "longitudeOfLastGridPoint": east % TURN,
        "iDirectionIncrement": abs(lon_step) or None,
        **rows,
        "iScansNegatively": int(lon_step < 0),
        "jScansPositively": int(grid.lat_deg[-1] > grid.lat_deg[0]),
        "jPointsAreConsecutive": 0,
        "alternativeRowScanning": 0,
    }


def _axis(axis: F64) -> tuple[int, int, int | None]:
    """First and last point and step of an axis [microdegrees]; no step if it is not evenly spaced."""
    first, last = (round(float(end) * MICRODEGREES) for end in axis[[0, -1]])
    if axis.size == 1:
        return first, last, 0
    even = np.linspace(axis[0], axis[-1], axis.size)
    step = float(axis[-1] - axis[0]) / (axis.size - 1)
    near = step and bool((np.abs(axis - even) <= NEAR * abs(step)).all())
    return first, last, round(step * MICRODEGREES) if near else None


def gaussian_axis(lat_deg: F64) -> F64 | None:
    """Exact latitudes [degrees] of the Gaussian grid whose rows these are, from either pole; None if of none."""
    if lat_deg.size < FEWEST_ROWS or lat_deg.size % 2:
        return None
    found = lat_deg if lat_deg[0] > lat_deg[-1] else lat_deg[::-1]
    near = NEAR * HALF_TURN_DEG / lat_deg.size
    first = np.degrees(np.pi / 2 - FIRST_ZERO / (lat_deg.size + 0.5))  # to 2 % of the distance of two rows
    if abs(found[0] - first) > TENTH * HALF_TURN_DEG / lat_deg.size:  # others need not be computed
        return None
    exact = gaussian_latitudes(lat_deg.size)
    if not (np.abs(found - exact) <= near).all():
        return None
    return exact if found is lat_deg else exact[::-1]


def gaussian_latitudes(rows: int) -> F64:
    """Latitudes [degrees] of a Gaussian grid from the north: of the zeros of the Legendre polynomial of that degree.

    By Newton's method from the approximation of Tricomi. The derivative is n (x P_n - P_{n-1}) / (x^2 - 1).

    >>> gaussian_latitudes(4).round(4).tolist()
    [59.4444, 19.8757, -19.8757, -59.4444]
    """
    sine = np.cos(np.pi * (np.arange(1, rows + 1) - 0.25) / (rows + 0.5))
    for _ in range(4):  # each doubles the digits
        before, here = np.ones_like(sine), sine.copy()
        for degree in range(2, rows + 1):
            before, here = here, ((2 * degree - 1) * sine * here - (degree - 1) * before) / degree
        sine -= here * (sine**2 - 1) / (rows * (sine * here - before))
    found: F64 = np.degrees(np.arcsin(sine))
    return found
