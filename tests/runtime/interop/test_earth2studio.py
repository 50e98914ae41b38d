"""A member as a data source of earth2studio.

Oracle: earth2studio's own protocol and `fetch_data`, and the values of the ensemble. Run by
`pip install earth2studio && pytest tests/runtime/interop`: it is no part of the extra `dev`, as it brings 60 packages.
"""

import asyncio
import datetime

import numpy as np
import pytest
import xarray as xr

from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import DataError
from fsae.runtime.interop.earth2studio import MemberSource
from fsae.runtime.output.selection import Selection


@pytest.fixture(scope="module")
def ensemble(emulator: Emulator) -> xr.Dataset:
    """Two members of six months on a lat-lon grid."""
    return emulator.generate(Request(members=2, start="1990-01", steps=6, seed=1, select=Selection(grid="12x24")))


def test_fields_of_a_member(ensemble: xr.Dataset) -> None:  # oracle: the ensemble, and a calendar
    source = MemberSource(ensemble, member=1)
    times = [datetime.datetime(1990, 2, 28, 18), datetime.datetime(1990, 5, 1)]
    found = source(times, ["t2m"])
    assert found.dims == ("time", "variable", "lat", "lon")
    assert (np.diff(found["lat"]) < 0).all()
    assert (found["lon"] >= 0).all()
    expected = ensemble["tas"].sel(realization=1).isel(time=[1, 4])
    for lat, lon in [(float(found["lat"][0]), 45.0), (float(found["lat"][5]), 330.0)]:
        there = expected.sel(lat=lat).isel(lon=int(np.argmin(np.abs((expected["lon"].values - lon) % 360))))
        one = found.sel(lat=lat, variable="t2m").sel(lon=float(there["lon"]) % 360)
        np.testing.assert_array_equal(one.values, there.values)
    xr.testing.assert_identical(asyncio.run(source.fetch(times, "t2m")), found)


def test_earth2studio_takes_it(ensemble: xr.Dataset) -> None:
    base = pytest.importorskip("earth2studio.data.base")
    fetch = pytest.importorskip("earth2studio.data.utils").fetch_data
    source = MemberSource(ensemble)
    assert isinstance(source, base.DataSource)
    times = np.array(["1990-03-10", "1990-04-10"], dtype="datetime64[ns]")
    values, coordinates = fetch(source, times, np.array(["t2m"]), device="cpu")
    assert list(coordinates) == ["time", "lead_time", "variable", "lat", "lon"]
    north_first = ensemble["tas"].sel(realization=0).isel(time=[2, 3]).sortby("lat", ascending=False)
    np.testing.assert_array_equal(values.numpy()[:, 0, 0], north_first.values)


def test_what_is_refused(emulator: Emulator, ensemble: xr.Dataset) -> None:
    with pytest.raises(DataError, match=r"found an ensemble on \(.*cell.*\), expected latitudes and longitudes: draw"):
        MemberSource(emulator.generate(Request(members=1, steps=1)))
    with pytest.raises(DataError, match="found no member 7, expected one of 0 to 1"):
        MemberSource(ensemble, member=7)
    source = MemberSource(ensemble)
    with pytest.raises(DataError, match="found the variable tp, expected one of t2m"):
        source(datetime.datetime(1990, 1, 1), "tp")
    with pytest.raises(DataError, match="found the time 1991-01-01T00:00:00"):
        source(datetime.datetime(1991, 1, 1), "t2m")
