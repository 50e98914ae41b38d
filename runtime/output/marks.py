"""The mark of our output: an attribute, by which it is told from all other files before it is replaced.

The same request gives the same bytes, so the mark is no random number: it is a hash of the attributes that describe the
output. Programs that make something new of it, as CDO and NCO do, keep our attributes and add their own `history`: then
the hash no longer fits, and what they wrote is not taken for ours. GRIB has no attributes: see formats/signed.py.
"""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from fsae.runtime.errors import OutputError
from fsae.runtime.formats.signed import first_changed, read_about
from fsae.runtime.input.sources import READ_ERRORS, reason
from fsae.runtime.ownership import kind, open_own

from .netcdf import as_text

MARK = "fsae_mark"
SEAL = "fsae_sha256"  # the checksum of each variable by its name, see seal.py
OWN = "fsae_"  # how our own attributes begin, which no program changes by itself
BEFORE_MARKS = ("fsae_bundle", "fsae_manifest_sha256", "fsae_request", "fsae_versions")  # in the output of fsae 0.1.0

METADATA = "zarr.json"

# Files of a Zarr store: metadata, chunks, and what zarr writes before it renames it to one of them.
IN_STORE = re.compile(r"(zarr\.json|zarr|[0-9]+|c)(\.[0-9a-f]{32}\.partial)?")
OF_CHUNKS = re.compile(r"[0-9]+|c")  # folders in an array


Form = Literal["NetCDF", "Zarr", "GRIB"]
FORMS: Mapping[str, Form] = {".nc": "NetCDF", ".zarr": "Zarr", ".grib2": "GRIB", ".grib": "GRIB", ".grb2": "GRIB"}


def form_of(path: Path) -> Form:
    """The form of output that a path asks for by its suffix."""
    return FORMS.get(path.suffix, "Zarr")


def marked(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of an output with its mark."""
    return {**attributes, MARK: _mark_of(attributes)}


def _mark_of(attributes: Mapping[str, Any]) -> str:
    """The mark that belongs to some attributes, as they were given or as they were read."""
    described = {
        key: json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)
        for key, value in attributes.items()
        if not key.startswith((OWN, "_"))
    }
    return hashlib.sha256(json.dumps(["fsae", described], sort_keys=True).encode()).hexdigest()


def carries_mark(attributes: Mapping[str, Any]) -> bool:
    """True if attributes are those of our output, of this version or of one before there were marks.

    >>> carries_mark(marked({"title": "mine"})), carries_mark({**marked({"title": "mine"}), "history": "cdo timmean"})
    (True, False)
    """
    if MARK in attributes:
        return bool(attributes[MARK] == _mark_of(attributes))
    return all(name in attributes for name in BEFORE_MARKS) and "history" not in attributes


def read_attributes(path: Path, form: Form) -> dict[str, Any]:
    """Global attributes of a file or store; OutputError if it cannot be read."""
    try:
        return READERS[form](path)[0]
    except READ_ERRORS as error:
        raise OutputError(f"{path} exists and cannot be read: {reason(error)}", advice="give another path") from None


Others = dict[str, set[str]]  # the names of attributes, by variable


def _of_file(path: Path) -> tuple[dict[str, Any], Others]:
    """Global attributes of a NetCDF file, and the names of the attributes of its variables; groups have none."""
    import h5netcdf

    with h5netcdf.File(path, "r") as file:
        others = {name: set(variable.attrs) for name, variable in file.variables.items()}
        return as_text(file.attrs), {**{name: set() for name in file.groups}, **others}


def _of_store(path: Path) -> tuple[dict[str, Any], Others]:
    """Attributes of a Zarr group, and the names of the attributes of its arrays, as their metadata have them."""
    others = {file.parent.name: set(_metadata(file).get("attributes", {})) for file in path.glob(f"*/{METADATA}")}
    return dict(_metadata(path / METADATA)["attributes"]), others


def _metadata(file: Path) -> dict[str, Any]:
    with open(open_own(file, os.O_RDONLY), "rb") as opened:  # no link, and no pipe that is never written
        found: dict[str, Any] = json.loads(opened.read())
        return found


def _of_messages(path: Path) -> tuple[dict[str, Any], Others]:
    """The global attributes that GRIB messages of ours tell; there are none of variables that others would add."""
    return dict(read_about(path)["attributes"]), {}


READERS = {"NetCDF": _of_file, "Zarr": _of_store, "GRIB": _of_messages}


def rewritten_reason(path: Path, form: Form) -> str:
    """Why what stands at a path was not written by fsae, or not by it alone; empty if its metadata is ours.

    The words follow its name.
    """
    return _reason(path, form)[0]


def _reason(path: Path, form: Form) -> tuple[str, dict[str, Any], Others]:
    found = kind(path)
    if found != ("folder" if form == "Zarr" else "file"):
        return f"is a {found}", {}, {}
    try:
        attributes, others = READERS[form](path)
        changed = first_changed(path, values=False) if form == "GRIB" else ""
    except READ_ERRORS:
        return "is no output of fsae", {}, {}
    why = ""
    if changed or not carries_mark(attributes):
        why = "is no output of fsae" if MARK not in attributes else "was changed since fsae wrote it"
    elif any("_FillValue" in names for names in others.values()):  # xarray gives it to every variable, we do not
        why = "was written again by another program"
    return why, attributes, others


def foreign_reason(path: Path, form: Form) -> str:
    """Why what stands at a path is not taken for our output, in words that follow its name; empty if it is ours.

    A file or variable in it that fsae did not write is somebody's own.
    """
    why, attributes, others = _reason(path, form)
    if why:
        return why
    known = _sealed(attributes)
    added = sorted(set(others) - known) if known else []
    stranger = added[0] if added else stranger_in(path, known) if form == "Zarr" else ""
    return f"holds {stranger}, which fsae did not write" if stranger else ""


def sealed_among(paths: Iterable[Path], attributes: Mapping[str, Any]) -> list[Path]:
    """Those of the files of a dataset with these attributes that have a seal, and metadata as we wrote it."""
    return [path for path in paths if SEAL in attributes and not rewritten_reason(path, form_of(path))]


def _sealed(attributes: Mapping[str, Any]) -> set[str]:
    """The names of the variables of a sealed output; empty if it has no seal, as before there were seals."""
    try:
        return set(json.loads(attributes[SEAL]))
    except READ_ERRORS:
        return set()


def stranger_in(store: Path, arrays: Collection[str] = ()) -> str:
    """The first file, folder or link in a Zarr store that is no part of it; empty if there is none.

    `arrays` are those that it has, if they are known. Whether a chunk is one of ours is not asked: that is for the
    checks of what is complete.
    """
    left = [store]
    while left:
        folder = left.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    known = not arrays or entry.name in arrays if folder == store else OF_CHUNKS.fullmatch(entry.name)
                    left.append(Path(entry.path))
                else:
                    known = entry.is_file(follow_symlinks=False) and IN_STORE.fullmatch(entry.name)
                if not known:
                    return str(Path(entry.path).relative_to(store))
    return ""
