"""Zarr v3 and NetCDF-4 stores, written aside and renamed when complete: whole or not there at all."""

import contextlib
import io
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .chunks import Chunks, known_chunks, write_chunk
from .errors import OutputError, UsageError
from .inputs import READ_ERRORS, ZARR_MARKS, reason

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

F32 = NDArray[np.float32]
Attribute = str | int | float

CONVENTIONS = "CF-1.13"  # the first with HEALPix as a grid mapping
FILTERS = threading.Lock()  # filters of warnings belong to the process: threads that put them back must take turns
RUN = "run.json"  # stands in the folder of a run that can go on after an interruption, see ledger.py
# What people call NetCDF-4 files; without this a Zarr folder of that name would surprise them.
NEARLY_NETCDF = (".nc4", ".netcdf", ".h5")


@dataclass(frozen=True, kw_only=True)
class Coordinate:
    """A small variable that is written at once."""

    name: str
    dims: tuple[str, ...]
    values: NDArray[Any]
    attributes: Mapping[str, Attribute]


class Store(Protocol):
    """A file or store being written."""

    def create(self, array: "Array") -> None:
        """Make an array that is written in pieces."""
        ...

    def write(self, name: str, place: tuple[slice, ...], values: F32) -> None:
        """Put values in their place in an array."""
        ...

    def put(self, item: Coordinate) -> None:
        """Write a small variable at once."""
        ...

    def close(self) -> None:
        """Finish; nothing can be written afterwards."""
        ...


@dataclass(frozen=True, kw_only=True)
class Array:
    """A float32 array that is written in pieces."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    attributes: Mapping[str, Attribute]


def is_netcdf(path: Path) -> bool:
    """Whether the path asks for NetCDF-4."""
    return path.suffix == ".nc"


def partial_of(path: Path) -> Path:
    """Where output is written until it is whole."""
    if not path.name:
        raise UsageError(f"found the output {str(path)!r}, expected the name of a file or store, such as out.zarr")
    return path.with_name(path.name + ".partial")


def read_attributes(path: Path) -> dict[str, Any]:
    """Global attributes of a file or store; OutputError where it cannot be read."""
    import h5netcdf
    import zarr

    try:
        if is_netcdf(path):
            with h5netcdf.File(path, "r") as file:
                return dict(file.attrs)
        return dict(zarr.open_group(path, mode="r").attrs)
    except READ_ERRORS as error:
        raise OutputError(f"{path} exists and cannot be read: {reason(error)}; give another path") from None


def check_output(path: Path, overwrite: bool) -> None:
    """Nothing, or OutputError where the path exists (without `overwrite`) or cannot be written.

    UsageError where its suffix means NetCDF-4 but is not the one that asks for it.
    Only what looks like earlier output is ever replaced: a file by NetCDF, a Zarr store by Zarr.
    """
    if path.suffix.lower() in (".nc", *NEARLY_NETCDF) and not is_netcdf(path):
        raise UsageError(f"found the output {path}: use .nc for NetCDF-4, or .zarr for Zarr")
    if path.is_symlink() or path.exists():
        if not overwrite:
            raise OutputError(f"{path} exists: give another path or --overwrite")
        if is_netcdf(path) != path.is_file():
            raise OutputError(f"{path} exists and is a {'file' if path.is_file() else 'folder'}: it is not replaced")
        if path.is_dir() and any(path.iterdir()) and not any((path / mark).exists() for mark in ZARR_MARKS):
            raise OutputError(f"{path} exists and is no Zarr store: it is not replaced")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {parent}")


def remove(path: Path) -> None:
    """Nothing is left at the path; files and folders alike."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replaced_by(path: Path) -> Path:
    """Where what stood at a path is until its successor has taken the name."""
    return path.with_name(path.name + ".replaced")


