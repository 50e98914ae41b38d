"""Classic NetCDF files (CDF-1, 64-bit offset and CDF-5) as datasets on memory maps, in NumPy alone.

The format is that of "NetCDF Classic Format Specifications" (Unidata): a header of dimensions, attributes and
variables, then the values, big-endian; those of variables along the unlimited dimension are interleaved by record.
"""

import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.errors import DataError

if TYPE_CHECKING:
    import xarray as xr


DIMENSIONS, VARIABLES, ATTRIBUTES = 0x0A, 0x0B, 0x0C  # tags of the lists in a header
CHARACTERS = 2
TYPES = {1: "i1", 2: "S1", 3: ">i2", 4: ">i4", 5: ">f4", 6: ">f8", 7: "u1", 8: ">u2", 9: ">u4", 10: ">i8", 11: ">u8"}


class _Header:
    """A place in the header, from which numbers and names are read; ValueError behind its end."""

    def __init__(self, data: "mmap.mmap") -> None:
        self.data, self.place, self.version = data, 4, data[3]

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count < 0 or self.place + count > len(self.data):
            raise ValueError("the header does not end in the file")
        self.place += count
        return self.data[self.place - count : self.place]

    def number(self, wide: bool) -> int:
        """The next whole number, of four bytes, or of eight."""
        return int.from_bytes(self.take(8 if wide else 4), "big")

    def size(self) -> int:
        """The next length or size."""
        return self.number(self.version == 5)

    def padded(self, count: int) -> bytes:
        """The next bytes, which fill up to a multiple of four."""
        content = self.take(count)
        self.take(-count % 4)
        return content

    def name(self) -> str:
        """The next name."""
        return self.padded(self.size()).decode("utf-8")

    def count(self, tag: int) -> int:
        """The number of entries of the next list, which may be absent."""
        found, count = self.number(False), self.size()
        if found not in (tag, 0) or (found == 0 and count):
            raise ValueError("the header is not that of a NetCDF file")
        return count

    def attributes(self) -> dict[str, Any]:
        """The next attributes."""
        found: dict[str, Any] = {}
        for _ in range(self.count(ATTRIBUTES)):
            name, kind, length = self.name(), self.number(False), self.size()
            dtype = _type(kind)
            content = self.padded(length * dtype.itemsize)
            if kind == CHARACTERS:
                found[name] = content.rstrip(b"\0").decode("utf-8", errors="replace")
            else:
                values = np.frombuffer(content, dtype=dtype).astype(dtype.newbyteorder("="))
                found[name] = values[0] if length == 1 else values
        return found


class _Variable(NamedTuple):
    """A variable in the header."""

    name: str
    dims: tuple[int, ...]
    attributes: dict[str, Any]
    dtype: np.dtype[Any]
    begin: int  # of its values in the file


def open_classic(path: Path) -> "xr.Dataset":
    """The dataset of a classic NetCDF file, its values left in the file; DataError for a damaged one."""
    import xarray as xr  # start-up time

    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header = _Header(data)
        records = header.size()
        dims = [(header.name(), header.size()) for _ in range(header.count(DIMENSIONS))]
        attributes = header.attributes()
        variables = [_variable(header, dims) for _ in range(header.count(VARIABLES))]
        arrays = _arrays(data, records, dims, variables)
        found = {
            one.name: xr.Variable([dims[d][0] for d in one.dims], arrays[one.name], one.attributes) for one in variables
        }
        return xr.decode_cf(xr.Dataset(found, attrs=attributes), decode_times=False)
    except (ValueError, KeyError, IndexError, OverflowError, TypeError, MemoryError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"cannot read {path}: {text}", advice="copy it again, as it may be damaged or incomplete"
        ) from None


def _type(kind: int) -> "np.dtype[Any]":
    if kind not in TYPES:
        raise ValueError(f"the header has values of the unknown type {kind}")
    return np.dtype(TYPES[kind])


def _variable(header: _Header, dims: list[tuple[str, int]]) -> _Variable:
    name = header.name()
    own = tuple(header.size() for _ in range(header.size()))
    if any(d >= len(dims) for d in own) or 0 in [dims[d][1] for d in own[1:]]:
        raise ValueError(f"the header does not describe the dimensions of {name}")
    attributes, dtype = header.attributes(), _type(header.number(False))
    header.size()  # the size, which says nothing new and is wrong for large variables
    return _Variable(name, own, attributes, dtype, header.number(header.version != 1))


def _arrays(
    data: "mmap.mmap", records: int, dims: list[tuple[str, int]], variables: list[_Variable]
) -> dict[str, NDArray[Any]]:
    """The values of each variable; ValueError if the file does not hold them all."""
    growing = [one for one in variables if one.dims and dims[one.dims[0]][1] == 0]
    sizes = {one.name: _bytes(one.dtype, [dims[d][1] for d in one.dims[1:]]) for one in growing}
    padded = {name: size + (-size % 4 if len(growing) > 1 else 0) for name, size in sizes.items()}
    step = sum(padded.values())  # from one record to the next
    unknown = (1 << (64 if data[3] == 5 else 32)) - 1
    if growing and records == unknown:  # a file that is still being written counts its records by its size
        records = max(0, len(data) - min(one.begin for one in growing)) // step
    found = {}
    for one in variables:
        shape = [dims[d][1] for d in one.dims]
        end = one.begin + _bytes(one.dtype, shape)
        strides = None  # without gaps
        if one in growing:
            shape[0] = records
            end = one.begin + step * max(records - 1, 0) + sizes[one.name]
            strides = (step, *(_bytes(one.dtype, shape[d + 1 :]) for d in range(1, len(shape))))
        if end > len(data) and 0 not in shape:
            raise ValueError(f"the values of {one.name} end at byte {end} and the file at {len(data)}")
        begin = one.begin if 0 not in shape else 0
        found[one.name] = np.ndarray(tuple(shape), one.dtype, data, begin, strides)
    return found


def _bytes(dtype: "np.dtype[Any]", shape: list[int]) -> int:
    size = dtype.itemsize
    for length in shape:
        size *= length  # a whole number of Python, which does not overflow
    return size
