"""GRIB through cfgrib: files written by ecCodes are read as the arrays they were made of."""

import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from monthly_input import SPECS
from tiny_bundle import ZOOM, tiny_grid

import fsae.runtime
from fsae.runtime.errors import DataError
from fsae.runtime.input.joining import read_fields
from fsae.runtime.input.sources import open_source
from fsae.runtime.sphere.regrid import make_weights
from fsae.runtime.sphere.weights import apply

STEPS_H = (0, 24, 48)
PACKED = 1e-3  # 24 bits over a range of some hundred kelvin


def ecc() -> object:
    return pytest.importorskip("eccodes", reason="GRIB needs the extra grib: cfgrib and ecCodes", exc_type=ImportError)


def message(
    name: str, values: np.ndarray, date: int = 20030211, step_h: int = 0, member: int | None = None, kind: str = ""
) -> bytes:
    """A GRIB 2 message of a field on the tiny bundle's grid."""
    codes, grid = ecc(), tiny_grid()
    handle = codes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    rows, columns = grid.shape
    keys = {"productDefinitionTemplateNumber": 1} if member is not None else {}
    keys |= {"dataType": kind} if kind else {}
    keys |= {"Ni": columns, "Nj": rows, "latitudeOfFirstGridPointInDegrees": 90.0}
    keys |= {"latitudeOfLastGridPointInDegrees": -90.0, "longitudeOfFirstGridPointInDegrees": 0.0}
    keys |= {"longitudeOfLastGridPointInDegrees": 360 - 360 / columns, "iDirectionIncrementInDegrees": 360 / columns}
    keys |= {"jDirectionIncrementInDegrees": 180 / (rows - 1), "dataDate": date, "dataTime": 0, "shortName": name}
    keys |= {"step": step_h, "bitsPerValue": 24} | ({"number": member} if member is not None else {})
    for key, value in keys.items():
        codes.codes_set(handle, key, value)
    codes.codes_set_values(handle, values.astype(np.float64).ravel())
    data: bytes = codes.codes_get_message(handle)
    codes.codes_release(handle)
    return data


def fields(*lead: int) -> np.ndarray:
    """Temperatures (..., lat, lon)."""
    return 280 + np.random.default_rng(7).normal(size=(*lead, *tiny_grid().shape))


def regridded(values: np.ndarray) -> np.ndarray:
    """The fields that the reader should return (..., pixel)."""
    return apply(make_weights(tiny_grid(), ZOOM, "bilinear"), values.reshape(*values.shape[:-2], -1))


def forecast(path: Path, members: Sequence[int] = (0, 1)) -> np.ndarray:
    """Write a forecast; both variables (variable, member, step, lat, lon) of it."""
    values = np.stack([fields(len(members), len(STEPS_H)), fields(len(members), len(STEPS_H)) - 280])
    with path.open("wb") as file:
        for m, member in enumerate(members):
            for s, step_h in enumerate(STEPS_H):
                file.write(message("2t", values[0, m, s], step_h=step_h, member=member))
                file.write(message("10u", values[1, m, s], step_h=step_h, member=member))
    return values


def test_an_ensemble_forecast(tmp_path: Path) -> None:  # oracle: the values that were written
    values = forecast(tmp_path / "forecast.grib2")
    found = read_fields(tmp_path / "forecast.grib2", SPECS, finest_zoom=ZOOM)
    assert (found.variables, found.members, found.step) == (("tas", "uas"), (0, 1), "1 day")
    assert [str(date)[:10] for date in found.times] == ["2003-02-11", "2003-02-12", "2003-02-13"]
    assert [origin.level for origin in found.origins] == ["heightAboveGround 2", "heightAboveGround 10"]
    np.testing.assert_allclose(found.read(), np.moveaxis(regridded(values), 0, 2), rtol=0, atol=PACKED)
    found.close()
    assert [path.name for path in tmp_path.iterdir()] == ["forecast.grib2"]  # and no index file


