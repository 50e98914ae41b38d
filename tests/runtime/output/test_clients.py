"""NCO and netCDF-Fortran read the NetCDF that is written: its text and its numbers.

Tried with NCO 5.1.4 and netCDF-Fortran 4.5.4 (Debian 12).
"""

import shlex
import shutil
import subprocess
from pathlib import Path

import h5netcdf
import h5py
import numpy as np
import pytest
import xarray as xr
from outputs import NAMES, raw

from fsae.runtime.output.marks import foreign_reason, read_attributes
from fsae.runtime.output.netcdf import NetcdfStore
from fsae.runtime.output.seal import damage_of

NETCDF = [name for name in NAMES if name.endswith(".nc")]
TEXTS = {
    "ascii": "near-surface air temperature",
    "umlaut": "Grüße aus Köln, 25 °C",
    "empty": "",
    "short": "K",
    "lines": "first\nsecond",
    "long": "x" * 70_000,  # HDF5 has a place of its own for attributes of more than 64 KiB
}


def said_by(*command: object) -> str:
    """The output of a command, which must not complain."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), (command, done)
    return done.stdout


# --- text as characters ---


@pytest.mark.parametrize("name", NETCDF)
def test_all_text_is_stored_as_characters(name: str, outputs: Path) -> None:
    # oracle: the type in HDF5, of fixed length for NC_CHAR and variable for NC_STRING, as the C library has it
    with h5py.File(outputs / name) as file:
        for place in (file, *file.values()):
            ours = [key for key in place.attrs if key not in ("CLASS", "NAME", "_NCProperties")]  # of HDF5 and NetCDF-4
            kinds = {key: h5py.check_string_dtype(place.attrs.get_id(key).dtype) for key in ours}
            assert [key for key, kind in kinds.items() if kind is not None and kind.length is None] == []
            if isinstance(place, h5py.Dataset):
                assert place.dtype.kind in "if"


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_any_text_reads_back(engine: str, tmp_path: Path) -> None:  # oracle: the text, through h5py and the C library
    pytest.importorskip("netCDF4")
    store = NetcdfStore(tmp_path / "texts.nc", TEXTS)
    store.close()
    with xr.open_dataset(tmp_path / "texts.nc", engine=engine) as found:
        assert found.attrs == TEXTS
    assert read_attributes(tmp_path / "texts.nc", "NetCDF") == TEXTS


def test_output_with_text_of_variable_length_is_ours_too(outputs: Path, tmp_path: Path) -> None:
    # oracle: the checksums; files of earlier versions have the same text in another type
    path = tmp_path / "earlier.nc"
    shutil.copy(outputs / "decompress-source.nc", path)
    with h5netcdf.File(path, "a") as file:
        for place in (file, *file.variables.values()):
            texts = {key: value for key, value in place.attrs.items() if isinstance(value, str | bytes)}
            place.attrs.update({k: t.decode() if isinstance(t, bytes) else t for k, t in texts.items()})
    with h5py.File(path) as file:
        assert file["tas"].attrs.get_id("units").dtype.kind == "O"
    assert foreign_reason(path, "NetCDF") == ""
    assert damage_of(path) == ""
    with h5netcdf.File(path, "a") as file:
        file["tas"].attrs["units"] = "degC"
    assert damage_of(path) == "tas"


# --- NCO ---

with_nco = pytest.mark.skipif(shutil.which("ncks") is None, reason="there is no ncks here: apt-get install nco")


@with_nco
@pytest.mark.parametrize(
    "name", ["generate-native.nc", "generate-source.nc", "decompress-source.nc", "statistics-30.nc"]
)
def test_nco_reads_text_and_means(name: str, outputs: Path, tmp_path: Path) -> None:  # oracle: NCO
    dataset = raw(outputs / name)
    variable = next(name for name in ("tas", "tas_mean") if name in dataset)
    metadata = said_by("ncks", "-m", "-C", "-v", variable, outputs / name)
    for key in ("units", "standard_name", "cell_methods"):
        assert f'{variable}:{key} = "{dataset[variable].attrs[key]}" ;' in metadata
    assert "string " not in metadata
    said_by("ncwa", "-O", "-h", "--dbl", "-C", "-v", variable, outputs / name, tmp_path / "mean.nc")
    found = float(said_by("ncks", "-H", "-C", "-s", "%.12g", "-v", variable, tmp_path / "mean.nc"))
    values = dataset[variable].values.astype(np.float64)
    np.testing.assert_allclose(found, values.mean(), rtol=0, atol=2e-7 * np.abs(values).max())  # float32 rounding


# --- Fortran ---

FORTRAN = """
program read_output
  use netcdf
  implicit none
  character(20), parameter :: names(4) = [character(20) :: "Conventions", "standard_name", "units", "cell_methods"]
  character(1000) :: path, text
  integer :: file, tas, i, n, dims(4), sizes(4)
  real, allocatable :: values(:)
  call get_command_argument(1, path)
  if (nf90_open(path, nf90_nowrite, file) + nf90_inq_varid(file, "tas", tas) /= 0) stop 1
  do i = 1, 4
    text = ""
    if (nf90_get_att(file, merge(nf90_global, tas, i == 1), trim(names(i)), text) /= 0) stop 2
    print "(a)", trim(text)
  end do
  if (nf90_inquire_variable(file, tas, ndims=n, dimids=dims) /= 0) stop 3
  do i = 1, n
    if (nf90_inquire_dimension(file, dims(i), len=sizes(i)) /= 0) stop 4
  end do
  allocate(values(product(sizes(:n))))
  if (nf90_get_var(file, tas, values, count=sizes(:n), map=[(product(sizes(:i - 1)), i = 1, n)]) /= 0) stop 5
  print "(es24.16)", sum(real(values, kind(0d0)))
end program
"""


@pytest.fixture(scope="module")
def fortran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program, which prints four texts and the sum of `tas`."""
    if shutil.which("gfortran") is None or shutil.which("nf-config") is None:
        pytest.skip("there is no netCDF-Fortran here: apt-get install gfortran libnetcdff-dev")
    folder = tmp_path_factory.mktemp("fortran")
    (folder / "read_output.f90").write_text(FORTRAN)
    flags = [*shlex.split(said_by("nf-config", "--fflags")), *shlex.split(said_by("nf-config", "--flibs"))]
    said_by("gfortran", "-o", folder / "read_output", "-J", folder, folder / "read_output.f90", *flags)
    return folder / "read_output"


@pytest.mark.parametrize("name", ["generate-native.nc", "generate-source.nc", "decompress-source.nc"])
def test_fortran_reads_text_and_values(name: str, fortran: Path, outputs: Path) -> None:  # oracle: netCDF-Fortran
    dataset = raw(outputs / name)
    *texts, total = said_by(fortran, outputs / name).splitlines()
    attributes = dataset["tas"].attrs
    assert texts == ["CF-1.13", attributes["standard_name"], attributes["units"], attributes["cell_methods"]]
    values = dataset["tas"].values.astype(np.float64)
    np.testing.assert_allclose(float(total), values.sum(), rtol=1e-12)  # the order of the sum
