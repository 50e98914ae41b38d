"""Forecasts from several reference times: each start gives what it gives by itself, on axes of its own."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from forecast_forms import FIRST, LEADS, benchmark, cf, daily
from tiny_bundle import ZOOM
from trees import tree

from fsae.runtime import Emulator, Selection, Shard
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.input.joining import read_fields
from fsae.runtime.jobs.job import Writing

STARTS = 3
WEEK = np.timedelta64(7, "D")


def start(number: int, members: int) -> xr.Dataset:
    """Days from week `number` on (number, time, lat, lon): what one start holds, with values of its own."""
    data = daily(members)
    with xr.set_options(keep_attrs=True):
        data = data + 0.5 * number
    return data.assign_coords(time=data["time"] + number * WEEK)


def hindcast(members: int = 2) -> xr.Dataset:
    """All starts in one dataset (time, number, prediction_timedelta, lat, lon), undated in its attributes."""
    parts = [benchmark(start(n, members)).assign_coords(time=[FIRST + n * WEEK]) for n in range(STARTS)]
    return xr.concat(parts, "time").transpose("time", ...)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("verb", ["compress", "superres"])
def test_each_start_gives_what_it_gives_alone(emulator: Emulator, verb: str, members: int) -> None:
    # oracle: the same call for one start after the other
    found = getattr(emulator, verb)(hindcast(members), climatology="training")
    dims = ("forecast_reference_time", "lead_time", "cell")
    assert found["tas"].dims == (("realization", *dims) if members > 1 else dims)
    for number in range(STARTS):
        alone = getattr(emulator, verb)(start(number, members), climatology="training")
        one = found.isel(forecast_reference_time=number)
        for name in ("tas", "uas"):
            np.testing.assert_array_equal(one[name].values, alone[name].values)
        np.testing.assert_array_equal(one["time"].values, alone["time"].values)
    np.testing.assert_array_equal(found["lead_time"].values, np.arange(LEADS))
    expected = FIRST + np.arange(STARTS) * WEEK
    np.testing.assert_array_equal(found["forecast_reference_time"].values, expected)


def test_latents_of_starts_come_back(emulator: Emulator, tmp_path: Path) -> None:  # oracle: one start, and memory
    data, select = hindcast(), Selection(variables=("uas",), bbox=(0, 0, 180, 90))
    latents = emulator.compress(data, climatology="training")
    whole = emulator.decompress(latents, select=select)
    alone = emulator.decompress(emulator.compress(start(1, 2), climatology="training"), select=select)
    np.testing.assert_array_equal(whole["uas"].isel(forecast_reference_time=1).values, alone["uas"].values)
    for name in ("latents.zarr", "latents.nc"):
        emulator.compress_file(data, tmp_path / name, climatology="training")
        again = emulator.decompress_file(tmp_path / name, tmp_path / f"fields-{name}", select=select)
        assert again.fields == 2 * STARTS * LEADS
        with xr.open_dataset(tmp_path / f"fields-{name}") as fields:
            np.testing.assert_array_equal(fields["uas"].values, whole["uas"].values)
            np.testing.assert_array_equal(fields["time"].values, whole["time"].values)
            assert set(fields["uas"].coords) >= {"time", "lead_time", "forecast_reference_time", "realization"}


def test_files_of_a_start_each(emulator: Emulator, tmp_path: Path) -> None:  # oracle: all starts in one dataset
    for number, place in enumerate((2, 0, 1)):  # in no order, with a dimension of one reference time or without
        data = hindcast().isel(time=[place] if number else place)
        data.to_netcdf(tmp_path / f"start-{number}.nc", engine="h5netcdf")
    emulator.superres_file(str(tmp_path / "start-*.nc"), tmp_path / "out.zarr", climatology="training")
    expected = emulator.superres(hindcast(), climatology="training")
    with xr.open_zarr(tmp_path / "out.zarr") as found:
        np.testing.assert_array_equal(found["tas"].values, expected["tas"].values)
        np.testing.assert_array_equal(found["time"].values, expected["time"].values)


def test_starts_in_parts(emulator: Emulator, tmp_path: Path) -> None:  # oracle: one process, and memory
    hindcast().to_netcdf(tmp_path / "hindcast.nc", engine="h5netcdf")
    emulator.compress_file(tmp_path / "hindcast.nc", tmp_path / "one.zarr", climatology="training")
    for number in (2, 1):
        emulator.compress_file(
            tmp_path / "hindcast.nc",
            tmp_path / "parts.zarr",
            climatology="training",
            writing=Writing(scale=Shard(number, 2)),
        )
    assert tree(tmp_path / "parts.zarr") == tree(tmp_path / "one.zarr")
    lazy = emulator.compress(hindcast().chunk(time=1), climatology="training")
    whole = emulator.compress(hindcast(), climatology="training")
    assert lazy["tas"].chunks is not None
    xr.testing.assert_identical(lazy.compute().drop_attrs(), whole.drop_attrs())


def test_what_starts_cannot_be(emulator: Emulator, tmp_path: Path) -> None:
    data = hindcast(1)
    with pytest.raises(UsageError, match=r"found the times 2003 for forecasts from several reference times, expected"):
        emulator.superres(data, climatology="training", select=Selection(times="2003"))
    with pytest.raises(DataError, match=r"found the reference time 2003-02-11 00:00:00 twice, in dataset: leave"):
        emulator.compress(xr.concat([data, data.isel(time=[0])], "time"), climatology="training")
    for name, leads in (("a.nc", slice(0, 4)), ("b.nc", slice(1, 5))):
        place = "ab".index(name[0])
        part = data.isel(time=[place], prediction_timedelta=leads)
        part.to_netcdf(tmp_path / name, engine="h5netcdf")
    with pytest.raises(
        DataError, match=r"\(a\.nc\) and 2003-02-18 00:00:00 \(b\.nc\) have different lead times: select"
    ):
        emulator.compress_file([tmp_path / "a.nc", tmp_path / "b.nc"], tmp_path / "out.zarr", climatology="training")
    with pytest.raises(DataError, match=r"holds 3 reference times .* expected one"):
        emulator.generate(Request(members=2, steps=2, initial=data, climatology="training"))
    with pytest.raises(DataError, match=r"holds 3 reference times .* expected one"):
        read_fields(cf_hindcast(), [], finest_zoom=ZOOM)


def cf_hindcast() -> xr.Dataset:
    """Starts under CF names, undecoded."""
    parts = [cf(start(n, 1)).assign_coords(forecast_reference_time=[10 + 7 * n]) for n in range(STARTS)]
    data = xr.concat(parts, "forecast_reference_time")
    data["forecast_reference_time"].attrs = cf(daily())["forecast_reference_time"].attrs
    return data


def test_undecoded_starts_in_hours(emulator: Emulator) -> None:  # oracle: the decoded ones in days
    found = emulator.compress(cf_hindcast(), climatology="training")
    expected = emulator.compress(hindcast(1), climatology="training")
    np.testing.assert_array_equal(found["tas"].values, expected["tas"].values)
    np.testing.assert_array_equal(found["time"].values, expected["time"].values)
    np.testing.assert_array_equal(found["lead_time"].values, 24.0 * np.arange(LEADS))
    assert found["lead_time"].attrs["units"] == "hours"
