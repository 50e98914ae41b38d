"""What makes two outputs the same."""

from pathlib import Path

import xarray as xr


def tree(folder: Path) -> dict[str, bytes]:
    """Every file in a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same(found: Path, undisturbed: Path) -> None:
    """Zarr: every byte of every file; NetCDF: all variables and attributes."""
    if found.is_dir():
        assert tree(found) == tree(undisturbed)
        return
    with xr.open_dataset(found, engine="h5netcdf") as one, xr.open_dataset(undisturbed, engine="h5netcdf") as other:
        xr.testing.assert_identical(one.load(), other.load())
