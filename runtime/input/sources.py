"""Opening CF datasets, finding a variable in them, and its dates; every failure is a DataError of one sentence."""

import datetime
import glob
import importlib.util
import itertools
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import cftime
import numpy as np

from .calendar import Date, as_dates
from .errors import DataError
from .grib import open_grib

if TYPE_CHECKING:
    import xarray as xr

Paths: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]  # or patterns

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
GRIB_MAGIC = b"GRIB"
GRIB_SUFFIXES = (".grib", ".grib1", ".grib2", ".grb", ".grb1", ".grb2")  # of files whose first message has a heading
ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")  # one of these stands in every group
MEMBER_NAMES = ("realization", "member", "number", "ensemble", "ensemble_member", "member_id")
# What damaged files raise on opening or reading, through xarray, h5netcdf, h5py and zarr.
READ_ERRORS = (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError)
NOISE_US = 500  # times written as floating-point days are off by less than this


@dataclass(frozen=True, kw_only=True)
class Dates:
    """Time axis of a variable: its dimension (None: a single time), stamps, and bounds where the file has them."""

    dim: str | None
    stamps: tuple[Date, ...]
    bounds: tuple[tuple[Date, Date], ...] | None


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


def choose_variable(
    dataset: "xr.Dataset", name: str, standard_name: str, where: str, others: Collection[str] = ()
) -> "xr.DataArray":
    """The variable of that name, else the only one of that standard name; DataError listing what is there.

    `others` are names of other variables that are asked for: those are not taken for this one.
    """
    if name in dataset.variables:
        return dataset[name]
    same = _of_standard_name(dataset, standard_name, others)
    if len(same) == 1:
        return dataset[same[0]]
    if same:
        raise DataError(
            f"{where} has {len(same)} variables of standard name {standard_name!r}: {', '.join(same)}; "
            f"expected one, or one called {name!r}"
        )
    there = [f"{n} ({standard(v)})" if standard(v) else str(n) for n, v in dataset.data_vars.items()]
    also = f" nor one of standard name {standard_name!r}" if standard_name else ""
    raise DataError(f"{where} has no variable {name!r}{also}; it has {', '.join(there) or 'no variables'}")


def has_variable(dataset: "xr.Dataset", name: str, standard_name: str, others: Collection[str] = ()) -> bool:
    """Whether `choose_variable` would find something to choose."""
    return name in dataset.variables or bool(_of_standard_name(dataset, standard_name, others))


def _of_standard_name(dataset: "xr.Dataset", standard_name: str, others: Collection[str]) -> list[str]:
    """Names of the data variables of a standard name, but for `others`."""
    same = [str(n) for n, v in dataset.data_vars.items() if standard_name and standard(v) == standard_name]
    return [name for name in same if name not in others]


def standard(variable: "xr.DataArray | xr.Variable") -> str:
    """The CF standard name of a variable, or an empty text."""
    return str(variable.attrs.get("standard_name", ""))


def is_time(variable: "xr.Variable") -> bool:
    if variable.dtype.kind == "M" or standard(variable) == "time":
        return True
    if variable.dtype.kind == "O":
        return variable.size > 0 and isinstance(variable.values.reshape(-1)[0], cftime.datetime)
    axis = str(variable.attrs.get("axis", "")).upper()
    return axis == "T" or " since " in str(variable.attrs.get("units", ""))


def member_dim(array: "xr.DataArray") -> str | None:
    """The dimension of ensemble members, None where there is none."""
    for dim in map(str, array.dims):
        if dim.lower() in MEMBER_NAMES or (dim in array.coords and standard(array.coords[dim]) == "realization"):
            return dim
    return None


def find_dates(array: "xr.DataArray", dataset: "xr.Dataset", where: str) -> Dates:
    """The dates of a variable, decoded in the calendar of its time axis and strictly rising."""
    variables = dataset.variables
    dim = next((str(d) for d in array.dims if d in variables and is_time(variables[d])), None)
    name = dim
    if name is None:
        loose = [str(n) for n, c in array.coords.items() if c.ndim == 0 and is_time(c.variable)]
        loose.sort(key=lambda n: (n != "time", standard(variables[n]) != "time"))  # not forecast_reference_time
        name = loose[0] if loose else None
    if name is None:
        raise DataError(f"{array.name} in {where} has no time axis with CF units among its dimensions {array.dims}")
    axis = variables[name]
    stamps = decode_dates(axis, axis, f"the times of {array.name} in {where}")
    if not stamps:
        raise DataError(f"{array.name} in {where} has no time steps")
    for before, after in itertools.pairwise(stamps):
        if after <= before:
            kind = "the same date twice" if after == before else "dates that do not rise"
            raise DataError(f"{array.name} in {where} has {kind} ({after} after {before}): sort its times first")
    return Dates(dim=dim, stamps=stamps, bounds=_find_bounds(axis, dataset, len(stamps), where))


def _find_bounds(
    axis: "xr.Variable", dataset: "xr.Dataset", count: int, where: str
) -> tuple[tuple[Date, Date], ...] | None:
    """Bounds of the time axis; None where the file names none or does not hold those it names."""
    name = str(axis.attrs.get("bounds", axis.encoding.get("bounds", "")))
    if name not in dataset.variables or dataset.variables[name].shape[-1:] != (2,):
        return None
    edges = decode_dates(dataset.variables[name], axis, f"the time bounds in {where}")
    if len(edges) != 2 * count:
        return None
    return tuple(zip(edges[::2], edges[1::2], strict=True))


def decode_dates(variable: "xr.Variable", axis: "xr.Variable", what: str) -> tuple[Date, ...]:
    """Dates of a time variable, or of its bounds, flat; units and calendar are those of the axis."""
    try:
        values = np.asarray(variable.values).reshape(-1)
        if values.dtype.kind not in "iuf":
            return tuple(map(_without_noise, as_dates(values)))
        if not np.isfinite(values).all():
            raise DataError(f"{what} have missing values, expected a date for each step")
        units = axis.attrs.get("units", axis.encoding.get("units"))
        calendar = axis.attrs.get("calendar", axis.encoding.get("calendar", "standard"))
        if units is None:
            raise DataError(f"{what} have no units, expected such as 'days since 1950-01-01'")
        dates: Sequence[Date] = np.atleast_1d(
            cftime.num2date(values, str(units), str(calendar).lower(), only_use_cftime_datetimes=True)
        ).tolist()
        return tuple(map(_without_noise, dates))
    except READ_ERRORS as error:
        raise DataError(f"cannot decode {what}: {reason(error)}") from None


def _without_noise(date: Date) -> Date:
    """The date, to the whole second where it is within rounding of one."""
    over = date.microsecond
    if over >= 1_000_000 - NOISE_US:
        over -= 1_000_000
    return date - datetime.timedelta(microseconds=over) if 0 < abs(over) <= NOISE_US else date
