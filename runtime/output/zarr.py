"""Zarr v3 stores."""

import json
import threading
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32

from .store import Array, Attribute, Coordinate

FILTERS = threading.Lock()  # filters of warnings belong to the process: threads that put them back must take turns


class ZarrStore:
    """A Zarr v3 group; every piece is whole chunks, so none is read to write another.

    Without attributes it is the group that stands at the path, to be written on.
    """

    def __init__(self, path: Path, attributes: Mapping[str, Attribute] | None) -> None:
        import zarr

        self._path = path
        if attributes is not None:
            self._group = zarr.create_group(store=str(path), zarr_format=3, attributes=dict(attributes))
            self._arrays: dict[str, Any] = {}
        else:
            self._group = zarr.open_group(store=str(path), mode="r+", zarr_format=3, use_consolidated=False)
            self._arrays = dict(self._group.arrays())
        self._chunks: dict[str, Chunks | None] = {}  # of the arrays that were written

    def put(self, item: Coordinate) -> None:
        """See `Store.put`."""
        array = self._group.create_array(
            item.name,
            shape=item.values.shape,
            chunks=item.values.shape,
            dtype=item.values.dtype,
            dimension_names=item.dims,
            attributes=dict(item.attributes),
        )
        array[...] = item.values

    def create(self, array: Array) -> None:
        """See `Store.create`."""
        from zarr.codecs import BloscCodec

        self._arrays[array.name] = self._group.create_array(
            array.name,
            shape=array.shape,
            chunks=array.chunks,
            dtype="float32",
            dimension_names=array.dims,
            attributes=dict(array.attributes),
            compressors=BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
            fill_value=float("nan"),
        )

    def write(self, name: str, place: tuple[slice, ...], values: F32) -> None:
        """See `Store.write`."""
        if name not in self._chunks:
            self._chunks[name] = known_chunks(self._path / name)
        chunks = self._chunks[name]
        if chunks is None or not write_chunk(chunks, place, values):
            self._arrays[name][place] = values

    def read(self, name: str, place: tuple[slice, ...]) -> F32:
        """What was written there."""
        found: F32 = self._arrays[name][place]
        return found

    def close(self) -> None:
        """See `Store.close`."""
        import zarr

        with FILTERS, warnings.catch_warnings():
            # not yet in the Zarr v3 text, but ignored by those who do not know it and expected by xarray
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(self._group.store)
        self._group.store.close()


# Whole chunks of a Zarr array written as zarr itself writes them, to the byte, without its event loop.
# What must stand in zarr.json, see the Zarr v3 specification; shape, chunk shape and compression are read from it.
KIND = {
    "zarr_format": 3,
    "node_type": "array",
    "data_type": "float32",
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": "NaN",
    "storage_transformers": [],
}

BYTES = {"name": "bytes", "configuration": {"endian": "little"}}

SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}  # numbers of c-blosc


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """The chunks of a float32 array with NaN where nothing is written, in the folder `c` of the array's own."""

    folder: Path
    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    compressor: Any  # of numcodecs


def known_chunks(folder: Path) -> Chunks | None:
    """The chunks of the array in a folder; None where it is of another kind, and zarr is to write it."""
    metadata = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    compressor = _compressor(metadata["codecs"])
    if compressor is None or metadata["chunk_grid"]["name"] != "regular" or not metadata["shape"]:
        return None
    if any(metadata.get(key, []) != value for key, value in KIND.items()):
        return None
    return Chunks(
        folder=folder / "c",
        shape=tuple(metadata["shape"]),
        chunk_shape=tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"]),
        compressor=compressor,
    )


def _compressor(codecs: list[dict[str, Any]]) -> Any:
    """What compresses the bytes of a chunk, where that is Blosc and nothing else is done to them; else None."""
    if len(codecs) != 2 or codecs[0] != BYTES or not isinstance(codecs[1], dict) or codecs[1]["name"] != "blosc":
        return None  # a codec may also be its mere name
    options = dict(codecs[1]["configuration"])
    try:
        from numcodecs.blosc import Blosc

        return Blosc(**{**options, "shuffle": SHUFFLES[options["shuffle"]]})
    except (ImportError, TypeError):  # one before 0.16 takes the size of a number from elsewhere
        return None


def chunk_of(chunks: Chunks, place: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Which chunk the slices of the first axes cover, all of it that lies within the array; None for any other piece.

    `shape` is that of the values for it: zarr would repeat what is too short.

    >>> chunks = Chunks(folder=Path("c"), shape=(3, 14, 48), chunk_shape=(1, 12, 48), compressor=None)
    >>> chunk_of(chunks, (slice(2, 3), slice(12, 14)), (1, 2, 48))
    (2, 1, 0)
    >>> chunk_of(chunks, (slice(2, 3), slice(12, 13)), (1, 1, 48)) is None
    True
    """
    if len(shape) != len(chunks.shape):
        return None
    whole = (*place, *(slice(None) for _ in chunks.shape[len(place) :]))
    index = []
    for part, length, size, given in zip(whole, chunks.shape, chunks.chunk_shape, shape, strict=True):
        first, end, step = part.indices(length)
        if step != 1 or first % size or end != min(first + size, length) or given != end - first:
            return None
        index.append(first // size)
    return tuple(index)


def write_chunk(chunks: Chunks, place: tuple[slice, ...], values: NDArray[np.float32]) -> bool:
    """Whether the values were written: they are all of one chunk, and not all of them NaN.

    Of a chunk of nothing but NaN zarr writes no file, unless it is configured to.
    """
    index = chunk_of(chunks, place, values.shape)
    if index is None or np.isnan(values).all():
        return False
    if values.shape != chunks.chunk_shape:  # at the end of an axis; a chunk is stored whole
        part = np.full(chunks.chunk_shape, np.nan, dtype="<f4")
        part[tuple(slice(size) for size in values.shape)] = values
        values = part
    data = chunks.compressor.encode(np.ascontiguousarray(values, dtype="<f4"))
    path = chunks.folder.joinpath(*map(str, index))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")  # as zarr calls it, see `restart.remove_torn`
    try:
        aside.write_bytes(data)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return True
