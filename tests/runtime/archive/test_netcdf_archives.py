"""Archives in NetCDF-4: the chunks and values of those in Zarr, whole or not there, and open to other programs."""

import errno
import pickle
import shutil
import subprocess

import h5netcdf
import numpy as np
import pytest
import xarray as xr

from fsae.runtime import Writing
from fsae.runtime.archive.codec import Codec
from fsae.runtime.archive.quality import Quality
from fsae.runtime.archive.xarray_engine import figures
from fsae.runtime.emulator import load
from fsae.runtime.errors import DataError, OutputError
from fsae.runtime.jobs import resume
from fsae.runtime.jobs.shards import Shard
from fsae.runtime.output.marks import SEAL
from fsae.runtime.output.seal import damage_of

SAMPLE = "ncep1-tas-mon-200501-201412.nc"
QUALITY = Quality(max_error=0.5)


@pytest.fixture(scope="module")
def emulator():
    return load("default", "cpu")


@pytest.fixture(scope="module")
def stores(emulator, sample_data, tmp_path_factory):
    """The same archive in Zarr and in NetCDF."""
    folder = tmp_path_factory.mktemp("stores")
    for path in (folder / "tas.zarr", folder / "tas.nc"):
        emulator.archive_file(sample_data / SAMPLE, path, QUALITY)
    return folder / "tas.zarr", folder / "tas.nc"


def chunks_in_zarr(path):
    """The files of the chunks in the order of their index."""
    files = [file for file in (path / "tas" / "c").rglob("*") if file.is_file()]
    names = sorted(files, key=lambda file: [int(part) for part in file.relative_to(path / "tas" / "c").parts])
    return [file.read_bytes() for file in names]


def chunks_in_netcdf(path):
    """The pieces of the variable of bytes."""
    with h5netcdf.File(path, "r") as file:
        return [piece.tobytes() for piece in np.split(file["tas"][...], file["tas_chunk_end"][:-1])]


def opened(path):
    return xr.open_dataset(path, engine="fsae")


def assert_equal(netcdf, zarr, others=()):
    """Assert that two archives have the same chunks, values, coordinates and attributes, but for their checksums.

    And but for `others`, attributes that hold the checksum of what was appended to.
    """
    assert chunks_in_netcdf(netcdf) == chunks_in_zarr(zarr)
    one, other = opened(netcdf).load(), opened(zarr).load()
    assert set(one.attrs) == set(other.attrs)
    xr.testing.assert_identical(one.drop_attrs(deep=False), other.drop_attrs(deep=False))
    assert {key for key in one.attrs if one.attrs[key] != other.attrs[key]} <= {SEAL, *others}
    assert damage_of(netcdf) == ""


def test_it_is_the_archive_in_zarr(stores):
    """Oracle: the archive in Zarr of the same input; and its figures."""
    zarr, netcdf = stores
    assert_equal(netcdf, zarr)
    assert figures(netcdf) == figures(zarr)
    again = pickle.loads(pickle.dumps(opened(netcdf)))  # noqa: S301, as dask does between processes
    assert np.array_equal(again.tas.values, opened(zarr).tas.values)


def test_members_on_cells_are_appended_to(emulator, tmp_path):
    """Oracle: the archive in Zarr, of two members on HEALPix cells, that was appended to."""
    zoom, steps = emulator.bundle.manifest.grid.zoom, 12
    cells = np.arange(12 << 2 * zoom)
    values = 280 + np.random.default_rng(0).normal(size=(2, steps, cells.size)).astype(np.float32)
    time = xr.date_range("2005-01-01", periods=steps, freq="MS")
    crs = {"grid_mapping_name": "healpix", "refinement_level": zoom, "indexing_scheme": "nested"}
    data = xr.Dataset(
        {
            "tas": (("realization", "time", "cell"), values, {"units": "K", "grid_mapping": "crs"}),
            "crs": ((), 0, crs),
        },
        coords={"time": time, "realization": [3, 7], "cell": ("cell", cells, {"standard_name": "healpix_index"})},
    )
    paths = tmp_path / "a.nc", tmp_path / "a.zarr"
    for path in paths:
        for part in (slice(0, 7), slice(7, 12)):
            writing = Writing(force=True)
            emulator.archive_file(data.isel(time=part), path, Quality(rmse=0.5), append=True, writing=writing)
    assert_equal(*paths, others=("fsae_request", "fsae_mark", "history"))
    assert opened(paths[0]).tas.shape == values.shape


