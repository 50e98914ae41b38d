"""The meaning of a variable: its level, statistic and zero; names and numbers of weather centres; units as said."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xarray as xr
from monthly_input import SPECS, series
from tiny_bundle import ZOOM

import fsae.runtime
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.input.fields import Fields, Wanted, fields_of
from fsae.runtime.input.meaning import Level, known_level, objections
from fsae.runtime.input.sources import Opened, Source

TAS = msgspec.structs.replace(SPECS[0], long_name="near-surface air temperature", cell_methods="time: mean")
PLEV = {"standard_name": "air_pressure", "units": "Pa", "axis": "Z", "positive": "down"}


def temperature(name: str = "tas", level: xr.Variable | None = None, **attrs: Any) -> xr.Dataset:
    """Two years of a temperature alone, with attributes beside its units and standard name, at a level."""
    data = series()[["tas"]].rename(tas=name)
    data[name].attrs |= attrs
    return data if level is None else data.assign_coords(level=level)


def read(data: xr.Dataset, names: Mapping[str, str] | None = None, units: Mapping[str, str] | None = None) -> Fields:
    wanted = Wanted(variables=[TAS], names=names or {}, units=units or {}, finest_zoom=ZOOM)
    return fields_of(Opened(data, "file.nc"), wanted)


# oracle of the next two: the CF meaning of each attribute, and what ECMWF, NCEP, CDO and CMIP write
OTHERS = {
    "pressure": (temperature("ta", xr.Variable((), 85000.0, PLEV)), "is at level = 85000 Pa"),
    "single level": (
        temperature("ta", xr.Variable((), 850.0, {"units": "hPa"})).expand_dims("level"),
        "is at level = 850 hPa",
    ),
    "hybrid": (
        temperature("t", xr.Variable((), 1, {"standard_name": "model_level_number"})),
        "is at level = 1",
    ),
    "GRIB hybrid": (temperature("t", GRIB_typeOfLevel="hybrid", GRIB_level=1), "is at hybrid 1"),
    "sigma aloft": (temperature("t", xr.Variable((), 0.2, {"standard_name": "atmosphere_sigma_coordinate"})), "is at"),
    "mast": (temperature("t100m"), "is at 100 m by its name"),
    "name": (temperature("t850"), "is at 850 hPa by its name"),
    "long name": (temperature("t", long_name="Temperature at 500 hPa"), "is at 500 hPa by its name"),
    "soil": (temperature("stl", xr.Variable((), 30.0, {"standard_name": "depth", "units": "m"})), "is at level = 30 m"),
    "minimum": (temperature("t", cell_methods="area: mean time: minimum"), "cell_methods 'area: mean time: minimum'"),
    "of days": (
        temperature("t", cell_methods="time: maximum within days time: mean over days"),
        "has the cell_methods 'time: maximum within days",
    ),
    "deviation": (temperature("t", cell_methods="realization: standard_deviation"), "has the cell_methods"),
    "GRIB maximum": (temperature("t", GRIB_stepType="max"), "says maximum"),
    "GRIB spread": (temperature("t", GRIB_dataType="es"), "says standard_deviation"),
    "by name": (temperature("tasmax"), "a name or long_name that says maximum"),
    "by long name": (temperature("t", long_name="Ensemble spread of temperature"), "says standard_deviation"),
}


@pytest.mark.parametrize(("data", "sentence"), OTHERS.values(), ids=OTHERS)
def test_another_quantity_is_refused_unless_it_is_named(data: xr.Dataset, sentence: str) -> None:
    (name,) = map(str, data.data_vars)
    with pytest.raises(DataError, match="of the model is") as error:
        read(data)
    assert sentence in str(error.value)
    assert str(error.value).endswith(f"give --name tas={name}")
    fields = read(data, names={"tas": name})
    assert any(sentence in note and "because --name says so" in note for note in fields.notes)
    assert sentence in fields.origins[0].record()["notes"]


HONEST = {
    "height": temperature("tas", xr.Variable((), 2.0, {"standard_name": "height", "units": "m"})),
    "ten metres": temperature("t", xr.Variable((), 10.0, {"standard_name": "height", "units": "m"})),
    "GRIB": temperature("t", GRIB_typeOfLevel="heightAboveGround"),
    "GRIB surface": temperature("t", GRIB_typeOfLevel="surface"),
    "lowest sigma": temperature("air", xr.Variable((), 0.995, {"units": "sigma_level", "axis": "Z"})),
    "mean": temperature("t", cell_methods="time: mean (interval: 1 hour comment: from hourly maximum)"),
    "point": temperature("t", cell_methods="time: point"),
    "area": temperature("t", cell_methods="area: time: mean"),
    "metadata": temperature("t", units_metadata="temperature: on_scale"),
    "plain": temperature("tas", standard_name="", long_name="2 metre temperature"),
    "dummy level": temperature("t", xr.Variable((), 1.0, {"axis": "Z"})),
}


@pytest.mark.parametrize("data", HONEST.values(), ids=HONEST)
def test_means_near_the_surface_are_read_without_a_word(data: xr.Dataset) -> None:
    assert read(data).notes == ()


def test_of_several_the_one_that_fits_is_taken() -> None:  # oracle: only one is near the surface, and none a minimum
    data = series()[["tas"]].rename(tas="t2m")
    data["t850"], data["tasmin"] = data["t2m"] - 20, data["t2m"] - 5
    for name in ("t850", "tasmin"):
        data[name].attrs = {"standard_name": "air_temperature", "units": "K"}
    assert read(data).origins[0].variable == "t2m"
    data = data.rename(t2m="unheard_of")
    assert read(data).origins[0].variable == "unheard_of"


@pytest.mark.parametrize(
    "attrs",
    [
        {"standard_name": "air_temperature_anomaly"},
        {"long_name": "Temperature Anomalies"},
        {"units_metadata": "temperature: difference"},
        {"statistic": "Anomaly"},
    ],
)
def test_anomalies_are_refused_by_any_name(attrs: dict[str, str]) -> None:  # oracle: CF 3.1.2, names of its table
    data = temperature("t", **({"standard_name": "air_temperature"} | attrs))
    with pytest.raises(DataError, match=r"t in file\.nc is an anomaly or a difference, not a full field"):
        read(data, names={"tas": "t"})


def test_small_temperatures_in_celsius_are_an_anomaly() -> None:  # oracle: no month of the Earth is at 0 degC all over
    data = temperature("t", units="degC")
    data["t"] -= 280
    data["t"].attrs["units"] = "degC"
    with pytest.raises(DataError, match=r"t in file\.nc is an anomaly .* mean is -?0\.\d degC"):
        read(data, names={"tas": "t"})
    data["t"] += 30 * np.cos(np.radians(data["lat"])) - 15
    data["t"].attrs["units"] = "degC"
    assert read(data, names={"tas": "t"}).notes == ()


def test_a_model_on_a_level_takes_that_level() -> None:  # oracle: the names of CMIP
    spec = msgspec.structs.replace(TAS, name="ta850", long_name="air temperature")
    known = known_level(spec.name, spec.long_name)
    assert known is not None
    assert known.value == 85_000
    for place, fits in ((85_000.0, True), (50_000.0, False)):
        level = Level("pressure", place, "")
        assert level.fits(known) is fits
    assert objections(temperature("ta", xr.Variable((), 850, {"units": "hPa"}))["ta"], series(), spec) == []
    data = temperature("tas")
    assert "the surface by its name" in objections(data["tas"], data, spec)[0]


def test_a_variable_of_a_file_is_at_the_level_that_it_names(tmp_path: Path) -> None:
    # oracle: CF, by which each variable names its own single coordinates
    data = temperature("tas", xr.Variable((), 2.0, {"units": "m", "standard_name": "height"})).rename(level="height")
    data = data.assign(hus=data["tas"] / 1e5).assign_coords(plev=xr.Variable((), 85000.0, PLEV))
    for name, own in (("tas", "height"), ("hus", "plev")):
        data[name].encoding["coordinates"] = own
    data.to_netcdf(tmp_path / "both.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "both.nc", engine="h5netcdf", decode_times=False) as both:
        assert read(both).origins[0].level == "height = 2 m"
        moved = both.rename(tas="other", hus="tas").rename(other="hus")
        with pytest.raises(DataError, match="is at plev = 85000 Pa"):
            read(moved)


def test_extremes_are_read_by_a_model_of_extremes() -> None:
    spec = msgspec.structs.replace(TAS, name="tasmax", long_name="daily maximum near-surface air temperature")
    data = temperature("tasmax", cell_methods="time: maximum")
    assert objections(data["tasmax"], data, spec) == []
    mean = temperature("t", cell_methods="time: mean")
    assert "while tasmax of the model is its maximum" in objections(mean["t"], mean, spec)[0]


@pytest.mark.parametrize(
    ("name", "attrs"),
    [
        ("t2m", {"standard_name": "unknown"}),
        ("2t", {"standard_name": ""}),
        ("TMP2m", {"standard_name": ""}),
        ("var167", {"standard_name": "unknown", "GRIB_paramId": "167"}),
        ("p", {"standard_name": "", "GRIB_paramId": np.int32(167)}),
    ],
)
def test_names_and_numbers_of_weather_centres(name: str, attrs: dict[str, Any]) -> None:
    # oracle: parameter 167 of ECMWF is the 2 metre temperature
    assert read(temperature(name, **attrs)).origins[0].variable == name


def test_an_unknown_name_ends_in_what_to_type() -> None:
    with pytest.raises(DataError, match=r"if one of them is it, give --name tas=mystery$"):
        read(temperature("mystery", standard_name="unknown"))
    with pytest.raises(DataError, match="it has soil_3"):  # another parameter of GRIB is not tas, whatever its name
        read(temperature("t2m", standard_name="unknown", GRIB_paramId=168).rename(t2m="soil_3"))


def test_only_what_may_be_it_is_proposed() -> None:
    # oracle: neither a pressure, nor what is told apart by its standard name, level or name is a temperature at 2 m
    mystery = temperature("mystery", standard_name="unknown")
    first = {
        "aaa": mystery["mystery"].assign_attrs(units="Pa"),
        "bbb": mystery["mystery"].assign_attrs(standard_name="sea_water_temperature"),
        "ccc": mystery["mystery"].assign_attrs(long_name="minimum temperature"),
        "ddd": mystery["mystery"].assign_attrs(long_name="temperature anomaly"),
        "eee": mystery["mystery"].assign_attrs(GRIB_paramId=168),
        "t850": mystery["mystery"],
    }
    with pytest.raises(DataError, match=r"if one of them is it, give --name tas=mystery$"):
        read(xr.Dataset(first, attrs=mystery.attrs).assign(mystery=mystery["mystery"]))
    with pytest.raises(DataError, match=r"give a file that holds it$"):
        read(xr.Dataset(first, attrs=mystery.attrs))


def test_units_as_the_user_says(emulator: fsae.runtime.Emulator, tmp_path: Path) -> None:
    # oracle: the same data with its units set
    bare = series()
    del bare["tas"].attrs["units"]
    with pytest.raises(DataError, match=r"has no units, .*--units tas=K$"):
        emulator.compress(bare, climatology="training")
    bare.to_netcdf(tmp_path / "bare.nc", engine="h5netcdf")
    said = Source.of(tmp_path / "bare.nc", units={"tas": "K"})
    emulator.compress_file(said, tmp_path / "latents.nc", climatology="training")
    found, plain = (
        xr.open_dataset(tmp_path / "latents.nc", engine="h5netcdf"),
        emulator.compress(series(), climatology="training"),
    )
    np.testing.assert_array_equal(found["tas"].values, plain["tas"].values)
    assert "tas has no units: it is read in 'K' because --units says so." in found.attrs["comment"]
    assert '"units": {"tas": "K"}' in found.attrs["fsae_request"]
    said = Source.of(series(), units={"tas": "K"})  # which it has already: there is nothing to say
    emulator.compress_file(said, tmp_path / "same.nc", climatology="training")
    with xr.open_dataset(tmp_path / "same.nc", engine="h5netcdf") as same:
        assert "--units" not in same.attrs.get("comment", "")
    with pytest.raises(UsageError, match="found units for pr, expected for variables of the model: tas, uas"):
        emulator.compress_file(Source.of(bare, units={"pr": "mm"}), tmp_path / "no.nc", climatology="training")


def test_c_alone_is_celsius_for_a_temperature() -> None:  # oracle: degC; it is said, as C is a coulomb
    data = temperature("tas")
    data["tas"] = (data["tas"] - 273.15 + 20 * np.cos(np.radians(data["lat"]))).assign_attrs(units="C")
    fields, plain = read(data), read(data.assign(tas=data["tas"].assign_attrs(units="degC")))
    np.testing.assert_array_equal(fields.read(), plain.read())
    assert (fields.notes, plain.notes) == (("The units 'C' of tas are taken for degC.",), ())


def test_halves_of_reanalyses_are_merged() -> None:  # oracle: the whole that was cut in two
    whole = temperature("t2m")
    early = xr.where(np.arange(24)[:, None, None] < 20, whole["t2m"], np.nan)
    late = xr.where(np.arange(24)[:, None, None] < 20, np.nan, whole["t2m"])
    data = whole.assign(t2m=xr.concat([early, late], "expver").transpose("time", "expver", ...))
    data["t2m"].attrs = whole["t2m"].attrs
    fields = read(data)
    np.testing.assert_array_equal(fields.read(), read(whole).read())
    assert fields.notes == ("t2m has halves along expver: each value is the one that is not missing.",)
    data["t2m"] = data["t2m"].fillna(280.0)
    with pytest.raises(DataError, match="more than one value along expver in the same place: select one"):
        read(data)


def test_outputs_say_what_was_read(emulator: fsae.runtime.Emulator) -> None:  # oracle: the input's own attributes
    data = series().rename(tas="ta")
    data = data.assign_coords(plev=xr.Variable((), 85000.0, PLEV))
    data["ta"].attrs["cell_methods"] = "time: mean (interval: 6 hours)"
    data["uas"].attrs["long_name"] = "a\x00b\n" + "c" * 5000
    latents = emulator.compress(data, climatology="training", names={"tas": "ta", "uas": "uas"})
    attrs = latents["tas"].attrs
    assert attrs["fsae_input_variable"] == "ta"
    assert attrs["fsae_input_level"] == "plev = 85000 Pa"
    assert attrs["fsae_input_units"] == "K"
    assert attrs["fsae_input_cell_methods"] == "time: mean (interval: 6 hours)"
    assert attrs["fsae_input_files"] == "dataset"
    assert attrs["fsae_input_grid"] == "13 x 24 lat-lon grid, bilinear to HEALPix zoom 2"
    wind = latents["uas"].attrs
    assert wind["fsae_input_long_name"].startswith("a b c")
    assert len(wind["fsae_input_long_name"]) < 1100
    assert "--name says so" in wind["fsae_input_notes"]
    again = emulator.decompress(latents)
    kept = {key: text for key, text in again["tas"].attrs.items() if key.startswith("fsae_input_")}
    assert kept == {key: text for key, text in attrs.items() if key.startswith("fsae_input_")}
