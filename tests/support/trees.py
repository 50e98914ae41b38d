"""Compare outputs: stores byte by byte, NetCDF by its variables and attributes."""

from pathlib import Path

import xarray as xr


def tree(folder: Path) -> dict[str, bytes]:
    """Contents of every file below a folder, by its path from there; of locks none, as they have new tokens."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): b"" if path.name == "lock" else path.read_bytes() for path in files}


def assert_same(found: Path, undisturbed: Path) -> None:
    """Assert that two outputs are the same: every byte of a Zarr store, all variables and attributes of NetCDF."""
    if found.is_dir():
        assert tree(found) == tree(undisturbed)
        return
    with xr.open_dataset(found, engine="h5netcdf") as one, xr.open_dataset(undisturbed, engine="h5netcdf") as other:
        xr.testing.assert_identical(one.load(), other.load())
