"""Bundles on disk: which one is meant, and files whose hash is checked before they are used."""

import dataclasses
import hashlib
import io
import os
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError, OutputError
from .healpix import npix
from .manifest import FileEntry, Manifest
from .regrid import Weights

MANIFEST = "manifest.json"
BLOCK_BYTES = 1 << 20  # of a file that is hashed without being held
COMPILED = "trt"  # engines belong to one GPU and have an index of their own, so they are no part of the manifest


def file_entry(data: bytes) -> FileEntry:
    """Hash and size of a file's content."""
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def hash_file(path: Path) -> FileEntry:
    """Hash and size of a file, read in blocks: weights can be larger than the memory."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return FileEntry(sha256=digest.hexdigest(), size=size)


def hash_files(folder: Path) -> dict[str, FileEntry]:
    """Entries of every file directly in `folder` but the manifest, sorted by name: the manifest's `files`."""
    paths = sorted(p for p in folder.iterdir() if p.is_file() and p.name != MANIFEST)
    return {path.name: hash_file(path) for path in paths}


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with `files` filled in from the folder, after writing it there as manifest.json."""
    complete = dataclasses.replace(manifest, files=hash_files(folder))
    aside = folder / (MANIFEST + ".partial")
    try:
        aside.write_text(complete.to_json(), encoding="utf-8")
        aside.replace(folder / MANIFEST)
    except OSError as error:
        raise OutputError(f"cannot write {folder / MANIFEST}: {error.strerror}") from None
    return complete


def shipped_folder() -> Path:
    """Folder of the bundles that come with the package."""
    return Path(str(resources.files("fsae.engines")))


def bundles_in(folder: Path) -> list[Path]:
    """Folders in `folder` that hold a manifest, the newest first (by the manifest's time, then by name)."""
    if not folder.is_dir():
        return []
    found = [p for p in sorted(folder.iterdir()) if (p / MANIFEST).is_file()]
    return sorted(found, key=lambda p: (p / MANIFEST).stat().st_mtime_ns, reverse=True)


def find_bundle(model: str | os.PathLike[str] | None = None) -> Path:
    """Folder of the bundle meant by `model`: a path, or a name in ./engines or among the shipped ones.

    Without one: the newest bundle in ./engines of the working folder that is not a copy of a shipped one, else the
    shipped `default`.
    """
    local, shipped = Path("engines"), shipped_folder()
    if model is None:
        nearby = [path for path in bundles_in(local) if not _is_copy(path, shipped / path.name)]
        if nearby:
            return nearby[0]
        if (shipped / "default" / MANIFEST).is_file():
            return shipped / "default"
        raise BundleError("found no bundle in ./engines and none is shipped with this installation: give --model PATH")
    path = Path(model)
    if path.name == MANIFEST:
        path = path.parent
    for candidate in (path, local / path, shipped / path):
        if (candidate / MANIFEST).is_file():
            return candidate
    if path.exists():
        raise BundleError(f"{path} is no bundle: it has no {MANIFEST}")
    known = sorted({p.name for p in (*bundles_in(local), *bundles_in(shipped))})
    raise BundleError(f"found no bundle {str(model)!r}; known names: {', '.join(known) or 'none'}")


def _is_copy(one: Path, other: Path) -> bool:
    """Whether two folders hold the same bundle, as a checkout and the installed package do."""
    manifests = [path / MANIFEST for path in (one, other)]
    return manifests[1].is_file() and manifests[0].read_bytes() == manifests[1].read_bytes()


def open_bundle(model: str | os.PathLike[str] | None = None) -> "Bundle":
    """The bundle meant by `model`, its manifest read and checked; other files are read and checked when used."""
    folder = find_bundle(model)
    try:
        raw = (folder / MANIFEST).read_bytes()
        text = raw.decode("utf-8")
    except OSError as error:
        raise BundleError(f"cannot read {folder / MANIFEST}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BundleError(f"{folder / MANIFEST} is damaged: not UTF-8 text; get the bundle again") from None
    return Bundle(folder=folder, manifest=Manifest.from_json(text), manifest_sha256=hashlib.sha256(raw).hexdigest())


def read_arrays(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; pickled objects are refused."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise BundleError(f"{where} holds no readable arrays ({error}); get the bundle again") from None


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Constants of a bundle: grids, weights between them, climatology and statistics (see the fields' comments)."""

    lat_deg: NDArray[np.float64]  # (pixel)
    lon_deg: NDArray[np.float64]  # (pixel)
    source_lat_deg: NDArray[np.float64]  # (lat), axis of the training data's own grid
    source_lon_deg: NDArray[np.float64]  # (lon)
    to_healpix: Weights  # training grid, flattened (lat, lon) -> pixel
    to_source: Weights  # pixel -> training grid
    climatology: NDArray[np.float32]  # (variable, 1 + 2K, pixel), physical units
    scale: NDArray[np.float32]  # (variable), physical units
    latent_cell_std: NDArray[np.float32]  # (variable, latent pixel), see pyramid.seasonal_std
    latent_season_std: NDArray[np.float32]  # (variable, 2H, latent pixel)
    latent_level_std: NDArray[np.float32]  # (variable, level up to the latent zoom)

    @property
    def source_shape(self) -> tuple[int, int]:
        """(lat, lon) of the training data's own grid."""
        return self.source_lat_deg.size, self.source_lon_deg.size


def _tables(arrays: dict[str, NDArray[Any]], manifest: Manifest, where: str) -> Tables:
    """Tables out of their arrays, with every shape checked against the manifest."""
    variables, pixels = len(manifest.variables), npix(manifest.grid.zoom)
    latent_levels = manifest.zooms.index(manifest.latent.zoom) + 1
    expected: dict[str, tuple[int | None, ...]] = {
        "lat_deg": (pixels,),
        "lon_deg": (pixels,),
        "source_lat_deg": (None,),
        "source_lon_deg": (None,),
        "climatology": (variables, 1 + 2 * manifest.time.harmonics, pixels),
        "scale": (variables,),
        "latent_cell_std": manifest.latent.shape,
        "latent_season_std": (variables, None, manifest.latent.shape[1]),
        "latent_level_std": (variables, latent_levels),
    }
    for name in ("to_healpix", "to_source"):
        expected |= {f"{name}_{part}": (None,) for part in ("indptr", "index", "weight")}
    # bundles of a model without seasons in its deviations have no such table
    arrays = {"latent_season_std": np.zeros((variables, 0, manifest.latent.shape[1]), np.float32), **arrays}
    missing = sorted(set(expected) - set(arrays))
    if missing:
        raise BundleError(f"{where} lacks the tables {missing}")
    for name, shape in expected.items():
        found = arrays[name].shape
        if len(found) != len(shape) or any(e not in (None, f) for f, e in zip(found, shape, strict=True)):
            raise BundleError(f"{where}: table {name} has the shape {found}, expected {shape}")
    source = arrays["source_lat_deg"].size * arrays["source_lon_deg"].size
    weights = {}
    for name, source_size, rows in (("to_healpix", source, pixels), ("to_source", pixels, source)):
        indptr, index, weight = (arrays[f"{name}_{part}"] for part in ("indptr", "index", "weight"))
        good = indptr.size == rows + 1 and index.size == weight.size == int(indptr[-1])
        if not good or (index.size and not 0 <= int(index.min()) <= int(index.max()) < source_size):
            raise BundleError(f"{where}: the weights {name} do not fit {source_size} points to {rows}")
        weights[name] = Weights(indptr=indptr, index=index, weight=weight, source_size=source_size)
    return Tables(
        lat_deg=arrays["lat_deg"].astype(np.float64),
        lon_deg=arrays["lon_deg"].astype(np.float64),
        source_lat_deg=arrays["source_lat_deg"].astype(np.float64),
        source_lon_deg=arrays["source_lon_deg"].astype(np.float64),
        to_healpix=weights["to_healpix"],
        to_source=weights["to_source"],
        climatology=arrays["climatology"].astype(np.float32),
        scale=arrays["scale"].astype(np.float32),
        latent_cell_std=arrays["latent_cell_std"].astype(np.float32),
        latent_season_std=arrays["latent_season_std"].astype(np.float32),
        latent_level_std=arrays["latent_level_std"].astype(np.float32),
    )


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle: its folder, its manifest, and files that are checked when they are read."""

    folder: Path
    manifest: Manifest
    manifest_sha256: str

    def read(self, name: str) -> bytes:
        """Content of a file of the manifest; BundleError where it is missing or its hash or size differs."""
        self._entry(name)
        try:
            data = (self.folder / name).read_bytes()
        except OSError as error:
            raise self._unreadable(name, error) from None
        self._compare(name, file_entry(data))
        return data

    def check(self, name: str) -> Path:
        """Path of a file of the manifest whose hash is right, without holding its content; BundleError as of `read`."""
        self._entry(name)
        try:
            found = hash_file(self.folder / name)
        except OSError as error:
            raise self._unreadable(name, error) from None
        self._compare(name, found)
        return self.folder / name

    def _entry(self, name: str) -> FileEntry:
        """What the manifest says of a file."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"bundle {self.manifest.name} has no file {name}; it has {sorted(self.manifest.files)}")
        return entry

    def _compare(self, name: str, found: FileEntry) -> None:
        """Nothing, or BundleError where a file is another than the manifest says."""
        entry = self._entry(name)
        if found.size != entry.size:
            raise BundleError(
                f"{self.folder / name} is truncated or altered: found {found.size} bytes, expected {entry.size}; "
                "get the bundle again"
            )
        if found != entry:
            raise BundleError(f"{self.folder / name} is altered: its SHA-256 differs from the manifest's; get it again")

    def _unreadable(self, name: str, error: OSError) -> BundleError:
        return BundleError(f"cannot read {self.folder / name}: {error.strerror}; get the bundle again")

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays of an .npz file of the bundle."""
        return read_arrays(self.read(name), str(self.folder / name))

    @cached_property
    def tables(self) -> Tables:
        """The constants in tables.npz, read once."""
        return _tables(self.arrays("tables.npz"), self.manifest, str(self.folder / "tables.npz"))

    @property
    def size(self) -> int:
        """Bytes of all files of the manifest."""
        return sum(entry.size for entry in self.manifest.files.values())
