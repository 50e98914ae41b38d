"""Input data as it is given, by files or in memory, and how its datasets are opened; failures are DataErrors."""

import contextlib
import dataclasses
import glob
import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from fsae.runtime.errors import DataError

if TYPE_CHECKING:
    import xarray as xr


Paths: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]  # or patterns
Given: TypeAlias = "Source | Paths | xr.Dataset"
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
GRIB_MAGIC = b"GRIB"
GRIB_SUFFIXES = (".grib", ".grib1", ".grib2", ".grb", ".grb1", ".grb2")  # for files with a heading before the messages
ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")  # every group has one of these

# Raised for damaged files, on opening or reading, by xarray, h5netcdf, h5py and zarr.
READ_ERRORS = (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError)


class Opened(NamedTuple):
    """A dataset, unread and with undecoded times, and the name of its file in messages."""

    dataset: "xr.Dataset"
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Input data, resolved once where it enters: the files it is in, or a dataset in memory; and its units as said."""

    paths: tuple[Path, ...] = ()  # none: a dataset in memory
    dataset: "xr.Dataset | None" = None
    units: Mapping[str, str] = field(default_factory=dict)  # of variables by the model's names, whatever the data says

    @classmethod
    def of(cls, given: "Given", units: Mapping[str, str] | None = None) -> "Source":
        """The source that a path, a pattern such as tas_*.nc, several of either, or a dataset stands for.

        Files of a pattern come by name. An existing path is taken literally, even if it contains wildcards. DataError
        if a pattern fits nothing.
        """
        if isinstance(given, Source):
            return dataclasses.replace(given, units=units) if units else given
        if isinstance(given, str | os.PathLike):
            return cls(paths=_files([given]), units=units or {})
        if isinstance(given, Sequence):
            return cls(paths=_files(given), units=units or {})
        return cls(dataset=given, units=units or {})

    @property
    def name(self) -> str:
        """The source in messages: of many files the first and the last.

        >>> Source.of("data/a.nc").name, Source.of(["a.nc", "b.nc", "c.nc"]).name
        ('a.nc', 'a.nc to c.nc (3 files)')
        """
        if self.dataset is not None:
            return "dataset"
        first, last = self.paths[0].name, self.paths[-1].name
        return first if len(self.paths) == 1 else f"{first} to {last} ({len(self.paths)} files)"

    def absolute(self) -> "Source":
        """The source by absolute paths, for other processes."""
        return dataclasses.replace(self, paths=tuple(path.absolute() for path in self.paths))

    def open(self, closing: contextlib.ExitStack) -> list[Opened]:
        """Open each file once, to be closed with `closing`; a dataset in memory stays open."""
        if self.dataset is not None:
            return [Opened(self.dataset, self.name)]
        return [Opened(closing.enter_context(_open_file(path)), path.name) for path in self.paths]


@contextlib.contextmanager
def open_source(given: "Given") -> Iterator[Opened]:
    """The one dataset of a source, closed at the end unless it was in memory; DataError for several files."""
    source = Source.of(given)
    if len(source.paths) > 1:
        raise DataError(f"found {source.name}", "one file here", "join them first, or give them one at a time")
    with contextlib.ExitStack() as closing:
        yield source.open(closing)[0]


def _files(given: Sequence[str | os.PathLike[str]]) -> tuple[Path, ...]:
    found: list[Path] = []
    for path in map(Path, given):
        if path.exists() or not any(letter in str(path) for letter in "*?["):
            found.append(path)
            continue
        fitting = sorted(map(Path, glob.glob(str(path), recursive=True)))
        if not fitting:
            raise DataError(
                f"found no file that fits {str(path)!r}", advice="give the path of a file, or another pattern"
            )
        found += fitting
    if not found:
        raise DataError("found an empty list of files", "one or more")
    return tuple(dict.fromkeys(found))


def _open_file(path: Path) -> "xr.Dataset":
    """The dataset of a NetCDF, Zarr or GRIB file."""
    import xarray as xr  # start-up time

    try:
        engine = _engine(path)
        if engine == "cfgrib":
            return open_grib(path)
        options = {"consolidated": False} if engine == "zarr" else None
        # cache=False: what was read is not kept, so memory does not grow with time
        return xr.open_dataset(path, engine=engine, decode_times=False, cache=False, backend_kwargs=options)
    except READ_ERRORS as error:
        raise DataError(f"cannot read {path}: {reason(error)}; is the file damaged or incomplete?") from None


def reason(error: Exception) -> str:
    """The first line of an error, for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _engine(path: Path) -> Any:
    """The xarray engine for a file or folder, by its content rather than its name."""
    if not path.exists():
        raise DataError(
            f"found no file {path}", advice="give the path of a NetCDF or GRIB file or a Zarr store on this machine"
        )
    if path.is_dir():
        if any((path / mark).exists() for mark in ZARR_MARKS):
            return "zarr"
        raise DataError(f"{path} is a folder but not a Zarr store", advice="give a NetCDF file or a Zarr store")
    with path.open("rb") as file:
        head = file.read(8)
        for offset in (512, 1024, 2048):  # HDF5 allows a user block before its signature
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
            f"{path} is a classic NetCDF-3 file",
            "NetCDF-4 or Zarr",
            "convert it with `nccopy -k nc4 IN OUT`, or install scipy",
        )
    kind = "neither NetCDF nor Zarr nor GRIB" if head else "empty"
    raise DataError(f"{path} is {kind}", "NetCDF-4, Zarr or GRIB", "convert it first")


