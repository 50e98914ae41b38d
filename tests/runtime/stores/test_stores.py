"""Output in Zarr stores that are no folder: memory, object storage on this machine, icechunk, and a server of S3.

Oracle: the same request written to a folder, chunk by chunk, and as xarray reads it.
"""

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import xarray as xr
from trees import tree

from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import DataError, FsaeError, OutputError, Stopped, UsageError
from fsae.runtime.jobs.job import Writing
from fsae.runtime.jobs.shards import Shard

REQUEST = Request(members=2, start="1990-01", steps=8, seed=3)
ADDRESS = "s3://bucket/runs/out.zarr"


@pytest.fixture(scope="module")
def emulator(tiny_bundle: Bundle) -> Emulator:
    return Emulator(tiny_bundle, OnnxGraphs(tiny_bundle, threads=1))


@pytest.fixture(scope="module")
def whole(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output in a folder."""
    path = tmp_path_factory.mktemp("whole") / "whole.zarr"
    emulator.generate_file(path, REQUEST, batch=1)
    return path


@pytest.fixture(params=["memory", "local", "icechunk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """An empty store of each kind."""
    from zarr.storage import MemoryStore, ObjectStore

    if request.param == "memory":
        return MemoryStore()
    if request.param == "local":
        obstore = pytest.importorskip("obstore.store")
        return ObjectStore(obstore.LocalStore(str(tmp_path), automatic_cleanup=True))
    icechunk = pytest.importorskip("icechunk")
    return icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main").store


def objects_in(store: Any) -> dict[str, bytes]:
    """All objects of a store by name, read by zarr."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    async def read() -> dict[str, bytes]:
        names = [name async for name in store.list_prefix("")]
        return {name: (await store.get(name, default_buffer_prototype())).to_bytes() for name in names}

    found: dict[str, bytes] = sync(read())
    return found


def stop_after(units: int) -> Writing:
    """A way of writing that is interrupted after that many units."""

    def interrupt(done: int, total: int) -> None:
        if done >= 3 * units:
            raise KeyboardInterrupt

    return Writing(progress=interrupt)


def assert_equal_values(one: Path, other: Path) -> None:
    found, expected = xr.open_zarr(one), xr.open_zarr(other)
    assert list(found.data_vars) == list(expected.data_vars)
    for name, variable in expected.data_vars.items():
        np.testing.assert_array_equal(found[name], variable)


def test_a_store_holds_what_a_folder_does(emulator: Emulator, store: Any, whole: Path) -> None:
    job = emulator.generate_file(store, REQUEST, batch=1)
    assert job.missing == ()
    found, expected = objects_in(store), tree(whole)
    assert {key for key in found if found[key] != expected.get(key)} <= {"zarr.json"}  # icechunk writes that anew
    assert set(found) == set(expected)
    consolidated = {"consolidated": False}
    xr.testing.assert_identical(xr.open_zarr(store, **consolidated), xr.open_zarr(whole, **consolidated))


def test_a_store_is_read_as_input(emulator: Emulator, store: Any, whole: Path, tmp_path: Path) -> None:
    emulator.generate_file(store, REQUEST, batch=1)
    emulator.compress_file(store, tmp_path / "of_store.zarr", climatology="training")
    emulator.compress_file(whole, tmp_path / "of_folder.zarr", climatology="training")
    assert_equal_values(tmp_path / "of_store.zarr", tmp_path / "of_folder.zarr")


def test_a_stopped_run_goes_on_by_units(emulator: Emulator, store: Any, whole: Path) -> None:
    with pytest.raises(Stopped, match=r"stopped; \d+ of 16 fields are kept in \w+: the same command with --resume"):
        emulator.generate_file(store, REQUEST, batch=1, writing=stop_after(2))
    with pytest.raises(DataError, match=r"holds no Zarr group, or an unfinished output"):
        emulator.compress_file(store, "unused.zarr", climatology="training")
    with pytest.raises(OutputError, match=r"holds an unfinished run: --resume goes on with it"):
        emulator.generate_file(store, REQUEST, batch=1)
    other = Request(members=2, start="1990-01", steps=8, seed=4)
    with pytest.raises(UsageError, match=r"differs from this one in .*request: seed \(3 there, 4 here\)"):
        emulator.generate_file(store, other, batch=1, writing=Writing(resume=True))
    said: list[int] = []
    emulator.generate_file(store, REQUEST, writing=Writing(resume=True, progress=lambda done, _: said.append(done)))
    assert said[0] >= 6  # what was there
    assert {name: data for name, data in objects_in(store).items() if "/" in name} == {
        name: data for name, data in tree(whole).items() if "/" in name
    }
    emulator.generate_file(store, REQUEST, writing=Writing(resume=True))


def test_only_own_output_is_replaced(emulator: Emulator, store: Any, whole: Path) -> None:
    import zarr

    emulator.generate_file(store, Request(members=1, start="1990-01", steps=3, seed=9))
    with pytest.raises(OutputError, match="exists: give another store, or --overwrite"):
        emulator.generate_file(store, REQUEST)
    with pytest.raises(OutputError, match="is the output of another run, which differs in"):
        emulator.generate_file(store, REQUEST, writing=Writing(resume=True))
    emulator.generate_file(store, REQUEST, batch=1, writing=Writing(overwrite=True))
    assert set(objects_in(store)) == set(tree(whole))
    zarr.open_group(store, mode="r+").create_array("mine", shape=(1,), dtype="f4")
    before = objects_in(store)
    with pytest.raises(OutputError, match=r"holds mine/zarr.json, which fsae did not write"):
        emulator.generate_file(store, REQUEST, writing=Writing(overwrite=True))
    assert objects_in(store) == before


def test_a_run_that_another_takes_over_stops(emulator: Emulator, store: Any, whole: Path) -> None:
    # oracle: the output of the second, which is whole
    def second(done: int, total: int) -> None:
        if done == 3:
            emulator.generate_file(store, REQUEST, batch=1, writing=Writing(resume=True))

    with pytest.raises(OutputError, match="another process has taken over the run"):
        emulator.generate_file(store, REQUEST, batch=1, writing=Writing(progress=second))
    assert set(objects_in(store)) == set(tree(whole))


def test_what_is_refused(emulator: Emulator, tmp_path: Path) -> None:
    from zarr.storage import MemoryStore

    with pytest.raises(UsageError, match="found shards or a cluster for MemoryStore, expected one process"):
        emulator.generate_file(MemoryStore(), REQUEST, writing=Writing(scale=Shard(1, 2)))
    with pytest.raises(UsageError, match="found MemoryStore that is read only"):
        emulator.generate_file(MemoryStore(read_only=True), REQUEST)
    with pytest.raises(UsageError, match=r"found the output https://x/out.zarr, expected an address that begins with"):
        emulator.generate_file("https://x/out.zarr", REQUEST)
    with pytest.raises(UsageError, match=r"found the output s3://x/out.nc, expected a name that ends in .zarr"):
        emulator.generate_file("s3://x/out.nc", REQUEST)


def test_a_store_that_fails_keeps_what_is_there(
    emulator: Emulator, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zarr.storage import MemoryStore

    store, put, calls = MemoryStore(), MemoryStore.set, [0]

    async def failing(self: MemoryStore, key: str, *given: Any) -> None:
        if self is store and "/c/" in key and key.startswith("tas/"):
            calls[0] += 1
            if calls[0] > 2:
                raise RuntimeError("no space")
        await put(self, key, *given)

    with monkeypatch.context() as patched:
        patched.setattr(MemoryStore, "set", failing)
        with pytest.raises(
            FsaeError, match=r"cannot write MemoryStore: no space; 6 of 16 fields are kept in MemoryStore"
        ):
            emulator.generate_file(store, REQUEST, batch=1)
    emulator.generate_file(store, REQUEST, batch=1, writing=Writing(resume=True))
    assert set(objects_in(store)) == set(tree(whole))


# --- addresses ---


@pytest.fixture
def pages(whole: Path) -> Iterator[str]:
    """The address of a server of files, which lists none of them, with that of the folder."""
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(whole.parent))
    ) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{whole.name}"
        server.shutdown()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of S3 with an empty bucket, to which the AWS_* variables lead; its address."""
    pytest.importorskip("obstore")
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "ENDPOINT_URL": address}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    boto3.client("s3", endpoint_url=address, region_name="us-east-1").create_bucket(Bucket="bucket")
    yield address
    running.stop()


def test_addresses_of_s3_and_http(emulator: Emulator, server: str, pages: str, whole: Path, tmp_path: Path) -> None:
    import boto3

    with pytest.raises(Stopped, match=rf"fields are kept in {ADDRESS}: the same command with --resume goes on"):
        emulator.generate_file(ADDRESS, REQUEST, batch=1, writing=stop_after(2))
    emulator.generate_file(ADDRESS, REQUEST, writing=Writing(resume=True))
    client = boto3.client("s3", endpoint_url=server, region_name="us-east-1")
    listed = client.list_objects_v2(Bucket="bucket", Prefix="runs/out.zarr/")["Contents"]
    found = {one["Key"]: client.get_object(Bucket="bucket", Key=one["Key"])["Body"].read() for one in listed}
    assert found == {f"runs/out.zarr/{name}": data for name, data in tree(whole).items()}
    emulator.compress_file(whole, tmp_path / "of_folder.zarr", climatology="training")
    for name, address in {"of_s3": ADDRESS, "of_http": pages}.items():
        emulator.compress_file(address, tmp_path / f"{name}.zarr", climatology="training")
        assert_equal_values(tmp_path / f"{name}.zarr", tmp_path / "of_folder.zarr")
    with pytest.raises(DataError, match=r"s3://bucket/none.zarr holds no Zarr group"):
        emulator.compress_file("s3://bucket/none.zarr", tmp_path / "none.zarr")
    with pytest.raises(OutputError, match=r"cannot write s3://elsewhere/out.zarr: .*"):
        emulator.generate_file("s3://elsewhere/out.zarr", REQUEST, batch=1)
