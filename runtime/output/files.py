"""Zarr v3, NetCDF-4 and GRIB output, written aside and renamed when complete: whole or not there at all."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from fsae.runtime import ownership
from fsae.runtime.atomic import force, force_tree
from fsae.runtime.errors import OutputError, UsageError
from fsae.runtime.formats.addresses import READ
from fsae.runtime.formats.containers import ZARR_MARKS
from fsae.runtime.input.sources import Source, reason
from fsae.runtime.ownership import check_ours, exchange, is_ours, kind, remove_tree, rename_new, stranger
from fsae.runtime.signals import uninterrupted

from .marks import FORMS, foreign_reason, form_of, marked, stranger_in
from .netcdf import NetcdfStore
from .seal import damage_of, sealing, seals_of_file, seals_of_store
from .store import Attribute, Store
from .zarr import ZarrStore, dggs_attributes

CONVENTIONS = "CF-1.13"  # the first with HEALPix as a grid mapping
NOTHING: Mapping[str, object] = {}
ADDRESSES = tuple(start.removesuffix("//") for start in READ)  # first parts of the paths that are made of addresses

# In the folder of unfinished output, beside its mark and its lock:
RUN = "run.json"  # of a run that can go on after an interruption, see jobs/ledger.py
LOCK, SHARDS = "lock", "shards"  # see jobs/lock.py
FIELDS, ASSEMBLED = "fields.zarr", "fields.nc"  # the second also if the output is GRIB
REPLACED = "replaced"  # earlier output, for a moment, on file systems that cannot exchange two names
CONTENTS = (RUN, f"{RUN}.new", ASSEMBLED, SHARDS, FIELDS, REPLACED)  # in the order of removal

STORES = (*ZARR_MARKS, "manifest.json")  # what a folder that is read holds, a Zarr store or a bundle


def partial_of(path: Path) -> Path:
    """Path of the output while it is not yet whole."""
    if path.name in ("", ".."):
        raise UsageError(
            f"found the output {str(path)!r}",
            "the name of a file or store, such as out.zarr",
            "name it such as out.zarr",
        )
    return path.with_name(path.name + ".partial")


def unfinished(folder: Path, which: str, advice: str) -> OutputError:
    """The error that a folder holds a run which is not to be lost."""
    return OutputError(f"{folder} holds an unfinished run{which}", advice=advice)


def check_output(path: Path, overwrite: bool, inputs: Mapping[str, object] = NOTHING) -> None:
    """Raise OutputError if the path exists (without `overwrite`) or cannot be written.

    UsageError if its suffix is not one of `FORMS`: a Zarr folder with that of another format would surprise. With
    `overwrite` only our own output may be there. Neither it nor the folder of unfinished output beside it may be, hold
    or lie in one of the `inputs`: all that is read, by its kind.
    """
    check_name(path)
    if path.suffix not in FORMS:
        raise UsageError(
            f"found the output {path}",
            "a name that ends in .nc for NetCDF-4, in .zarr for Zarr, or in .grib2, .grib or .grb2 for GRIB",
            "name it such as out.zarr",
        )
    check_place(path, overwrite, inputs, check_replaceable)
    check_ours(partial_of(path))


def check_store(path: Path) -> None:
    """Raise UsageError if a path asks for GRIB, which holds nothing but fields."""
    if form_of(path) == "GRIB":
        raise UsageError(f"found the output {path}", "NetCDF-4 or Zarr", "name it such as out.nc")


def check_name(path: Path) -> None:
    """Raise OutputError for a name that no file can have, UsageError for none and for an address."""
    if path.parts[:1] and path.parts[0].lower() in ADDRESSES:
        raise UsageError(
            f"found the output {path}, the address of a store",
            "the path of a file, which is all that this command writes",
            "give a path such as out.nc, and copy the file to the store afterwards",
        )
    try:
        str(path).encode()  # HDF5 and the messages of libraries know no other names
        os.lstat(partial_of(path))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a name that is too long, or a character that no name has
        why = getattr(error, "strerror", None) or reason(error)
        if isinstance(error, UnicodeEncodeError):
            why = "the name is not text in UTF-8"
        raise OutputError(f"cannot write {str(path)!r}: {why}", advice="give another path") from None


def check_place(path: Path, overwrite: bool, inputs: Mapping[str, object], check: Callable[[Path], None]) -> None:
    """Raise OutputError if an output may not or cannot be written at a path, as `check_output` does.

    With `overwrite` it is `check` that refuses what stands there.
    """
    check_apart(path, inputs)
    found = kind(path)
    if found == "link":
        raise OutputError(f"{path} is a link, which is not replaced", advice="give the path it leads to, or another")
    if found:
        if not overwrite:
            raise OutputError(f"{path} exists", advice="give another path or --overwrite")
        check(path)
    parent = path.absolute().parent
    if not parent.is_dir():
        raise OutputError(
            f"cannot write {path}: there is no folder {parent}", advice=f"make it first, with `mkdir -p {parent}`"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"cannot write {path}: no permission to write in {parent}", advice="give a path in a folder of yours"
        )


def check_replaceable(path: Path) -> None:
    """Raise OutputError unless our own output is at a path, whose suffix says its kind."""
    why = foreign_reason(path, form_of(path))
    if why:
        raise OutputError(f"{path} exists and {why}: it is not replaced", advice="move it away, or give another path")


def check_apart(path: Path, inputs: Mapping[str, object]) -> None:
    """Raise OutputError if an output, finished or not, is one of the inputs, holds one or lies in one.

    Files are compared as the file system knows them: through links, under other names and letters.
    """
    for name, given in inputs.items():
        read = read_paths(given)
        which = f"the {name}" if len(read) == 1 else f"one of the {name.removesuffix(' file')} files"
        for one in read:
            for place in (path, partial_of(path)):
                if _lies_in(one, place):
                    same = _lies_in(place, one)
                    raise OutputError(
                        f"{place} {'is' if same else 'holds'} {which}", advice="give another path for the output"
                    )
                held = any((one / mark).exists() for mark in STORES)  # else a folder that no reader takes
                if held and _lies_in(place, one):
                    raise OutputError(f"{place} lies in {which}, {one}", advice="give another path for the output")


def read_paths(given: object) -> tuple[Path, ...]:
    """The files and folders that an input is read from, as far as it tells: none for a number."""
    if isinstance(given, Source | str | os.PathLike | list | tuple):
        source = Source.of(given)
        return source.paths if source.dataset is None else read_paths(source.dataset)
    origin = getattr(given, "encoding", {}).get("source")  # of a dataset that xarray opened
    return (Path(origin),) if isinstance(origin, str) else ()


def _lies_in(inner: Path, outer: Path) -> bool:
    """True if a path is the same file or folder as another one, or lies in it, by its own name or through links."""
    try:
        found = outer.stat()
    except (OSError, ValueError):
        return False
    for way in (inner.absolute(), Path(os.path.realpath(inner))):
        for step in (way, *way.parents):
            with contextlib.suppress(OSError, ValueError):
                if os.path.samestat(found, step.stat()):
                    return True
    return False


def publish(new: Path, path: Path, overwrite: bool) -> None:
    """Give a finished file or store its name; earlier output that it replaces takes its place.

    OutputError, and nothing is changed, if something else has come to the path since it was checked.
    """
    if not kind(path) or not overwrite:
        try:
            rename_new(new, path)
        except FileExistsError:
            raise OutputError(f"{path} exists", advice="give another path or --overwrite") from None
        return
    aside = new.with_name(REPLACED)
    exchange(new, path, aside)
    try:
        why = foreign_reason(new, form_of(path))
    except BaseException:
        exchange(new, path, aside)
        raise
    if why:
        exchange(new, path, aside)
        raise OutputError(f"{path} exists and {why}: it is not replaced", advice="move it away, or give another path")


def clear(folder: Path, names: Iterable[str] = CONTENTS) -> None:
    """Remove what a folder of ours holds of these names, in this order, so that what says what it is goes first.

    OutputError, and nothing is removed, if something that is not ours lies among it.
    """
    there = [folder / name for name in names if kind(folder / name)]
    for path in there:
        found = kind(path)
        if found == "folder":
            ownership.check_plain(path)
        elif found != "file":
            raise stranger(path, found)
        if path.name == FIELDS and (name := stranger_in(path)):
            raise stranger(path / name, kind(path / name))
    for path in there:
        remove_tree(path)


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
        raise OutputError(
            f"cannot write {path}: {why}{left}",
            advice="check the space and the permissions there, or give another path",
        ) from None


def write_file(path: Path, content: bytes, overwrite: bool, check: Callable[[Path], None]) -> None:
    """Write a file under its name, at once; OutputError if that fails, or something has come there meanwhile.

    With `overwrite` a file may be there that `check` does not refuse.
    """
    aside = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    with output_errors(path):
        try:
            with aside.open("xb") as file:
                file.write(content)
            force(aside)
            if kind(path) and overwrite:
                check(path)
                aside.replace(path)
            else:
                rename_new(aside, path)
            force(path.absolute().parent)
        except FileExistsError:
            raise OutputError(f"{path} exists", advice="give another path or --overwrite") from None
        finally:
            aside.unlink(missing_ok=True)


def group_attributes(attributes: Mapping[str, Attribute], zoom: int | None = None) -> dict[str, Any]:
    """Global attributes of an output with its mark; of a Zarr store also those about its HEALPix cells of a `zoom`."""
    return marked({"Conventions": CONVENTIONS, **attributes, **({} if zoom is None else dggs_attributes(zoom))})


@contextlib.contextmanager
def open_store(
    path: Path, attributes: Mapping[str, Attribute], overwrite: bool = False, zoom: int | None = None
) -> Iterator[Store]:
    """An empty store, which is sealed and gets its name when the block ends, and is removed if the block fails.

    `zoom` is that of its HEALPix cells, if it has any.
    """
    check_output(path, overwrite)
    check_store(path)
    folder, netcdf = partial_of(path), form_of(path) == "NetCDF"
    if kind(folder / RUN):
        raise unfinished(folder, "", "finish it with --resume, or remove it")
    place = folder / (ASSEMBLED if netcdf else FIELDS)
    store: NetcdfStore | ZarrStore | None = None
    made = ""
    try:
        with output_errors(path):
            if is_ours(folder):  # of a run that was killed
                discard(folder)
            made = ownership.make_folder(folder)
            everything = group_attributes(attributes, None if netcdf else zoom)
            store = NetcdfStore(place, everything) if netcdf else ZarrStore(place, everything)
        yield store
        with output_errors(path):
            written = seals_of_file(store.written()) if isinstance(store, NetcdfStore) else seals_of_store(place)
            store.describe(sealing(written))
            store.close()
            force_tree(place)
        if damaged := damage_of(place):
            raise OutputError(f"{path} was damaged while it was written ({damaged})", advice="check the disk it is on")
        with output_errors(path):
            publish(place, path, overwrite)
            force(path.absolute().parent)
            discard(folder)
    except BaseException:
        with contextlib.suppress(OSError, RuntimeError):
            if store is not None:
                store.close()
        with contextlib.suppress(OSError, OutputError):
            if made and made == ownership.nonce_of(folder):
                discard(folder)
        raise


def discard(folder: Path) -> None:
    """Remove a folder of unfinished output; whatever in it is not ours stays, and so does the folder then."""
    clear(folder)
    ownership.remove_folder(folder, (LOCK,))
