"""The forcing of an ensemble: constants and series give what their closed forms say, all else is refused."""

import dataclasses
import datetime
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import cftime
import msgspec
import numpy as np
import pytest
import xarray as xr
from tiny_bundle import WINDOW

import fsae.runtime
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Forcing
from fsae.runtime.cli.main import main
from fsae.runtime.ensemble.forcing import Series, forcing_at, forcing_note, read_forcing
from fsae.runtime.ensemble.generate import timeline
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import DataError, UsageError

KNOWN = Forcing(name="calendar year", units="year", range=(1948.0, 2005.0))
NOLEAP_DAYS = np.cumsum([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


def series(dates: list[cftime.datetime], values: list[float], **attributes: str) -> xr.Dataset:
    """A dataset of one variable over time."""
    return xr.Dataset({"x": ("time", values, attributes)}, coords={"time": dates})


def january(*years: int, calendar: str = "standard") -> list[cftime.datetime]:
    return [cftime.datetime(year, 1, 1, calendar=calendar) for year in years]


def fields(data: xr.Dataset) -> bytes:
    return data["tas"].values.tobytes() + data["uas"].values.tobytes()


def days_of(year: int, month: int, day: float, calendar: str) -> float:
    """Days since some date, without cftime."""
    if calendar == "noleap":
        return 365.0 * year + NOLEAP_DAYS[month - 1] + day
    return datetime.date(year, month, 1).toordinal() + day - 1


# --- what a forcing is ---


def test_a_constant_is_a_file_of_that_constant(emulator: fsae.runtime.Emulator, tmp_path: Path) -> None:
    # oracle: the fields of the constant, bitwise
    data = series(january(1900, 2100), [1970.5, 1970.5])
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    data.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    (tmp_path / "a.csv").write_text("1900,1970.5\n2100-01-01,1970.5\n")
    expected = fields(emulator.generate(Request(members=2, start="1990-11", steps=4, forcing=1970.5)))
    for given in ("1970.5", data, tmp_path / "a.nc", str(tmp_path / "a.zarr"), tmp_path / "a.csv"):
        found = emulator.generate(Request(members=2, start="1990-11", steps=4, forcing=given))
        assert fields(found) == expected
        np.testing.assert_array_equal(found["forcing"].values, np.full(4, 1970.5, np.float32))
    assert fields(emulator.generate(Request(members=2, start="1990-11", steps=4))) != expected


def test_a_file_of_the_calendar_year_is_the_default(emulator: fsae.runtime.Emulator, tmp_path: Path) -> None:
    # oracle: the default, bitwise; a year is linear in time between its first day and the next year's
    lines = "".join(f"{year}-01-01,{year}\n" for year in range(1988, 1996))
    (tmp_path / "year.csv").write_text(lines)
    default = emulator.generate(Request(members=1, start="1991-11", steps=10))
    given = emulator.generate(Request(members=1, start="1991-11", steps=10, forcing=tmp_path / "year.csv"))
    assert fields(given) == fields(default)
    np.testing.assert_array_equal(given["forcing"].values, default["forcing"].values)
    assert default["forcing"].attrs == {"long_name": "forcing: calendar year", "units": "year"}
    assert abs(default["forcing"].values[0] - (1991 + 319 / 365)) < 2e-4  # the middle of November; float32


def test_the_forcing_of_an_ensemble_is_that_of_another(emulator: fsae.runtime.Emulator, tmp_path: Path) -> None:
    # oracle: the fields of the first ensemble's own forcing, bitwise
    (tmp_path / "a.csv").write_text("1900,1960\n1991,2000\n2100,1950\n")
    for suffix in (".nc", ".zarr"):
        request = Request(members=2, start="1990-11", steps=6, forcing=tmp_path / "a.csv")
        emulator.generate_file(tmp_path / f"a{suffix}", request)
    first = emulator.generate(Request(members=1, start="1990-11", steps=6, forcing=tmp_path / "a.csv"))
    for given in (tmp_path / "a.nc", str(tmp_path / "a.zarr"), first, first.reset_coords("forcing")):
        found = emulator.generate(Request(members=1, start="1990-11", steps=6, forcing=given))
        assert fields(found) == fields(first)
        np.testing.assert_array_equal(found["forcing"].values, first["forcing"].values)
    # regional means of an ensemble keep its forcing beside them: which of the two is meant, nobody can tell
    mean = first[["tas"]].mean(("realization", "cell"))
    with pytest.raises(DataError, match=r"holds tas \(time\), forcing \(time\), expected one variable over time alone"):
        emulator.generate(Request(members=1, start="1990-11", steps=6, forcing=mean))
    first["forcing"].attrs["long_name"] = "forcing: something else"
    with pytest.raises(DataError, match=r"holds tas \(realization, time, cell\), uas .*, expected one variable"):
        emulator.generate(Request(members=1, start="1990-11", steps=6, forcing=first))


@pytest.mark.parametrize("calendar", ["noleap", "standard"])
def test_values_are_linear_between_dates(calendar: str) -> None:  # oracle: numpy.interp over days counted by hand
    knots = [(1990, 1, 10.0), (1991, 12, 3.25), (1992, 3, 1.0), (1996, 7, 4.5), (2001, 1, 1.0)]
    dates = [cftime.datetime(y, m, int(d), int(24 * (d % 1)), calendar=calendar) for y, m, d in knots]
    values = np.array([3.0, -1.0, 7.5, 2.0, 40.0])
    stamps = [cftime.datetime(1990 + m // 12, m % 12 + 1, 1, calendar=calendar) for m in range(1, 120)]
    edges = [days_of(1990 + m // 12, m % 12 + 1, 1.0, calendar) for m in range(1, 121)]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    expected = np.interp(middles, [days_of(*knot, calendar) for knot in knots], values)
    given = Series(dates=tuple(dates), values=values, name="x")
    found = forcing_at(given, stamps, "1 month", "time: mean", len(stamps))
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # float32
    at_stamps = forcing_at(given, stamps, "1 month", "time: point", len(stamps))
    expected = np.interp(edges[:-1], [days_of(*knot, calendar) for knot in knots], values)
    np.testing.assert_allclose(at_stamps, expected, rtol=1e-6)


@pytest.mark.parametrize("calendar", ["360_day", "noleap"])
def test_the_middle_of_a_month_is_that_in_every_calendar(calendar: str) -> None:  # oracle: the values themselves
    months = [cftime.datetime(1991 + m // 12, m % 12 + 1, 1, calendar=calendar) for m in range(25)]
    middles = [start + (end - start) / 2 for start, end in itertools.pairwise(months)]
    values = np.random.default_rng(0).normal(size=24)
    stamps = [cftime.datetime(1991 + m // 12, m % 12 + 1, 1, calendar="standard") for m in range(24)]
    given = Series(dates=tuple(middles), values=values, name="x")
    found = forcing_at(given, stamps, "1 month", "time: mean", 24)
    np.testing.assert_allclose(found, values, rtol=1e-6, atol=1e-6)


def test_a_mean_holds_in_the_middle_of_its_bounds() -> None:  # oracle: the middle of 1990 is its 182nd day and a half
    data = series(january(1990, 1991), [1.0, 3.0])
    data["time"].attrs["bounds"] = "time_bnds"
    pairs = [january(1990, 1991), january(1991, 1992)]
    data["time_bnds"] = (("time", "bnds"), np.array(pairs, dtype=object))
    found = read_forcing(data, KNOWN, "standard")
    assert isinstance(found, Series)
    assert [date.isoformat() for date in found.dates] == ["1990-07-02T12:00:00", "1991-07-02T12:00:00"]


def test_units_become_those_of_the_forcing() -> None:  # oracle: 0 degrees Celsius are 273.15 K
    anomaly = Forcing(name="temperature", units="K", range=(270.0, 280.0))
    found = read_forcing(series(january(1990, 1991), [0.0, 1.0], units="degC"), anomaly, "standard")
    assert isinstance(found, Series)
    np.testing.assert_allclose(found.values, [273.15, 274.15], rtol=1e-12)


def test_of_several_variables_the_one_called_like_the_forcing_is_taken(emulator: fsae.runtime.Emulator) -> None:
    data = series(january(1990, 1992), [1.0, 2.0]).assign(calendar_year=("time", [1960.0, 1960.0]))
    found = emulator.generate(Request(members=1, start="1990-11", steps=1, forcing=data))
    assert found["forcing"].values.tolist() == [1960.0]


@pytest.mark.parametrize("text", ["date,value\n1990,1\n1992-06,2\n", "\ufeff1990, 1\r\n\r\n 1992-06-01T00:00,2.0"])
def test_lines_of_a_text_may_have_a_header_and_spaces(tmp_path: Path, text: str) -> None:
    (tmp_path / "f.txt").write_text(text, encoding="utf-8")
    found = read_forcing(tmp_path / "f.txt", KNOWN, "noleap")
    assert isinstance(found, Series)
    assert [(date.isoformat()[:10], date.calendar) for date in found.dates] == [
        ("1990-01-01", "noleap"),
        ("1992-06-01", "noleap"),
    ]
    assert found.values.tolist() == [1.0, 2.0]


# --- where a series ends ---


def test_steps_beyond_those_asked_for_hold_the_last_value_where_the_series_ends(tiny_bundle: Bundle) -> None:
    # oracle: the middles of the months; windows of three steps are drawn whole
    known, start = tiny_bundle.manifest.time, january(1990)[0]
    middles = timeline(known, WINDOW, "time: mean", start, 9, None).stamps
    for last, expected in ((3, [0, 1, 2, 3, 3, 3]), (8, [0, 1, 2, 3, 4, 5])):
        given = Series(dates=tuple(middles[: last + 1]), values=np.arange(last + 1.0), name="x")
        line = timeline(known, WINDOW, "time: mean", start, 4, given)
        np.testing.assert_allclose(line.steps.forcing, expected, atol=1e-5)


def test_fewer_steps_are_the_first_of_more(emulator: fsae.runtime.Emulator) -> None:  # bitwise, as without a forcing
    data = series(january(1990, 1991), [1950.0, 2000.0])
    longer = emulator.generate(Request(members=1, start="1990-02", steps=6, forcing=data))["tas"].values
    np.testing.assert_array_equal(
        emulator.generate(Request(members=1, start="1990-02", steps=4, forcing=data))["tas"].values, longer[:, :4]
    )


@pytest.mark.parametrize("calendar", ["standard", "360_day"])
def test_a_series_that_does_not_cover_the_steps_is_refused(calendar: str) -> None:
    stamps = [cftime.datetime(1990, m, 1, calendar="standard") for m in range(1, 5)]
    edges = [(m, d) for m in (1, 4) for d in (15, 18)]
    for first, last in itertools.product(edges[:2], edges[2:]):
        dates = tuple(cftime.datetime(1990, *day, calendar=calendar) for day in (first, last))
        given = Series(dates=dates, values=np.zeros(2), name="f.csv")
        if first[1] < 16 < last[1]:
            assert forcing_at(given, stamps, "1 month", "time: mean", 4).tolist() == [0.0] * 4
            continue
        with pytest.raises(DataError) as caught:
            forcing_at(given, stamps, "1 month", "time: mean", 4)
        found = f"from 1990-01-{first[1]}T00:00:00 to 1990-04-{last[1]}T00:00:00"
        assert str(caught.value).startswith(
            f"f.csv holds the forcing {found}, expected all from 1990-01-16T12:00:00 to 1990-04-16T00:00:00, the middle"
        )


# --- what is said and kept ---


def test_extrapolation_is_said_and_stays_in_the_output(
    tiny_bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the manifest's range, 1948 to 2005
    (tmp_path / "late.csv").write_text("1990,2000\n1991,2010\n")
    common = ["--model", str(tiny_bundle_path), "--device", "cpu", "generate", "--members", "1", "--start", "1990-02"]
    for forcing, sentence in (
        (
            "2050",
            "The forcing (calendar year) is 2050.00 year, outside the 1948.00 to 2005.00 the model was trained on",
        ),
        (str(tmp_path / "late.csv"), "The forcing (calendar year) runs from 2001.23 to 2009.58 year, outside the"),
        ("1990", None),
    ):
        out = tmp_path / "out.nc"
        assert main([*common, "--forcing", forcing, "--steps", "11", "--out", str(out), "--overwrite"]) == 0
        err = capsys.readouterr().err
        with xr.open_dataset(out, engine="h5netcdf") as found:
            if sentence is None:
                assert "warning" not in err
                assert "comment" not in found.attrs
            else:
                assert f"fsae-run: warning: {sentence}" in err
                assert found.attrs["comment"].startswith(sentence)


def test_only_what_leaves_the_range_is_noted(tiny_bundle: Bundle) -> None:  # oracle: the manifest's range
    for values, noted in (([1948.0, 2005.0], False), ([1947.9, 1990.0], True), ([1990.0, 2005.1], True)):
        assert bool(forcing_note(tiny_bundle.manifest, np.array(values))) is noted


def test_another_forcing_is_another_request(emulator: fsae.runtime.Emulator, tmp_path: Path) -> None:
    def kept(forcing: object) -> object:
        found = emulator.generate(Request(members=1, start="1990-02", steps=1, forcing=forcing))
        return json.loads(found.attrs["fsae_request"])["forcing"]

    assert kept(None) == "calendar year"
    assert kept("1990") == kept(1990) == 1990.0
    records = []
    for text in (
        "1990,1971\n1991,1972\n",
        "1990,1971\n1991,1972.5\n",
        "1990,1971\n1992,1972\n",
        "date,value\n1990-01,1971.0\n1991-01,1972\n",
    ):
        (tmp_path / "f.csv").write_text(text)
        records.append(kept(tmp_path / "f.csv"))
    assert {record["name"] for record in records} == {"f.csv"}
    hashes = [record["values_sha256"] for record in records]
    assert hashes[0] == hashes[3]  # the same dates and values
    assert len(set(hashes)) == 3


# --- what is refused ---


def test_a_forcing_far_outside_of_the_training_is_refused(emulator: fsae.runtime.Emulator) -> None:
    # oracle: the range of the manifest, 1948 to 2005, and three times its width beyond
    for request in (
        Request(members=1, steps=1, forcing=2177.0),
        Request(members=1, steps=1, forcing=1776.0),
        Request(members=1, steps=1, start="2300"),
    ):
        with pytest.raises(UsageError, match=r"near the 1948\.00 to 2005\.00 .*: --forcing 2005 holds it at the end"):
            emulator.generate(request)
    warned = emulator.generate(Request(members=1, steps=1, forcing=2015.0))
    assert "the nearer end of that range is used there" in warned.attrs["comment"]


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _made(path: Path, data: xr.Dataset) -> Path:
    data.to_netcdf(path, engine="h5netcdf")
    return path


def _csv(text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "bad.csv").write_text(text)
        return folder / "bad.csv"

    return write


def _bytes(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "bad.bin").write_bytes(content)
        return folder / "bad.bin"

    return write


def _dataset(change: Callable[[xr.Dataset], xr.Dataset]) -> Callable[[Path], Path]:
    return lambda folder: _made(folder / "bad.nc", change(series(january(1900, 2100), [1.0, 2.0])))


BAD_FORCINGS: dict[str, tuple[Callable[[Path], Path | str], int, str]] = {
    "no number": (lambda p: "soon", 5, "found the forcing 'soon', expected a number in the unit 'year' or the path of"),
    "nan": (lambda p: "nan", 2, "found the forcing nan, expected a finite number"),
    "infinite": (lambda p: "-inf", 2, "found the forcing -inf, expected a finite number"),
    "too short": (_csv("1950,1\n1960,2\n"), 5, "bad.csv holds the forcing from 1950-01-01T00:00:00 to 1960-01-01T00:"),
    "empty": (_csv(""), 5, "bad.csv holds no values of the forcing"),
    "header alone": (_csv("date,value\n"), 5, "bad.csv holds no values of the forcing"),
    "three columns": (_csv("1950,1,2\n"), 5, "bad.csv holds '1950,1,2' in line 1, expected date,value"),
    "no value": (_csv("1950,1\n1960,\n"), 5, "bad.csv holds '1960,' in line 2, expected date,value"),
    "no date": (_csv("1950,1\n60,2\n"), 5, "bad.csv, line 2: found the date '60'"),
    "no such date": (_csv("1950-02-30,1\n"), 5, "bad.csv, line 1: the date '1950-02-30' does not exist"),
    "falling dates": (_csv("1960,1\n1950,2\n"), 5, "bad.csv has 1950 after 1960-01-01T00:00:00, expected dates that"),
    "missing in a text": (_csv("1900,1\n2100,nan\n"), 5, "bad.csv holds nan at 2100-01-01T00:00:00, expected finite"),
    "missing in a file": (
        _dataset(lambda d: d.assign(x=("time", [np.nan, 1.0]))), 5, "bad.nc holds nan at 1900-01-01T00:00:00, expected"
    ),
    "several": (
        _dataset(lambda d: d.assign(y=d["x"])), 5, "bad.nc holds x (time), y (time), expected one variable over time"
    ),
    "a field": (
        _dataset(lambda d: d.expand_dims(lat=3)), 5, "bad.nc holds x (lat, time), expected one variable over time alone"
    ),
    "no time": (_dataset(lambda d: d.drop_vars("time")), 5, "x in bad.nc has no time axis"),
    "other units": (_dataset(lambda d: d.assign(x=d["x"].assign_attrs(units="K"))), 5, "has the units 'K', expected"),
    "no text": (_bytes(b"\xff\xfe19"), 5, "is neither NetCDF nor Zarr"),
    "cut": (_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), 5, "cannot read"),
    "a folder": (lambda p: _folder(p / "folder"), 5, "is a folder but not a Zarr store"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FORCINGS)
def test_bad_forcings_are_refused(
    kind: str, tiny_bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, expected, message = BAD_FORCINGS[kind]
    common = ["--model", str(tiny_bundle_path), "--device", "cpu", "generate", "--out", str(tmp_path / "out.zarr")]
    code = main([*common, "--forcing", str(make(tmp_path))])
    out, err = capsys.readouterr()
    assert (code, out) == (expected, ""), err
    assert err.splitlines()[-1].startswith("fsae-run: error: ")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not (tmp_path / "out.zarr").exists()


def test_the_output_is_not_the_forcing(
    tiny_bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _made(tmp_path / "f.nc", series(january(1900, 2100), [1.0, 2.0]))
    common = ["--model", str(tiny_bundle_path), "--device", "cpu", "generate", "--overwrite"]
    assert main([*common, "--forcing", str(path), "--out", str(path)]) == 7
    assert "f.nc is the forcing: give another path for the output" in capsys.readouterr().err


def test_a_bundle_that_does_not_generate_takes_no_forcing(emulator: fsae.runtime.Emulator) -> None:
    plain = msgspec.structs.replace(emulator.bundle.manifest, denoiser=None, sampler=None)
    other = fsae.runtime.Emulator(dataclasses.replace(emulator.bundle, manifest=plain), emulator.graphs)
    with pytest.raises(fsae.runtime.BundleError, match="has no diffusion model, so it cannot generate"):
        other.generate(Request(members=1, forcing=1990.0))