def test_months_of_an_analysis(tmp_path: Path) -> None:  # oracle: the values that were written
    values = fields(3)
    (tmp_path / "heading.grb").write_bytes(
        b"some heading before the first message\n" + b"".join(
            message("2t", field, date=20030101 + 100 * month) for month, field in enumerate(values)
        )
    )  # fmt: skip
    found = read_fields(tmp_path / "heading.grb", SPECS[:1], finest_zoom=ZOOM)
    assert [str(date)[:10] for date in found.times] == ["2003-01-01", "2003-02-01", "2003-03-01"]
    assert (found.step, found.members) == ("1 month", None)
    np.testing.assert_allclose(found.read()[0, :, 0], regridded(values), rtol=0, atol=PACKED)
    found.close()


def test_arrays_of_one_name_are_numbered(tmp_path: Path) -> None:
    part = fields(2)
    with (tmp_path / "two.grib").open("wb") as file:  # a control member is another type of data than the perturbed ones
        file.write(message("2t", part[0], member=0, kind="cf"))
        file.write(message("2t", part[1], member=1, kind="pf"))
        file.write(message("10u", part[0] - 280, member=0, kind="cf"))
    with open_source(tmp_path / "two.grib") as (dataset, _):
        names = sorted(map(str, dataset.data_vars))
    assert names == ["t2m_1", "t2m_2", "u10"]
    with pytest.raises(DataError, match="2 variables of standard name 'air_temperature': t2m_1, t2m_2, expected one"):
        read_fields(tmp_path / "two.grib", SPECS, finest_zoom=ZOOM)
    found = [read_fields(tmp_path / "two.grib", SPECS, finest_zoom=ZOOM, names={"tas": name}) for name in names[:2]]
    means = sorted(float(one.read()[0, 0, 0].mean()) for one in found)
    np.testing.assert_allclose(means, sorted(regridded(part).mean(-1)), rtol=0, atol=PACKED)


def test_members_of_a_grib_file_are_kept(tiny_bundle_path: Path, tmp_path: Path) -> None:  # oracle: a dataset of them
    values = forecast(tmp_path / "forecast.grib", members=(3, 5))
    emulator = fsae.runtime.load(tiny_bundle_path, device="cpu", threads=1)
    emulator.compress_file(tmp_path / "forecast.grib", tmp_path / "latents.nc", climatology="training")
    grid, dims = tiny_grid(), ("number", "time", "lat", "lon")
    times = np.array(["2003-02-11", "2003-02-12", "2003-02-13"], dtype="datetime64[ns]")
    plain = xr.Dataset(
        {"tas": (dims, values[0], {"units": "K"}), "uas": (dims, values[1], {"units": "m s-1"})},
        {"number": [3, 5], "time": times, "lat": grid.lat_deg, "lon": grid.lon_deg},
    )
    expected = emulator.compress(plain, climatology="training")
    with xr.open_dataset(tmp_path / "latents.nc") as found:
        np.testing.assert_array_equal(found["realization"], [3, 5])
        np.testing.assert_array_equal(found["time"], expected["time"])
        np.testing.assert_allclose(found["tas"].transpose(*expected["tas"].dims), expected["tas"], rtol=0, atol=PACKED)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = message("2t", fields())
    for content in (whole[:-200], whole[:20], b"GRIB" + b"\1\2" * 30):
        (tmp_path / "bad.grib").write_bytes(content)
        with pytest.raises(
            DataError, match=r"cannot read .*bad\.grib: .*: copy it again, as it may be damaged or incomplete"
        ):
            read_fields(tmp_path / "bad.grib", SPECS[:1])
    with (tmp_path / "bad.grib").open("wb") as file:
        for name, steps in (("2t", (0, 24)), ("10u", (24, 48))):
            for step_h in steps:
                file.write(message(name, fields(), step_h=step_h))
    with pytest.raises(DataError, match=r"messages that do not fit together .*: split it by variable, for example"):
        read_fields(tmp_path / "bad.grib", SPECS)


@pytest.mark.parametrize("error", [ImportError("No module named 'cfgrib'"), RuntimeError("Cannot find the library")])
def test_without_the_library_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    (tmp_path / "t2m.grib").write_bytes(b"GRIB" + bytes(20))
    whole = importlib.import_module

    def missing(name: str) -> object:
        if name == "cfgrib":
            raise error
        return whole(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(DataError) as caught:
        read_fields(tmp_path / "t2m.grib", SPECS)
    expected = f'which needs cfgrib ({error}): pip install "fsae[grib]", or convert it to NetCDF'
    assert str(caught.value).endswith(expected)
