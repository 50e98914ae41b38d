"""Datasets of dask arrays in and out: the values of those in memory, read and held a few chunks at a time."""

import json
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from trees import tree

from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import DataError
from fsae.runtime.jobs.identity import INPUTS
from fsae.runtime.output.layout import TIME_CHUNK
from fsae.runtime.output.selection import Selection
from fsae.runtime.sphere.healpix import npix

dask = pytest.importorskip("dask")
array = pytest.importorskip("dask.array")

CHUNKS = 20


class Alive:
    """Counts arrays, and how many of them are in memory at once at most."""

    def __init__(self) -> None:
        self.made = self.now = self.most = 0
        self._lock = threading.RLock()  # finalisers may run inside `watch`

    def watch(self, found: np.ndarray) -> np.ndarray:
        """The array, of which there is one more until it is gone."""
        with self._lock:
            self.made, self.now = self.made + 1, self.now + 1
            self.most = max(self.most, self.now)
        weakref.finalize(found, self._gone)
        return found

    def _gone(self) -> None:
        with self._lock:
            self.now -= 1


def counted(alive: Alive, members: int | None = None) -> xr.Dataset:
    """Fields in `CHUNKS` chunks of time (of each member) that are made when they are looked at."""
    lead, chunks = ((), ()) if members is None else ((members,), ((1,) * members,))

    def make(block_info: dict) -> np.ndarray:
        place = block_info[None]["chunk-location"]
        shape = block_info[None]["chunk-shape"]
        return alive.watch(np.random.default_rng(place).normal(0, 1, shape).astype(np.float32))

    shape = (*lead, CHUNKS * TIME_CHUNK, npix(2))
    values = array.map_blocks(
        make, chunks=(*chunks, (TIME_CHUNK,) * CHUNKS, (npix(2),)), dtype=np.float32, meta=np.empty((0,) * len(shape))
    )
    dims = (*(("realization",) if members else ()), "time", "cell")
    months = [f"{1990 + month // 12}-{month % 12 + 1:02d}-15" for month in range(shape[-2])]
    return xr.Dataset(
        {
            "tas": (dims, values + 280, {"units": "K", "grid_mapping": "crs"}),
            "uas": (dims, 3 * values, {"units": "m s-1", "grid_mapping": "crs"}),
        },
        coords={
            "time": np.array(months, dtype="datetime64[ns]"),
            "crs": ((), 0, {"grid_mapping_name": "healpix", "refinement_level": 2, "indexing_scheme": "nested"}),
        },
    )


@pytest.mark.parametrize("members", [None, 2])
def test_lazy_input_gives_the_same_lazily(emulator: Emulator, members: int | None) -> None:  # oracle: in memory
    data = emulator.generate(Request(members=members or 1, start="1990-01", steps=30))
    if members is None:
        data = data.isel(realization=0, drop=True)
    chunked = data.chunk({"time": 7})
    source = Selection(grid="source")
    made = {
        "compress": lambda given: emulator.compress(given, climatology="training"),
        "superres": lambda given: emulator.superres(given, zoom=1, climatology="training", select=source),
        "decompress": lambda given: emulator.decompress(emulator.compress(given, climatology="training")),
    }
    for verb, make in made.items():
        lazy, eager = make(chunked), make(data)
        assert lazy["tas"].chunksizes["time"] == (TIME_CHUNK, TIME_CHUNK, 6), verb
        assert eager["tas"].chunks is None, verb
        xr.testing.assert_identical(lazy.compute(), eager)


def test_nothing_is_computed_before_it_is_looked_at(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    alive, runs, encode = Alive(), [0], OnnxGraphs.encode

    def counting(self: OnnxGraphs, *given: np.ndarray) -> np.ndarray:
        runs[0] += 1
        return encode(self, *given)

    monkeypatch.setattr(OnnxGraphs, "encode", counting)
    with dask.config.set(scheduler="synchronous"):
        latents = emulator.compress(counted(alive), climatology="training")
        assert runs == [0]
        assert alive.made <= 2  # the first step of each variable is checked
        before = alive.made
        latents["tas"].isel(time=slice(25, 35)).load()
    assert runs == [1]
    assert alive.made - before == 2  # one chunk, for both variables


def made_of(path: Path) -> tuple[dict[str, bytes], dict[str, object]]:
    """Files and attributes of an output, without the fingerprint of its input: that of lazy data has no values."""
    files = tree(path)
    attributes = json.loads(files.pop("zarr.json"))["attributes"]
    del attributes[INPUTS]
    return files, attributes


@pytest.mark.parametrize("members", [None, 2])
def test_few_chunks_are_in_memory_at_once(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: int | None
) -> None:  # oracle: the bound does not depend on the number of chunks; the bytes are those of data in memory
    encode, outputs, inputs = OnnxGraphs.encode, Alive(), Alive()
    data = counted(inputs, members)
    with dask.config.set(scheduler="synchronous"):
        emulator.compress_file(data.load(), tmp_path / "memory.zarr", climatology="training")
        monkeypatch.setattr(OnnxGraphs, "encode", lambda *given: outputs.watch(encode(*given)))
        inputs, data = Alive(), None
        emulator.compress_file(counted(inputs, members), tmp_path / "lazy.zarr", climatology="training")
    lazy, memory = (made_of(tmp_path / name) for name in ("lazy.zarr", "memory.zarr"))
    assert lazy == memory
    units = CHUNKS * (members or 1)
    assert outputs.made == units
    assert outputs.most <= 5
    assert inputs.made >= units
    assert inputs.most <= 2

    inputs, before = Alive(), outputs.made
    outputs.most = outputs.now
    with dask.config.set(scheduler="threads", num_workers=2):
        result = emulator.compress(counted(inputs, members), climatology="training")
        stored = result.drop_encoding().to_zarr(tmp_path / "result.zarr", consolidated=False, compute=True)
        stored.close()
    assert outputs.made - before == units
    assert inputs.most <= 8
    assert outputs.most <= 8


def test_what_is_wrong_is_said_when_it_is_read(emulator: Emulator) -> None:
    data = emulator.generate(Request(members=1, start="1990-01", steps=24)).isel(realization=0, drop=True)
    data["tas"][17, 3] = np.nan
    latents = emulator.compress(data.chunk({"time": 12}), climatology="training")
    latents["tas"].isel(time=slice(0, 12)).load()
    with pytest.raises(DataError, match="tas in dataset has 1 missing values"):
        latents.load()
