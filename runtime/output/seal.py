"""The seal of an output: a checksum of every variable, in the global attribute `fsae_sha256`, by which damage shows.

Of a Zarr array it is the SHA-256 of what `sha256sum` prints for its files by name, its metadata included:

    cd OUT.zarr/tas && find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum

Of a NetCDF variable it is the SHA-256 of its name, dimensions, type, shape and attributes, and of its values, chunk by
chunk. So a finished output can be checked without the run that made it, and nothing but readers of Zarr and NetCDF.

GRIB messages carry checksums of their own, see formats/signed.py.
"""

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
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
from fsae.runtime.formats.sections import BEGIN
from fsae.runtime.formats.signed import first_changed
from fsae.runtime.input.sources import READ_ERRORS

from .files import output_errors
from .layout import Layout, coordinates, data_arrays, global_attributes, make_frame, normalised
from .marks import SEAL
from .netcdf import NetcdfStore, as_text, in_netcdf, in_order, short, time_first
from .store import Array, Attribute, Coordinate
from .zarr import ZarrStore

if TYPE_CHECKING:
    import zarr

MOST = 1 << 24  # values along the first dimension of a variable in one piece that are read at once
METADATA = "zarr.json"
BESIDE = ".partial"  # what zarr, too, is writing before it renames it


def checksum(path: Path) -> str:
    """SHA-256 of a file; empty if it is not there or cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


# --- Zarr ---


def frame_files(
    layout: Layout, sums: Mapping[str, str] | None = None, summary: Mapping[str, Attribute] | None = None
) -> "Files":
    """All files of a Zarr store but the chunks of its data, by their names in it; the metadata of the group last.

    With the checksums of those chunks, by name, it is the frame of a finished store: sealed, with its summary, its
    metadata consolidated. Metadata of archives is short: without blanks, and each array's in one place.
    """
    store, held = ZarrStore.in_memory(global_attributes(layout, zarr=True), short=bool(layout.codecs))
    make_frame(store, layout)
    if sums is not None:
        everything = {**{name: hashlib.sha256(value.to_bytes()).hexdigest() for name, value in held.items()}, **sums}
        store.describe({**(summary or {}), SEAL: normalised(_seals(everything))})
        store.close()
    names = sorted(held, key=lambda name: (name == METADATA, name))
    return {name: held[name].to_bytes() for name in names}


Files = dict[str, bytes]


def _seals(sums: Mapping[str, str]) -> dict[str, str]:
    """The checksum of each array of a store, of those of all files in it, by name."""
    parts: dict[str, list[str]] = {}
    for name in sorted(sums):
        array, _, rest = name.partition("/")
        if rest:
            parts.setdefault(array, []).append(f"{sums[name]}  {rest}\n")
    return {array: hashlib.sha256("".join(lines).encode()).hexdigest() for array, lines in parts.items()}


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


def finish_zarr(store: Path, layout: Layout, sums: Mapping[str, str]) -> None:
    """Seal a store whose chunks have these checksums; OutputError if there is a file in it that is no part of it."""
    files = frame_files(layout, sums, layout.summary(store) if layout.summary else None)
    mend(store, files)
    for name in _files_in(store):
        if name not in files and name not in sums and ("/" in name or name == METADATA):
            raise OutputError(f"found {store / name}, which is no part of the output", advice="move it away")


def _files_in(store: Path) -> Iterator[str]:
    """The files of a store, by their names in it."""
    for folder, inner, names in os.walk(store):
        inner.sort()
        for name in sorted(names):
            yield Path(folder, name).relative_to(store).as_posix()


def _damage_of_zarr(store: Path) -> str:
    found = json.loads((store / METADATA).read_bytes())
    sealed, consolidated = json.loads(found["attributes"][SEAL]), found.get("consolidated_metadata")
    seals = _seals({name: checksum(store / name) for name in _files_in(store)})
    for name, known in sealed.items():
        if seals.get(name) != known:
            return str(name)
        own = json.loads((store / name / METADATA).read_bytes())
        if consolidated is not None and consolidated["metadata"][name] != own:
            return METADATA
    added = [name for name in seals if name not in sealed and (store / name / METADATA).exists()]
    return added[0] if added else ""


# --- NetCDF ---


def _blocks(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The chunks of an array, one after the other."""
    yield from itertools.product(
        *(
            [slice(first, min(first + size, length)) for first in range(0, length, size)]
            for length, size in zip(shape, chunks, strict=True)
        )
    )


def assemble(parts: ZarrStore, layout: Layout, summary: Mapping[str, Attribute], place: Path, path: Path) -> None:
    """Make a sealed NetCDF file at `place` of a store, chunk by chunk; `path` is its name in messages.

    `summary` are further global attributes.
    """

    def copied(array: Array, stored: Array) -> Iterator[F32]:
        """Values in the order of the file, which is that of the checksum."""
        order = time_first(array.dims)
        for block in _blocks(stored.shape, stored.chunks):
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
            seals[item.name] = _seal_of(facts, [item.values])
        for array in plain:
            stored = in_order(array)
            facts = (array.name, stored.dims, np.dtype("float32"), stored.shape, array.attributes)
            seals[array.name] = _seal_of(facts, copied(array, stored))
        for name in layout.codecs:
            seals |= _put_chunks(file, parts.array(name), path)
        with output_errors(path, ""):
            file.describe({**summary, SEAL: normalised(seals)})
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
        item.name: _seal_of((item.name, item.dims, ends.dtype, ends.shape, about), [ends]),
        name: _seal_of(facts, written()),
    }


Facts = tuple[str, tuple[str, ...], np.dtype[Any], tuple[int, ...], Mapping[str, Any]]


def _seal_of(facts: Facts, blocks: Iterable[np.ndarray]) -> str:
    """The checksum of a variable: name, dimensions, type, shape and attributes, and values."""
    name, dims, kind, shape, attributes = facts
    described = {key: str(np.asarray(value).tolist()) for key, value in sorted(short(attributes).items())}
    little = kind.newbyteorder("<")
    content = hashlib.sha256(json.dumps([name, dims, little.str, shape, described]).encode())
    for values in blocks:
        content.update(np.ascontiguousarray(values, dtype=little).tobytes())
    return content.hexdigest()


def _damage_of_netcdf(path: Path) -> str:
    import h5netcdf

    with h5netcdf.File(path, "r") as file:
        sealed = json.loads(file.attrs[SEAL])
        for name in (*sealed, *file.variables):
            if name not in sealed or name not in file.variables:
                return str(name)
            variable = file.variables[name]
            chunks = variable.chunks or tuple(min(size, MOST) for size in variable.shape[:1]) + variable.shape[1:]
            facts = (name, variable.dimensions, variable.dtype, variable.shape, as_text(variable.attrs))
            blocks = (variable[block] for block in _blocks(variable.shape, chunks)) if chunks else [variable[()]]
            if _seal_of(facts, blocks) != sealed[name]:
                return str(name)
    return ""


# --- both ---


def damage_of(path: Path) -> str:
    """The part of a sealed output that is not as it was written; empty if all is whole. Everything is read."""
    try:
        if path.is_dir():
            return _damage_of_zarr(path)
        with path.open("rb") as file:
            messages = file.read(len(BEGIN)) == BEGIN
        return first_changed(path) if messages else _damage_of_netcdf(path)
    except READ_ERRORS:
        return "its metadata"
