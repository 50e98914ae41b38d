"""Classic NetCDF files are read by NumPy alone: the values and attributes that other libraries wrote."""

from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from fsae.runtime.errors import DataError
from fsae.runtime.formats.classic import open_classic
from fsae.runtime.formats.containers import open_container

FORMATS = ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"]


def written(path: Path, form: str, growing: int = 2) -> Path:
    """A file of that form by the C library, with `growing` variables along its unlimited dimension."""
    values = np.random.default_rng(0)
    with netCDF4.Dataset(path, "w", format=form) as file:
        file.createDimension("time", None)
        file.createDimension("x", 3)
        file.title, file.numbers = "grüße", np.array([1.5, 2.5])
        fixed = file.createVariable("fixed", "f8", ("x",))
        fixed[:] = [1.0, 2.0, 3.0]
        fixed.units = "m"
        for number, kind in list(enumerate(["f4", "i2", "i1", "f8"]))[:growing]:
            variable = file.createVariable(f"v{number}", kind, ("time", "x"), fill_value=-9 if kind == "i2" else None)
            variable[:] = values.integers(-50, 50, (5, 3))
            variable.scale_factor = np.float32(0.5)
    return path


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("growing", [0, 1, 2, 4])
def test_values_and_attributes_are_those_of_the_c_library(tmp_path: Path, form: str, growing: int) -> None:
    path = written(tmp_path / "a.nc", form, growing)
    with xr.open_dataset(path, engine="netcdf4", decode_times=False) as expected, open_container(path) as found:
        xr.testing.assert_identical(found.load(), expected.load())


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, form: str) -> None:
    # oracle: nothing but DataError or other values, whichever byte of the header is changed, and wherever the file ends
    whole = written(tmp_path / "a.nc", form).read_bytes()
    path, said = tmp_path / "b.nc", list[str]()
    for place in (*range(4, 400), *range(400, len(whole), 7)):
        for content in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
            path.write_bytes(content)
            try:
                open_classic(path).close()
            except DataError as error:
                said.append(str(error))
    assert len(said) > 400
    assert [text for text in said if "it may be damaged or incomplete" not in text] == []
