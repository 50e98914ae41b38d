"""Times in the output: in every calendar, and as xarray and cftime read them, they are the right dates."""

import itertools
from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr
from msgspec.structs import replace
from outputs import engine, first_months, in_calendar, raw, tiny_emulator
from tiny_bundle import tiny_manifest

import fsae.runtime
from fsae.runtime.climate.steps import CALENDARS
from fsae.runtime.ensemble.request import Request

# Days of 50 years from 1850 on, and of January, February and March of 1900, without cftime.
LENGTHS = {
    "standard": (50 * 365 + 12, (31, 28, 31)),
    "proleptic_gregorian": (50 * 365 + 12, (31, 28, 31)),
    "julian": (50 * 365 + 12, (31, 29, 31)),
    "noleap": (50 * 365, (31, 28, 31)),
    "all_leap": (50 * 366, (31, 29, 31)),
    "360_day": (50 * 360, (30, 30, 30)),
}
CF_NAMES = {"gregorian": "standard", "365_day": "noleap", "366_day": "all_leap"}  # CF 4.4.2 has these for the others
MONTHS = Request(members=1, start="1900-01", steps=3)


def check_times(path: Path, calendar: str) -> None:
    """The times and bounds of a file are those of January to March 1900."""
    first, months = LENGTHS[calendar]
    edges = first + np.cumsum([0, *months])
    plain = raw(path)
    assert plain["time"].attrs["units"] == "days since 1850-01-01 00:00:00"
    assert plain["time"].attrs["calendar"] == calendar
    np.testing.assert_array_equal(plain["time_bnds"].values, np.stack([edges[:-1], edges[1:]], axis=-1))
    np.testing.assert_array_equal(plain["time"].values, (edges[:-1] + edges[1:]) / 2)
    # CF 4.4.3: leap seconds are spoken of in three calendars and no other
    assert (plain["time"].attrs.get("units_metadata") is None) == (calendar in ("noleap", "all_leap", "360_day"))
    bounds, middles = first_months(calendar)
    always = xr.coders.CFDatetimeCoder(use_cftime=True)
    with xr.open_dataset(path, engine=engine(path), decode_times=always) as found:
        assert found["time"].values.tolist() == middles
        assert [tuple(pair) for pair in found["time_bnds"].values.tolist()] == bounds
        assert {date.calendar for date in found["time"].values} == {calendar}
    with xr.open_dataset(path, engine=engine(path)) as found:  # as users do
        if calendar in ("standard", "proleptic_gregorian"):
            expected = [np.datetime64(date.isoformat()) for date in middles]
            np.testing.assert_array_equal(found["time"].values, np.array(expected))
        else:
            assert found["time"].values.tolist() == middles


@pytest.mark.parametrize("calendar", LENGTHS)
def test_times_in_every_calendar(calendar: str, outputs: Path) -> None:
    # oracle: days counted by hand, and dates of cftime put together by hand
    for suffix in (".nc", ".zarr"):
        check_times(outputs / f"in-{calendar}{suffix}", calendar)


@pytest.mark.parametrize("calendar", sorted(set(CALENDARS) - set(LENGTHS)))
def test_other_names_of_a_calendar(calendar: str, tiny_bundle_path: Path, tmp_path: Path) -> None:
    # oracle: the table of names in CF 4.4.2; that of the manifest is not written
    emulator = fsae.runtime.load(tiny_bundle_path, device="cpu", threads=1)
    for suffix in (".nc", ".zarr"):
        in_calendar(emulator, calendar).generate_file(tmp_path / f"out{suffix}", MONTHS)
        check_times(tmp_path / f"out{suffix}", CF_NAMES[calendar])


@pytest.mark.parametrize("method", ["mean", "point"])
def test_short_steps_are_in_seconds(method: str, tiny_bundle_path: Path, tmp_path: Path) -> None:
    # oracle: dates put together by hand, as cftime reads them; an hour is not a binary fraction of a day
    known = tiny_manifest()
    variables = tuple(replace(v, cell_methods=f"time: {method}") for v in known.variables)
    known = replace(known, time=replace(known.time, step="1 hour"), variables=variables)
    emulator = tiny_emulator(tiny_bundle_path, tmp_path / "tiny", known)
    hours = [cftime.datetime(2004, 2, 28 + h // 24, h % 24, calendar="standard") for h in range(21, 28)]
    for suffix in (".nc", ".zarr"):
        emulator.generate_file(tmp_path / f"out{suffix}", Request(members=1, start="2004-02-28T21:00", steps=6))
        found = raw(tmp_path / f"out{suffix}")
        time = found["time"]
        assert time.attrs["units"] == "seconds since 1850-01-01 00:00:00"
        stamps = cftime.num2date(time.values, time.attrs["units"], time.attrs["calendar"]).tolist()
        if method == "mean":
            assert [(b - a).total_seconds() for a, b in zip(hours, stamps, strict=False)] == [1800.0] * 6
            edges = cftime.num2date(found["time_bnds"].values, time.attrs["units"], time.attrs["calendar"])
            assert [tuple(pair) for pair in edges.tolist()] == list(itertools.pairwise(hours))
        else:
            assert stamps == hours[:6]
            assert "time_bnds" not in found
            assert "bounds" not in time.attrs
