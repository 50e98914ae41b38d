"""Zarr v3 and NetCDF-4 output, written aside and renamed when complete: whole or not there at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fsae.runtime.errors import OutputError, UsageError
from fsae.runtime.input.sources import READ_ERRORS, ZARR_MARKS, reason
from fsae.runtime.signals import uninterrupted

from .netcdf import NetcdfStore
from .store import Attribute, Store
from .zarr import ZarrStore

CONVENTIONS = "CF-1.13"  # the first with HEALPix as a grid mapping
RUN = "run.json"  # in the folder of a run that can go on after an interruption, see jobs/ledger.py

SUFFIXES = (".nc", ".zarr")  # NetCDF-4 and Zarr: a Zarr folder with the suffix of another format would surprise


def is_netcdf(path: Path) -> bool:
    """True if the path asks for NetCDF-4."""
    return path.suffix == ".nc"


def partial_of(path: Path) -> Path:
    """Path of the output while it is not yet whole."""
    if not path.name:
        raise UsageError(f"found the output {str(path)!r}", "the name of a file or store, such as out.zarr")
    return path.with_name(path.name + ".partial")


def read_attributes(path: Path) -> dict[str, Any]:
    """Global attributes of a file or store; OutputError if it cannot be read."""
    import h5netcdf
    import zarr

    try:
        if is_netcdf(path):
            with h5netcdf.File(path, "r") as file:
                return dict(file.attrs)
        return dict(zarr.open_group(path, mode="r").attrs)
    except READ_ERRORS as error:
        raise OutputError(f"{path} exists and cannot be read: {reason(error)}", advice="give another path") from None


def unfinished(folder: Path, which: str, advice: str) -> OutputError:
    """The error that a folder holds a run which is not to be lost."""
    return OutputError(f"{folder} holds an unfinished run{which}", advice=advice)


def check_output(path: Path, overwrite: bool) -> None:
    """Raise OutputError if the path exists (without `overwrite`) or cannot be written.

    UsageError if its suffix is not one of `SUFFIXES`. Only what looks like earlier output is ever replaced: a
    file by NetCDF, a Zarr store by Zarr.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"found the output {path}", "a name that ends in .nc for NetCDF-4, or in .zarr for Zarr")
    if path.is_symlink() or path.exists():
        if not overwrite:
            raise OutputError(f"{path} exists", advice="give another path or --overwrite")
        if is_netcdf(path) != path.is_file():
            raise OutputError(f"{path} exists and is a {'file' if path.is_file() else 'folder'}: it is not replaced")
        if path.is_dir() and any(path.iterdir()) and not any((path / mark).exists() for mark in ZARR_MARKS):
            raise OutputError(f"{path} exists and is not a Zarr store: it is not replaced")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {parent}")


def remove(path: Path) -> None:
    """Remove a file or folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replaced_by(path: Path) -> Path:
    """Path of replaced output until its successor has taken the name."""
    return path.with_name(path.name + ".replaced")


def publish(partial: Path, path: Path) -> None:
    """Give a finished file or store its name; what was there before is removed only then."""
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
    remove(replaced_by(path))  # also what a run left that was killed right here


@contextlib.contextmanager
def output_errors(path: Path, left: str = "; nothing was left there") -> Iterator[None]:
    """Write without interruption; failures of the file system become one OutputError that ends in `left`.

    HDF5 raises some of them as RuntimeError.
    """
    try:
        with uninterrupted():
            yield
    except (OSError, RuntimeError) as error:
        why = (isinstance(error, OSError) and error.strerror) or reason(error)
        raise OutputError(f"cannot write {path}: {why}{left}") from None


@contextlib.contextmanager
def open_store(path: Path, attributes: Mapping[str, Attribute], overwrite: bool = False) -> Iterator[Store]:
    """An empty store, which gets its name when the block ends, and is removed if the block fails."""
    check_output(path, overwrite)
    partial = partial_of(path)
    if (partial / RUN).is_file():
        raise unfinished(partial, "", "finish it with --resume, or remove it")
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