# GRIB files as CF datasets, through the optional cfgrib; variables are then found by their standard names.


KEPT = ("time", "step", "valid_time", "number")  # scalars that are not merely the level of a variable

# Scan the messages at each opening instead of leaving an index file beside the data; raise if they do not fit together.
OPTIONS = {"indexpath": "", "errors": "raise"}


def open_grib(path: Path) -> "xr.Dataset":
    """The dataset of a GRIB file, unread and with undecoded times; DataError without cfgrib, or for unfit messages.

    Variables on different levels (2 m temperature, 10 m wind) become variables of one dataset; arrays with the same
    GRIB name are numbered.
    """
    import xarray as xr  # start-up time

    cfgrib, failures = _import_cfgrib(path)
    unfit: tuple[type[Exception], ...] = (*failures, ValueError, TypeError)  # DatasetBuildError is a ValueError
    try:
        return xr.open_dataset(path, engine="cfgrib", decode_times=False, cache=False, backend_kwargs=OPTIONS)
    except cfgrib.DatasetBuildError:
        pass  # the messages make arrays that differ in more than their names
    except failures as error:
        raise DataError(f"cannot read {path}: {error}; is the file damaged or incomplete?") from None
    try:
        parts = cfgrib.open_datasets(str(path), decode_times=False, cache=False, backend_kwargs=OPTIONS)
        return xr.merge(_beside_each_other(parts), compat="override", join="exact", combine_attrs="drop_conflicts")
    except unfit as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path} holds messages that do not fit together ({text})",
            advice='split it by variable, for example with `grib_copy IN "[shortName].grib"`',
        ) from None


def _import_cfgrib(path: Path) -> tuple[Any, tuple[type[Exception], ...]]:
    """The module cfgrib and the errors of ecCodes; DataError that names the extra to install if either is missing."""
    try:
        cfgrib, errors = (importlib.import_module(name) for name in ("cfgrib", "gribapi.errors"))
    except (ImportError, OSError, RuntimeError) as error:  # cfgrib can be installed without the library ecCodes
        raise DataError(
            f"{path} is a GRIB file, which needs cfgrib ({error})",
            advice='pip install "fsae[grib]", or convert it to NetCDF',
        ) from None
    return cfgrib, (errors.GribInternalError, OSError, EOFError)


def _beside_each_other(parts: "list[xr.Dataset]") -> "list[xr.Dataset]":
    """The datasets without their levels, every variable with a name of its own."""
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
