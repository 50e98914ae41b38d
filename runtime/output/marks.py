"""The mark of our output: an attribute, by which it is told from all other files before it is replaced.

The same request gives the same bytes, so the mark is no random number: it is a hash of the attributes that describe the
output. Programs that make something new of it, as CDO and NCO do, keep our attributes and add their own `history`: then
the hash no longer fits, and what they wrote is not taken for ours.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsae.runtime.errors import OutputError
from fsae.runtime.input.sources import READ_ERRORS, reason
from fsae.runtime.ownership import kind, open_own

from .netcdf import as_text

MARK = "fsae_mark"
OWN = "fsae_"  # how our own attributes begin, which no program changes by itself
BEFORE_MARKS = ("fsae_bundle", "fsae_manifest_sha256", "fsae_request", "fsae_versions")  # in the output of fsae 0.1.0

METADATA = "zarr.json"

# Files of a Zarr store: metadata, chunks, and what zarr writes before it renames it to one of them.
IN_STORE = re.compile(r"(zarr\.json|zarr|[0-9]+|c)(\.[0-9a-f]{32}\.partial)?")


def is_netcdf(path: Path) -> bool:
    """True if the path asks for NetCDF-4."""
    return path.suffix == ".nc"


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


def read_attributes(path: Path, netcdf: bool) -> dict[str, Any]:
    """Global attributes of a file or store; OutputError if it cannot be read."""
    try:
        if netcdf:
            return _of_file(path)[0]
        return _of_store(path)[0]
    except READ_ERRORS as error:
        raise OutputError(f"{path} exists and cannot be read: {reason(error)}", advice="give another path") from None


def _of_file(path: Path) -> tuple[dict[str, Any], set[str]]:
    """Global attributes of a NetCDF file, and the names of all attributes of its variables."""
    import h5netcdf

    with h5netcdf.File(path, "r") as file:
        return as_text(file.attrs), {name for variable in file.variables.values() for name in variable.attrs}


def _of_store(path: Path) -> tuple[dict[str, Any], set[str]]:
    """Attributes of a Zarr group, and the names of all attributes of its arrays, as their metadata have them."""
    texts = []
    for file in (path / METADATA, *sorted(path.glob(f"*/{METADATA}"))):
        with open(open_own(file, os.O_RDONLY), "rb") as opened:  # no link, and no pipe that is never written
            texts.append(opened.read())
    own, *others = map(json.loads, texts)
    return dict(own["attributes"]), {name for found in others for name in found.get("attributes", {})}


def foreign_reason(path: Path, netcdf: bool) -> str:
    """Why what stands at a path is not taken for our output, in words that follow its name; empty if it is ours."""
    found = kind(path)
    if found != ("file" if netcdf else "folder"):
        return f"is a {found}"
    try:
        attributes, others = _of_file(path) if netcdf else _of_store(path)
    except READ_ERRORS:
        return "is no output of fsae"
    if not carries_mark(attributes):
        return "is no output of fsae" if MARK not in attributes else "was changed since fsae wrote it"
    if "_FillValue" in others:  # which xarray gives to every variable that it writes, and we do not
        return "was written again by another program"
    stranger = "" if netcdf else stranger_in(path)
    return f"holds {stranger}, which fsae did not write" if stranger else ""


def stranger_in(store: Path) -> str:
    """The first file or link in a Zarr store that is no part of it; empty if there is none.

    Whether a chunk is one of ours is not asked: that is for the checks of what is complete.
    """
    left = [store]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    left.append(Path(entry.path))
                elif not entry.is_file(follow_symlinks=False) or not IN_STORE.fullmatch(entry.name):
                    return str(Path(entry.path).relative_to(store))
    return ""
