"""Files of many kinds are opened by their content: groups, zip archives, filters of HDF5."""

import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from fsae.runtime.errors import DataError
from fsae.runtime.formats.containers import open_container

DATA = xr.Dataset({"tas": (("time", "x"), np.arange(6.0).reshape(2, 3))}, coords={"x": [10.0, 20.0, 30.0]})


def zipped(folder: Path, path: Path, root: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, f"{root}{file.relative_to(folder)}")
    return path


@pytest.mark.parametrize("root", ["", "out.zarr/", "a/b.zarr/"])
@pytest.mark.parametrize("version", [2, 3])
def test_a_zarr_store_in_an_archive(tmp_path: Path, root: str, version: int) -> None:  # oracle: the store itself
    DATA.to_zarr(tmp_path / "in.zarr", zarr_format=version, consolidated=False)
    with open_container(zipped(tmp_path / "in.zarr", tmp_path / "in.zip", root)) as found:
        xr.testing.assert_identical(found.load(), DATA)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.zarr", "in.zip"]  # nothing is unpacked


def test_archives_that_are_no_store_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(DataError, match="is a zip archive without a Zarr store"):
        open_container(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zarr.json", bytes(1 << 27))
    with pytest.raises(DataError, match=r"holds zarr\.json, of 134217728 bytes"):
        open_container(tmp_path / "bomb.zip")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-30])
    with pytest.raises(DataError, match="is a damaged zip archive"):
        open_container(tmp_path / "cut.zip")


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_variables_in_groups(tmp_path: Path, suffix: str) -> None:  # oracle: what was written, and where
    path = tmp_path / f"in{suffix}"
    plain = DATA.drop_vars("x")
    tree = xr.DataTree.from_dict({"/": DATA[["x"]], "/monthly/mean": plain, "/daily": plain})
    if suffix == ".nc":
        tree.to_netcdf(path, engine="h5netcdf")
    else:
        tree.to_zarr(path, consolidated=False)
    with open_container(path, "monthly/mean") as found:
        xr.testing.assert_identical(found.load(), DATA)  # with the coordinate of the group above
    with pytest.raises(DataError, match=r"holds its variables in the groups daily, monthly/mean: --group daily"):
        open_container(path)
    with pytest.raises(DataError, match=r"has no group 'yearly', expected daily, monthly/mean"):
        open_container(path, "yearly")


def test_a_filter_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: with hdf5plugin the values that were written
    hdf5plugin = pytest.importorskip("hdf5plugin")
    DATA.to_netcdf(tmp_path / "in.nc", engine="h5netcdf", encoding={"tas": dict(hdf5plugin.Zstd())})
    with open_container(tmp_path / "in.nc") as found:
        xr.testing.assert_identical(found.load(), DATA)
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)  # what a missing package looks like to import
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: number < 32000)
    with pytest.raises(DataError, match=r'with the HDF5 filter Zstandard: pip install "fsae\[filters\]"'):
        open_container(tmp_path / "in.nc")
