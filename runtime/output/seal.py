"""The seal of an output: a checksum of every variable, in the global attribute `fsae_sha256`, by which damage shows.

Of a Zarr array it is the SHA-256 of what `sha256sum` prints for its files by name, its metadata included:

    cd OUT.zarr/tas && find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum

Of a NetCDF variable it is the SHA-256 of its name, dimensions, type, shape and attributes, and of its values, chunk by
chunk. So a finished output can be checked without the run that made it, and nothing but readers of Zarr and NetCDF.

GRIB messages carry checksums of their own, see formats/signed.py.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fsae.runtime.formats.sections import BEGIN
from fsae.runtime.formats.signed import first_changed
from fsae.runtime.input.sources import READ_ERRORS

from .marks import METADATA, SEAL
from .netcdf import as_text, short

if TYPE_CHECKING:
    import h5netcdf

MOST = 1 << 24  # values along the first dimension of a variable in one piece that are read at once


def sealing(seals: Mapping[str, str]) -> dict[str, str]:
    """The global attribute that holds the checksums of all variables, by name."""
    return {SEAL: json.dumps(seals, sort_keys=True)}


def checksum(path: Path) -> str:
    """SHA-256 of a file; empty if it is not there or cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


# --- Zarr ---


def seals_of_sums(sums: Mapping[str, str]) -> dict[str, str]:
    """The checksum of each array of a store, of those of all files in it, by name."""
    parts: dict[str, list[str]] = {}
    for name in sorted(sums):
        array, _, rest = name.partition("/")
        if rest:
            parts.setdefault(array, []).append(f"{sums[name]}  {rest}\n")
    return {array: hashlib.sha256("".join(lines).encode()).hexdigest() for array, lines in parts.items()}


def files_in(store: Path) -> Iterator[str]:
    """The files of a store, by their names in it."""
    for folder, inner, names in os.walk(store):
        inner.sort()
        for name in sorted(names):
            yield Path(folder, name).relative_to(store).as_posix()


def seals_of_store(store: Path) -> dict[str, str]:
    """The checksum of each array of a store on the disk, by name."""
    return seals_of_sums({name: checksum(store / name) for name in files_in(store)})


def _damage_of_zarr(store: Path) -> str:
    found = json.loads((store / METADATA).read_bytes())
    sealed, consolidated = json.loads(found["attributes"][SEAL]), found.get("consolidated_metadata")
    seals = seals_of_store(store)
    for name, known in sealed.items():
        if seals.get(name) != known:
            return str(name)
        own = json.loads((store / name / METADATA).read_bytes())
        if consolidated is not None and consolidated["metadata"][name] != own:
            return METADATA
    added = [name for name in seals if name not in sealed and (store / name / METADATA).exists()]
    return added[0] if added else ""


# --- NetCDF ---


def blocks_of(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The chunks of an array, one after the other."""
    yield from itertools.product(
        *(
            [slice(first, min(first + size, length)) for first in range(0, length, size)]
            for length, size in zip(shape, chunks, strict=True)
        )
    )


Facts = tuple[str, tuple[str, ...], np.dtype[Any], tuple[int, ...], Mapping[str, Any]]


def seal_of(facts: Facts, blocks: Iterable[np.ndarray]) -> str:
    """The checksum of a variable: name, dimensions, type, shape and attributes, and values."""
    name, dims, kind, shape, attributes = facts
    described = {key: str(np.asarray(value).tolist()) for key, value in sorted(short(attributes).items())}
    little = kind.newbyteorder("<")
    content = hashlib.sha256(json.dumps([name, dims, little.str, shape, described]).encode())
    for values in blocks:
        content.update(np.ascontiguousarray(values, dtype=little).tobytes())
    return content.hexdigest()


def seal_in(file: "h5netcdf.File", name: str) -> str:
    """The checksum of a variable of an open file."""
    variable = file.variables[name]
    chunks = variable.chunks or tuple(min(size, MOST) for size in variable.shape[:1]) + variable.shape[1:]
    facts = (name, variable.dimensions, variable.dtype, variable.shape, as_text(variable.attrs))
    blocks = (variable[block] for block in blocks_of(variable.shape, chunks)) if chunks else [variable[()]]
    return seal_of(facts, blocks)


def seals_of_file(file: "h5netcdf.File") -> dict[str, str]:
    """The checksum of each variable of an open file, by name."""
    return {name: seal_in(file, name) for name in file.variables}


def _damage_of_netcdf(path: Path) -> str:
    import h5netcdf

    with h5netcdf.File(path, "r") as file:
        sealed = json.loads(file.attrs[SEAL])
        for name in (*sealed, *file.variables):
            if name not in sealed or name not in file.variables or seal_in(file, name) != sealed[name]:
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
