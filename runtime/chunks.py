"""Whole chunks of a Zarr array written as zarr itself writes them, to the byte, without its event loop.

Zarr hands every chunk through that and several threads, which for a chunk of some fields costs more than to compress
it. This is for arrays of the one kind that `stores.ZarrStore` makes, known by their own metadata; all others, and
pieces that are not one chunk, are left to zarr.
"""

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
