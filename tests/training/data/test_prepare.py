"""Preparing training data: what is written is what the runtime would read from the sources."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from fsae.runtime.climate.calendar import year_phase
from fsae.runtime.errors import DataError, OutputError
from fsae.runtime.input.joining import read_fields
from fsae.runtime.sphere.grids import HealpixGrid, LatLonGrid
from fsae.runtime.sphere.healpix import npix
from fsae.training.data.prepare import DescribedVariable, describe_variables, prepare

YEARS = 2


@pytest.fixture(scope="module")
def months(sample_data: Path) -> xr.Dataset:
    """Two years of the sample data on every third row and column (25 x 48), in memory."""
    with xr.open_dataset(sample_data / "ncep1-tas-mon-200501-201412.nc", engine="h5netcdf") as dataset:
        return dataset.isel(time=slice(0, 12 * YEARS), lat=slice(0, 73, 3), lon=slice(0, 144, 3)).load()


def write(dataset: xr.Dataset, path: Path) -> Path:
    dataset.drop_encoding().to_netcdf(path, engine="h5netcdf")
    return path


def test_prepared_data_is_what_the_runtime_reads(months: xr.Dataset, tmp_path: Path) -> None:  # oracle: read_fields
    late = write(months.isel(time=slice(9, None)), tmp_path / "a.nc")
    early = write(months.isel(time=slice(0, 9)), tmp_path / "b.nc")
    seen: list[tuple[int, int]] = []
    variables = describe_variables([late, early])
    grid = prepare(
        [late, early],
        tmp_path / "out.zarr",
        variables,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert isinstance(grid, LatLonGrid)
    assert grid.shape == (25, 48)
    assert seen[-1] == (24, 24)
    direct, prepared = read_fields(months, variables), read_fields(tmp_path / "out.zarr", variables)
    assert prepared.grid == HealpixGrid(zoom=3, order="nested")
    np.testing.assert_array_equal(prepared.read(), direct.read())
    assert list(map(str, prepared.times)) == list(map(str, direct.times))
    np.testing.assert_array_equal(prepared.phase, direct.phase)
    assert (prepared.step, prepared.calendar) == (direct.step, direct.calendar)


def test_layout(months: xr.Dataset, tmp_path: Path) -> None:  # oracle: CF, and xarray opens it
    prepare([write(months, tmp_path / "a.nc")], tmp_path / "out.zarr", describe_variables([tmp_path / "a.nc"]), zoom=2)
    array = zarr.open_group(tmp_path / "out.zarr", mode="r")["tas"]
    assert isinstance(array, zarr.Array)
    assert (array.metadata.zarr_format, array.shape, array.chunks) == (3, (24, 192), (24, 192))
    with xr.open_zarr(tmp_path / "out.zarr", consolidated=False) as dataset:
        assert dataset["tas"].dims == ("time", "cell")
        assert dataset["tas"].attrs["cell_methods"] == "time: mean"
        assert dataset["crs"].attrs["grid_mapping_name"] == "healpix"
        assert dataset["crs"].attrs["refinement_level"] == 2
        np.testing.assert_array_equal(dataset["time"].values, months["time"].values)
        bounds = dataset["time_bnds"].values.astype("datetime64[M]").astype(int)
        np.testing.assert_array_equal(bounds[:, 1] - bounds[:, 0], 1)


def test_monthly_variables_join_by_year_and_month(months: xr.Dataset, tmp_path: Path) -> None:  # oracle: the overlap
    winds = months.rename(tas="uas").isel(time=slice(6, None))
    winds["uas"] = (winds["uas"] - 280).assign_attrs(units="m s-1", standard_name="eastward_wind")
    middles = winds["time"].values + np.timedelta64(14, "D") + np.timedelta64(20, "h")
    winds = winds.assign_coords(time=("time", middles, {"standard_name": "time"}))
    inputs = [write(months, tmp_path / "tas.nc"), write(winds, tmp_path / "uas.nc")]
    variables = describe_variables(inputs)
    assert [(v.name, v.units) for v in variables] == [("tas", "K"), ("uas", "m s-1")]
    prepare(inputs, tmp_path / "out.zarr", variables)
    fields = read_fields(tmp_path / "out.zarr", variables)
    assert str(fields.times[0]) == "2005-07-01 00:00:00"  # the first variable's stamps
    values = fields.read()
    assert values.shape == (1, 18, 2, npix(3))
    np.testing.assert_allclose(values[:, :, 0] - 280, values[:, :, 1], rtol=0, atol=1e-4)  # float32 near 300
    np.testing.assert_allclose(fields.phase, year_phase(read_fields(winds, variables[1:]).times, "1 month"), rtol=1e-12)


def test_members_stay(months: xr.Dataset, tmp_path: Path) -> None:  # oracle: read_fields
    ensemble = xr.concat([months, months + 1], xr.DataArray([4, 7], dims="realization", name="realization"))
    ensemble["tas"].attrs.update(months["tas"].attrs)
    path = write(ensemble, tmp_path / "a.nc")
    variables = describe_variables([path])
    prepare([path], tmp_path / "out.zarr", variables)
    fields = read_fields(tmp_path / "out.zarr", variables)
    assert fields.members == (4, 7)
    np.testing.assert_allclose(fields.read(), read_fields(path, variables).read(), rtol=1e-6)


def test_healpix_in_healpix_out(months: xr.Dataset, tmp_path: Path) -> None:  # oracle: nothing is changed
    path = write(months, tmp_path / "a.nc")
    variables = describe_variables([path])
    prepare([path], tmp_path / "once.zarr", variables)
    grid = prepare([tmp_path / "once.zarr"], tmp_path / "twice.zarr", describe_variables([tmp_path / "once.zarr"]))
    assert grid == HealpixGrid(zoom=3, order="nested")
    once, again = (read_fields(tmp_path / name, variables) for name in ("once.zarr", "twice.zarr"))
    np.testing.assert_array_equal(once.read(), again.read())
    np.testing.assert_array_equal(once.phase, again.phase)


def test_refusals_leave_nothing_behind(months: xr.Dataset, tmp_path: Path) -> None:
    one = write(months.isel(time=slice(0, 13)), tmp_path / "one.nc")
    moved = months.isel(time=slice(12, None))
    moved = moved.assign_coords(time=("time", moved["time"].values + np.timedelta64(10, "D")))
    two = write(moved, tmp_path / "two.nc")  # the same month on another day
    winds = months.isel(time=slice(20, None)).rename(tas="uas")
    winds["uas"].attrs["standard_name"] = "eastward_wind"
    late = write(winds, tmp_path / "late.nc")
    variables = describe_variables([one])
    out = tmp_path / "out.zarr"
    with pytest.raises(DataError, match=r"tas has the date 2006-01-11 00:00:00 twice, in one\.nc and two\.nc"):
        prepare([one, two], out, variables)
    with pytest.raises(DataError, match=r"tas has the date 2005-01-01 00:00:00 twice, in one\.nc"):
        prepare([one, one], out, variables)
    with pytest.raises(DataError, match=r"late\.nc has no variable 'tas' nor one of standard name 'air_temperature'"):
        prepare([one, late], out, variables)
    other = DescribedVariable(name="pr", standard_name="", long_name="", units="1", cell_methods="")
    with pytest.raises(DataError, match="none of the 1 input files holds 'pr'"):
        prepare([one], out, [*variables, other])
    with pytest.raises(DataError, match=r"found no variable 'pr' in one\.nc"):
        describe_variables([one], ["pr"])
    with pytest.raises(DataError, match="supports zoom 3 at most, and zoom 6 was asked for"):
        prepare([one], out, variables, zoom=6)
    broken = months.copy(deep=True)
    broken["tas"].values[20, 5, 5] = np.nan
    spec = DescribedVariable(
        name="tas", standard_name="", long_name="", units="K", cell_methods="", valid_range=(150, 350), missing=False
    )
    with pytest.raises(DataError, match="1 missing values"):
        prepare([write(broken, tmp_path / "broken.nc")], out, [spec])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out.zarr")]
    prepare([one], out, variables)
    with pytest.raises(OutputError, match="exists"):
        prepare([one], out, variables)
    prepare([one], out, variables, overwrite=True)
