"""Reading fields: real files of many makers, and everything that must be refused with the right sentence."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr

from fsae.runtime.climate.units import conversion
from fsae.runtime.errors import DataError
from fsae.runtime.input.joining import read_fields
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import npix, pixel_centres, ring_to_nested
from fsae.runtime.sphere.regrid import make_weights
from fsae.runtime.sphere.weights import apply


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A variable as a model would ask for it."""

    name: str = "tas"
    standard_name: str = ""
    long_name: str = ""
    cell_methods: str = "time: mean"
    units: str = "K"
    valid_range: tuple[float, float] = (150.0, 350.0)
    missing: bool = False


TAS = Spec()
WIND = {"units": "m s-1", "valid_range": (-60.0, 60.0)}


def small(calendar: str = "noleap", **attrs: str) -> xr.Dataset:
    """Two years of monthly `tas` on a 19 x 36 grid, times as numbers."""
    lat, lon = np.linspace(90, -90, 19), np.arange(36) * 10.0
    field = 260 + 40 * np.cos(np.radians(lat))[:, None] * np.ones(36) + np.arange(24)[:, None, None]
    field += np.random.default_rng(0).normal(size=field.shape)
    stamps = [cftime.datetime(2001 + m // 12, m % 12 + 1, 1, calendar=calendar) for m in range(24)]
    days = cftime.date2num(stamps, "days since 2000-01-01", calendar)
    time = ("time", days, {"units": "days since 2000-01-01", "calendar": calendar, "standard_name": "time"})
    data = {"tas": (("time", "lat", "lon"), field, {"units": "K", "cell_methods": "time: mean"} | attrs)}
    return xr.Dataset(data, {"time": time, "lat": lat, "lon": lon})


def on_cells(zoom: int, order: str = "nested") -> xr.Dataset:
    """One step of `tas` on HEALPix: the latitude, in kelvin above 250."""
    lat = pixel_centres(zoom)[0] + 250
    if order == "ring":
        lat = lat[np.argsort(ring_to_nested(zoom))]
    attrs = {"units": "K", "healpix_nside": 1 << zoom, "healpix_order": order}
    time = ("time", [0.0], {"units": "days since 2000-01-01"})
    return xr.Dataset({"tas": (("time", "cell"), lat[None], attrs)}, {"time": time})


@dataclass(frozen=True, kw_only=True)
class Known:
    """Known facts about a real file; the mean by the latitude weights of the whole file."""

    file: str
    specs: tuple[Spec, ...]
    zoom: int
    calendar: str
    step: str
    phase: float  # of the first step
    members: int | None = None


REAL = [
    Known(file="csm-b003-ts-mon-100months.nc", specs=(Spec(name="ts"),), zoom=4, calendar="noleap", step="1 month",
          phase=(243 + 15) / 365),
    Known(file="glosea4-ts-mon-2011-10members.nc", specs=(Spec(name="ts"),), zoom=5, calendar="standard",
          step="1 month", phase=(212 + 15.5) / 365, members=10),
    Known(file="pcm-tas-ann-1890-1999-6members.nc", specs=(TAS,), zoom=4, calendar="noleap", step="1 year", phase=0.5,
          members=6),
    Known(file="mpi-esm-lr-tas-uas-vas-mon-2005.nc", specs=(TAS, Spec(name="uas", **WIND), Spec(name="vas", **WIND)),
          zoom=5, calendar="proleptic_gregorian", step="1 month", phase=15.5 / 365),  # names bounds it does not have
    Known(file="echam5-ts-6h-20010101-20010110.nc", specs=(Spec(name="ts"),), zoom=5, calendar="proleptic_gregorian",
          step="6 hours", phase=0.0),
    Known(file="eraint-5vars-mon-201702-201703.nc", specs=(TAS, Spec(name="ps", units="hPa", valid_range=(450, 1100)),
          Spec(name="tp", units="kg m-2", valid_range=(-1, 500))), zoom=5, calendar="proleptic_gregorian",
          step="1 month", phase=(31 + 14) / 365),
    Known(file="era40-tcw-day-200207.nc", specs=(Spec(name="tcw", units="mm", valid_range=(0, 100)),), zoom=5,
          calendar="standard", step="1 day", phase=181.5 / 365),
    Known(file="fnoc-uas-vas-mon-1982-1990.nc", specs=(Spec(name="uas", **WIND), Spec(name="vas", **WIND)), zoom=5,
          calendar="proleptic_gregorian", step="1 month", phase=15.5 / 365),
]  # fmt: skip


@pytest.mark.parametrize("known", REAL, ids=lambda known: known.file)
def test_real_files(
    known: Known, shared_data: Path
) -> None:  # oracle: facts of the files, area-weighted means of xarray
    path = shared_data / known.file
    fields = read_fields(path, known.specs)
    assert (fields.zoom, fields.calendar, fields.step) == (known.zoom, known.calendar, known.step)
    np.testing.assert_allclose(fields.phase[0], known.phase, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fields.year, [t.year for t in fields.times] + fields.phase, rtol=0, atol=1e-9)
    assert (None if fields.members is None else len(fields.members)) == known.members
    times = slice(0, 2)
    values = fields.read(times)
    assert values.dtype == np.float32
    assert values.shape == (known.members or 1, 2, len(known.specs), npix(known.zoom))
    with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as dataset:
        weights = np.cos(np.radians(dataset["lat"])) + 1e-9  # half cells of the pole rows are left out: see atol
        for v, spec in enumerate(known.specs):
            array = dataset[spec.name].isel(time=times)
            factor, offset = conversion(array.attrs["units"], spec.units)
            mean = array.weighted(weights).mean(("lat", "lon")).values * factor + offset
            spread = float(array.std()) * factor
            np.testing.assert_allclose(values[:, :, v].mean(-1).reshape(mean.shape), mean, rtol=0, atol=0.01 * spread)
    np.testing.assert_array_equal(fields.read(slice(1, 2), member=0)[0], values[0, 1:2])
    fields.close()


def test_missing_values_of_a_real_file(shared_data: Path) -> None:  # oracle: land has none, open ocean has values
    path = shared_data / "coads-clim12-2deg-missing.nc"
    spec = Spec(name="sst", missing=True)
    fields = read_fields(path, [spec])  # degC there, K here
    values = fields.read()[0, :, 0]
    lat, lon = pixel_centres(5)
    sahara = (np.abs(lat - 20) < 5) & (np.abs(lon - 10) < 5)
    pacific = (np.abs(lat) < 5) & (np.abs(lon - 180) < 20)
    assert np.isnan(values[:, sahara]).all()
    assert (np.abs(values[:, pacific] - 301.5) < 4).all()
    fields.close()
    with pytest.raises(DataError, match=r"sst in coads-clim12-2deg-missing\.nc has 6694 missing values in 1 steps"):
        read_fields(path, [Spec(name="sst")])


def test_training_and_winds_have_the_same_phases(
    sample_data: Path, shared_data: Path
) -> None:  # stamps differ by 15 days
    tas = read_fields(sample_data / "ncep1-tas-mon-194801-200412.nc", [TAS])
    winds = read_fields(shared_data / "fnoc-uas-vas-mon-1982-1990.nc", [Spec(name="uas", **WIND)])
    first = 12 * (1982 - 1948)
    np.testing.assert_array_equal(winds.phase, tas.phase[first : first + 108])
    tas.close()
    winds.close()


def test_chunks_are_the_whole(sample_data: Path) -> None:  # oracle: the weights applied to what xarray reads
    path = sample_data / "ncep1-tas-mon-200501-201412.nc"
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        grid = LatLonGrid(lat_deg=dataset["lat"].values, lon_deg=dataset["lon"].values)
        source = dataset["tas"][:30].values.reshape(30, -1)
        decoded = read_fields(dataset, [TAS])  # a data set with times that xarray decoded
        fields = read_fields(path, [TAS])
        expected = apply(make_weights(grid, 5), source).astype(np.float32)
        parts = [values for times, values in fields.chunks(13) if times.start < 30]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1)[0, :30, 0], expected)
        np.testing.assert_array_equal(decoded.read(slice(0, 30))[0, :, 0], expected)
        assert list(decoded.times) == list(fields.times)
        assert fields.read(slice(5, 5)).shape == (1, 0, 1, npix(5))
        fields.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.isel(lat=slice(None, None, -1)),
        lambda d: d.roll(lon=18, roll_coords=True).assign_coords(lon=(np.arange(36) - 18) * 10.0),
        lambda d: xr.concat([d, d.isel(lon=[0]).assign_coords(lon=[360.0])], "lon", data_vars="minimal"),
        lambda d: d.transpose("lon", "time", "lat"),
        lambda d: d.expand_dims(height=[2.0]),
        lambda d: d.rename(tas="t2m").pipe(
            lambda e: e.assign(t2m=e["t2m"].assign_attrs(standard_name="air_temperature"))
        ),
        lambda d: d.assign(tas=(d["tas"] - 273.15).assign_attrs(d["tas"].attrs | {"units": "degC"})),
        lambda d: d.chunk(time=5),
        lambda d: d.expand_dims(member=[3]).transpose("time", ...),
    ],
)
def test_the_same_field_in_other_clothes(change: Callable[[xr.Dataset], xr.Dataset]) -> None:  # oracle: invariance
    plain = read_fields(small(), [TAS]).read()
    other = read_fields(change(small()), [Spec(standard_name="air_temperature")])
    np.testing.assert_allclose(other.read(), plain, rtol=0, atol=2e-4)  # kelvin, rounding of float32 near 300


