"""Arrays whose chunks are coded: in Zarr a file holds each chunk, in NetCDF they follow each other in a variable.

    tas(tas_byte)               ubyte, the chunks of `tas` in the order of their index
    tas:fsae_array              the metadata that the array has in Zarr (zarr.json): dimensions, shape, chunks, codec
    tas_chunk_end(tas_chunk)    int64, the end of each chunk

A NetCDF file is read as the Zarr store that it would be, so that all that follows knows Zarr only.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fsae.runtime.arrays import Ints
from fsae.runtime.errors import DataError

if TYPE_CHECKING:
    import zarr
    from zarr.storage import MemoryStore

METADATA, ZARR_METADATA = "fsae_array", "zarr.json"
END, BYTE, CHUNK = "_chunk_end", "_byte", "_chunk"  # after the name of the array
COPY = "take another copy of the file"
READ_ERRORS = (OSError, ValueError, LookupError, TypeError, RuntimeError)  # of h5py


def chunk_indices(array: "zarr.Array[Any]") -> list[tuple[int, ...]]:
    """Indices of all chunks of an array, the last dimension first."""
    spans = [range(-(-size // chunk)) for size, chunk in zip(array.shape, array.chunks, strict=True)]
    return list(itertools.product(*spans))


def chunk_key(array: "zarr.Array[Any]", index: Sequence[int]) -> str:
    """The name of a chunk in its array, such as c/1/0/0."""
    key: str = array.metadata.encode_chunk_key(tuple(index))
    return key


def payload(array: "zarr.Array[Any]", key: str = ZARR_METADATA) -> bytes:
    """The bytes of a chunk of an array as they are stored, or of its metadata; DataError if they are not there."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    try:
        found = sync((array.store_path / key).get(default_buffer_prototype()))
    except OSError as error:
        raise DataError(str(error.strerror or error), advice=COPY) from None
    if found is None:
        raise DataError("it is missing", advice=COPY)
    return found.to_bytes()


def chunk_sizes(array: "zarr.Array[Any]") -> Ints:
    """Bytes (chunk) of the chunks of an array, in the order of `chunk_indices`."""
    from zarr.core.sync import sync

    keys = [chunk_key(array, index) for index in chunk_indices(array)]
    return np.array([sync(array.store.getsize(f"{array.path}/{key}")) for key in keys], dtype=np.int64)


class _Files(dict[str, Any]):
    """The files of the Zarr store that a NetCDF file would be; of coded chunks each is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.numbers: dict[str, tuple[str, int]] = {}  # of chunks, by their keys in the store

    def __missing__(self, key: str) -> Any:
        from zarr.core.buffer import default_buffer_prototype

        name, number = self.numbers[key]
        return default_buffer_prototype().buffer.from_bytes(self._read(name, number))

    def _read(self, name: str, number: int) -> bytes:
        """The bytes of a chunk; the file is open only meanwhile, so that it can be replaced, and this be pickled."""
        import h5py

        try:
            with h5py.File(self._path, "r") as file:
                ends = file[f"{name}{END}"]
                begin, end = int(ends[number - 1]) if number else 0, int(ends[number])
                return bytes(file[name][begin:end].tobytes())
        except READ_ERRORS as error:
            raise DataError(f"it cannot be read ({error})", advice=COPY) from None


def as_zarr(path: Path) -> "str | MemoryStore":
    """The Zarr store at a path, or that which the NetCDF file there would be; DataError for a damaged file."""
    if not path.is_file():
        return str(path)
    import xarray as xr
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    files = _Files(path)
    with xr.open_dataset(path, engine="h5netcdf", decode_cf=False, cache=False) as found:
        group = zarr.create_group(store=MemoryStore(files), zarr_format=3, attributes=_plain(found.attrs))
        coded = [str(name) for name, one in found.variables.items() if METADATA in one.attrs]
        sizes = dict(found.sizes)
        ends = {f"{name}{END}" for name in coded}
        for name, one in found.variables.items():
            if name in coded:
                text = str(one.attrs[METADATA]).encode()
                files[f"{name}/{ZARR_METADATA}"] = default_buffer_prototype().buffer.from_bytes(text)
            elif name not in ends:
                dims = [str(dim) for dim in one.dims]
                values, attributes = one.values, _plain(one.attrs)
                made = group.create_array(
                    str(name),
                    shape=values.shape,
                    chunks=values.shape,
                    dtype=values.dtype,
                    dimension_names=dims,
                    attributes=attributes,
                    compressors=None,
                )
                made[...] = values
    for name in coded:
        array = group[name]
        if not isinstance(array, zarr.Array):
            raise DataError(f"found {METADATA} of {name} that is no array", advice=COPY)
        axes = cast(Sequence[str], array.metadata.to_dict()["dimension_names"])
        for dim, size in zip(axes, array.shape, strict=True):
            if dim in sizes and sizes[dim] != size:
                raise DataError(
                    f"{path} was cut by another program: {name} has {size} of {dim} and the file {sizes[dim]}",
                    advice="take the whole archive, and select of the opened dataset",
                )
        keys = (f"{name}/{chunk_key(array, index)}" for index in chunk_indices(array))
        files.numbers |= {key: (name, number) for number, key in enumerate(keys)}
    return MemoryStore(files, read_only=True)


def _plain(attributes: Any) -> dict[str, Any]:
    """Attributes for JSON: numbers and arrays of NumPy as those of Python."""
    of_numpy = (np.generic, np.ndarray)
    return {str(key): value.tolist() if isinstance(value, of_numpy) else value for key, value in attributes.items()}
