"""Values of GRIB messages stand where ecCodes says, whatever the order in which a message has them."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from fsae.runtime.bundle.manifest import Variable
from fsae.runtime.input.joining import read_fields
from fsae.runtime.sphere.healpix import pixel_centres, ring_to_nested

eccodes = pytest.importorskip("eccodes", exc_type=(ImportError, RuntimeError))

TAS = Variable(
    name="tas",
    standard_name="air_temperature",
    long_name="air temperature",
    units="K",
    cell_methods="time: mean",
    valid_range=(150.0, 350.0),
)


def temperature(lat_deg: np.ndarray, lon_deg: np.ndarray) -> np.ndarray:
    """A field without symmetries: warm at the equator, colder in the south, a wave along each row."""
    lat, lon = np.radians(lat_deg), np.radians(lon_deg)
    return 260 + 30 * np.cos(lat) + 6 * np.sin(lat) + 4 * np.cos(lat) * np.sin(lon + 0.7)


def message(path: Path, edition: int, west_first: bool, north_first: bool, columns: bool, first_lon: float) -> Path:
    """A message of 2 m temperature on 10 degrees, its points in that order; longitudes from `first_lon` on, in turn."""
    handle = eccodes.codes_grib_new_from_samples(f"regular_ll_sfc_grib{edition}")
    last_lon = (first_lon + 350) % 360
    ends = {"latitudeOfFirstGridPointInDegrees": 85.0 if north_first else -85.0}
    ends |= {"latitudeOfLastGridPointInDegrees": -85.0 if north_first else 85.0}
    ends |= {"longitudeOfFirstGridPointInDegrees": first_lon if west_first else last_lon}
    ends |= {"longitudeOfLastGridPointInDegrees": last_lon if west_first else first_lon}
    keys = {"Ni": 36, "Nj": 18, "iDirectionIncrementInDegrees": 10.0, "jDirectionIncrementInDegrees": 10.0, **ends}
    keys |= {"iScansNegatively": int(not west_first), "jScansPositively": int(not north_first)}
    keys |= {"jPointsAreConsecutive": int(columns), "dataDate": 20050116, "dataTime": 0, "shortName": "2t"}
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    lat = np.linspace(85, -85, 18) if north_first else np.linspace(-85, 85, 18)
    lon = first_lon + 10.0 * np.arange(36)
    lon = lon if west_first else lon[::-1]
    places = np.meshgrid(lat, lon, indexing="ij")
    values = temperature(*places)
    eccodes.codes_set_values(handle, (values.T if columns else values).ravel())
    with path.open("wb") as file:
        eccodes.codes_write(handle, file)
    eccodes.codes_release(handle)
    return path


@pytest.mark.parametrize("edition", [1, 2])
def test_scanning_orders_give_one_field(tmp_path: Path, edition: int) -> None:
    # oracle: a closed form on the sphere, at the cells' centres; and the plain order
    found = []
    for number, order in enumerate(itertools.product([True, False], [True, False], [False, True], [0.0, 180.0])):
        path = message(tmp_path / f"{number}.grib", edition, *order)
        fields = read_fields([path], (TAS,), zoom=2)
        found.append(fields.read()[0, 0, 0])
        fields.close()
        np.testing.assert_allclose(found[-1], found[0], atol=2e-3, err_msg=str(order))
    np.testing.assert_allclose(found[0], temperature(*pixel_centres(2)), atol=1.5)


@pytest.mark.parametrize("ordering", ["ring", "nested"])
def test_cells_of_healpix(tmp_path: Path, ordering: str) -> None:
    # oracle: a closed form at the centres of the cells, which are written in either order
    zoom = 2
    handle = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    keys = {"gridType": "healpix", "Nside": 2**zoom, "orderingConvention": ordering}
    keys |= {"longitudeOfFirstGridPointInDegrees": 45.0, "dataDate": 20050116, "dataTime": 0, "shortName": "2t"}
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    field = temperature(*pixel_centres(zoom))  # nested
    eccodes.codes_set_values(handle, field[np.argsort(ring_to_nested(zoom))] if ordering == "ring" else field)
    with (tmp_path / "cells.grib2").open("wb") as file:
        eccodes.codes_write(handle, file)
    eccodes.codes_release(handle)
    fields = read_fields([tmp_path / "cells.grib2"], (TAS,))
    assert fields.zoom == zoom
    np.testing.assert_allclose(fields.read()[0, 0, 0], field, atol=2e-3)
    fields.close()
