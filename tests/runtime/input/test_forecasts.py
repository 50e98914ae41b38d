"""Forecasts by reference time and lead time under the names of several makers become series of valid times."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from forecast_forms import FIRST, LEADS, benchmark, cf, daily, ecmwf, noleap, one_lead, scalar_lead
from monthly_input import SPECS
from tiny_bundle import ZOOM

import fsae.runtime
from fsae.runtime.errors import DataError
from fsae.runtime.input.forecasts import find_forecasts, on_valid_times
from fsae.runtime.input.joining import read_fields
from fsae.runtime.input.sources import Opened

FORMS = [ecmwf, cf, benchmark, one_lead, scalar_lead, noleap]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("members", [1, 2])
def test_forms_of_a_forecast(form: Callable[[xr.Dataset], xr.Dataset], members: int) -> None:
    # oracle: the series without any of it
    plain = read_fields(daily(members), SPECS, finest_zoom=ZOOM)
    found = read_fields(form(daily(members)), SPECS, finest_zoom=ZOOM)
    assert [str(date) for date in found.times] == [str(date) for date in plain.times]
    assert (found.step, found.members) == ("1 day", plain.members)
    np.testing.assert_array_equal(found.read(), plain.read())
    np.testing.assert_array_equal(found.read(slice(1, 3), members - 1)[0], plain.read()[members - 1, 1:3])


@pytest.mark.parametrize("form", FORMS)
def test_a_single_field_is_at_its_valid_time(form: Callable[[xr.Dataset], xr.Dataset]) -> None:
    data = form(daily())
    dim = next(str(d) for d in data["tas"].dims if data.sizes[d] == LEADS)
    for chosen in (data.isel({dim: [2]}), data.isel({dim: 2})):
        found = read_fields(chosen, SPECS, finest_zoom=ZOOM)
        assert [str(date) for date in found.times] == ["2003-02-13 00:00:00"]
        np.testing.assert_array_equal(found.read(), read_fields(daily(), SPECS, finest_zoom=ZOOM).read(slice(2, 3)))


def test_files_of_forecasts(tmp_path: Path) -> None:  # oracle: the series
    ecmwf(daily(2)).to_netcdf(tmp_path / "forecast.nc", engine="h5netcdf")
    found = read_fields(tmp_path / "forecast.nc", SPECS, finest_zoom=ZOOM)
    np.testing.assert_array_equal(found.read(), read_fields(daily(2), SPECS, finest_zoom=ZOOM).read())
    assert found.times == read_fields(daily(), SPECS, finest_zoom=ZOOM).times
    found.close()


def test_nothing_is_read_for_it(tmp_path: Path) -> None:  # oracle: a missing value in the last step
    data = ecmwf(daily())
    data["tas"][4, 0, 0] = np.nan
    found = read_fields(data, SPECS, finest_zoom=ZOOM)
    with pytest.raises(DataError, match="tas in dataset has 1 missing values"):
        found.read()


def test_several_starts_of_several_leads_are_refused() -> None:
    data = benchmark(daily())
    data = xr.concat([data, data.assign_coords(time=data["time"] + np.timedelta64(7, "D"))], "time")
    expected = (
        r"dataset holds 2 reference times \(time\) of 5 lead times \(prediction_timedelta\) each, expected one "
        r"reference time or one lead time: select one first, as in dataset\.isel\(time=0\)"
    )
    with pytest.raises(DataError, match=expected):
        read_fields(data, SPECS, finest_zoom=ZOOM)
    with pytest.raises(DataError, match="has the lead times lead and no reference time that they count from: add one"):
        read_fields(noleap(daily()).drop_vars("reference_time"), SPECS, finest_zoom=ZOOM)


def test_what_is_no_forecast_is_left_alone() -> None:
    plain = daily(2)
    assert on_valid_times(plain, "dataset") is plain
    numbered = plain.rename(time="step").assign_coords(step=np.arange(LEADS))  # no time unit: no lead
    assert on_valid_times(numbered, "dataset") is numbered
    hours = {"units": "hours", "standard_name": "forecast_period"}
    of_cf = plain.assign_coords(forecast_period=((), 24.0, hours), forecast_reference_time=((), FIRST))
    assert on_valid_times(of_cf, "dataset") is of_cf  # its axis of time is the one of valid times
    first = of_cf.isel(time=0)
    first["time"].attrs["standard_name"] = "time"
    assert read_fields(first, SPECS, finest_zoom=ZOOM).times == read_fields(plain, SPECS, finest_zoom=ZOOM).times[:1]


def test_members_are_kept(tiny_bundle_path: Path) -> None:  # oracle: each member by itself
    emulator = fsae.runtime.load(tiny_bundle_path, device="cpu", threads=1)
    data = ecmwf(daily(3))
    for verb in (emulator.compress, emulator.superres):
        found = verb(data, zoom=1, climatology="training")
        assert found["tas"].dims == ("realization", "time", "cell")
        assert found["realization"].values.tolist() == [7, 8, 9]
        np.testing.assert_array_equal(found["time"].values, daily()["time"].values)
        for place in range(3):
            alone = verb(data.isel(number=place), zoom=1, climatology="training")
            assert alone["tas"].dims == ("time", "cell")
            np.testing.assert_array_equal(found["tas"].values[place], alone["tas"].values)
    latents = emulator.compress(data, climatology="training")
    back = emulator.decompress(latents)
    np.testing.assert_array_equal(
        back["tas"].values[1], emulator.decompress(latents.isel(realization=1, drop=True))["tas"].values
    )


def along_one_dimension(data: xr.Dataset) -> xr.Dataset:
    """Reference and lead times along one dimension without dates of its own."""
    data = data.drop_vars("time")
    starts = {"units": "days since 2003-02-01", "standard_name": "forecast_reference_time"}
    hours = {"units": "hours", "standard_name": "forecast_period"}
    reference = ("time", np.full(LEADS, 10.0), starts)
    return data.assign(reftime=reference, leadtime=("time", np.arange(LEADS) * 24, hours))


def samples(data: xr.Dataset) -> xr.Dataset:
    """A start for each sample, leads of them called time, and dates (sample, time)."""
    micro = (np.arange(LEADS) * 86_400_000_000).astype(np.int64)
    start = int((FIRST - np.datetime64("1970-01-01")) / np.timedelta64(1, "us"))
    since = {"units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian"}
    data = data.expand_dims("sample") if "number" not in data.dims else data.rename(number="sample")
    data = data.assign_coords(time=("time", micro, {"units": "microseconds"}))
    count = data.sizes["sample"]
    return data.assign_coords(
        init_time=("sample", np.full(count, start), since),
        valid_time=(("sample", "time"), np.tile(start + micro, (count, 1)), since),
    )


@pytest.mark.parametrize("form", [along_one_dimension, samples])
@pytest.mark.parametrize("members", [1, 2])
def test_starts_along_other_dimensions(form: Callable[[xr.Dataset], xr.Dataset], members: int) -> None:
    # oracle: the same days without a forecast
    plain = read_fields(daily(members), SPECS, finest_zoom=ZOOM)
    found = read_fields(form(daily(members)), SPECS, finest_zoom=ZOOM)
    assert [str(date) for date in found.times] == [str(date) for date in plain.times]
    np.testing.assert_array_equal(found.read(), plain.read())
    assert found.members is None or len(found.members) == members


def test_samples_of_several_starts_stay_side_by_side() -> None:  # oracle: the starts themselves
    data = samples(daily(2))
    later = data["init_time"].values + np.array([0, 86_400_000_000])
    data["init_time"] = ("sample", later, data["init_time"].attrs)
    data = data.drop_vars("valid_time")
    found = find_forecasts([Opened(data, "peer.nc")])
    assert [str(one.reference) for one in found] == ["2003-02-11 00:00:00", "2003-02-12 00:00:00"]
