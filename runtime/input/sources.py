"""Opening CF datasets, finding a variable in them, and its dates; every failure is a DataError of one sentence."""

import glob
import importlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fsae.runtime.errors import DataError

if TYPE_CHECKING:
    import xarray as xr


Paths: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]  # or patterns

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

GRIB_MAGIC = b"GRIB"

GRIB_SUFFIXES = (".grib", ".grib1", ".grib2", ".grb", ".grb1", ".grb2")  # of files whose first message has a heading

ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")  # one of these stands in every group

# What damaged files raise on opening or reading, through xarray, h5netcdf, h5py and zarr.
READ_ERRORS = (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError)


def paths_of(source: Paths) -> tuple[Path, ...]:
    """The files meant by a path, by a pattern such as tas_*.nc, or by several of either; those of a pattern by name.

    What exists is meant itself, whatever its name. DataError where a pattern fits nothing.
    """
    found: list[Path] = []
    for given in [source] if isinstance(source, str | os.PathLike) else source:
        path = Path(given)
        if path.exists() or not any(letter in str(path) for letter in "*?["):
            found.append(path)
            continue
        fitting = sorted(map(Path, glob.glob(str(path), recursive=True)))
        if not fitting:
            raise DataError(f"found no file that fits {str(path)!r}: give the path of a file, or another pattern")
        found += fitting
    if not found:
        raise DataError("found an empty list of files, expected one or more")
    return tuple(dict.fromkeys(found))


def named(paths: Sequence[Path]) -> str:
    """Files by name, many of them by the first and the last.

    >>> named([Path("data/a.nc")]), named([Path("a.nc"), Path("b.nc"), Path("c.nc")])
    ('a.nc', 'a.nc to c.nc (3 files)')
    """
    return paths[0].name if len(paths) == 1 else f"{paths[0].name} to {paths[-1].name} ({len(paths)} files)"


def source_name(source: "Paths | xr.Dataset") -> str:
    """The name of a source in messages."""
    import xarray as xr  # start-up time

    return "dataset" if isinstance(source, xr.Dataset) else named(paths_of(source))


def open_source(source: "Paths | xr.Dataset") -> "tuple[xr.Dataset, str]":
    """The dataset of a file (NetCDF, Zarr or GRIB), unread and with undecoded times, and its name; a Dataset as it is.

    DataError for several files.
    """
    import xarray as xr  # start-up time

    if isinstance(source, xr.Dataset):
        return source, "dataset"
    paths = paths_of(source)
    if len(paths) > 1:
        raise DataError(f"found {named(paths)}, expected one file here: join them first, or give them one at a time")
    path = paths[0]
    try:
        engine = _engine(path)
        if engine == "cfgrib":
            return open_grib(path), path.name
        # cache=False: what was read is not kept, so memory does not grow with time
        if engine == "zarr":
            opened = xr.open_dataset(
                path, engine="zarr", decode_times=False, cache=False, chunks=None, consolidated=False
            )
        else:
            opened = xr.open_dataset(path, engine=engine, decode_times=False, cache=False)
    except READ_ERRORS as error:
        raise DataError(f"cannot read {path}: {reason(error)}; is the file damaged or incomplete?") from None
    return opened, path.name


def reason(error: Exception) -> str:
    """The first line of what went wrong, for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _engine(path: Path) -> Any:
    """The xarray engine for a file or folder, by its content and not its name."""
    if not path.exists():
        raise DataError(f"found no file {path}: give the path of a NetCDF or GRIB file or a Zarr store on this machine")
    if path.is_dir():
        if any((path / mark).exists() for mark in ZARR_MARKS):
            return "zarr"
        raise DataError(f"{path} is a folder and no Zarr store: give a NetCDF file or a Zarr store")
    with path.open("rb") as file:
        head = file.read(8)
        for offset in (512, 1024, 2048):  # HDF5 allows a block of the user's own before the file
            if head == HDF5_MAGIC:
                break
            file.seek(offset)
            head = HDF5_MAGIC if file.read(8) == HDF5_MAGIC else head
    if head == HDF5_MAGIC:
        return "h5netcdf"
    if head[:4] == GRIB_MAGIC or (path.suffix.lower() in GRIB_SUFFIXES and head):
        return "cfgrib"
    if head[:3] == b"CDF":
        if head[3:4] in (b"\x01", b"\x02") and importlib.util.find_spec("scipy") is not None:
            return "scipy"
        raise DataError(
            f"{path} is a classic NetCDF-3 file, expected NetCDF-4 or Zarr: "
            "convert it with `nccopy -k nc4 IN OUT`, or install scipy"
        )
    kind = "neither NetCDF nor Zarr nor GRIB" if head else "empty"
    raise DataError(f"{path} is {kind}, expected NetCDF-4, Zarr or GRIB: convert it first")


# GRIB files as CF datasets, through the optional cfgrib; variables are then found by their standard names.


KEPT = ("time", "step", "valid_time", "number")  # scalars that say more than on which level a variable is

# Read all messages at each opening and leave no index file beside the data; tell of what does not fit together.
OPTIONS = {"indexpath": "", "errors": "raise"}


def open_grib(path: Path) -> "xr.Dataset":
    """The dataset of a GRIB file, unread and with undecoded times; DataError where it makes none, or without cfgrib.

    Variables on different levels (2 m temperature, 10 m wind) stand beside each other; two arrays that GRIB calls by
    one name are numbered.
    """
    import xarray as xr  # start-up time

    cfgrib, failures = _import_cfgrib(path)
    unfit: tuple[type[Exception], ...] = (*failures, ValueError, TypeError)  # DatasetBuildError is a ValueError
    try:
        return xr.open_dataset(path, engine="cfgrib", decode_times=False, cache=False, backend_kwargs=OPTIONS)
    except cfgrib.DatasetBuildError:
        pass  # the messages make several arrays that differ in more than their names
    except failures as error:
        raise DataError(f"cannot read {path}: {error}; is the file damaged or incomplete?") from None
    try:
        parts = cfgrib.open_datasets(str(path), decode_times=False, cache=False, backend_kwargs=OPTIONS)
        return xr.merge(_beside_each_other(parts), compat="override", join="exact", combine_attrs="drop_conflicts")
    except unfit as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path} holds messages that do not fit together ({text}): split it by variable, for example with "
            '`grib_copy IN "[shortName].grib"`'
        ) from None


def _import_cfgrib(path: Path) -> tuple[Any, tuple[type[Exception], ...]]:
    """The module and what ecCodes raises; DataError naming the extra to install where either is missing."""
    try:
        cfgrib, errors = (importlib.import_module(name) for name in ("cfgrib", "gribapi.errors"))
    except (ImportError, OSError, RuntimeError) as error:  # cfgrib may be there without the library ecCodes
        raise DataError(
            f'{path} is a GRIB file, which needs cfgrib ({error}): pip install "fsae[grib]", or convert it to NetCDF'
        ) from None
    return cfgrib, (errors.GribInternalError, OSError, EOFError)


def _beside_each_other(parts: "list[xr.Dataset]") -> "list[xr.Dataset]":
    """Datasets without their levels, and with a name of its own for every variable."""
    names = [str(name) for part in parts for name in part.data_vars]
    count: dict[str, int] = {}
    found = []
    for part in parts:
        levels = [name for name, value in part.coords.items() if value.ndim == 0 and name not in KEPT]
        new = {}
        for name in map(str, part.data_vars):
            if names.count(name) > 1:
                count[name] = count.get(name, 0) + 1
                new[name] = f"{name}_{count[name]}"
        found.append(part.drop_vars(levels).rename(new))
    return found