def test_bounds_decide_the_phase() -> None:  # oracle: days counted by hand
    late = small()
    days = late["time"].values
    late["time"] = ("time", days + 31, late["time"].attrs | {"bounds": "time_bnds"})  # stamped after the month
    late["time_bnds"] = (("time", "bnds"), np.stack([days, np.append(days[1:], days[-1] + 31)], axis=-1))
    fields = read_fields(late, [TAS])
    np.testing.assert_allclose(fields.phase[:2], [15.5 / 365, 45 / 365], rtol=1e-12)
    single = read_fields(late.isel(time=[1]), [TAS])
    assert single.step == "1 month"


def test_healpix_input() -> None:  # oracle: latitudes of the pixels
    nested = read_fields(on_cells(3), [TAS])
    assert nested.zoom == 3
    np.testing.assert_allclose(nested.read()[0, 0, 0], pixel_centres(3)[0] + 250, rtol=1e-6)
    np.testing.assert_array_equal(read_fields(on_cells(3, "ring"), [TAS]).read(), nested.read())
    capped = read_fields(on_cells(4, "ring"), [TAS], finest_zoom=3)
    assert capped.zoom == 3
    expected = (pixel_centres(4)[0] + 250).reshape(-1, 4).mean(-1)
    np.testing.assert_allclose(capped.read()[0, 0, 0], expected, rtol=1e-6)


