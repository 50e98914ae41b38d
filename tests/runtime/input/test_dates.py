"""Time axes as many tools write them, their bounds, and those that are damaged."""

from typing import Any

import cftime
import numpy as np
import pytest
import xarray as xr
from monthly_input import SPECS, series
from tiny_bundle import ZOOM

from fsae.runtime.climate.time_units import dates_of
from fsae.runtime.errors import DataError
from fsae.runtime.input.dates import Dates, find_dates
from fsae.runtime.input.joining import read_fields


def with_time(values: Any, units: str | None, calendar: str = "standard", name: str = "time") -> xr.Dataset:
    """A temperature at times of these numbers."""
    values = np.asarray(values)
    data = series()[["tas"]].isel(time=slice(0, values.size)).drop_vars("time")
    attrs = {"calendar": calendar} | ({} if units is None else {"units": units})
    return data.rename(time=name).assign_coords({name: (name, values, attrs)})


def dates(data: xr.Dataset) -> Dates:
    return find_dates(data["tas"], data, "file.nc")


def stamps(data: xr.Dataset) -> list[str]:
    return [str(date) for date in dates(data).stamps]


# oracle: by hand; the reference of CF and UDUNITS, and CDO's own for its absolute times
@pytest.mark.parametrize(
    ("values", "units", "calendar", "first"),
    [
        ([540, 541], "months since 1960-01-01", "standard", "2005-01-01 00:00:00"),
        ([540.5, 541.5], "months since 1960-01-01", "360_day", "2005-01-16 00:00:00"),
        ([540.5, 541.5], "months since 1960-01-01", "standard", "2005-01-16 12:00:00"),
        ([1, 2], "months since 2004-12-31", "standard", "2005-01-31 00:00:00"),
        ([2, 3], "months since 2004-12-31", "noleap", "2005-02-28 00:00:00"),
        ([-1, 0], "Months since 2005-02-15 12:00", "julian", "2005-01-15 12:00:00"),
        ([5, 6], "years since 2000-01-01", "noleap", "2005-01-01 00:00:00"),
        ([20050116.5, 20050215.0], "day as %Y%m%d.%f", "proleptic_gregorian", "2005-01-16 12:00:00"),
        ([20050116.25], "day as %Y%m%d.%f", "noleap", "2005-01-16 06:00:00"),
        ([200501.5, 200502.5], "month as %Y%m.%f", "360_day", "2005-01-16 00:00:00"),
        ([2005.0, 2006.0], "year as %Y.%f", "standard", "2005-01-01 00:00:00"),
        ([0], "days since 2005-01-01T00:00:00Z", "standard", "2005-01-01 00:00:00"),
        ([0], "days since 2005-01-01 00:00:00 UTC", "noleap", "2005-01-01 00:00:00"),
        ([0], "hours since 2005-1-1 00:00:0.0", "standard", "2005-01-01 00:00:00"),
        ([0], "days since 2005-01-01 00:00:00 -6", "noleap", "2005-01-01 06:00:00"),
        ([0], "days since 2005-01-01 05:30:00 +05:30", "standard", "2005-01-01 00:00:00"),
        ([0], "hours since 2005-01-01 00:00 +0200", "standard", "2004-12-31 22:00:00"),
        ([0], "days since 2005-01", "standard", "2005-01-01 00:00:00"),
        ([1104537600_000_000_000], "nanoseconds since 1970-01-01", "standard", "2005-01-01 00:00:00"),
        ([1104537600_000_000], "microseconds since 1970-01-01", "proleptic_gregorian", "2005-01-01 00:00:00"),
    ],
)
def test_units_and_calendars(values: Any, units: str, calendar: str, first: str) -> None:
    assert str(dates_of(np.asarray(values), units, calendar)[0]) == first
    assert stamps(with_time(values, units, calendar))[0] == first


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (with_time([1e18, 1e18], "days since 99999-01-01", "noleap"), "cannot decode the times of tas in file.nc: "),
        (with_time([40_000_000.0], "days since 1950-01-01"), "reach the year 11"),
        (with_time([2**62], "hours since 1950-01-01"), "cannot decode"),
        (with_time([1, 2], "months since 2000-13-01"), "cannot decode"),
        (with_time([0], "days since 1950-01-01 00:00:00 EST"), "the units are 'days since 1950-01-01 00:00:00 EST'"),
        (with_time([0], "days since then"), "cannot decode the times"),
        (with_time([0], "days since \x00" + "9" * 5000), "cannot decode the times"),
        (with_time([0], "days since 1950-01-01", "mayan"), "cannot decode the times"),
        (with_time([20050230.0], "day as %Y%m%d.%f"), "cannot decode the times"),
        (with_time([200501, 200502], None), "such as 'month as %Y%m.%f'"),
        (with_time([20050101, 20050201], None), "such as 'day as %Y%m%d.%f'"),
        (with_time([0.0, 31.0], None), "have no units, expected such as 'days since 1950-01-01'"),
        (with_time([np.nan, 31.0], "days since 1950-01-01"), "have missing values"),
        (with_time([0, 31, 31], "days since 2005-01-01"), "date 2005-02-01 00:00:00 twice, in the steps 2 and 3 of 3"),
        (with_time([31, 0], "days since 2005-01-01"), "do not rise .*: sort it along time"),
    ],
)
def test_times_without_meaning_are_refused(data: xr.Dataset, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as error:
        dates(data)
    assert len(str(error.value)) < 500
    assert ":" in str(error.value)  # ends in what to do


def test_times_beside_a_dimension() -> None:  # oracle: the same times along it
    data = with_time([0, 31], "days since 2005-01-01", name="record")
    moved = data.rename(record="when").swap_dims(when="record")
    assert stamps(moved) == stamps(data) == ["2005-01-01 00:00:00", "2005-02-01 00:00:00"]


def test_times_along_a_grid_are_refused() -> None:
    data = series()[["tas"]].isel(time=slice(0, 3)).drop_vars("time")
    data = data.assign_coords(time=("lon", np.arange(24), {"units": "days since 2000-01-01"}))
    with pytest.raises(DataError, match=r"tas in dataset has the dimensions .* of the grid at once: correct"):
        read_fields(data, SPECS[:1], finest_zoom=ZOOM)


def cesm(named: str, called: str) -> xr.Dataset:
    """Monthly means stamped at their end, with bounds of a name that is `called`, while the axis says `named`."""
    data = with_time([31.0, 59.0, 90.0], "days since 2005-01-01", "noleap")
    data["time"].attrs["bounds"] = named
    return data.assign({called: (("time", "two"), np.array([[0.0, 31.0], [31.0, 59.0], [59.0, 90.0]]))})


def test_bounds_of_another_name_are_taken_and_said() -> None:  # oracle: the same bounds under the name that is given
    right, other = dates(cesm("time_bound", "time_bound")), dates(cesm("time_bounds", "time_bound"))
    assert right.notes == ()
    assert right.bounds == other.bounds
    assert right.bounds is not None
    assert str(right.bounds[0][0]) == "2005-01-01 00:00:00"
    assert (
        "names the bounds 'time_bounds', which the file does not have: those called 'time_bound' are" in other.notes[0]
    )


def test_stamps_that_may_be_the_end_of_a_mean_are_told() -> None:
    lost = dates(cesm("time_bounds", "elsewhere"))
    assert lost.bounds is None
    assert "first instant of a month, and the month that begins there is taken" in lost.notes[0]
    clear = cesm("time_bounds", "elsewhere").assign_coords(time=[15.0, 45.0, 75.0])
    clear["time"].attrs = {"units": "days since 2005-01-01", "bounds": "time_bounds"}
    assert dates(clear).notes == ()


def test_bounds_that_cannot_be_are_refused() -> None:
    data = cesm("time_bound", "time_bound")
    data["time_bound"] = data["time_bound"][:, ::-1]
    with pytest.raises(DataError, match=r"time_bound in file\.nc end before they begin .*: correct them"):
        dates(data)
    data["time_bound"] = data["time_bound"] * 0 + data["time"]
    assert dates(data).bounds is None  # of no length: instants


def test_dates_in_memory_beyond_nanoseconds() -> None:  # oracle: the dates themselves
    data = with_time([0, 1], "days since 2005-01-01")
    far = [cftime.datetime(9000, 1, 1, calendar="noleap"), cftime.datetime(9000, 2, 1, calendar="noleap")]
    assert stamps(data.assign_coords(time=far)) == ["9000-01-01 00:00:00", "9000-02-01 00:00:00"]
    seconds = np.array(["2500-01-01", "2500-02-01"], dtype="datetime64[s]")
    assert stamps(data.assign_coords(time=seconds))[0] == "2500-01-01 00:00:00"
