"""Archives as stores: xarray opens them as the original, Zarr codes with the codec, damage names its chunk."""

import importlib.metadata
import shutil

import numpy as np
import pytest
import xarray as xr
import zarr

from fsae.runtime import Writing
from fsae.runtime.archive import lookup, zarr_codec
from fsae.runtime.archive.lookup import archive_key
from fsae.runtime.archive.quality import Quality
from fsae.runtime.archive.xarray_engine import figures
from fsae.runtime.archive.zarr_codec import FsaeCodec, axis_facts, axis_of
from fsae.runtime.emulator import load
from fsae.runtime.errors import BundleError, DataError, UsageError
from fsae.runtime.jobs.cluster import Cluster

SAMPLE = "ncep1-tas-mon-200501-201412.nc"
BOUND = 0.5


@pytest.fixture(scope="module")
def emulator():
    return load("default", "cpu")


@pytest.fixture(scope="module")
def original(sample_data):
    return xr.open_dataset(sample_data / SAMPLE).load()


@pytest.fixture(scope="module")
def store(emulator, sample_data, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "tas.zarr"
    emulator.archive_file(sample_data / SAMPLE, path, Quality(max_error=BOUND))
    return path


def test_xarray_opens_the_original(store, original):
    """Oracle: the file that was archived: its grid, months and values within the bound."""
    opened = xr.open_dataset(store, engine="fsae")
    assert np.array_equal(opened.lat, original.lat)
    assert np.array_equal(opened.lon, original.lon)
    assert np.array_equal(
        opened.time.dt.year * 12 + opened.time.dt.month, original.time.dt.year * 12 + original.time.dt.month
    )
    assert opened.tas.attrs["units"] == "K"
    assert opened.tas.dtype == np.float32
    assert np.abs(opened.tas.values - original.tas.values).max() <= BOUND
    assert np.array_equal(opened.tas.isel(time=70, lat=3).values, opened.tas.values[70, 3])  # lazily, a part


def test_chunks_of_dask_are_those_of_the_store(store):
    """Oracle: the values without dask."""
    pytest.importorskip("dask", reason="dask is not installed")
    lazy = xr.open_dataset(store, engine="fsae", chunks={})
    assert lazy.tas.chunks[0] == (60, 60)
    plain = xr.open_dataset(store, engine="fsae")
    assert np.array_equal(lazy.tas.compute(), plain.tas)


def test_the_figures_are_those_of_the_values(store, original):
    """Oracle: errors computed from the decoded values, weighted by the areas of the cells."""
    found = figures(store)["tas"]
    error = xr.open_dataset(store, engine="fsae").tas.values.astype(np.float64) - original.tas.values
    edges = np.clip(np.concatenate([[90], (original.lat.values[1:] + original.lat.values[:-1]) / 2, [-90]]), -90, 90)
    area = -np.diff(np.sin(np.radians(edges)))[:, None] / (2 * original.lon.size)
    assert found.largest == pytest.approx(np.abs(error).max(), rel=1e-4)
    assert found.rmse == pytest.approx(np.sqrt((error**2 * area).sum((1, 2)).mean()), rel=1e-5)
    assert found.stored_bytes == sum(file.stat().st_size for file in (store / "tas" / "c").rglob("0") if file.is_file())


def test_a_flipped_byte_names_its_chunk(store, tmp_path):
    """Oracle: the chunk that was damaged; the others are read as before."""
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    chunk = copy / "tas" / "c" / "1" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 16
    chunk.write_bytes(data)
    opened = xr.open_dataset(copy, engine="fsae")
    assert np.isfinite(opened.tas[:60].values).all()
    with pytest.raises(DataError, match=r"chunk tas/c/1/0/0 of .*copy\.zarr"):
        opened.tas.values  # noqa: B018, it is read
    with pytest.raises(DataError, match="chunk tas/c/1/0/0"):
        figures(copy)


def test_resumed_and_divided_runs_write_the_same_bytes(store, emulator, sample_data, tmp_path):
    """Oracle: the chunks of the run of one process."""
    from fsae.runtime.jobs.shards import Shard

    path = tmp_path / "divided.zarr"
    for number in (2, 1):
        shard = Writing(scale=Shard(number=number, count=2))
        emulator.archive_file(sample_data / SAMPLE, path, Quality(max_error=BOUND), writing=shard)
    chunks = sorted(file.relative_to(store) for file in (store / "tas" / "c").rglob("*") if file.is_file())
    assert len(chunks) == 2
    assert all((path / name).read_bytes() == (store / name).read_bytes() for name in chunks)


def test_workers_write_the_same_bytes(store, emulator, sample_data, tmp_path):
    """Oracle: the chunks of the run of one process."""
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    path = tmp_path / "workers.zarr"
    writing = Writing(scale=Cluster(workers=2, threads=1))
    emulator.archive_file(sample_data / SAMPLE, path, Quality(max_error=BOUND), writing=writing)
    for chunk in ("0/0/0", "1/0/0"):
        assert (path / "tas" / "c" / chunk).read_bytes() == (store / "tas" / "c" / chunk).read_bytes()


def test_zarr_codes_a_single_variable(emulator, original, tmp_path):
    """Oracle: the variable, within the bound, written by `to_zarr` and read by xarray's own Zarr engine."""
    lat, lon = (axis_facts(original[name].values.astype(np.float64)) for name in ("lat", "lon"))
    codec = FsaeCodec(
        bundle="default",
        archive=archive_key(emulator.bundle),
        variable="tas",
        grid={"lat": lat, "lon": lon},
        quality={"max_error": BOUND},
    )
    data = original[["tas"]].isel(time=slice(0, 30)).drop_encoding()
    encoding = {"tas": {"serializer": codec, "compressors": None, "chunks": (24, 73, 144)}}
    data.to_zarr(tmp_path / "own.zarr", encoding=encoding, zarr_format=3, consolidated=False)
    back = xr.open_zarr(tmp_path / "own.zarr", consolidated=False)
    assert np.abs(back.tas.values - data.tas.values).max() <= BOUND
    stored = sum(file.stat().st_size for file in (tmp_path / "own.zarr" / "tas" / "c").rglob("0") if file.is_file())
    assert data.tas.nbytes / stored > 25
    assert isinstance(zarr.open_array(tmp_path / "own.zarr" / "tas").metadata.codecs[0], FsaeCodec)


def test_axes_come_back_to_the_bit():
    """Oracle: the axes themselves, even and uneven."""
    for axis in (np.arange(144) * 2.5, np.linspace(90, -90, 73), np.array([-80.0, -3.1, 7.0])):
        assert np.array_equal(axis_of(axis_facts(axis)), axis)


def test_other_stores_and_names_are_refused(emulator, sample_data, tmp_path):
    """Oracle: one sentence that says what is wrong."""
    with pytest.raises(UsageError, match="quality of pr"):
        emulator.archive_file(sample_data / SAMPLE, tmp_path / "x.zarr", {"pr": Quality(rmse=0.2)})
    zarr.create_group(store=str(tmp_path / "other.zarr"))
    with pytest.raises(DataError, match="no archive"):
        xr.open_dataset(tmp_path / "other.zarr", engine="fsae")


def test_a_store_says_where_its_bundle_can_be_had(store, monkeypatch):
    """Oracle: the shipped bundle comes with the package; where it is missing, the error says so."""
    monkeypatch.setattr(lookup, "installed_folders", lambda: [store.parent / "nowhere"])
    monkeypatch.setattr(zarr_codec, "find_archive", lambda key, _: lookup.find_archive(key, "unheard of"))
    monkeypatch.chdir(store.parent)
    version = importlib.metadata.version("fsae")
    said = rf'no bundle with the archive codec .*: bundle default comes with fsae {version}: pip install "fsae='
    with pytest.raises(BundleError, match=said):
        xr.open_dataset(store, engine="fsae")