def test_healpix_with_missing_values() -> None:  # oracle: closed form
    source = on_cells(1)
    source["tas"].values[0, :7] = np.nan
    source["tas"].values[0, 7] = 200
    source["tas"].values[0, 8:10] = np.nan
    values = read_fields(source, [Spec(missing=True)], zoom=0).read()[0, 0, 0]
    assert np.isnan(values[:2]).all()
    np.testing.assert_allclose(values[2], source["tas"].values[0, 10:12].mean(), rtol=1e-6)


def test_a_variable_asked_for_by_name_is_not_taken_for_another() -> None:
    pair = [Spec(name="tas", standard_name="air_temperature"), Spec(name="ta850", standard_name="air_temperature")]
    dataset = small(standard_name="air_temperature").rename(tas="ta850")
    with pytest.raises(DataError, match="no variable 'tas'"):
        read_fields(dataset, pair)
    named = read_fields(dataset.rename(ta850="t"), [Spec(name="tas")], names={"tas": "t"})
    assert named.variables == ("tas",)


def test_a_given_name_is_taken_literally() -> None:  # oracle: without the name the standard name finds the variable
    dataset, spec = small(standard_name="air_temperature"), Spec(name="other", standard_name="air_temperature")
    assert read_fields(dataset, [spec]).variables == ("other",)
    with pytest.raises(DataError, match=r"has no variable 'zz'; it has tas \(air_temperature\)"):
        read_fields(dataset, [spec], names={"other": "zz"})


