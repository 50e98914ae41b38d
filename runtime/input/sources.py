"""Input data as it is given, by files or in memory, and how its datasets are opened; failures are DataErrors."""

import contextlib
import dataclasses
import glob
import os
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from fsae.runtime.arguments import pairs, text
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.formats.addresses import is_address, is_store, open_address, open_store
from fsae.runtime.formats.containers import open_container

if TYPE_CHECKING:
    import xarray as xr
    import zarr.abc.store


Paths: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]  # or patterns
Given: TypeAlias = "Source | Paths | xr.Dataset | zarr.abc.store.Store"

# Raised for damaged files, on opening or reading, by xarray, h5netcdf, h5py and zarr.
READ_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError, ArithmeticError),
    *(struct.error, zlib.error),
)


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
    group: str = ""  # of the files, that holds the variables
    address: str = ""  # of the store that the dataset is in

    @classmethod
    def of(cls, given: "Given", units: Mapping[str, str] | None = None, group: str = "") -> "Source":
        """The source that a path, a pattern such as tas_*.nc, several of either, or a dataset stands for.

        A store of zarr or icechunk, and an address such as s3://bucket/tas.zarr, are opened at once.

        Files of a pattern come by name. An existing path is taken literally, even if it contains wildcards. DataError
        if a pattern fits nothing.
        """
        units = {} if units is None else pairs("units", units, '{"tas": "K"}')
        group = text("group", group, "the path of a group", "'forecast'")
        if isinstance(given, Source):
            return dataclasses.replace(given, units=units or given.units, group=group or given.group)
        if is_store(given) or is_address(given):
            name = given if is_address(given) else f"the {type(given).__name__}"
            return cls(dataset=_open_store(given, name, group), units=units, group=group, address=name)
        if isinstance(given, str | os.PathLike):
            return cls(paths=_files([given]), units=units, group=group)
        if isinstance(given, Sequence) and not isinstance(given, bytes):
            return cls(paths=_files(given), units=units, group=group)
        if group:
            raise UsageError(f"found the group {group!r} of a dataset in memory", advice="open that group, or a path")
        return cls(dataset=_dataset_of(given), units=units)

    @property
    def name(self) -> str:
        """The source in messages: of many files the first and the last.

        >>> Source.of("data/a.nc").name, Source.of(["a.nc", "b.nc", "c.nc"]).name
        ('a.nc', 'a.nc to c.nc (3 files)')
        """
        if self.dataset is not None:
            return self.address or "dataset"
        first, last = self.paths[0].name, self.paths[-1].name
        return first if len(self.paths) == 1 else f"{first} to {last} ({len(self.paths)} files)"

    def absolute(self) -> "Source":
        """The source by absolute paths, for other processes."""
        return dataclasses.replace(self, paths=tuple(path.absolute() for path in self.paths))

    def open(self, closing: contextlib.ExitStack) -> list[Opened]:
        """Open each file once, to be closed with `closing`; a dataset in memory stays open."""
        if self.dataset is not None:
            return [Opened(self.dataset, self.name)]
        return [Opened(closing.enter_context(_open_file(path, self.group)), path.name) for path in self.paths]


@contextlib.contextmanager
def open_source(given: "Given") -> Iterator[Opened]:
    """The one dataset of a source, closed at the end unless it was in memory; DataError for several files."""
    source = Source.of(given)
    if len(source.paths) > 1:
        raise DataError(f"found {source.name}", "one file here", "join them first, or give them one at a time")
    with contextlib.ExitStack() as closing:
        yield source.open(closing)[0]


def _files(given: Iterable[str | os.PathLike[str]]) -> tuple[Path, ...]:
    found: list[Path] = []
    for path in map(path_of, given):
        if os.path.lexists(path) or not any(letter in str(path) for letter in "*?["):
            found.append(path)
            continue
        fitting = sorted(map(Path, glob.glob(str(path), recursive=True)))
        if not fitting:
            raise DataError(
                f"found no file that fits {str(path)!r}", advice="give the path of a file, or another pattern"
            )
        found += fitting
    if not found:
        raise DataError("found an empty list of files", "one or more", "give the path of a file, or a pattern")
    return tuple(dict.fromkeys(found))


def _dataset_of(given: Any) -> "xr.Dataset":
    """A dataset, or that of a named array; DataError for other objects."""
    import xarray as xr  # start-up time

    if isinstance(given, xr.Dataset):
        return given
    if isinstance(given, xr.DataArray):
        if not isinstance(given.name, str) or given.name in given.coords:
            named = "without a name" if given.name is None else f"called {given.name!r}"
            raise DataError(f"found an array {named}", "that of its variable", 'name it: array.rename("tas")')
        return given.to_dataset()
    raise DataError(
        f"found an object of type {type(given).__name__} as data",
        "a dataset or named array of xarray, or the path of a file",
        'make a dataset of it, as in xarray.Dataset({"tas": array})',
    )


def path_of(given: object) -> Path:
    """The path of an input, which need not be there.

    DataError for what no path can be, and for pipes and devices: those never end, or are empty the second time.
    """
    if not isinstance(given, str | os.PathLike):
        raise DataError(
            f"found an object of type {type(given).__name__} as a file",
            "the path of one",
            'give paths, or join datasets first, as in xarray.concat(datasets, "time")',
        )
    if not str(given):
        raise DataError(f"found the input {given!r}", "the path of a file", "give the path of a NetCDF file")
    try:
        kind = os.stat(given).st_mode
    except FileNotFoundError:
        return Path(given)
    except (OSError, ValueError) as error:  # a name that is too long, or with a character that no name has
        why = getattr(error, "strerror", None) or reason(error)
        raise DataError(
            f"cannot read {str(given)!r}: {why}", advice="give the path of a file that you may read"
        ) from None
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        found = f"{given} is a pipe or a device, not a file"
        raise DataError(found, advice="write it to a file first, as in cat PIPE > FILE")
    return Path(given)


def _open_file(path: Path, group: str) -> "xr.Dataset":
    """The dataset of a file or Zarr store, or of a group in it."""
    try:
        return open_container(path, group)
    except READ_ERRORS as error:
        raise DataError(
            f"cannot read {path}: {reason(error)}", advice="copy it again, as it may be damaged or incomplete"
        ) from None


def _open_store(given: Any, name: str, group: str) -> "xr.Dataset":
    """The dataset of a store, or of that at an address."""
    try:
        return open_store(open_address(given) if is_address(given) else given, name, group)
    except READ_ERRORS as error:
        raise DataError(f"cannot read {name}: {reason(error)}", advice="check the address and the keys to it") from None


def reason(error: Exception) -> str:
    """The first line of an error, for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