def test_a_flipped_byte_names_its_chunk(stores, tmp_path):
    """Oracle: the chunk that was damaged; the others are read as before."""
    second, data = chunks_in_netcdf(stores[1])[1], bytearray(stores[1].read_bytes())
    data[data.find(second) + len(second) // 2] ^= 16
    copy = tmp_path / "copy.nc"
    copy.write_bytes(data)
    damaged = opened(copy)
    assert np.isfinite(damaged.tas[:60].values).all()
    with pytest.raises(DataError, match=r"chunk tas/c/1/0/0 of .*copy\.nc"):
        damaged.tas[60:].values  # noqa: B018, it is read
    with pytest.raises(DataError, match="chunk tas/c/1/0/0"):
        figures(copy)
    assert damage_of(copy) == "tas"


def test_steps_cut_off_by_another_program_are_told(stores, tmp_path):
    """Oracle: the sizes of the axes; the chunks still hold all steps."""
    with xr.open_dataset(stores[1], engine="h5netcdf", decode_cf=False) as whole:
        whole.isel(time=slice(0, 50)).to_netcdf(tmp_path / "cut.nc", engine="h5netcdf")
    with pytest.raises(DataError, match=r"cut.nc was cut by another program: tas has 120 of time and the file 50"):
        opened(tmp_path / "cut.nc")


def test_a_selection_decodes_only_its_chunks(stores, monkeypatch):
    """Oracle: the number of chunks that are decoded."""
    decoded, decode = [], Codec.decode
    monkeypatch.setattr(Codec, "decode", lambda codec, data: decoded.append(data) or decode(codec, data))
    assert np.isfinite(opened(stores[1]).tas.isel(time=70, lat=3).values).all()
    assert decoded == chunks_in_netcdf(stores[1])[1:]


def test_interrupted_and_divided_runs_write_the_same_bytes(stores, emulator, sample_data, tmp_path, monkeypatch):
    """Oracle: the file of a run that nothing disturbed, byte by byte."""
    write = resume.write_chunks

    def broken(store, layout, unit):
        if unit.times.start:
            raise OSError(errno.EIO, "broken")
        write(store, layout, unit)

    path = tmp_path / "resumed.nc"
    with monkeypatch.context() as patch:
        patch.setattr(resume, "write_chunks", broken)
        with pytest.raises(OutputError, match="60 of 120 fields are kept"):
            emulator.archive_file(sample_data / SAMPLE, path, QUALITY)
    assert not path.exists()
    emulator.archive_file(sample_data / SAMPLE, path, QUALITY, writing=Writing(resume=True))
    assert path.read_bytes() == stores[1].read_bytes()
    for number in (2, 1):
        shard = Writing(scale=Shard(number=number, count=2))
        emulator.archive_file(sample_data / SAMPLE, tmp_path / "divided.nc", QUALITY, writing=shard)
    assert (tmp_path / "divided.nc").read_bytes() == stores[1].read_bytes()


@pytest.mark.parametrize("command", ["ncdump -h", "cdo -s sinfon", "ncks -m"])
def test_other_programs_list_it(stores, command):
    """Oracle: the programs themselves, which find the bytes and the time."""
    words = command.split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"there is no {words[0]} here")
    done = subprocess.run([*words, stores[1]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tas_chunk_end" in done.stdout
    assert "120" in done.stdout


def test_a_file_of_somebody_else_is_told_from_an_archive(sample_data, tmp_path):
    """Oracle: the sentence; an attribute of several numbers, as NCEP writes them, is no obstacle."""
    with xr.open_dataset(sample_data / SAMPLE) as data:
        given = data.isel(time=[0]).load()
    given["lat"].attrs["actual_range"] = np.array([90.0, -90.0], np.float32)
    given.to_netcdf(tmp_path / "plain.nc", engine="h5netcdf")
    with pytest.raises(DataError, match=r"plain\.nc is no archive of fsae"):
        figures(tmp_path / "plain.nc")