def test_default_zoom_and_too_fine_a_zoom() -> None:
    assert read_fields(small(), [TAS]).zoom == 3  # 684 points
    assert read_fields(small(), [TAS], finest_zoom=2).zoom == 2
    with pytest.raises(
        DataError,
        match="a 19 x 36 lat-lon grid, which supports zoom 3 at most, and zoom 4 was asked for: leave --zoom out",
    ):
        read_fields(small(), [TAS], zoom=4)


def with_values(value: float) -> xr.Dataset:
    dataset = small()
    dataset["tas"].values[0, 3, 3] = value
    return dataset


def without_units() -> xr.Dataset:
    dataset = small()
    del dataset["tas"].attrs["units"]
    return dataset


def twice() -> xr.Dataset:
    dataset = small()
    return dataset.assign(
        a=dataset["tas"].assign_attrs(standard_name="t"), b=dataset["tas"].assign_attrs(standard_name="t")
    )


def with_time(**changed: object) -> xr.Dataset:
    dataset = small()
    dataset["time"] = ("time", dataset["time"].values, dataset["time"].attrs | changed)
    return dataset


@pytest.mark.parametrize(
    ("dataset", "spec", "sentence"),
    [
        (
            small(),
            Spec(name="pr", standard_name="rain"),
            "no variable 'pr' nor one of standard name 'rain'; it has tas",
        ),
        (twice(), Spec(name="x", standard_name="t"), "2 variables of standard name 't': a, b, expected one, or"),
        (small(), Spec(units="m s-1"), "tas in dataset: found the units 'K', which cannot be converted to 'm s-1'"),
        (small(units="furlong"), TAS, "found the units 'furlong', which are not known here"),
        (without_units(), TAS, "tas in dataset has no units, expected 'K' or what converts to it"),
        (small(units="degC"), TAS, r"runs from 53\d.* to .* K, expected within 150 to 350 K: .* 'degC', right"),
        (with_values(np.nan), TAS, "has 1 missing values in 1 steps, expected none"),
        (with_values(np.inf), Spec(valid_range=(-np.inf, np.inf)), "to inf K"),
        (small().isel(time=slice(None, None, -1)), TAS, "has dates that do not rise"),
        (small().isel(time=[0, 0]), TAS, "has the date 2001-01-01 00:00:00 twice"),
        (small().isel(time=[]), TAS, "has no time steps"),
        (small().isel(time=0, drop=True), TAS, "has no time axis with CF units"),
        (with_time(units="fortnights since 2000-01-01"), TAS, "cannot decode the times of tas in dataset"),
        (with_time(calendar="mayan"), TAS, "cannot decode the times of tas in dataset"),
        (small().expand_dims(height=[2.0, 10.0]), TAS, r"has the dimensions height \(2\) too: select one entry"),
        (small().isel(lon=slice(0, 9)), TAS, "covers longitudes 0 to 80 only"),
    ],
)
def test_what_is_refused(dataset: xr.Dataset, spec: Spec, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_fields(dataset, [spec])


def test_later_steps_are_checked_too() -> None:
    dataset = small()
    dataset["tas"].values[20, 3, 3:5] = np.nan
    fields = read_fields(dataset, [TAS])
    fields.read(slice(0, 20))
    with pytest.raises(DataError, match="has 2 missing values"):
        fields.read(slice(12, 24))


def test_files_that_hold_no_dataset(tmp_path: Path) -> None:
    def refused(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_fields(tmp_path / name, [TAS])
        return str(caught.value)

    assert "text.nc is neither NetCDF nor Zarr nor GRIB, expected" in refused("text.nc", b"time,lat\n1,2\n")
    assert "empty.nc is empty" in refused("empty.nc", b"")
    assert "five.nc has no variable 'tas'" in refused("five.nc", b"CDF\x05" + bytes(60))  # an empty header
    small().to_netcdf(tmp_path / "whole.nc", engine="h5netcdf")
    whole = (tmp_path / "whole.nc").read_bytes()
    assert "it may be damaged or incomplete" in refused("short.nc", whole[: len(whole) // 3])
    with pytest.raises(DataError, match="found no file"):
        read_fields(tmp_path / "absent.nc", [TAS])
    with pytest.raises(DataError, match="is a folder but not a Zarr store"):
        read_fields(tmp_path, [TAS])


def test_classic_netcdf(tmp_path: Path) -> None:  # oracle: the data set it was written from
    small().to_netcdf(tmp_path / "classic.nc", engine="scipy")
    fields = read_fields(tmp_path / "classic.nc", [TAS])
    np.testing.assert_array_equal(fields.read(), read_fields(small(), [TAS]).read())
    fields.close()


@pytest.mark.parametrize("version", [2, 3])
def test_zarr(tmp_path: Path, version: int) -> None:  # oracle: the data set it was written from
    path = tmp_path / "a.zarr"
    small().to_zarr(path, zarr_format=version, consolidated=False)
    fields = read_fields(path, [TAS])
    np.testing.assert_array_equal(fields.read(), read_fields(small(), [TAS]).read())
    chunk = next(p for p in sorted((path / "tas").rglob("*")) if p.is_file() and p.name[0] not in ".z")
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(
        DataError, match=r"cannot read tas in a\.zarr: .*: copy it again, as it may be damaged or incomplete"
    ):
        fields.read()
    attributes = path / "lat" / (".zattrs" if version == 2 else "zarr.json")
    whole = attributes.read_text(encoding="utf-8")
    damaged = json.loads(whole)
    (damaged if version == 2 else damaged["attributes"])["_FillValue"] = "gzip"  # of xarray, 8 bytes in base 64
    attributes.write_text(json.dumps(damaged), encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot read .*a\.zarr: .*: copy it again"):
        read_fields(path, [TAS])
    attributes.write_text(whole, encoding="utf-8")
    (path / (".zgroup" if version == 2 else "zarr.json")).write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot read .*a\.zarr"):
        read_fields(path, [TAS])


@pytest.mark.parametrize(
    ("found", "wanted", "value", "expected"),
    [
        ("degC", "K", 20.0, 293.15),
        ("Deg C", "K", 0.0, 273.15),
        ("K", "celsius", 300.0, 26.85),
        ("degF", "degC", 212.0, 100.0),
        ("hPa", "Pa", 1013.25, 101325.0),
        ("mb", "hPa", 850.0, 850.0),
        ("knots", "m s-1", 1.0, 1852 / 3600),
        ("KELVIN", "K", 5.0, 5.0),
        ("\u2103", "K", 0.0, 273.15),  # one sign for degree Celsius
        ("\u212a", "K", 5.0, 5.0),  # the sign of kelvin, not the letter
        ("Deg C", "degC", 5.0, 5.0),
        ("degree Celcius", "K", 0.0, 273.15),
        ("DEGK", "K", 5.0, 5.0),
        ("HPA", "Pa", 1.0, 100.0),
        ("microseconds", "s", 5e6, 5.0),
        ("km h-1", "m/s", 36.0, 10.0),
        ("m s**-1", "m.s-1", 3.0, 3.0),
        ("kg m**-2 s**-1", "mm/day", 1.0, 86400.0),
        ("mm", "kg m-2", 5.0, 5.0),
        ("m", "kg m-2", 0.005, 5.0),
        ("g/kg", "1", 5.0, 0.005),
        ("%", "1", 50.0, 0.5),
        ("m2 s-2", "J kg-1", 2.0, 2.0),
        ("W/m^2", "W m-2", 3.0, 3.0),
    ],
)
def test_units(found: str, wanted: str, value: float, expected: float) -> None:  # oracle: definitions of the units
    factor, offset = conversion(found, wanted)
    assert factor * value + offset == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("pair", [("K", "Pa"), ("m s-1", "mm"), ("kg", "m"), ("degC m-1", "K m-1"), ("10 m", "m")])
def test_units_that_do_not_convert(pair: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="found the units"):
        conversion(*pair)


@pytest.mark.parametrize(
    "units", ["m" * 9999, "m99999999999", "s" * 90 + "-1", "\x00\x1b[31m", "m^" + "9" * 90, "K\nPa\n"]
)
def test_units_of_damaged_files(units: str) -> None:  # oracle: one short sentence without control characters
    with pytest.raises(DataError, match="found the units") as error:
        conversion(units, "K")
    assert len(str(error.value)) < 250
    assert str(error.value).isprintable()
