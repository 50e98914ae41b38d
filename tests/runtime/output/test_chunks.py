"""Chunks written without zarr's event loop are those that zarr writes. Oracle: zarr itself."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, GzipCodec

from fsae.runtime.output import zarr as chunks_module
from fsae.runtime.output.store import Array
from fsae.runtime.output.zarr import ZarrStore, chunk_of, known_chunks, write_chunk

BLOSC = {"cname": "zstd", "clevel": 3, "shuffle": "shuffle"}
SHAPE, CHUNKS = (3, 14, 48), (1, 6, 48)


def make(folder: Path, name: str = "tas", **options: Any) -> zarr.Array:
    """An empty array in a folder, of the kind that the runtime makes but for the options."""
    group = zarr.open_group(folder, mode="a", zarr_format=3)
    options = {"dtype": "float32", "compressors": BloscCodec(**BLOSC), "fill_value": float("nan")} | options
    return group.create_array(name, shape=SHAPE, chunks=CHUNKS, **options)


def files_of(folder: Path) -> dict[str, bytes]:
    """Bytes of all files by their path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pieces() -> list[tuple[tuple[slice, ...], np.ndarray]]:
    """Places and values: whole chunks, those at the end of time, some NaN, all NaN, over what is there, parts, more."""
    made = np.random.default_rng(0).normal(280, 10, SHAPE).astype(np.float32)
    made[1, 3, 5:9], made[2, 6:12], made[0, :2, :] = np.nan, np.nan, -0.0
    places = [(slice(m, m + 1), slice(t, min(t + 6, 14))) for m in range(3) for t in (0, 6, 12)]
    found = [(place, made[place]) for place in places]
    found.append(((slice(0, 1), slice(6, 12)), np.asfortranarray(made[1:2, 0:6])))  # over another, in another order
    found.append(((slice(1, 2), slice(6, 12)), np.full((1, 6, 48), np.nan, np.float32)))  # over another: no file
    found.append(((slice(2, 3), slice(0, 6), slice(0, 48)), made[1:2, 6:12].astype(">f4")))
    found += [((slice(2, 3), slice(t, t + n)), made[0:1, t : t + n]) for t, n in ((2, 3), (0, 3), (2, 6))]  # parts
    return [*found, ((slice(0, 2), slice(0, 12)), made[1:3, 0:12])]  # of several


def test_files_are_those_of_zarr(tmp_path: Path) -> None:  # oracle: zarr writing the same pieces
    theirs = make(tmp_path / "theirs")
    made = ZarrStore(tmp_path / "ours", {})
    made.create(Array(name="tas", dims=("realization", "time", "cell"), shape=SHAPE, chunks=CHUNKS, attributes={}))
    for place, values in pieces():
        theirs[place] = values
        made.write("tas", place, values)
        ours, wanted = files_of(tmp_path / "ours/tas/c"), files_of(tmp_path / "theirs/tas/c")
        assert ours == wanted, place
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "ours/tas", mode="r")[:], theirs[:])


@pytest.mark.parametrize("shuffle", ["noshuffle", "shuffle", "bitshuffle"])
@pytest.mark.parametrize("cname", ["lz4", "zstd"])
def test_compression_is_that_of_the_metadata(tmp_path: Path, cname: Any, shuffle: Any) -> None:  # oracle: zarr
    codec = BloscCodec(cname=cname, clevel=7, shuffle=shuffle, blocksize=512)
    theirs, _ = (make(tmp_path / name, compressors=codec) for name in ("theirs", "ours"))
    place, values = pieces()[0]
    chunks = known_chunks(tmp_path / "ours/tas")
    assert chunks is not None
    assert write_chunk(chunks, place, values)
    theirs[place] = values
    assert files_of(tmp_path / "ours") == files_of(tmp_path / "theirs")


def test_all_whole_chunks_but_empty_ones_are_written_here(tmp_path: Path) -> None:  # oracle: the list of pieces
    make(tmp_path)
    chunks = known_chunks(tmp_path / "tas")
    assert chunks is not None
    done = [write_chunk(chunks, place, values) for place, values in pieces()]
    assert done == [True] * 7 + [False, True, True, False, True] + [False] * 4


OTHER_KINDS: dict[str, dict[str, Any]] = {
    "other numbers": {"dtype": "float64"},
    "another order of bytes": {"serializer": zarr.codecs.BytesCodec(endian="big")},
    "another fill value": {"fill_value": 0.0},
    "no compression": {"compressors": None},
    "another compression": {"compressors": GzipCodec()},
    "two compressions": {"compressors": [BloscCodec(**BLOSC), GzipCodec()]},
    "a filter": {"filters": zarr.codecs.TransposeCodec(order=(2, 1, 0))},
    "other names of chunks": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    "dots in names of chunks": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "shards": {"shards": (1, 12, 48)},
}


@pytest.mark.parametrize("options", OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_other_arrays_are_left_to_zarr(tmp_path: Path, options: dict[str, Any]) -> None:  # oracle: what zarr reads
    make(tmp_path, **options)
    assert known_chunks(tmp_path / "tas") is None
    store, (place, values) = ZarrStore(tmp_path, None), pieces()[0]
    store.write("tas", place, values)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "tas", mode="r")[place], values)


def test_a_codec_that_is_a_mere_name_is_left_to_zarr(tmp_path: Path) -> None:  # oracle: short names of Zarr v3.1
    make(tmp_path)
    path = tmp_path / "tas/zarr.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "codecs": [chunks_module.BYTES, "blosc"]}))
    assert known_chunks(tmp_path / "tas") is None


def test_values_that_do_not_fill_their_place_are_left_to_zarr(tmp_path: Path) -> None:  # oracle: shapes differ
    make(tmp_path)
    chunks = known_chunks(tmp_path / "tas")
    assert chunks is not None
    place = (slice(0, 1), slice(0, 6))
    assert [chunk_of(chunks, place, shape) for shape in ((1, 6, 48), (1, 1, 48), (6, 48))] == [(0, 0, 0), None, None]


def test_a_chunk_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: the files before
    make(tmp_path)
    chunks, (place, values) = known_chunks(tmp_path / "tas"), pieces()[0]
    assert chunks is not None
    assert write_chunk(chunks, place, values)
    before, write = files_of(tmp_path), Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_chunk(chunks, place, values + 1)
    assert files_of(tmp_path) == before


def test_a_killed_writer_leaves_what_a_resumed_run_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: zarr's names of files that it writes aside, which restart.remove_torn knows
    from fsae.runtime.jobs.resume import FIELDS, remove_torn

    make(tmp_path / FIELDS)
    chunks, (place, values) = known_chunks(tmp_path / FIELDS / "tas"), pieces()[0]
    assert chunks is not None
    before = files_of(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda path, target: target)  # killed before the renaming
        assert write_chunk(chunks, place, values)
    assert len(files_of(tmp_path)) == len(before) + 1
    remove_torn(tmp_path)
    assert files_of(tmp_path) == before
