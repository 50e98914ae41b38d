"""The store of a run: its frame, the files of a finished unit in it, their checksums, and the one file made of it."""

import contextlib
import errno
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.atomic import force
from fsae.runtime.errors import OutputError
from fsae.runtime.formats.coded import BYTE, CHUNK, END, chunk_indices, chunk_key, chunk_sizes, payload
from fsae.runtime.formats.coded import METADATA as ARRAY
from fsae.runtime.grib.written import write_messages
from fsae.runtime.log import log
from fsae.runtime.output.files import ASSEMBLED, FIELDS, clear, output_errors
from fsae.runtime.output.layout import Layout, Unit, coordinates, data_arrays, global_attributes, make_frame
from fsae.runtime.output.marks import METADATA, form_of
from fsae.runtime.output.netcdf import NetcdfStore, in_netcdf, in_order, time_first
from fsae.runtime.output.seal import (
    Facts,
    blocks_of,
    checksum,
    damage_of,
    files_in,
    seal_of,
    sealing,
    seals_of_sums,
)
from fsae.runtime.output.store import Array, Attribute, Coordinate
from fsae.runtime.output.zarr import ZarrStore

from .lock import Hold

if TYPE_CHECKING:
    import zarr

BESIDE = ".partial"  # what zarr, too, is writing before it renames it
Files = dict[str, bytes]  # by their names in a store

# --- the frame ---


def frame_files(
    layout: Layout, sums: Mapping[str, str] | None = None, summary: Mapping[str, Attribute] | None = None
) -> Files:
    """All files of a Zarr store but the chunks of its data, by their names in it; the metadata of the group last.

    With the checksums of those chunks, by name, it is the frame of a finished store: sealed, with its summary, its
    metadata consolidated. Metadata of archives is short: without blanks, and each array's in one place.
    """
    store, held = ZarrStore.in_memory(global_attributes(layout, zarr=True), short=bool(layout.codecs))
    make_frame(store, layout)
    if sums is not None:
        everything = {**{name: hashlib.sha256(value.to_bytes()).hexdigest() for name, value in held.items()}, **sums}
        store.describe({**(summary or {}), **sealing(seals_of_sums(everything))})
        store.close()
    names = sorted(held, key=lambda name: (name == METADATA, name))
    return {name: held[name].to_bytes() for name in names}


def mend(store: Path, files: Files) -> list[str]:
    """Write those files of a store that are missing, or not as they should be, and return their names.

    Each appears whole: any number of processes may do that at once.
    """
    wrong = [name for name, data in files.items() if not _holds(store / name, data)]
    if wrong:
        store.mkdir(exist_ok=True)  # not its parents: the folder of a run that is gone does not come back
    for name in wrong:
        place = store / name
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.with_name(f"{place.name}.{uuid4().hex}{BESIDE}")
        aside.write_bytes(files[name])
        force(aside)
        aside.replace(place)
    for folder in dict.fromkeys(folder for name in wrong for folder in (store / name).parents[: name.count("/") + 2]):
        force(folder)
    return wrong


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


def make_store(folder: Path, layout: Layout) -> None:
    """Make the store of a run's fields, without values, or what is missing or damaged of it.

    Processes may do that at the same time: each file comes whole, and is the same whoever writes it.
    """
    begun = (folder / FIELDS).is_dir()
    mended = [name for name in mend(folder / FIELDS, frame_files(layout)) if name != METADATA]
    if begun and mended:
        log.info(f"{folder / FIELDS} lacked {mended[0]}, or it was damaged: made again")


def finish_zarr(store: Path, layout: Layout, sums: Mapping[str, str]) -> None:
    """Seal a store whose chunks have these checksums; OutputError if there is a file in it that is no part of it."""
    files = frame_files(layout, sums, layout.summary(store) if layout.summary else None)
    mend(store, files)
    for name in files_in(store):
        if name not in files and name not in sums and ("/" in name or name == METADATA):
            raise OutputError(f"found {store / name}, which is no part of the output", advice="move it away")


# --- finished units ---


def chunk_names(layout: Layout, member: int, times: slice) -> list[str]:
    """Files of a unit of one member, of every variable, by their path below the store, such as tas/c/0/3/0."""
    return [f"{name}/{chunk}" for name, chunk in _chunks(layout, member, times)]