def publish(partial: Path, path: Path) -> None:
    """The finished file or store takes its name; what stood there before goes only then."""
    if not path.exists():
        partial.rename(path)
    elif path.is_file():
        partial.replace(path)
    else:  # a folder cannot be replaced in one step
        before = replaced_by(path)
        remove(before)
        path.rename(before)
        try:
            partial.rename(path)
        except OSError:
            before.rename(path)
            raise
    remove(replaced_by(path))  # also that of a run that was killed right here


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """SIGINT and SIGTERM wait for the end of the block: Zarr writes in threads, which an exception would not stop."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or None in map(signal.getsignal, numbers):
        yield  # signals only ever interrupt the main thread; handlers that are not Python's cannot be put back
        return
    before = {number: signal.signal(number, lambda n, frame: caught.append(n)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if caught:
            signal.raise_signal(caught[0])


@contextlib.contextmanager
def output_errors(path: Path, left: str = "; nothing was left there") -> Iterator[None]:
    """A block of writing: not interrupted, and failures of the file system become one OutputError that ends in `left`.

    HDF5 gives some of them as RuntimeError.
    """
    try:
        with uninterrupted():
            yield
    except (OSError, RuntimeError) as error:
        why = (isinstance(error, OSError) and error.strerror) or reason(error)
        raise OutputError(f"cannot write {path}: {why}{left}") from None


@contextlib.contextmanager
def open_store(path: Path, attributes: Mapping[str, Attribute], overwrite: bool = False) -> Iterator[Store]:
    """An empty store; it gets its name when the block ends, and is removed where the block fails."""
    check_output(path, overwrite)
    partial = partial_of(path)
    if (partial / RUN).is_file():
        raise OutputError(f"{partial} holds an unfinished run: finish it with --resume, or remove it")
    store: Store | None = None
    try:
        with output_errors(path):
            remove(partial)  # of a run that was killed
            everything = {"Conventions": CONVENTIONS, **attributes}
            store = NetcdfStore(partial, everything) if is_netcdf(path) else ZarrStore(partial, everything)
        yield store
        with output_errors(path):
            store.close()
            publish(partial, path)
    except BaseException:
        with contextlib.suppress(OSError, RuntimeError):
            if store is not None:
                store.close()
        with contextlib.suppress(OSError):
            remove(partial)
        raise


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


def _short(attributes: Mapping[str, Attribute]) -> dict[str, Any]:
    """The attributes, whole numbers in 32 bits where they fit: CDO takes a longer `healpix_nside` for none."""
    limits = np.iinfo(np.int32)
    return {
        key: np.int32(value) if isinstance(value, int) and limits.min <= value <= limits.max else value
        for key, value in attributes.items()
    }


class _PatientFile(io.FileIO):
    """A file whose writes seem to succeed; the first failure is kept in `failure`, and what follows it is dropped.

    HDF5 does not survive a failing write: it tries again from finalisers, prints, and may crash when Python exits. So
    it is never shown one, and the store asks for the failure itself.
    """

    failure: OSError | None = None

    def write(self, data: "Buffer") -> int:
        """Number of bytes taken."""
        view = memoryview(data).cast("B")
        taken = view.nbytes
        while view.nbytes and self.failure is None:
            try:
                view = view[super().write(view) or 0 :]
            except OSError as error:
                self.failure = error
        return taken

    def truncate(self, size: int | None = None) -> int:
        """The size the file seems to have now."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0


class NetcdfStore:
    """A NetCDF-4 file through h5netcdf."""

    def __init__(self, path: Path, attributes: Mapping[str, Attribute]) -> None:
        import h5netcdf

        self._disk = _PatientFile(path, "w+b")
        self._file = h5netcdf.File(self._disk, "w")
        self._file.attrs.update(_short(attributes))

    def put(self, item: Coordinate) -> None:
        """See `Store.put`."""
        self._make_dimensions(item.dims, item.values.shape)
        variable = self._file.create_variable(item.name, item.dims, dtype=item.values.dtype)
        variable[...] = item.values
        variable.attrs.update(_short(item.attributes))
        self._raise_failure()

    def create(self, array: Array) -> None:
        """See `Store.create`."""
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
        variable.attrs.update(_short(array.attributes))

    def write(self, name: str, place: tuple[slice, ...], values: F32) -> None:
        """See `Store.write`."""
        self._file[name][place] = values
        self._raise_failure()

    def close(self) -> None:
        """See `Store.close`."""
        self._file.close()
        self._disk.close()
        self._raise_failure()

    def _make_dimensions(self, dims: tuple[str, ...], shape: tuple[int, ...]) -> None:
        for dim, size in zip(dims, shape, strict=True):
            if dim not in self._file.dimensions:
                self._file.dimensions[dim] = size

    def _raise_failure(self) -> None:
        if self._disk.failure is not None:
            raise self._disk.failure
