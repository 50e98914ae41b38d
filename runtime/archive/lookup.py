"""Codecs of bundles: the tables in `archive.npz`, found by their hash wherever a bundle with them lies.

VARIABLE.NAME                  the integer tables of a variable, see tables.py
VARIABLE.climatology           (1 + 2K, pixel) float32, if that in tables.npz is not the field's (of a square root)
VARIABLE.source_climatology    (1 + 2K, point) float32, on the training data's own grid
"""

import importlib.metadata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.bundle.exported import remembered
from fsae.runtime.bundle.files import Bundle, bundles_in, fingerprint, installed_folders, open_bundle, shipped_folder
from fsae.runtime.errors import BundleError, FsaeError
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.interpolated_grid import InterpolatedGrid, cells_of, points_of

from .codec import Codec
from .tables import TYPES, make_codec_tables

FILE = "archive.npz"
ORIGIN = "fsae_bundle_source"  # attribute of archives: where their bundle can be had
CLIMATOLOGY, SOURCE_CLIMATOLOGY = "climatology", "source_climatology"


def archive_key(bundle: Bundle) -> str:
    """SHA-256 of the tables that a bundle's archives are coded with; BundleError if it has none."""
    entry = bundle.manifest.files.get(FILE)
    if entry is None:
        raise BundleError(
            f"bundle {bundle.manifest.name} has no archive codec",
            advice="fit one with `fsae-train codec CONFIG` and export it, give --model default, or --lossless-latents",
        )
    return entry.sha256


def origin_of(bundle: Bundle) -> str:
    """Where a bundle can be had, in words for the attributes of an archive."""
    if bundle.folder.resolve() == (shipped_folder() / "default").resolve():  # which alone is in the wheel
        version = importlib.metadata.version("fsae")
        return f'bundle {bundle.manifest.name} comes with fsae {version}: pip install "fsae=={version}"'
    trained = bundle.manifest.provenance
    names = ", ".join(entry.name for entry in trained.data)
    return (
        f"bundle {bundle.manifest.name} was exported by whoever wrote this archive, from {names} of "
        f"{trained.period[0]} to {trained.period[1]}: ask them for its folder, and `fsae-run fetch` it"
    )


def find_archive(key: str, name: str) -> Bundle:
    """The bundle whose archive codec has that hash: that of this name, or any that is installed or was exported here.

    BundleError saying which is missing.
    """
    installed = [path for folder in installed_folders() for path in bundles_in(folder)]
    for place in (name, *installed, *sorted(_exported())):
        try:
            bundle = open_bundle(place)
        except FsaeError:
            continue
        entry = bundle.manifest.files.get(FILE)
        if entry is not None and entry.sha256 == key:
            return bundle
    raise BundleError(
        f"found no bundle with the archive codec {key[:12]} that this data was written with, by bundle {name!r}",
        advice="get it with `fsae-run fetch`, export the run of `fsae-train codec` to ./engines of this folder, or "
        "install the fsae that ships it",
    )


def _exported() -> list[Any]:
    """Bundles in ./engines that this user exported."""
    from pathlib import Path

    known = remembered()
    return [path for path in bundles_in(Path("engines")) if fingerprint(path) in known]


@lru_cache(maxsize=4)
def _arrays(folder: str, key: str) -> Mapping[str, NDArray[Any]]:
    bundle = open_bundle(folder)
    if archive_key(bundle) != key:
        raise BundleError(f"{folder} was changed while it was used", advice="start again")
    return bundle.arrays(FILE)


def open_codec(bundle: Bundle, variable: str, grid: LatLonGrid | int) -> Codec:
    """Codec of a variable on a lat-lon grid, or on the cells of a zoom; BundleError if the bundle has none of it."""
    where = str(bundle.folder / FILE)
    arrays = _arrays(str(bundle.folder), archive_key(bundle))
    own = {name: arrays[f"{variable}.{name}"] for name in TYPES if f"{variable}.{name}" in arrays}
    names = [v.name for v in bundle.manifest.variables]
    if not own or variable not in names:
        raise BundleError(f"{where} has no codec of {variable}", advice="give --model default, or --lossless-latents")
    tables = make_codec_tables(own, where)
    if isinstance(grid, int):
        if grid != tables.zoom:
            raise BundleError(
                f"found HEALPix cells of zoom {grid}", f"zoom {tables.zoom}", "bring the fields to that zoom first"
            )
        return Codec(tables=tables, climatology=_cells(bundle, variable, arrays), grid=cells_of(grid))
    place, source = points_of(grid, tables.zoom), arrays.get(f"{variable}.{SOURCE_CLIMATOLOGY}")
    if source is not None and bundle.tables.on_source(grid):
        return Codec(tables=tables, climatology=source.astype(np.float32), grid=place)
    return Codec(tables=tables, climatology=_interpolated(place, _cells(bundle, variable, arrays)), grid=place)


def _cells(bundle: Bundle, variable: str, arrays: Mapping[str, NDArray[Any]]) -> F32:
    own = arrays.get(f"{variable}.{CLIMATOLOGY}")
    if own is not None:
        return own.astype(np.float32)
    place = [v.name for v in bundle.manifest.variables].index(variable)
    climatology: F32 = bundle.tables.climatology[place]
    return climatology


def _interpolated(place: InterpolatedGrid, climatology: F32) -> F32:
    return place.interpolate(climatology.astype(np.float64)).astype(np.float32)
