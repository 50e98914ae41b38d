"""NetCDF-4 stores, through h5netcdf."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.formats.coded import BYTE

from .store import Array, Attribute, Coordinate

if TYPE_CHECKING:
    import h5netcdf
    from _typeshed import ReadableBuffer as Buffer

RECORD = "time"


def short(attributes: Mapping[str, Attribute]) -> dict[str, Any]:
    """The attributes, integers as int32 where they fit: CDO ignores a 64-bit `healpix_nside`."""
    limits = np.iinfo(np.int32)
    return {
        key: np.int32(value) if isinstance(value, int) and limits.min <= value <= limits.max else value
        for key, value in attributes.items()
    }


def as_characters(attributes: Mapping[str, Attribute]) -> dict[str, Any]:
    """The attributes as NetCDF stores them: `short` numbers, and text as characters (NC_CHAR), as the C library does.

    h5netcdf would write text as NC_STRING, of which CDO reads the first letter, NCO nothing (error -56), and
    `nf90_get_att` of Fortran nothing either. Text beyond ASCII is stored in UTF-8.
    """
    return {key: _characters(value) if isinstance(value, str) else value for key, value in short(attributes).items()}


def _characters(text: str) -> Any:
    import h5py

    data = text.encode()
    if not data:
        return h5py.Empty(np.dtype("S1"))  # HDF5 has no text of length 0
    return np.array(data, dtype=h5py.string_dtype("ascii" if text.isascii() else "utf-8", len(data)))


def as_text(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes read through h5netcdf, which gives text of no or one character as bytes, with all text as `str`."""
    return {key: value.decode() if isinstance(value, bytes) else value for key, value in attributes.items()}


def in_netcdf(item: Coordinate) -> Coordinate:
    """A coordinate as NetCDF holds it: a HEALPix grid mapping also has the older names, which CDO 2.1 and 2.5 need.

    In Zarr they would break xdggs 0.6 and 0.7, which take every attribute of the mapping for a parameter.
    """
    if item.attributes.get("grid_mapping_name") != "healpix":
        return item
    nside = 1 << int(item.attributes["refinement_level"])
    older: dict[str, Attribute] = {"healpix_nside": nside, "healpix_order": "nest"}
    return dataclasses.replace(item, attributes={**item.attributes, **older})


def time_first(dims: Sequence[str]) -> tuple[int, ...]:
    """The places of dimensions in the order of NetCDF: the record dimension `time` before members and quantiles.

    CDO takes members for levels, if they come after the time, and NCO joins files along a first dimension.

    >>> time_first(("realization", "time", "lat", "lon"))
    (1, 0, 2, 3)
    """
    return tuple(sorted(range(len(dims)), key=lambda place: dims[place] != RECORD))


def in_order(array: Array) -> Array:
    """An array as NetCDF holds it, with the time first."""
    order = time_first(array.dims)

    def moved(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(values[place] for place in order)

    return dataclasses.replace(array, dims=moved(array.dims), shape=moved(array.shape), chunks=moved(array.chunks))


class _PatientFile(io.FileIO):
    """A file whose writes seem to succeed; the first failure is kept in `failure`, and later writes are dropped.

    HDF5 does not survive a failing write: it tries again from finalisers, prints, and may crash when Python exits. So
    it never sees one, and the store looks for the failure itself.
    """

    failure: OSError | None = None

    def write(self, data: "Buffer") -> int:
        """Write, and return the number of bytes accepted."""
        view = memoryview(data).cast("B")
        taken = view.nbytes
        while view.nbytes and self.failure is None:
            try:
                view = view[super().write(view) or 0 :]
            except OSError as error:
                self.failure = error
        return taken

    def truncate(self, size: int | None = None) -> int:
        """Truncate, and return the size that the file seems to have then."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0


class NetcdfStore:
    """A NetCDF-4 file through h5netcdf."""

    def __init__(self, path: Path, attributes: Mapping[str, Attribute]) -> None:
        import h5netcdf

        self._disk = _PatientFile(path, "x+b")  # nothing may be there, a link neither
        self._file = h5netcdf.File(self._disk, "w")
        self._orders: dict[str, tuple[int, ...]] = {}  # of the dimensions of arrays, where it is another one
        self.describe(attributes)

    def describe(self, attributes: Mapping[str, Attribute]) -> None:
        """Add global attributes."""
        self._file.attrs.update(as_characters(attributes))

    def put(self, item: Coordinate) -> None:
        """See `Store.put`."""
        item = in_netcdf(item)
        self._make_dimensions(item.dims, item.values.shape)
        chunks = item.values.shape if RECORD in item.dims else None
        variable = self._file.create_variable(item.name, item.dims, dtype=item.values.dtype, chunks=chunks)
        variable[...] = item.values
        variable.attrs.update(as_characters(item.attributes))
        self._raise_failure()

    def create(self, array: Array) -> None:
        """See `Store.create`."""
        self._orders[array.name] = time_first(array.dims)
        array = in_order(array)
        self._make_dimensions(array.dims, array.shape)
        variable = self._file.create_variable(
            array.name,
            array.dims,
            dtype="float32",
            chunks=array.chunks,
            compression="gzip",
            compression_opts=4,
            shuffle=True,
        )
        variable.attrs.update(as_characters(array.attributes))

    def create_bytes(self, name: str, size: int, attributes: Mapping[str, Attribute]) -> None:
        """Make a variable (byte) that `write` fills, of bytes that follow each other in the file as well."""
        dims = (f"{name}{BYTE}",)
        self._orders[name] = (0,)
        self._make_dimensions(dims, (size,))
        self._file.create_variable(name, dims, dtype="uint8").attrs.update(as_characters(attributes))

    def write(self, name: str, place: tuple[slice, ...], values: NDArray[Any]) -> None:
        """See `Store.write`; place and values are in the order of the array that was given to `create`."""
        order = self._orders[name]
        whole = (*place, *(slice(None) for _ in order[len(place) :]))
        self._file[name][tuple(whole[axis] for axis in order)] = values.transpose(order)
        self._raise_failure()

    def written(self) -> "h5netcdf.File":
        """The open file, with all that was written so far; OSError if that failed."""
        self._file.flush()
        self._raise_failure()
        return self._file

    def close(self) -> None:
        """See `Store.close`."""
        self._file.close()
        self._disk.close()
        self._raise_failure()

    def _make_dimensions(self, dims: tuple[str, ...], shape: tuple[int, ...]) -> None:
        for dim, size in zip(dims, shape, strict=True):
            if dim not in self._file.dimensions:
                self._file.dimensions[dim] = None if dim == RECORD else size
                if dim == RECORD:  # unlimited, so that other programs can add steps
                    self._file.resize_dimension(dim, size)

    def _raise_failure(self) -> None:
        if self._disk.failure is not None:
            raise self._disk.failure
