"""GRIB output holds the fields of the same request in NetCDF, as cfgrib, ecCodes, CDO and our own reader see it."""

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xarray as xr
from runs import source_for
from small_output import layout_of, month_axis
from tiny_bundle import ZOOM

from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import DataError
from fsae.runtime.grib.written import write_messages
from fsae.runtime.input.joining import read_fields
from fsae.runtime.output.layout import Layout, make_frame
from fsae.runtime.output.selection import Selection
from fsae.runtime.output.times import ReferenceTimes, encode_series, encode_times
from fsae.runtime.output.zarr import ZarrStore
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import pixel_centres

eccodes = pytest.importorskip("eccodes", exc_type=(ImportError, RuntimeError))
cfgrib = pytest.importorskip("cfgrib", exc_type=(ImportError, RuntimeError))

PACKED = 6e-8  # of the range of a field: half a unit of 24 bits, which may be twice as coarse as they need
MONTHS = Request(members=[3, 0], start="1990-11", steps=4, seed=5, select=Selection(grid="source"))
ENDS = ["1990-12-01", "1991-01-01", "1991-02-01", "1991-03-01"]
HOURS = [720, 1464, 2208, 2880]  # of November to February, added up


def near(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare fields (..., lat, lon) within the packing, and one unit of float32, in which cfgrib gives them."""
    assert found.shape == expected.shape
    spread = np.ptp(expected, axis=(-2, -1), keepdims=True)
    assert (np.abs(found - expected) <= PACKED * spread + np.spacing(np.abs(expected))).all()


def of_key(message: int, name: str) -> Any:
    """The value of a key; a number instead of a word if the name ends in :int."""
    key, _, kind = name.partition(":")
    return eccodes.codes_get(message, key, int if kind else None)


def keys_of(path: Path, *names: str) -> list[list[Any]]:
    """Values of keys of all messages of a file, None where one is missing."""
    found = []
    with path.open("rb") as file:
        while (message := eccodes.codes_grib_new_from_file(file)) is not None:
            found.append(
                [
                    None if eccodes.codes_is_missing(message, name.partition(":")[0]) else of_key(message, name)
                    for name in names
                ]
            )
            eccodes.codes_release(message)
    return found


def by_cfgrib(path: Path, **keys: object) -> xr.Dataset:
    """Messages of a file as cfgrib reads them."""
    return xr.open_dataset(path, engine="cfgrib", backend_kwargs={"indexpath": "", "filter_by_keys": keys})


@pytest.fixture
def pair(emulator: Emulator, tmp_path: Path) -> tuple[Path, xr.Dataset]:
    """An ensemble as GRIB, and the same as read from NetCDF."""
    for name in ("out.grib2", "out.nc"):
        emulator.generate_file(tmp_path / name, MONTHS)
    with xr.open_dataset(tmp_path / "out.nc") as dataset:
        return tmp_path / "out.grib2", dataset.load()


def test_cfgrib_reads_the_ensemble(pair: tuple[Path, xr.Dataset]) -> None:  # oracle: cfgrib, and the same in NetCDF
    path, expected = pair
    for name, short, level in (("tas", "avg_2t", 2), ("uas", "avg_10u", 10)):
        found = by_cfgrib(path, shortName=short)[short]
        assert found.dims == ("number", "step", "latitude", "longitude")
        assert found["heightAboveGround"] == level
        assert str(found["time"].values)[:16] == "1990-11-01T00:00"
        assert [str(time)[:10] for time in found["valid_time"].values] == ENDS
        np.testing.assert_array_equal(found["valid_time"].values, expected["time_bnds"].values[:, 1])
        for own, axis in (("lat", "latitude"), ("lon", "longitude")):
            np.testing.assert_allclose(found[axis].values, expected[own].values, atol=5e-7)  # microdegrees
        wanted = expected[name].sel(realization=found["number"].values)
        near(found.values, wanted.transpose("realization", "time", "lat", "lon").values)
        assert found.attrs["units"].replace("**", "") == expected[name].attrs["units"]


def test_messages_say_what_they_are(pair: tuple[Path, xr.Dataset]) -> None:
    # oracle: WMO code tables; times before members before variables, as CDO and NetCDF have them
    path, _ = pair
    names = "edition", "discipline", "parameterCategory", "parameterNumber", "typeOfFirstFixedSurface:int", "level"
    names += "productDefinitionTemplateNumber", "typeOfStatisticalProcessing", "packingType", "bitsPerValue"
    names += "perturbationNumber", "numberOfForecastsInEnsemble", "dataDate", "stepRange", "validityDate"
    expected = []
    for step, (first, last) in enumerate(zip([0, *HOURS], HOURS, strict=False)):
        for member in (3, 0):
            for what in ((0, 0, 0, 103, 2), (0, 2, 2, 103, 10)):
                how = (11, 0, "grid_simple", 24, member, 2, 19901101, f"{first}-{last}")
                expected.append([2, *what, *how, int(ENDS[step].replace("-", ""))])
    assert keys_of(path, *names) == expected


def test_our_reader_gives_the_months_back(pair: tuple[Path, xr.Dataset], emulator: Emulator) -> None:
    # oracle: the same in NetCDF; GRIB dates a mean by the end of its period, where the next month begins
    path, _ = pair
    fields = [read_fields(one, emulator.bundle.manifest.variables) for one in (path, path.with_suffix(".nc"))]
    for one in fields:
        one.close()
    dates = [[[date.isoformat() for date in period] for period in one.periods or ()] for one in fields]
    assert dates[0] == dates[1] != []
    assert dates[0][0] == ["1990-11-01T00:00:00", "1990-12-01T00:00:00"]


STATISTICS = {"mean": 0, "std": 4, "min": 8, "max": 9}  # code table 4.7


def spread_of(emulator: Emulator, name: str, folder: Path) -> tuple[Path, xr.Dataset]:
    """A statistic over 20 members as GRIB, and the same as read from NetCDF."""
    select = Selection(grid="source", variables=["tas"])
    for out in ("out.grib2", "out.nc"):
        request = Request(members=20, start="1990-11", steps=4, seed=5, statistics=[name], select=select)
        emulator.generate_file(folder / out, request)
    with xr.open_dataset(folder / "out.nc") as dataset:
        return folder / "out.grib2", dataset.load()


@pytest.mark.parametrize("name", STATISTICS)
def test_a_statistic_over_members_is_a_derived_forecast(name: str, emulator: Emulator, tmp_path: Path) -> None:
    # oracle: WMO code tables 1.4 and 4.7, cfgrib, and the same in NetCDF
    path, expected = spread_of(emulator, name, tmp_path)
    names = (
        "productDefinitionTemplateNumber",
        "derivedForecast",
        "numberOfForecastsInEnsemble",
        "typeOfProcessedData:int",
    )
    assert keys_of(path, *names) == [[12, STATISTICS[name], 20, 5]] * 4
    assert keys_of(path, "stepRange") == [[f"{a}-{b}"] for a, b in zip([0, *HOURS], HOURS, strict=False)]
    found = by_cfgrib(path, derivedForecast=STATISTICS[name])["avg_2t"]
    assert found.dims == ("step", "latitude", "longitude")
    near(found.values, expected[f"tas_{name}"].values)


def test_instants_have_derived_forecasts_too(emulator: Emulator, tmp_path: Path) -> None:  # oracle: template 4.2
    path = tmp_path / "hours.grib2"
    select = Selection(grid="source", variables=["tas"])
    hourly(emulator).generate_file(
        path, Request(members=3, start="1990-11", steps=2, statistics=["std"], select=select)
    )
    names = "productDefinitionTemplateNumber", "derivedForecast", "numberOfForecastsInEnsemble", "forecastTime"
    assert keys_of(path, *names) == [[2, 4, 3, 0], [2, 4, 3, 6]]


@pytest.mark.skipif(shutil.which("cdo") is None, reason="there is no cdo here: apt-get install cdo")
def test_cdo_reads_a_statistic(emulator: Emulator, tmp_path: Path) -> None:  # oracle: the same in NetCDF
    path, expected = spread_of(emulator, "std", tmp_path)
    subprocess.run(["cdo", "-s", "-f", "nc4", "copy", str(path), str(tmp_path / "cdo.nc")], check=True)
    with xr.open_dataset(tmp_path / "cdo.nc") as found:
        near(found["2t"].values.reshape(expected["tas_std"].shape), expected["tas_std"].values)


@pytest.mark.parametrize(("name", "taken"), [("mean", True), ("std", False), ("max", False)])
def test_our_reader_takes_a_mean_of_members_for_a_field_and_no_other(
    name: str, taken: bool, emulator: Emulator, tmp_path: Path
) -> None:  # oracle: what the statistic is
    path, expected = spread_of(emulator, name, tmp_path)
    tas = [one for one in emulator.bundle.manifest.variables if one.name == "tas"]
    if not taken:
        with pytest.raises(DataError, match=r"standard_deviation|maximum"):
            read_fields(path, tas)
        return
    fields = read_fields(path, tas)
    assert len(fields.times) == expected.sizes["time"]
    fields.close()


GAUSSIAN = {  # rows of N8, as numbers of float64 from the north, and in two digits from the south
    "N8": np.degrees(np.arcsin(np.polynomial.legendre.leggauss(16)[0]))[::-1],
    "from the south": np.degrees(np.arcsin(np.polynomial.legendre.leggauss(16)[0])).round(2),
}


@pytest.mark.skipif(shutil.which("cdo") is None, reason="there is no cdo here: apt-get install cdo")
@pytest.mark.parametrize("name", GAUSSIAN)
def test_gaussian_grids(name: str, emulator: Emulator, tmp_path: Path) -> None:
    # oracle: NumPy's Gauss-Legendre nodes; the grid that ecCodes, cfgrib and CDO read, and the same fields in NetCDF
    grid = LatLonGrid(lat_deg=GAUSSIAN[name], lon_deg=np.arange(32) * 11.25)
    for out in ("out.grib2", "out.nc"):
        request = Request(members=1, start="1990-11", steps=2, seed=5, select=Selection(grid=grid, variables=["tas"]))
        emulator.generate_file(tmp_path / out, request)
    path = tmp_path / "out.grib2"
    assert keys_of(path, "gridType", "N", "Ni", "Nj") == [["regular_gg", 8, 32, 16]] * 2
    with xr.open_dataset(tmp_path / "out.nc") as expected:
        found = by_cfgrib(path)["avg_2t"].sortby("latitude")
        wanted = expected["tas"].isel(realization=0).sortby("lat")
        np.testing.assert_allclose(found["latitude"], GAUSSIAN["N8"][::-1], atol=2e-6)
        near(found.values, wanted.values)
        subprocess.run(["cdo", "-s", "-f", "nc4", "copy", str(path), str(tmp_path / "cdo.nc")], check=True)
        with xr.open_dataset(tmp_path / "cdo.nc") as by_cdo:
            near(by_cdo["2t"].sortby("lat").values.reshape(wanted.shape), wanted.values)
    said = subprocess.run(["cdo", "-s", "griddes", str(path)], capture_output=True, text=True, check=True).stdout
    assert "gridtype  = gaussian" in said


def hourly(emulator: Emulator) -> Emulator:
    """The emulator as if its model had instants every six hours."""
    manifest = emulator.bundle.manifest
    points = tuple(msgspec.structs.replace(one, cell_methods="time: point") for one in manifest.variables)
    time = msgspec.structs.replace(manifest.time, step="6 hours")
    changed = msgspec.structs.replace(manifest, time=time, variables=points)
    return Emulator(dataclasses.replace(emulator.bundle, manifest=changed), emulator.graphs)


def test_instants_have_no_period(emulator: Emulator, tmp_path: Path) -> None:  # oracle: templates 4.1, of one time
    path = tmp_path / "hours.grb2"
    request = Request(members=2, start="1990-11", steps=3, select=Selection(grid="source", variables=["tas"]))
    hourly(emulator).generate_file(path, request)
    names = "productDefinitionTemplateNumber", "stepType", "forecastTime", "indicatorOfUnitForForecastTime"
    expected = [[1, "instant", hour, 1, member] for hour in (0, 6, 12) for member in (0, 1)]
    assert keys_of(path, *names, "perturbationNumber") == expected
    assert [str(time)[:13] for time in by_cfgrib(path)["valid_time"].values] == [
        f"1990-11-01T{hour}" for hour in ("00", "06", "12")
    ]


def test_a_forecast_counts_from_its_reference_time(emulator: Emulator, tmp_path: Path) -> None:
    # oracle: the dates of the states that it starts from
    source, path = source_for(emulator, "superres", tmp_path, members=None, steps=12), tmp_path / "known.grib"
    known = Request(members=1, steps=2, initial=source, climatology="training", select=Selection(grid="source"))
    emulator.generate_file(path, known)
    found = keys_of(path, "dataDate", "dataTime", "stepRange", "productDefinitionTemplateNumber")
    assert found[::2] == [[19910101, 0, "0-744", 11], [19910101, 0, "744-1416", 11]]


def test_forecasts_side_by_side_keep_their_reference_times(tmp_path: Path) -> None:
    # oracle: the layout's own axes; messages by start, lead time and member
    plain = layout_of(zoom=None)
    _, bounds = month_axis("standard", 6)
    series = [bounds[0:3], bounds[3:6]]
    dates = [[begin + (end - begin) / 2 for begin, end in one] for one in series]
    starts = ReferenceTimes(
        times=encode_times([one[0][0] for one in series], None, "standard"), leads=np.arange(3.0), lead_units="days"
    )
    layout = dataclasses.replace(
        plain,
        variables={"tas": plain.variables["tas"]},
        time=encode_series(dates, series, "standard", starts),
        reference_times=starts,
    )
    values = np.random.default_rng(3).normal(280, 9, (2, 2, 3, 3, 4)).astype(np.float32)
    path = tmp_path / "starts.grib2"
    write_messages(store_of(layout, {"tas": values}, tmp_path / "s.zarr"), layout, path, path)
    near(messages(path, (2, 3, 2, 3, 4)), values.transpose(1, 2, 0, 3, 4))
    steps = {20000101: ["0-744", "744-1440", "1440-2184"], 20000401: ["0-720", "720-1464", "1464-2184"]}
    expected = [[date, step, member] for date, own in steps.items() for step in own for member in (0, 5)]
    assert keys_of(path, "dataDate", "stepRange", "number") == expected


def messages(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The values of all messages of a file, as an array of that shape."""
    found = []
    with path.open("rb") as file:
        while (message := eccodes.codes_grib_new_from_file(file)) is not None:
            found.append(eccodes.codes_get_values(message))
            eccodes.codes_release(message)
    return np.array(found).reshape(shape)


def test_a_member_in_a_file_of_its_own(emulator: Emulator, tmp_path: Path) -> None:  # oracle: the keys of the ensemble
    path = tmp_path / "tas_003.grib2"
    emulator.generate_file(path, Request(members=[3], steps=1, alone=True, select=Selection(grid="source")))
    assert keys_of(path, "perturbationNumber", "numberOfForecastsInEnsemble:int") == [[3, 255]] * 2


def test_cells_of_healpix(emulator: Emulator, tmp_path: Path) -> None:
    # oracle: ecCodes' own HEALPix, by the centre of each cell, and the same cells in NetCDF
    for name in ("cells.grib2", "cells.nc"):
        emulator.generate_file(tmp_path / name, Request(members=1, steps=1, select=Selection(variables=["tas"])))
    with (tmp_path / "cells.grib2").open("rb") as file:
        message = eccodes.codes_grib_new_from_file(file)
    assert eccodes.codes_get(message, "gridDefinitionTemplateNumber") == 150
    assert eccodes.codes_get(message, "orderingConvention") == "nested"
    lat_deg, lon_deg = pixel_centres(ZOOM)
    np.testing.assert_allclose(eccodes.codes_get_array(message, "latitudes"), lat_deg, atol=1e-9)
    np.testing.assert_allclose(eccodes.codes_get_array(message, "longitudes") % 360, lon_deg % 360, atol=1e-9)
    with xr.open_dataset(tmp_path / "cells.nc") as expected:
        wanted = expected["tas"].values.reshape(1, -1)
    near(eccodes.codes_get_values(message).reshape(1, -1), wanted)
    eccodes.codes_release(message)


GRIDS = {  # axes that are written, by name: of the globe from the north or the south, across Greenwich, a single row
    "7x14": {"grid": "7x14"},
    "30": {"grid": "30"},
    "europe": {"grid": "5", "bbox": (-10, 35, 30, 70)},
    "row": {"grid": "5", "bbox": (-10, 35, 30, 39)},
    "pacific": {"grid": "5", "bbox": (150, -40, -120, 40)},
}


@pytest.mark.skipif(shutil.which("cdo") is None, reason="there is no cdo here: apt-get install cdo")
@pytest.mark.parametrize("name", GRIDS)
def test_cdo_reads_the_fields(name: str, emulator: Emulator, tmp_path: Path) -> None:
    # oracle: CDO makes NetCDF of it with the values, axes and periods of ours
    source = source_for(emulator, "superres", tmp_path, members=None, steps=3)
    select = Selection(variables=["tas"], **GRIDS[name])
    for out in ("out.grib2", "out.nc"):
        emulator.superres_file(source, tmp_path / out, zoom=1, climatology="training", select=select)
    words = ["cdo", "-s", "-f", "nc4", "copy", str(tmp_path / "out.grib2"), str(tmp_path / "cdo.nc")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with xr.open_dataset(tmp_path / "cdo.nc") as found, xr.open_dataset(tmp_path / "out.nc") as expected:
        (short,) = [str(one) for one in found.data_vars if "bnds" not in str(one)]
        assert short.endswith("2t")
        values = found[short].squeeze("height") if "height" in found[short].dims else found[short]
        for axis in ("lat", "lon"):
            np.testing.assert_allclose(found[axis].values, expected[axis].values, atol=2e-6)
        near(values.values, expected["tas"].values)
        np.testing.assert_array_equal(found["time"].values, expected["time_bnds"].values[:, 1])


def store_of(layout: Layout, values: dict[str, np.ndarray], path: Path) -> ZarrStore:
    """The store of a run that has made everything."""
    store = ZarrStore(path, {})
    make_frame(store, layout)
    for name, whole in values.items():
        store.write(name, (slice(None), slice(None)), whole)
    return store


def test_values_of_any_kind_are_packed_to_the_bound(tmp_path: Path) -> None:
    # oracle: half a unit of the packing, as told by each message; missing values and constants are exact
    layout = layout_of(zoom=None)
    rng, shape = np.random.default_rng(1), (2, 4, 3, 4)
    tas: np.ndarray = rng.normal(280, 30, shape).astype(np.float32)
    tas[0, 0] *= 1e-9
    tas[0, 1, 0, 2] = 3e9
    tas[0, 2] = 273.15
    tas[0, 3] = np.nan
    tas[1, 0, 1] = np.nan
    layout = dataclasses.replace(layout, variables={"tas": layout.variables["tas"]})
    path = tmp_path / "out.grib2"
    write_messages(store_of(layout, {"tas": tas}, tmp_path / "s.zarr"), layout, path, path)
    scales = [scale for (scale,) in keys_of(path, "binaryScaleFactor")]
    raw = messages(path, (4, 2, 3, 4)).transpose(1, 0, 2, 3)
    found = np.where(raw == 9999, np.nan, raw)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(tas))
    half = 2.0 ** (np.array(scales).reshape(4, 2).T[..., None, None] - 1)
    assert (np.abs(found - tas) <= half)[~np.isnan(tas)].all()
    spread = np.nanmax(tas[0, 1].astype(float)) - np.nanmin(tas[0, 1])
    assert np.abs(found[0, 1] - tas[0, 1]).max() <= PACKED * spread
    np.testing.assert_array_equal(found[0, 2], tas[0, 2])


def test_blocks_of_steps_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: the file that is made in one block; memory for less than a step, for a step, for two
    layout = layout_of(zoom=None)
    layout = dataclasses.replace(layout, variables={"tas": layout.variables["tas"]})
    values = np.random.default_rng(2).normal(280, 9, (2, 4, 3, 4)).astype(np.float32)
    store, made = store_of(layout, {"tas": values}, tmp_path / "s.zarr"), []
    for step_bytes in (8, 0.5, 1, 2):
        monkeypatch.setattr("fsae.runtime.grib.written.BLOCK_BYTES", int(step_bytes * 4 * 12 * 2))
        path = tmp_path / f"{step_bytes}.grib2"
        write_messages(store, layout, path, path)
        made.append(path.read_bytes())
    assert made[0] == made[1] == made[2] == made[3]
    near(messages(path, (4, 2, 3, 4)), values.transpose(1, 0, 2, 3))