def _chunks(layout: Layout, member: int, times: slice) -> Iterator[tuple[str, str]]:
    place = layout.place(slice(member, member + 1), times)
    for array in data_arrays(layout):
        lead = len(array.shape) - len(layout.shape)  # quantiles stand before all others, in one chunk
        starts = [
            range(part.start // size, -(-part.stop // size))
            for part, size in zip(place, array.files[lead:], strict=False)
        ]
        others = [range(1)] * (len(array.shape) - lead - len(place))
        for index in itertools.product(*[range(1)] * lead, *starts, *others):
            yield array.name, "/".join(["c", *map(str, index)])


def in_files(layout: Layout, units: Iterator[Unit]) -> Iterator[Unit]:
    """Units that each fill whole files: those of a row that lie in the same file are held until the last one is there.

    They come in the order of their steps; each row that is worked on is held for the steps of a file.
    """
    if layout.shard == 1:
        yield from units
        return
    held: dict[int, list[Unit]] = {}
    for several in units:
        for place, row in enumerate(range(several.members.start, several.members.stop)):
            part = several.values[place : place + 1]
            held.setdefault(row, []).append(replace(several, members=slice(row, row + 1), values=part))
            if several.times.stop % layout.unit_steps == 0 or several.times.stop == layout.steps:
                own = held.pop(row)
                times = slice(own[0].times.start, several.times.stop)
                yield replace(own[-1], times=times, values=np.concatenate([unit.values for unit in own], axis=1))


def keep(store: Path, names: list[str], known: set[Path]) -> tuple[str, ...]:
    """Force files of a store to the disk, with the folders they are in, and return their checksums.

    `known` are folders whose own names are on the disk already; those of these files join them.
    """
    for name in names:
        force(store / name)
        for folder in (store / name).parents[: name.count("/")]:
            force(folder)
            if folder in known:
                break
            known.add(folder)
    sums = tuple(checksum(store / name) for name in names)
    if not all(sums):
        raise OSError(errno.EIO, f"{names[sums.index('')]} is gone as soon as it is written")
    return sums


def remove_torn(folder: Path) -> None:
    """Remove half-written files left by killed writers. No other process may be writing."""
    clear(folder, [ASSEMBLED])
    for torn in (folder / FIELDS).rglob("*.partial"):  # chunks that zarr was writing aside
        torn.unlink()


# --- the file ---


def assembled(folder: Path, layout: Layout, path: Path, whole: Hold) -> Path:
    """Make a NetCDF or GRIB file of the chunks in the folder of a run, and read it again. Returns where it is.

    It is made under a name that no other process has: one that was taken over does not touch the file of the other.
    """
    place = folder / FIELDS / f"{METADATA}.{uuid4().hex}.partial"  # `remove_torn` removes it too
    try:
        with output_errors(path, ""):
            make_store(folder, layout)
            store = ZarrStore(folder / FIELDS, None)
        if form_of(path) == "GRIB":
            write_messages(store, layout, place, path)
        else:
            assemble(store, layout, layout.summary(folder / FIELDS) if layout.summary else {}, place, path)
        damaged = damage_of(place)
        whole.check()  # else it is the other process that removed it
        if damaged:
            raise OutputError(
                f"{path} was damaged while it was written ({damaged})", advice="check the disk that it is on"
            )
        with output_errors(path, ""):
            place.replace(folder / ASSEMBLED)
        return folder / ASSEMBLED
    except BaseException:
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)
        raise


def assemble(parts: ZarrStore, layout: Layout, summary: Mapping[str, Attribute], place: Path, path: Path) -> None:
    """Make a sealed NetCDF file at `place` of a store, chunk by chunk; `path` is its name in messages.

    `summary` are further global attributes.
    """

    def copied(array: Array, stored: Array) -> Iterator[F32]:
        """Values in the order of the file, which is that of the checksum."""
        order = time_first(array.dims)
        for block in blocks_of(stored.shape, stored.chunks):
            place = tuple(block[order.index(axis)] for axis in range(len(order)))
            with output_errors(path, ""):
                values = parts.read(array.name, place)
                file.write(array.name, place, values)
            yield values.transpose(order)

    plain = [array for array in data_arrays(layout) if array.codec is None]
    with output_errors(path, ""):
        file = NetcdfStore(place, global_attributes(layout))
    try:
        with output_errors(path, ""):
            for item in coordinates(layout):
                file.put(item)
            for array in plain:
                file.create(array)
        seals = {}
        for item in map(in_netcdf, coordinates(layout)):
            facts: Facts = (item.name, item.dims, item.values.dtype, item.values.shape, item.attributes)
            seals[item.name] = seal_of(facts, [item.values])
        for array in plain:
            stored = in_order(array)
            facts = (array.name, stored.dims, np.dtype("float32"), stored.shape, array.attributes)
            seals[array.name] = seal_of(facts, copied(array, stored))
        for name in layout.codecs:
            seals |= _put_chunks(file, parts.array(name), path)
        with output_errors(path, ""):
            file.describe({**summary, **sealing(seals)})
            file.close()
            force(place)
    except BaseException:
        with contextlib.suppress(OSError, RuntimeError):
            file.close()
        raise


def _put_chunks(file: NetcdfStore, array: "zarr.Array[Any]", path: Path) -> dict[str, str]:
    """Write the coded chunks of an array one after the other; the checksums of the variables that hold them."""
    name, ends = array.basename, np.cumsum(chunk_sizes(array))
    about: dict[str, Attribute] = {"long_name": f"end of each chunk of {name}, which decodes alone", "units": "byte"}
    item = Coordinate(name=f"{name}{END}", dims=(f"{name}{CHUNK}",), values=ends, attributes=about)
    attributes: dict[str, Attribute] = {
        "long_name": f"coded chunks of {array.attrs.get('long_name', name)}",
        ARRAY: payload(array).decode(),
    }

    def written() -> Iterator[NDArray[np.uint8]]:
        for index, end in zip(chunk_indices(array), ends.tolist(), strict=True):
            with output_errors(path, ""):
                values = np.frombuffer(payload(array, chunk_key(array, index)), np.uint8)
                file.write(name, (slice(end - values.size, end),), values)
            yield values

    with output_errors(path, ""):
        file.put(item)
        file.create_bytes(name, int(ends[-1]), attributes)
    facts: Facts = (name, (f"{name}{BYTE}",), np.dtype("uint8"), (int(ends[-1]),), attributes)
    return {
        item.name: seal_of((item.name, item.dims, ends.dtype, ends.shape, about), [ends]),
        name: seal_of(facts, written()),
    }
